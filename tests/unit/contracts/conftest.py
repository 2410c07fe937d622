"""A complete contract as parsed TOML, to be changed by tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from contract_parts import shared_savings

from fhir_gateway.contracts import Contract

Terms = dict[str, Any]


@pytest.fixture(scope="session")
def contract_terms() -> Callable[..., Terms]:
    """Parsed terms of a valid contract; keyword arguments replace top-level terms."""

    def make(**changes: Any) -> Terms:
        return {
            "id": "test-contract",
            "url": "https://example.org/Measure/test-contract",
            "version": "1",
            "title": "Test contract",
            "identifier": {"system": "https://example.org/contracts", "value": "C-1"},
            "line_of_business": "medicare",
            "hcp_lan": "3B",
            "rounding": "dollar",
            "payer": {"name": "Payer", "identifier": {"system": "urn:payer", "value": "1"}},
            "provider": {
                "name": "Provider",
                "identifier": {"system": "urn:oid:2.16.840.1.113883.4.4", "value": "100000001"},
                "entity": "aco",
                "tins": ["100000001"],
            },
            "period": {"start": date(2024, 1, 1), "end": date(2024, 12, 31)},
            "attribution": {"terms": "mssp-primary-care-2024"},
            "claims": {"paid_through": date(2025, 3, 31)},
            "arrangements": [shared_savings()],
        } | changes

    return make


@pytest.fixture(scope="session")
def load(contract_terms: Callable[..., Terms]) -> Callable[..., Contract]:
    """A contract from changed terms."""
    return lambda **changes: Contract.of(contract_terms(**changes))
