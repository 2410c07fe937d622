"""Sliders of a contract's numbers: what was agreed is one of the steps, and each end can be reached."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.console.frame import size
from fhir_gateway.console.sliders import numbers, sliders
from fhir_gateway.contracts.changes import changed
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.demo.tour import CONTRACTS

EXAMPLES = Path(__file__).parents[3] / "docs" / "use" / "contracts"

VALUES = st.decimals(min_value=-(10**9), max_value=10**9, places=4) | st.integers(-(10**6), 10**6).map(Decimal)


@given(VALUES)
def test_what_was_agreed_lies_on_a_step_between_both_ends(value: Decimal) -> None:
    ((_, (slider,)),) = sliders({"arrangements": [{"id": "a", "term": value}]})
    assert (slider.path, slider.group, slider.name) == ("arrangements.a.term", "arrangements.a", "term")
    assert slider.low <= slider.value == value <= slider.high
    assert slider.step > 0
    assert (value - slider.low) % slider.step == 0
    assert (slider.high - value) % slider.step == 0
    assert slider.low < slider.high
    assert (slider.high - slider.low) / slider.step <= 10_000


@pytest.mark.parametrize(
    ("value", "low", "high", "step"),
    [
        (Decimal("0.5"), 0, 1, Decimal("0.01")),
        (Decimal("0.385"), 0, 1, Decimal("0.001")),
        (Decimal(20), 0, 40, 1),
        (Decimal(165), 5, 325, 10),
        (Decimal(25000), 0, 50000, 1000),
        (Decimal("4.5"), 0, 9, Decimal("0.1")),
        (Decimal("-20"), -40, 0, 1),
    ],
)
def test_shares_lie_between_none_and_all_and_others_reach_to_twice_as_much(
    value: Decimal, low: int, high: int, step: Decimal
) -> None:
    ((_, (slider,)),) = sliders({"measures": [{"id": "m", "term": value}]})
    assert (slider.low, slider.high, slider.step) == (low, high, step)


def test_numbers_are_those_of_arrangements_and_measures_by_their_path() -> None:
    document = {
        "period": {"start": 2025},
        "arrangements": [
            {"id": "a", "kind": "x", "rate": "0.5", "on": True, "deep": {"amount": 4}, "performance_year": 2025},
            {"id": "t", "tins": ["123456789"], "codes": [470], "steps": [{"at": 1, "drg": "470"}, {"at": 2}]},
            {"id": "f", "fees": [{"id": "care", "pmpm": 6}, {"id": "7", "pmpm": 8}], "long": [{"at": 1}] * 13},
        ],
        "measures": [{"id": "m", "weight": Decimal("0.3"), "name": "7 days"}, {"weight": 1}],
    }
    assert numbers(document) == {
        "arrangements.a.rate": Decimal("0.5"),
        "arrangements.a.deep.amount": 4,
        "arrangements.t.steps.1.at": 1,
        "arrangements.t.steps.2.at": 2,
        "arrangements.f.fees.care.pmpm": 6,
        "arrangements.f.fees.2.pmpm": 8,
        "measures.m.weight": Decimal("0.3"),
    }


@pytest.mark.parametrize(
    ("bytes_", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (28_600_000_000, "28.6 GB"), (10**16, "10,000.0 TB")],
)
def test_sizes_are_in_the_unit_that_suits_them(bytes_: int, shown: str) -> None:
    assert size(bytes_) == shown


def test_each_slider_changes_the_number_that_it_names() -> None:
    for path in (*EXAMPLES.glob("*.yaml"), *CONTRACTS):
        document = read_document(path)
        terms = numbers(document)
        for name, value in terms.items():
            after = numbers(changed(document, {name: value + 7}))
            assert {one: after[one] for one in terms if after[one] != terms[one]} == {name: value + 7}


def test_a_contract_of_tables_has_their_sliders() -> None:
    found = numbers(read_document(EXAMPLES / "risk_pool.yaml"))
    assert {name.partition(".pay.")[2]: str(value) for name, value in found.items() if "corridor" in name} == {
        "corridor.losses.1.through": "0.1",
        "corridor.losses.1.share": "0.5",
        "corridor.losses.2.share": "0.25",
    }
