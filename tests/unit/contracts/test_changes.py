"""Changed terms by path."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.changes import changed, read_value
from fhir_gateway.errors import ContractError


def test_a_term_is_found_by_path_and_the_rest_stays(contract_terms: Callable[..., dict[str, Any]]) -> None:
    stated = contract_terms()
    other = changed(
        stated, {"arrangements.ss.rate": Decimal("0.6"), "claims.truncation": 1000, "calendar.interim": "none"}
    )
    assert other["arrangements"][0]["rate"] == Decimal("0.6")
    assert other["claims"]["truncation"] == 1000
    assert stated == contract_terms()
    assert Contract.of(other).digest != Contract.of(stated).digest


@pytest.mark.parametrize("path", ["arrangements.other.rate", "version.number", "arrangements.ss.rate.more"])
def test_a_path_that_leads_nowhere_is_named(contract_terms: Callable[..., dict[str, Any]], path: str) -> None:
    with pytest.raises(ContractError, match=r"is no group of terms|there is none of that id"):
        changed(contract_terms(), {path: 1})


def test_a_term_that_there_is_not_is_refused_by_the_contract(contract_terms: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ContractError, match="price"):
        Contract.of(changed(contract_terms(), {"arrangements.ss.price": 1}))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.10", Decimal("0.10")),
        ("5", 5),
        ("true", True),
        ("null", None),
        ("gate", "gate"),
        ("2025-01-01", "2025-01-01"),
        ("NaN", "NaN"),
    ],
)
def test_values_at_the_prompt(text: str, value: object) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)
