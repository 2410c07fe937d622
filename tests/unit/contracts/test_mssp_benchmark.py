"""The historical benchmark of the Shared Savings Program from claims, step by step, checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from benchmark_parts import enrolment, facts, lines
from contract_parts import measure

from fhir_gateway.contracts import Contract, Exposure, MeasureScore, SettlementInputs, settle
from fhir_gateway.contracts.arrangements.mssp import SharedSavingsProgram
from fhir_gateway.contracts.arrangements.mssp_benchmark import TYPES_SCHEMA
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

D = Decimal
YEARS = (2021, 2022, 2023, 2024)
QUALITY = [measure("quality", "1")]


def types(*rows: dict[str, Any]) -> pa.Table:
    """Rows of `benchmark_types`; national and regional cost are 10,000 and 10,000, risk is 1, if not stated."""
    standing = {"risk": D(1), "national": D(10_000), "regional": D(10_000)} | dict.fromkeys(
        ("demographic", "truncation", "completion")
    )
    return pa.Table.from_pylist([standing | row for row in rows], schema=TYPES_SCHEMA)


def published(**changes: dict[int, Any]) -> pa.Table:
    """AGND of four years; changes by column and year."""
    rows = ({name: D(by[year]) for name, by in changes.items() if year in by} for year in YEARS)
    return types(*({"year": year, "type": "AGND"} | row for year, row in zip(YEARS, rows, strict=True)))


def program(**changes: Any) -> dict[str, Any]:
    benchmark = {"base_years": [2021, 2022, 2023], "year": 2024, "national_weight": D("0.25"), "regional_time": None}
    return {
        "kind": "mssp", "id": "aco", "pool": "mssp", "performance_year": 2024, "level": "EN", "standard": "met",
        "election": 0, "benchmark": benchmark | changes,
    }  # fmt: skip


def settled(table: pa.Table, costs: dict[int, Any], who: pa.Table | None = None, **changes: Any) -> dict[str, Decimal]:
    """Values by ledger line, and the published amount."""
    terms = SharedSavingsProgram.model_validate(program(**changes))
    assert not terms.problems()
    claims = lines(*(("a", date(year, 6, 1), cost) for year, cost in costs.items()))
    months = enrolment(*(("a", year, range(1, 13), "AGND") for year in YEARS)) if who is None else who
    given = facts(claims, {"a": 12}, tables={"enrolment": months, "benchmark_types": table})
    spent = Exposure(1, D(12), D(1), D(1), D(1), 0)
    inputs = SettlementInputs(spent, {"quality": MeasureScore(None, 1, D(1))}, facts=given)
    ledger = Ledger("aco", "USD", "dollar", None)
    with localcontext(Context(prec=60)):
        terms.settle(inputs, (MeasureTerms.model_validate(QUALITY[0]),), ledger)
    amount = ledger.lines[-1].amount
    assert amount is not None
    found = {line.id.removeprefix("aco."): line.value for line in ledger.lines if line.value is not None}
    return found | {"amount": amount}


COSTS = {2021: 8_000, 2022: 9_000, 2023: 10_000, 2024: 9_500}


def test_base_years_are_weighted_ten_thirty_sixty() -> None:
    settlement = settled(published(), COSTS)
    assert settlement["AGND.historical"] == D("9500")  # 800 + 2,700 + 6,000
    assert settlement["updated-total"] == 9_500
    assert settlement["amount"] == 0


def test_renewals_weigh_their_years_equally() -> None:
    assert settled(published(), COSTS, agreement="later")["AGND.historical"] == 9_000


def test_trend_blends_national_and_regional_growth() -> None:
    table = published(national={2021: 8_000, 2022: 10_000}, regional={2021: 10_000, 2022: 10_000})
    settlement = settled(table, COSTS)
    growth = D("0.25") * D("1.25") + D("0.75")  # a quarter of the region is assigned
    assert settlement["AGND.BY1-to-last"] == growth
    assert settlement["AGND.historical"] == D("0.1") * 8_000 * growth + 2_700 + 6_000


def test_risk_of_the_base_years_is_that_of_the_last() -> None:
    settlement = settled(published(risk={2021: "0.8", 2022: 1, 2023: 1, 2024: 1}), COSTS)
    assert settlement["AGND.BY1.adjusted"] == 10_000


def test_risk_may_rise_three_percent_and_fall_freely() -> None:
    assert settled(published(risk={2024: "1.10"}), COSTS)["AGND.risk"] == D("1.03")
    assert settled(published(risk={2024: "0.90"}), COSTS)["AGND.risk"] == D("0.90")


def test_since_2024_the_cap_follows_the_demographics() -> None:
    demographic = {2023: 1, 2024: "1.02"}
    capped = settled(published(risk={2024: "1.10"}, demographic=demographic), COSTS, new_rules=True)
    assert capped["AGND.risk"] == D("1.05")
    with pytest.raises(ContractError, match="demographic scores"):
        settled(published(), COSTS, new_rules=True)


def test_update_in_advance_makes_a_third_of_the_growth() -> None:
    table = published(national={2024: 10_600}, regional={2024: 10_600}, demographic={2023: 1, 2024: 1})
    advance = dict.fromkeys(("ESRD", "DIS", "AGDU", "AGND"), D("1.03"))
    settlement = settled(table, COSTS, new_rules=True, update_in_advance=advance)
    assert settlement["AGND.update"] == D("1.06")
    assert round(settlement["AGND.update-3"], 20) == D("1.05")
    assert round(settlement["updated-total"], 20) == D("9975")
    assert settlement["two-way-total"] == 10_070


def test_who_loses_only_by_the_advance_update_owes_nothing() -> None:
    table = published(national={2024: 10_600}, regional={2024: 10_600}, demographic={2023: 1, 2024: 1})
    advance = dict.fromkeys(("ESRD", "DIS", "AGDU", "AGND"), D("1.03"))
    between = settled(table, COSTS | {2024: 10_000}, new_rules=True, update_in_advance=advance)
    assert between["gross"] < 0
    assert between["guarded"] == 0
    assert between["amount"] == 0
    worse = settled(table, COSTS | {2024: 10_570}, new_rules=True, update_in_advance=advance)
    assert worse["guarded"] == -500


def test_regional_adjustment_is_decided_once_and_capped() -> None:
    below = settled(published(regional=dict.fromkeys(YEARS, 10_500)), COSTS, regional_time=1)
    assert below["AGND.regional"] == D("0.35") * 1_000
    assert below["AGND.adjusted"] == 9_850
    above = settled(published(regional=dict.fromkeys(YEARS, 9_000)), COSTS, regional_time=1)
    assert above["AGND.regional"] == D("0.15") * -500
    capped = settled(published(regional=dict.fromkeys(YEARS, 13_000)), COSTS, regional_time=2)
    assert capped["AGND.regional"] == 500


def test_dual_share_and_risk_lessen_negative_adjustments_from_2024() -> None:
    table = published(
        regional=dict.fromkeys(YEARS, 9_000), risk=dict.fromkeys(YEARS, "1.1"), demographic={2023: 1, 2024: 1}
    )
    terms = {"new_rules": True, "regional_time": 1, "dual_share": D("0.3")}
    gap = 9_000 * D("1.1") - 9_500  # the region at the ACO's risk spends more
    assert settled(table, COSTS, **terms, negative_offset="dual_and_risk")["AGND.regional"] == D("0.35") * gap
    lower = published(
        regional=dict.fromkeys(YEARS, 8_000), risk=dict.fromkeys(YEARS, "1.1"), demographic={2023: 1, 2024: 1}
    )
    full = settled(lower, COSTS, **terms)["AGND.regional"]
    assert full == D("0.15") * (8_000 * D("1.1") - 9_500)
    lessened = settled(lower, COSTS, **terms, negative_offset="dual_and_risk")
    assert lessened["negative-offset"] == D("0.4")  # 0.3 + 1.1 - 1
    assert lessened["AGND.regional"] == full * D("0.6")


def test_prior_savings_take_the_place_of_a_lower_regional_adjustment() -> None:
    table = published(regional=dict.fromkeys(YEARS, 9_100), demographic={2023: 1, 2024: 1})
    terms = {"agreement": "later", "new_rules": True, "regional_time": 1, "prior_savings": {"net_per_capita": 300}}
    settlement = settled(table, COSTS, **terms)
    assert settlement["prior-savings"] == 150
    assert settlement["adjustment"] == 150
    assert settlement["AGND.adjusted"] == 9_150


def test_cost_is_completed_and_truncated_by_the_tables() -> None:
    table = published(completion={2024: "1.02"}, truncation={2024: 9_000})
    settlement = settled(table, COSTS)
    assert settlement["cost"] == 9_180  # 9,000 x 1.02
    assert settlement["amount"] == D(235)  # 320 x 75 % x 98 %: rounded half up


def test_types_are_weighted_by_this_years_person_years() -> None:
    rows = [{"year": year, "type": kind} for year in YEARS for kind in ("AGND", "ESRD")]
    who = enrolment(
        *(("a", year, range(1, 7), "AGND") for year in YEARS), *(("a", year, range(7, 13), "ESRD") for year in YEARS)
    )
    settlement = settled(types(*rows), COSTS, who)  # all cost is in June
    assert settlement["AGND.historical"] == 19_000
    assert settlement["ESRD.historical"] == 0
    assert settlement["updated-per-capita"] == 9_500


def test_a_type_without_history_is_refused() -> None:
    rows = [{"year": year, "type": kind} for year in YEARS for kind in ("AGND", "ESRD")]
    who = enrolment(*(("a", year, range(1, 13), "AGND" if year < 2024 else "ESRD") for year in YEARS))
    with pytest.raises(ContractError, match="ESRD has persons now and none in the base years"):
        settled(types(*rows), COSTS, who)


def test_contradictions_are_named(load: Callable[..., Contract]) -> None:
    advance = {"AGND": D("1.03")}
    with pytest.raises(ContractError) as refused:
        load(measures=QUALITY, arrangements=[program(base_years=[2022, 2021, 2023], update_in_advance=advance)])
    assert "aco.benchmark.base_years" in refused.value.message
    assert "belongs to agreement periods from 2024" in refused.value.message
    with pytest.raises(ContractError, match="needs one of target and benchmark"):
        load(measures=QUALITY, arrangements=[program() | {"target": {"kind": "total", "amount": 1}}])


def test_a_contract_brings_its_tables(contract_terms: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    months = [f"a,{year}-{month:02}-01,AGND" for year in YEARS for month in range(1, 13)]
    (tmp_path / "months.csv").write_text("\n".join(["member,month,type", *months]), encoding="utf-8")
    rows = [f"{year},AGND,1,10000,10000" for year in YEARS]
    (tmp_path / "types.csv").write_text("\n".join(["year,type,risk,national,regional", *rows]), encoding="utf-8")
    tables = {"enrolment": {"path": "months.csv"}, "benchmark_types": {"path": "types.csv"}}
    contract = Contract.of(contract_terms(measures=QUALITY, arrangements=[program()], tables=tables), tmp_path)
    claims = lines(*(("a", date(year, 6, 1), cost) for year, cost in COSTS.items()))
    known = facts(claims, {"a": 12}, tables={name: given.table for name, given in contract.given.items()})
    spent = Exposure(1, D(12), D(1), D(1), D(1), 0)
    found = settle(contract, SettlementInputs(spent, {"quality": MeasureScore(None, 1, D(1))}, facts=known))
    assert found.line("aco.updated-total").value == 9_500
    assert set(found.line("aco.updated-total").because) == {"aco.updated-per-capita"}
    assert "AGND: per capita, BY1: 8000" in found.explain("aco.updated-total")
    (tmp_path / "types.csv").write_text("year,type,risk,national\n", encoding="utf-8")
    with pytest.raises(ContractError, match="column regional: is missing"):
        Contract.of(contract_terms(measures=QUALITY, arrangements=[program()], tables=tables), tmp_path)
