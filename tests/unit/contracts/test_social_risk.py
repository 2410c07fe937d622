"""Payments by social risk: bonus of shared savings, benchmark adjustment of ACO REACH, who is at risk in TEAM."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Any

import pyarrow as pa
import pytest
from benchmark_parts import facts, lines
from contract_parts import exposure, measure, shared_savings

from fhir_gateway.contracts import Contract, MeasureScore, SettlementInputs, settle
from fhir_gateway.contracts.arrangements.mssp import SharedSavingsProgram
from fhir_gateway.contracts.arrangements.reach import AcoReach
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA, at_risk, tenths, underserved
from fhir_gateway.errors import ContractError

D = Decimal
Load = Callable[..., Contract]


def risk(**members: tuple[int | None, bool | None, bool | None]) -> pa.Table:
    """Percentile of deprivation, dual, low income by member."""
    rows = [dict(zip(SOCIAL_RISK_SCHEMA.names, (name, *one), strict=True)) for name, one in members.items()]
    return pa.Table.from_pylist(rows, pa.schema([field.with_nullable(True) for field in SOCIAL_RISK_SCHEMA]))


def crowd(deprived: int, poor: int, of: int) -> pa.Table:
    """So many of so many members."""
    return risk(**{f"m{n}": (90 if n < deprived else 20, of - n <= poor, None) for n in range(of)})


def test_the_bonus_of_the_sheet_from_scores_and_members(load: Load) -> None:
    """Thirds 4+4+2+2+0+4 are 16 points, 31 of 100 members are dual: 4.96 points of a hundred."""
    scores = {"a": "0.9", "b": "0.8", "c": "0.7", "d": "0.6", "e": "0.5", "f": "0.1"}
    names = list(scores)
    thirds: dict[str, Any] = {name: (D("0.6"), D("0.8")) for name in names[:5]} | {"f": (D("0.4"), D("0.2"))}
    measures = [measure(name, "0.2" if name in "ab" else "0.15") for name in names]
    measures[5] |= {"direction": "decrease", "scoring": {"kind": "linear", "threshold": 1, "target": 0}}
    equity = {"thirds": thirds, "table": "social_risk"}
    terms = shared_savings(quality={"mode": "multiplicative", "equity": equity})
    made = load(measures=measures, arrangements=[shared_savings(quality={"mode": "multiplicative"})])
    made = made.model_copy(update={"arrangements": (type(made.arrangements[0]).model_validate(terms),)})
    known = facts(lines(), dict.fromkeys((f"m{n}" for n in range(100)), 12), tables={"social_risk": crowd(20, 31, 100)})
    outcomes = {name: MeasureScore(None, 100, D(score)) for name, score in scores.items()}
    found = settle(made, SettlementInputs(exposure("900000", 100), outcomes, facts=known))
    assert found.line("ss.equity-points").value == 16
    assert found.line("ss.equity-underserved").value == D("0.31")
    assert found.line("ss.equity-bonus").value == D("0.0496")
    assert found.line("ss.equity-bonus").because == ("ss.equity-points", "ss.equity-underserved")


def test_the_higher_share_counts_and_who_is_not_known_is_not() -> None:
    table = risk(
        a=(85, None, None), b=(84, True, None), c=(None, None, True), d=(99, False, False), other=(99, True, True)
    )
    found = underserved(table, pa.array(["a", "b", "c", "d", "e"]), 85)
    assert (found.members, found.deprived, found.poor, found.share) == (5, 2, 2, D("0.4"))
    with pytest.raises(ContractError, match="percentile from 1 to 100"):
        underserved(risk(a=(101, None, None)), pa.array(["a"]), 85)


def test_terms_that_are_stated_twice_or_of_another_year() -> None:
    terms: dict[str, Any] = {
        "kind": "mssp", "id": "aco", "pool": "p", "level": "E", "performance_year": 2025, "percentile": D("0.77"),
        "target": {"kind": "total", "amount": 1_000_000}, "equity": {"points": [4], "underserved": D("0.3")},
    }  # fmt: skip
    assert SharedSavingsProgram.model_validate(terms).problems() == []
    later = SharedSavingsProgram.model_validate(terms | {"performance_year": 2026}).problems()
    assert later == ["arrangements.aco.equity: the program had it from 2023 to 2025"]
    both = {"points": [4], "thirds": {"a": (0, 1)}}
    assert SharedSavingsProgram.model_validate(terms | {"equity": both}).problems() == [
        "arrangements.aco.equity.points: needs one of points and thirds",
        "arrangements.aco.equity.underserved: needs one of underserved and table",
    ]


def test_tenths_by_cuts_and_by_rank() -> None:
    table = risk(a=(100, True, None), b=(75, True, None), c=(95, None, None), d=(None, True, None), e=(1, None, None))
    cuts = [D(cut) for cut in (110, 100, 90, 80, 70, 60, 50, 40, 30)]
    found = tenths(table, 25, cuts)
    assert found.to_pydict() == {"member": ["a", "b", "c", "e"], "tenth": [1, 2, 3, 10]}
    assert tenths(table, 20, cuts)["tenth"].to_pylist() == [1, 3, 3, 10]  # 95 like c
    everybody = risk(**{f"m{n:03}": (n + 1, None, None) for n in range(100)})
    ranked = tenths(everybody, 25)["tenth"].to_pylist()
    assert ranked == [10 - n // 10 for n in range(100)]


def reach(year: int, equity: dict[str, Any], table: pa.Table) -> dict[str, Decimal]:
    """Lines of an agreement whose four members have a year each."""
    terms = AcoReach.model_validate({
        "kind": "aco_reach", "id": "aco", "pool": "reach", "performance_year": year, "risk": "global",
        "benchmark": {"amount": 1_000_000, "final": True}, "equity": equity,
    })  # fmt: skip
    assert terms.problems() == []
    assert set(terms.needs().tables) == {"social_risk"}
    members = dict.fromkeys(("a", "b", "c", "d"), 12)
    known = facts(lines(), members, tables={"social_risk": table})
    ledger = Ledger("aco", "USD", "cent", None)
    with localcontext(Context(prec=60)):
        terms.settle(SettlementInputs(exposure("900000", 4), {}, facts=known), (), ledger)
    return {line.id.removeprefix("aco."): line.value for line in ledger.lines if line.value is not None}


def test_amounts_by_tenth_from_scores_of_members() -> None:
    """2023: the first tenth +30 a month, the last five -6; 2024: +30, +20, +10, nothing, the last two -6."""
    cuts = [110, 100, 90, 80, 70, 60, 50, 40, 30]
    table = risk(a=(90, True, None), b=(80, True, None), c=(45, None, None), d=(5, None, None))
    found = reach(2023, {"by_tenth": True, "scores": {"cuts": cuts}}, table)  # scores 115, 105, 45, 5
    assert (found["equity-up"], found["equity-down"]) == (12 * 30, 12 * -6 * 2)
    later = reach(2024, {"by_tenth": True, "scores": {"cuts": cuts}}, table)  # scores 110, 100, 45, 5
    assert (later["equity-up"], later["equity-down"]) == (12 * (30 + 20), 12 * -6)


@pytest.mark.parametrize(
    ("equity", "message"),
    [
        ({"scores": {}}, "belong to by_tenth"),
        ({"by_tenth": True, "scores": {"cuts": [3, 2, 1]}}, "are nine"),
    ],
)
def test_scores_that_cannot_be_meant(equity: dict[str, Any], message: str) -> None:
    stated = {
        "kind": "aco_reach", "id": "aco", "pool": "reach", "performance_year": 2023, "risk": "global",
        "benchmark": {"amount": 1_000_000, "final": True}, "equity": equity,
    }  # fmt: skip
    assert message in "; ".join(AcoReach.model_validate(stated).problems())


def test_social_risk_of_team() -> None:
    table = risk(
        a=(80, None, None), b=(79, None, None), c=(None, True, None), d=(None, None, True), e=(None, None, None)
    )
    assert at_risk(table, 80).to_pydict() == {"member": list("abcde"), "at_risk": [True, False, True, True, False]}
