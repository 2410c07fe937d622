"""Sub-capitation: pools shared by panels and by points of first contacts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract, Settlement, settle
from fhir_gateway.contracts.arrangements import ARRANGEMENTS

D = Decimal
Terms = dict[str, Any]
Make = Callable[..., Contract]
PANEL = {
    "kind": "sub_capitation",
    "id": "sub",
    "pool": "pcp",
    "amount": {"kind": "pmpm", "amount": 20},
    "share_by": "panel",
}
CONTACTS = PANEL | {
    "amount": {"kind": "total", "amount": 1000},
    "share_by": "contacts",
    "contacts": [
        {"points": 2, "procedure": ["99204", "99205"]},
        {"points": 1, "procedure": ["99202-99215"], "specialty": ["06"]},
    ],
}


@pytest.fixture(scope="session")
def make(contract_terms: Callable[..., Terms]) -> Make:
    """A contract with one sub-capitation."""
    return lambda stated, **changes: contract_of(contract_terms(rounding="cent", arrangements=[stated | changes]))


def parts(settlement: Settlement) -> dict[str, Decimal]:
    found = [one for one in settlement.lines if one.id.startswith("sub.part")]
    assert sum(one.value or 0 for one in found) == settlement.total
    return {next(iter(one.evidence.values())): one.value or D(0) for one in found}


def test_a_pool_by_panels(make: Make) -> None:
    contract = make(PANEL)
    people = [{"member": name, "npi": npi} for name, npi in (("a", "1"), ("b", "1"), ("c", "2"), ("d", None))]
    inputs = inputs_of(contract, months_of({"a": (1, 2), "b": (1,), "c": (1,), "d": (1,)}), people)
    assert parts(settle(contract, inputs)) == {"1": 75, "2": 25}


def test_points_of_first_contacts(make: Make) -> None:
    contract = make(CONTACTS, tins=["9"])
    lines = [
        line("a", date(2024, 1, 5), npi="1", tin="9", procedure="99204"),
        line("a", date(2024, 6, 5), npi="1", tin="9", procedure="99213", specialty="06"),  # not a first visit
        line("a", date(2024, 6, 5), npi="2", tin="9", procedure="99213", specialty="06"),
        line("b", date(2023, 6, 5), npi="1", tin="9", procedure="99213", specialty="06"),  # the year before
        line("b", date(2024, 2, 5), npi="1", tin="9", procedure="99213", specialty="06"),
        line("b", date(2024, 6, 5), npi="1", tin="9", procedure="99213", specialty="06"),  # a year later
        line("b", date(2024, 6, 5), npi="3", tin="8", procedure="99204"),
        line("b", date(2024, 6, 5), npi="2", tin="9", procedure="99213", specialty="01"),
        line("b", date(2024, 7, 5), npi="2", tin="9", procedure="99204", denied=True),
        line("c", date(2024, 7, 5), npi="2", tin="9", procedure="99204"),  # in no month
    ]
    inputs = inputs_of(contract, months_of({"a": (1, 6), "b": (6, 7)}), lines=lines)
    settlement = settle(contract, inputs)
    assert parts(settlement) == {"1": 750, "2": 250}
    assert settlement.line("sub.per-point").value == 250
    nobody = settle(contract, inputs_of(contract, months_of({"a": (1,)})))
    assert nobody.total == 0


@settings(max_examples=10)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_parts_sum_to_the_pool(make: Make, sizes: list[int]) -> None:
    contract = make(PANEL, amount={"kind": "total", "amount": D("1000.01")})
    people = [{"member": f"m{n}", "npi": str(n)} for n, _ in enumerate(sizes)]
    months = months_of({f"m{n}": range(1, size + 1) for n, size in enumerate(sizes)})
    assert sum(parts(settle(contract, inputs_of(contract, months, people))).values()) == D("1000.01")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_by": "contacts"}, "sub.contacts: go with"),
        ({"tins": ["1"]}, "sub.tins: go with"),
        ({"share_by": "contacts", "contacts": [{"points": 1}, {"points": 2}]}, "never reached"),
        ({"share_by": "contacts", "contacts": [{"points": 1, "procedure": ["99-1"]}]}, "different length"),
    ],
)
def test_contradictions(changes: Terms, message: str) -> None:
    found = ARRANGEMENTS["sub_capitation"].model_validate(PANEL | changes).problems()
    assert any(message in one for one in found), found
