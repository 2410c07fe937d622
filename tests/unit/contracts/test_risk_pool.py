"""Risk pools: stop-loss, completion, corridor, gate, deficits of years before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from contract_parts import measure
from hypothesis import given, settings
from hypothesis import strategies as st
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract, MeasureScore, Settlement, settle
from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.contracts.audit import AMOUNT
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.stop_loss import AggregateStopLoss, IndividualStopLoss, recover

D = Decimal
Terms = dict[str, Any]
Make = Callable[..., Contract]
#: Nobody shares 3%, which the provider bears; half of 3-10%; the plan bears what is beyond.
CORRIDOR = {
    "dead_band": {"through": D("0.03"), "bearer": "provider"},
    "losses": [{"through": D("0.1"), "share": D("0.5")}, {"share": 0}],
}
MILLION = {"kind": "total", "amount": 1_000_000}


@pytest.fixture(scope="session")
def make(contract_terms: Callable[..., Terms]) -> Make:
    """A contract with one risk pool of a million."""

    def of(measures: list[Terms] | None = None, **changes: Any) -> Contract:
        stated = {"kind": "risk_pool", "id": "pool", "pool": "risk", "fund": MILLION, "corridor": CORRIDOR} | changes
        return contract_of(contract_terms(measures=measures or [], rounding="cent", arrangements=[stated]))

    return of


def settled(contract: Contract, costs: Mapping[str, Decimal | int], **more: Any) -> Settlement:
    lines = [line(member, date(2024, 5, 5), paid=D(cost)) for member, cost in costs.items()]
    return settle(contract, inputs_of(contract, months_of({name: [5] for name in costs}), lines=lines, **more))


def value(settlement: Settlement, line_id: str) -> Decimal:
    found = settlement.line(f"pool.{line_id}").value
    assert found is not None
    return found


def test_a_corridor_around_the_target(make: Make) -> None:
    """120,000 above a million: 65,000 are the provider's (30,000 alone, half of 70,000), 55,000 the plan's."""
    settlement = settled(make(), {"a": 1_120_000})
    assert settlement.total == -65_000
    assert value(settlement, "plan") == -55_000
    assert [value(settlement, f"shared.{n}") for n in (1, 2, 3)] == [-30_000, -35_000, 0]


def test_the_plan_may_bear_the_dead_band(make: Make) -> None:
    corridor = CORRIDOR | {"dead_band": {"through": D("0.03"), "bearer": "plan"}}
    assert settled(make(corridor=corridor), {"a": 1_120_000}).total == -35_000


@settings(max_examples=10)
@given(st.decimals(0, 900_000, places=2))
def test_symmetric_corridors_are_symmetric(make: Make, deviation: Decimal) -> None:
    contract = make()
    gain = settled(contract, {"a": 1_000_000 - deviation}).total
    assert gain == -settled(contract, {"a": 1_000_000 + deviation}).total


def test_savings_may_have_bands_of_their_own(make: Make) -> None:
    contract = make(corridor=CORRIDOR | {"dead_band": None, "savings": [{"share": 1}]})
    assert settled(contract, {"a": 880_000}).total == 120_000
    assert settled(contract, {"a": 1_120_000}).total == -50_000


def test_a_target_loss_ratio(make: Make) -> None:
    """85% of what is paid by cells; the bands are parts of that."""
    contract = make(
        fund={"kind": "cells", "ratio": D("0.85")},
        cells={},
        reference="fund",
        corridor={"dead_band": {"through": D("0.02"), "bearer": "plan"}, "losses": [{"share": D("0.5")}]},
    )
    rates = {"rates": [{"cell": "all", "rate": D(1000)}]}
    settlement = settled(contract, {"a": 900, "b": 900}, tables=rates)
    assert (value(settlement, "fund"), value(settlement, "target"), value(settlement, "loss-ratio")) == (
        2000, 1700, D("0.9"),
    )  # fmt: skip
    assert settlement.total == -30  # half of 100 - 40


def test_individual_stop_loss_then_aggregate(make: Make) -> None:
    individual = IndividualStopLoss(attachment=D(150_000), coinsurance=D("0.9"), limit=D(1_000_000))
    assert individual.recovered(D(500_000)) == 315_000
    assert individual.recovered(D(2_000_000)) == 765_000
    assert AggregateStopLoss(attachment=D("1.2")).recovered(D(1_250_000), D(1_000_000)) == 50_000
    contract = make(
        individual={"attachment": 150_000, "coinsurance": D("0.9"), "limit": 1_000_000, "premium_pmpm": 5},
        aggregate={"attachment": D("1.15"), "premium_pmpm": 1},
        corridor={"losses": [{"share": 1}]},
    )
    settlement = settled(contract, {"a": 500_000, "b": 100_000, **{f"m{n}": 100_000 for n in range(10)}})
    assert value(settlement, "individual") == -315_000
    assert value(settlement, "individual.premium") == 60
    before = 1_600_000 - 315_000 + 60 + 12
    assert value(settlement, "before-aggregate") == before
    assert value(settlement, "aggregate") == -(before - 1_150_000)
    assert settlement.total == -150_000


costs = st.lists(st.decimals(0, 2_000_000, places=2), min_size=1, max_size=20)


@settings(max_examples=25)
@given(costs, st.decimals(0, 500_000, places=2), st.decimals(0, 1, places=2), st.decimals(1, 500_000, places=2))
def test_stop_loss_adds_up_and_is_monotone(
    amounts: list[Decimal], attachment: Decimal, coinsurance: Decimal, above: Decimal
) -> None:
    terms = IndividualStopLoss(attachment=attachment, coinsurance=coinsurance, limit=attachment + above)
    members = [f"m{n:03}" for n in range(len(amounts))]
    table = pa.table({"member": members, "cost": pa.array(sorted(amounts), AMOUNT)})
    found = recover(table, terms).to_pylist()
    assert [row["recovered"] for row in found] == [terms.recovered(cost) for cost in sorted(amounts)]
    assert all(row["recovered"] + row["retained"] == row["cost"] for row in found)
    for name in ("recovered", "retained"):  # more cost, more of both
        assert [row[name] for row in found] == sorted(row[name] for row in found)


def test_stop_loss_of_some_categories(make: Make) -> None:
    categories = [
        {"category": "transplant", "covered_by": "carve_out", "drg": ["001"]},
        {"category": "hospital", "covered_by": "capitation", "claim_type": ["inpatient"]},
    ]
    contract = make(
        services={"scope": "global", "categories": categories},
        individual={"attachment": 10, "coinsurance": 1, "categories": ["hospital"]},
    )
    lines = [
        line("a", date(2024, 5, 5), paid=D(100), claim_type="inpatient"),
        line("a", date(2024, 5, 5), paid=D(50), claim_type="professional"),
        line("a", date(2024, 5, 5), paid=D(5000), claim_type="inpatient", drg="001"),
        line("a", date(2024, 6, 5), paid=D(5000), claim_type="inpatient"),  # in no month that counts
        line("a", date(2024, 5, 5), paid=D(5000), denied=True),
    ]
    settlement = settle(contract, inputs_of(contract, months_of({"a": [5]}), lines=lines))
    assert (value(settlement, "paid"), value(settlement, "cost")) == (150, 60)


def test_completion_by_lag(make: Make) -> None:
    as_of = date(2024, 12, 31)
    contract = make(completion={"kind": "table", "as_of": as_of}, corridor={"losses": [{"share": 1}]})
    completion = [{"lag": n, "completed": D(part)} for n, part in enumerate(("0.5", "0.8", "1"))]
    lines = [line("a", date(2024, month, 2), paid=D(100)) for month in (3, 11, 12)]
    months = months_of({"a": (3, 11, 12)})
    settlement = settle(contract, inputs_of(contract, months, lines=lines, tables={"completion": completion}))
    assert value(settlement, "ibnr") == 100 + 25
    assert value(settlement, "cost") == 425


def test_an_interim_settlement_is_completed_as_of_its_cut(make: Make) -> None:
    contract = make(completion={"kind": "table", "as_of": date(2025, 3, 31)}, corridor={"losses": [{"share": 1}]})
    completion = [{"lag": n, "completed": D(part)} for n, part in enumerate(("0.5", "1"))]
    lines = [line("a", date(2024, 6, 2), paid=D(100))]
    inputs = inputs_of(contract, months_of({"a": (6,)}), lines=lines, tables={"completion": completion})
    assert value(settle(contract, inputs), "ibnr") == 0
    cut = replace(inputs, cut=Cut(through=date(2024, 6, 30), paid_through=date(2024, 6, 30)))
    assert value(settle(contract, cut), "ibnr") == 100


def test_completion_by_chain_ladder(make: Make) -> None:
    """Half of each month is paid at once and half a month later: of the last month as much again is due."""
    contract = make(completion={"kind": "chain_ladder", "as_of": date(2024, 3, 31), "months": 3})
    lines = [
        line("a", date(2024, month, 2), paid=D(100), payment_date=date(2024, paid, 3), claim_type="professional")
        for month in (1, 2, 3) for paid in (month, month + 1) if paid < 4
    ]  # fmt: skip
    settlement = settle(contract, inputs_of(contract, months_of({"a": (1, 2, 3)}), lines=lines))
    assert (value(settlement, "paid"), value(settlement, "ibnr")) == (500, 100)


def test_a_surplus_needs_quality_and_a_deficit_does_not(make: Make) -> None:
    contract = make([measure("q", "1")], gate=D("0.6"))
    for score, cost, paid in (("0.5", 900_000, 0), ("0.6", 900_000, 65_000), ("0.5", 1_100_000, -65_000)):
        outcomes = {"q": MeasureScore(None, 100, D(score))}
        assert settled(contract, {"a": cost}, outcomes=outcomes).total == paid


def test_deficits_wait_for_surpluses(make: Make) -> None:
    prior = [{"year": 2023, "amount": 20_000}, {"year": 2020, "amount": 500_000}]
    contract = make(carry_forward={"years": 3, "prior": prior})
    surplus = settled(contract, {"a": 900_000})
    assert (surplus.total, value(surplus, "carried")) == (45_000, 0)
    deficit = settled(contract, {"a": 1_100_000})
    assert (deficit.total, value(deficit, "carried")) == (0, 85_000)


def test_most_that_is_paid_or_owed(make: Make) -> None:
    contract = make(surplus_cap=1000, deficit_cap=2000)
    assert settled(contract, {"a": 900_000}).total == 1000
    assert settled(contract, {"a": 1_100_000}).total == -2000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corridor": {"losses": [{"through": D("0.1"), "share": 1}]}}, "last band has no end"),
        ({"corridor": CORRIDOR | {"dead_band": {"through": D("0.2"), "bearer": "plan"}}}, "not above the band before"),
        ({"fund": {"kind": "cells"}}, "pool.cells"),
        ({"fund": {"kind": "pmpm"}}, "fund.amount"),
        ({"individual": {"attachment": 10, "coinsurance": 1, "limit": 10}}, "individual.limit"),
        ({"aggregate": {"attachment": 2, "limit": D("1.5")}}, "aggregate.limit"),
        ({"individual": {"attachment": 10, "coinsurance": 1, "categories": ["x"]}}, "no service categories"),
        ({"carry_forward": {"years": 1}, "deficit_cap": 1}, "none is paid"),
    ],
)
def test_contradictions(changes: Terms, message: str) -> None:
    stated = {"kind": "risk_pool", "id": "pool", "pool": "risk", "fund": MILLION, "corridor": CORRIDOR} | changes
    found = ARRANGEMENTS["risk_pool"].model_validate(stated).problems()
    assert any(message in one for one in found), found
