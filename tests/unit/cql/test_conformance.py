"""The table of what the engine has is current, and a new operator needs no more than its page says."""

from __future__ import annotations

import re
from pathlib import Path

from fhir_gateway.cql import conformance, schema
from fhir_gateway.cql.registry import FORMS, OPERATORS
from tests.unit.cql.conftest import Evaluate, literal

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_what_the_registry_says() -> None:
    """Write it anew with ``python -m fhir_gateway.cql.conformance``."""
    assert (DOCS / "conformance.md").read_text(encoding="utf-8") == conformance.page()


def test_every_node_is_there_or_refused_with_a_reason() -> None:
    assert conformance.missing() == []
    names = [name for chapter in conformance.chapters().values() for name in chapter]
    assert len(names) == len(set(names))
    assert {*OPERATORS, *FORMS} - set(names) == set()
    assert set(names) - conformance._CLAUSES == schema.nodes()
    assert not [name for name in conformance.REFUSED if conformance.implemented(name)]


def test_the_operator_of_the_how_to_runs(evaluate: Evaluate) -> None:
    text = (DOCS / "develop" / "add-an-operator.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    try:
        exec(compile(code, "add-an-operator.md", "exec", dont_inherit=True), {})  # noqa: S102 - our own page
        run = evaluate(
            {
                "A": {"type": "DigitSum", "operand": literal("Integer", 4711)},
                "B": {"type": "DigitSum", "operand": {"type": "Null"}},
            }
        )
        assert run.values("A") == [13]
        assert run.values("B") == [None]
    finally:
        OPERATORS.pop("DigitSum", None)
