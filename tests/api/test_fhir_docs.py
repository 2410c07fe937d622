"""docs/use/fhir-api.md, and the pages beside it that it leads to, say what the code serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from fhir_face import new_gateway

from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import RESULT_PARAMETERS, SERVED
from fhir_gateway.server.search import DEFAULT_COUNT, MAX_COUNT

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = (DOCS / "use" / "fhir-api.md").read_text(encoding="utf-8")
#: Pages of single subjects, and of those who run the gateway.
ALL = "\n".join(
    page.read_text(encoding="utf-8") for page in (*sorted((DOCS / "use").glob("*.md")), DOCS / "operate" / "deploy.md")
)


@pytest.mark.parametrize("name", sorted(SERVED))
def test_every_type_and_operation_is_described(name: str) -> None:
    assert f"`{name}`" in DOCUMENT
    for operation in SERVED[name].operations:
        assert f"${operation.code}" in ALL
        for parameter, _ in operation.parameters:
            assert f"`{parameter}`" in ALL, f"{operation.code} {parameter}"


@pytest.mark.parametrize("name", RESULT_PARAMETERS)
def test_every_result_parameter_is_described(name: str) -> None:
    assert name in DOCUMENT


def test_limits_are_those_of_the_code() -> None:
    assert f"default {DEFAULT_COUNT}, at most {MAX_COUNT}" in DOCUMENT


def test_routes_beside_the_types_are_described() -> None:
    paths = create_app(new_gateway()).openapi()["paths"]
    others = [path for path in paths if not any(f"/fhir/{name}" in path for name in SERVED)]
    assert "/fhir/metadata" in others
    for path in others:
        assert path.removeprefix("/fhir") in ALL, path
