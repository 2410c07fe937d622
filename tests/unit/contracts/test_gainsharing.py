"""Gainsharing: gate, weights, caps, losses, and parts that sum exactly."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts.gainsharing import COLLABORATOR_SCHEMA, Collaborator, Gainsharing, Share
from fhir_gateway.errors import ContractError

D = Decimal


def terms(**changes: Any) -> Gainsharing:
    return Gainsharing.model_validate({"table": "with"} | changes)


def by_name(shares: list[Share]) -> dict[str, Decimal]:
    return {share.name: share.amount for share in shares}


THREE = [Collaborator("a", D(3), D(90), D(100_000)), Collaborator("b", D(2), D(70), D(9_000)), Collaborator("c", D(2))]


def test_worked_example() -> None:
    parts = by_name(terms().shares(D("96000.01"), THREE))
    assert parts == {"a": D("41142.86"), "b": D("27428.58"), "c": D("27428.57"), "hospital": 0}


def test_costs_and_reserve_are_kept() -> None:
    parts = by_name(terms(costs=D(6000), reserve=D("0.3")).shares(D(96000), THREE))
    assert parts == {"a": 27000, "b": 18000, "c": 18000, "hospital": 33000}
    assert by_name(terms(costs=D(100_000)).shares(D(96000), THREE))["hospital"] == 96000


def test_quality_gate() -> None:
    shares = terms(quality_gate=D(80)).shares(D(7000), THREE)
    assert by_name(shares) == {"a": 7000, "b": 0, "c": 0, "hospital": 0}
    assert shares[1].because == "quality below 80"
    assert by_name(terms(quality_gate=D(95)).shares(D(7000), THREE))["hospital"] == 7000


def test_cap_by_fees_goes_to_the_residual() -> None:
    parts = by_name(terms(cap_of_fees=D("0.5")).shares(D(70_000), THREE[:2]))
    assert parts == {"a": 42000, "b": 4500, "hospital": 23500}


def test_losses() -> None:
    assert by_name(terms().shares(D(-8000), THREE)) == {"a": 0, "b": 0, "c": 0, "hospital": -8000}
    parts = by_name(terms(alignment={}).shares(D(-8000), THREE[:2]))
    # half of it by 3 : 2 would be 2,400 and 1,600; a quarter, 2,000, is the most
    assert parts == {"a": -2000, "b": -1600, "hospital": -4400}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(
        list(rows), schema=pa.schema([field.with_nullable(True) for field in COLLABORATOR_SCHEMA])
    )


def test_weights() -> None:
    rows = table(
        {"name": "a", "weight": D("0.5"), "npi": "1", "improvement": D(10)},
        {"name": "b", "npi": "2", "improvement": D(-4)},
    )
    for weight, expected in (("stated", [D("0.5"), 1]), ("episodes", [6, 3]), ("improvement", [5, 0])):
        found = terms(weight=weight).collaborators(rows, {"1": 12, "2": 3})
        assert [one.weight for one in found] == expected


@pytest.mark.parametrize(
    ("rows", "changes", "problem"),
    [
        ([{"name": "a"}, {"name": "a"}], {}, "a name is there twice, or is that of the residual"),
        ([{"name": "hospital"}], {}, "a name is there twice, or is that of the residual"),
        ([{"name": "a b"}], {}, "a name is not of letters"),
        ([{"name": "a", "weight": D(-1)}], {}, "a weight or fees are negative"),
        ([{"name": "a"}], {"cap_of_fees": D(1)}, "fees are needed, the cap is a part of them"),
    ],
)
def test_tables_that_cannot_be_meant(rows: list[dict[str, Any]], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        terms(**changes).collaborators(table(*rows), {})


cents = st.decimals(-1_000_000, 1_000_000, places=2)
collaborators = st.lists(
    st.tuples(st.decimals(0, 100, places=3), st.decimals(0, 100, places=1), st.decimals(0, 50_000, places=2)),
    max_size=6,
).map(lambda found: [Collaborator(f"c{n}", *one) for n, one in enumerate(found)])
agreed = st.fixed_dictionaries(
    {
        "quality_gate": st.none() | st.decimals(0, 100, places=1),
        "costs": st.decimals(0, 10_000, places=2),
        "reserve": st.decimals(0, 1, places=3),
        "cap_of_fees": st.none() | st.decimals(0, 1, places=2),
        "alignment": st.sampled_from([None, {}, {"whole": D("0.3"), "each": D("0.1")}]),
    }
)


@given(pool=cents, who=collaborators, stated=agreed, data=st.data())
def test_parts_sum_whatever_the_order(pool: Decimal, who: list[Collaborator], stated: Any, data: st.DataObject) -> None:
    made = terms(**stated)
    shares = made.shares(pool, who)
    assert sum(share.amount for share in shares) == pool
    assert all(share.amount == share.amount.quantize(D("0.01")) for share in shares)
    assert all(share.amount * pool >= 0 for share in shares)
    assert made.shares(pool, data.draw(st.permutations(who))) == shares
    if pool > 0 and made.cap_of_fees is not None:
        fees = {one.name: one.fees or D(0) for one in who}
        assert all(share.amount <= made.cap_of_fees * fees[share.name] for share in shares[:-1])
    if pool < 0 and made.alignment is not None:
        assert all(share.amount >= pool * made.alignment.each for share in shares[:-1])
        assert sum(share.amount for share in shares[:-1]) >= pool * made.alignment.whole
