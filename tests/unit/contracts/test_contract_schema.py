"""The published JSON Schema takes the contracts that there are, and names every arrangement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from fhir_gateway.contracts import ARRANGEMENTS, Contract
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.contracts.schema import contract_schema

ROOT = Path(__file__).parents[3]


def plain(stated: Any) -> Any:
    return json.loads(json.dumps(stated, default=lambda value: str(value) if hasattr(value, "year") else float(value)))


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(contract_schema())


def test_it_is_the_one_that_is_published() -> None:
    kept = (ROOT / "openapi" / "contract.schema.json").read_text(encoding="utf-8")
    assert json.loads(kept) == contract_schema(), "make openapi writes it anew"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "fhir_gateway" / "demo" / "contracts").glob("*.*")), ids=lambda p: p.stem
)
def test_the_contracts_of_the_demo_are_taken(validator: Any, path: Path) -> None:
    if path.suffix in (".toml", ".yaml", ".json"):
        assert [error.message for error in validator.iter_errors(plain(read_document(path)))] == []


def test_every_arrangement_is_named() -> None:
    kinds = contract_schema()["properties"]["arrangements"]["items"]["discriminator"]["mapping"]
    assert sorted(kinds) == sorted(ARRANGEMENTS)


def test_what_the_loader_dumps_is_taken(validator: Any, load: Callable[..., Contract]) -> None:
    assert [error.message for error in validator.iter_errors(load().model_dump(mode="json"))] == []


def test_unknown_terms_are_refused(validator: Any, contract_terms: Callable[..., dict[str, Any]]) -> None:
    stated = plain(contract_terms())
    assert validator.is_valid(stated)
    stated["arrangements"][0]["price"] = 1
    assert not validator.is_valid(stated)
    assert not validator.is_valid(plain(contract_terms(extra=1)))
