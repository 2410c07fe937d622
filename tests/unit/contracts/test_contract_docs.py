"""The contract pages say what there is, and their examples work."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path

from contract_parts import inputs

from fhir_gateway.attribution import shipped_terms
from fhir_gateway.attribution.differences import DIFFERENCES
from fhir_gateway.attribution.methods import _METHODS
from fhir_gateway.attribution.service import REASONS
from fhir_gateway.attribution.services import LINE_REASONS
from fhir_gateway.contracts import ARRANGEMENTS, Contract, settle

DOCS = Path(__file__).parents[3] / "docs"
USE = (DOCS / "use" / "contracts.md").read_text(encoding="utf-8")
ATTRIBUTION = (DOCS / "use" / "attribution.md").read_text(encoding="utf-8")
DEVELOP = (DOCS / "develop" / "add-an-arrangement.md").read_text(encoding="utf-8")


def block(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found.group(1)


def test_everything_is_named() -> None:
    for name in ARRANGEMENTS:
        assert f"`{name}`" in USE, name
    for name in (*_METHODS, *shipped_terms(), *REASONS, *LINE_REASONS, *DIFFERENCES):
        assert f"`{name}`" in ATTRIBUTION, name


def test_every_term_of_an_arrangement_is_named() -> None:
    for kind, terms in ARRANGEMENTS.items():
        for term in set(terms.model_fields) - {"kind", "id", "pool", "measures"}:
            assert f"`{term}`" in USE, f"{kind}.{term}"


def test_the_example_is_a_contract() -> None:
    contract = Contract.of(tomllib.loads(block(USE, "toml"), parse_float=Decimal))
    assert contract.arrangements[0].needs_baseline()


def test_the_arrangement_of_the_guide_settles() -> None:
    known = dict(ARRANGEMENTS)
    try:
        code = compile(block(DEVELOP, "python"), "add-an-arrangement.md", "exec", dont_inherit=True)
        exec(code, {"__name__": "guide"})  # noqa: S102
        stated = tomllib.loads(block(USE, "toml"), parse_float=Decimal)
        fee = {"kind": "care_coordination_fee", "id": "fee", "pool": "fees", "fee": 5}
        contract = Contract.of(stated | {"measures": [], "arrangements": [fee]})
        assert settle(contract, inputs("0", members=10)).total == 600
    finally:
        ARRANGEMENTS.clear()
        ARRANGEMENTS.update(known)
