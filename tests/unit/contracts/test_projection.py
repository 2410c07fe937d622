"""Projections: completed for what is not yet paid, carried on to the end, with a band that grows with the unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from contract_parts import Terms, inputs, shared_savings
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.contracts.arrangements.base import ArrangementTerms
from fhir_gateway.contracts.projection import Projection, project
from fhir_gateway.errors import ContractError
from fhir_gateway.lake.claims import LINE_SCHEMA

D = Decimal
MEMBERS = pa.array(["a"])


def lines(monthly: dict[date, list[tuple[date, int]]]) -> pa.Table:
    """Lines of one member: month of service -> payments."""
    rows = [
        dict.fromkeys(LINE_SCHEMA.names)
        | {
            "_member": "a",
            "counts": True,
            "denied": False,
            "claim_type": "professional",
            "service_from": service,
            "payment_date": paid,
            "paid": D(amount),
            "allowed": D(amount),
        }
        for service, payments in monthly.items()
        for paid, amount in payments
    ]
    return pa.Table.from_pylist(rows, schema=LINE_SCHEMA)


def steady(extra: dict[date, int] | None = None) -> pa.Table:
    """100 a month for two years, 80 paid at once and 20 the month after."""
    monthly: dict[date, list[tuple[date, int]]] = {}
    for number in range(24):
        day = date(2023 + number // 12, number % 12 + 1, 10)
        after = date(2023 + (number + 1) // 12, (number + 1) % 12 + 1, 10)
        monthly[day] = [(day, 80 + (extra or {}).get(day, 0)), (after, 20)]
    return lines(monthly)


@pytest.fixture
def contract(load: Callable[..., Contract]) -> Contract:
    return load(rounding="cent", arrangements=[shared_savings(target={"kind": "total", "amount": D(2000)})])


def projected(contract: Contract, table: pa.Table, as_of: date) -> Projection:
    return project(contract, inputs("0", members=1), MEMBERS, table, as_of)


def test_a_steady_year_is_completed_and_carried_on(contract: Contract) -> None:
    ahead = projected(contract, steady(), date(2024, 6, 30))
    assert (ahead.paid, ahead.ibnr, ahead.to_come, ahead.cost) == (580, 20, 600, 1200)
    assert ahead.months_left == 6
    assert ahead.cost_low == ahead.cost_high == 1200  # nothing varied
    assert ahead.total == D("400.00")


def test_the_band_is_wider_where_months_varied(contract: Contract) -> None:
    uneven = steady({date(2024, 2, 10): 60, date(2024, 4, 10): 90})
    ahead = projected(contract, uneven, date(2024, 6, 30))
    assert ahead.cost_low < ahead.cost < ahead.cost_high
    assert ahead.total_at_low_cost > ahead.total > ahead.total_at_high_cost
    wider = project(contract, inputs("0", members=1), MEMBERS, uneven, date(2024, 6, 30), level=0.95)
    assert wider.cost_high > ahead.cost_high
    later = projected(contract, uneven, date(2024, 11, 30))
    assert later.cost_high - later.cost_low < ahead.cost_high - ahead.cost_low


def test_what_cannot_be_projected_is_refused(contract: Contract, load: Callable[..., Contract]) -> None:
    with pytest.raises(ContractError, match="its day lies in the period"):
        projected(contract, steady(), date(2023, 12, 31))
    pooled = shared_savings(expenditures={"pooling": {"attachment": 100}})
    with pytest.raises(ContractError, match=r"arrangements\.ss \(shared_savings\): rests on more than total cost"):
        projected(load(arrangements=[pooled]), steady(), date(2024, 6, 30))


def carried(*arrangements: dict[str, Any], half: bool = True, **more: Any) -> dict[str, tuple[str, Decimal]]:
    """A contract of two members, of whom one left after three months, as of the end of June."""
    stated = more.pop("stated") | {"arrangements": list(arrangements), "rounding": "cent"}
    contract = contract_of(stated)
    months = months_of({"a": range(1, 13), "b": range(1, 4)})
    whole = inputs_of(contract, months, **more)
    part = inputs_of(contract, [one for one in months if one[1] < date(2024, 7, 1)], **more) if half else None
    ahead = project(contract, whole, MEMBERS, steady(), date(2024, 6, 30), so_far=part)
    assert ahead.total == ahead.total_at_low_cost == ahead.total_at_high_cost
    assert ahead.total == sum(one.total for one in ahead.payments)
    return {one.arrangement: (one.carried, one.total) for one in ahead.payments}


FEE = {"kind": "care_management_fee", "id": "fee", "pool": "fee", "fees": [{"pmpm": 10}]}
CLINIC = {
    "kind": "ccbhc", "id": "clinic", "pool": "clinic", "model": "PPS-1", "rates": {"standard": 100},
    "services": ["90834"], "tins": ["1"], "members": "all",
}  # fmt: skip


def test_months_are_those_of_coverage_and_visits_are_carried_on(contract_terms: Callable[..., Terms]) -> None:
    visits = [line("a", date(2024, month, 3), procedure="90834", tin="1") for month in range(1, 7)]
    found = carried(FEE, CLINIC, stated=contract_terms(), lines=visits)
    assert found["fee"] == ("months", 150)  # fifteen months at ten, not twice those so far
    # six visits at a hundred; of 600 of cost 580 are known; half of the year is over
    assert found["clinic"] == ("services", D("1241.38"))


def test_what_has_no_projection_says_why(contract_terms: Callable[..., Terms]) -> None:
    kick = {"id": "birth", "amount": 100, "procedure": ["59400"]}
    tables = {"rates": [{"cell": "all", "rate": 100}]}
    capitation = {"kind": "capitation", "id": "cap", "pool": "cap"}
    assert carried(capitation, stated=contract_terms(), tables=tables)["cap"] == ("months", 1500)
    with pytest.raises(ContractError, match=r"arrangements\.cap \(capitation\): kick payments"):
        carried(capitation | {"kicks": [kick]}, stated=contract_terms(), tables=tables)
    with pytest.raises(ContractError, match=r"arrangements\.clinic \(ccbhc\): needs what the period came to so far"):
        carried(CLINIC, half=False, stated=contract_terms())
    pool = {
        "kind": "risk_pool", "id": "pool", "pool": "pool", "fund": {"kind": "pmpm", "amount": 100},
        "corridor": {"losses": [{"share": 1}]},
    }  # fmt: skip
    with pytest.raises(ContractError, match=r"arrangements\.pool \(risk_pool\): its cost so far is not complete"):
        carried(pool, stated=contract_terms())


@pytest.mark.parametrize("kind", sorted(ARRANGEMENTS))
def test_every_arrangement_says_how_it_is_carried_on(kind: str) -> None:
    own = next(one for one in ARRANGEMENTS[kind].__mro__ if "carried_on" in vars(one))
    by_cost = {"shared_savings", "mssp", "aco_reach", "provider_mlr"}
    assert (own is ArrangementTerms) == (kind in by_cost), "an arrangement that looks at columns says so itself"


def test_claim_types_outside_of_the_contract_do_not_count(contract: Contract) -> None:
    table = steady()
    other = table.set_column(
        table.column_names.index("claim_type"), "claim_type", pa.array(["vision"] * table.num_rows)
    )
    ahead = projected(contract, pa.concat_tables([table, other]), date(2024, 6, 30))
    assert ahead.cost == 1200
    assert replace(ahead, level=0.5).cost == 1200
