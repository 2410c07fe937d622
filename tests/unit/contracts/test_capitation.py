"""Capitation: the worked examples of its rules, and its contradictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from contract_parts import measure
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract, MeasureScore, Settlement, settle
from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.contracts.arrangements.capitation import Capitation
from fhir_gateway.contracts.audit import amount_of, total
from fhir_gateway.errors import ContractError

D = Decimal
Terms = dict[str, Any]
Make = Callable[..., Contract]
RATES = {"rates": [{"cell": "all", "rate": D(100)}]}
SCORES = ("0.7", "1.3", "2.9")
POINTS = [measure("q", "1")]


@pytest.fixture
def make(contract_terms: Callable[..., Terms]) -> Make:
    """A contract with one capitation."""

    def of(measures: list[Terms] | None = None, **changes: Any) -> Contract:
        stated = {"kind": "capitation", "id": "cap", "pool": "capitation"} | changes
        return contract_of(contract_terms(measures=measures or [], rounding="cent", arrangements=[stated]))

    return of


def rows(contract: Contract, inputs: Any) -> list[Terms]:
    terms = contract.arrangements[0]
    assert isinstance(terms, Capitation)
    found = terms.audit(inputs)
    assert total(found) == sum((row["amount"] for row in found.to_pylist()), D(0))
    for row in found.to_pylist():
        if row["status"] != "outside_window" and row["cell"] != "places":
            assert row["amount"] == amount_of(row["quantity"], row["rate"], row["factor"])
    listed: list[Terms] = found.to_pylist()
    return listed


def value(settlement: Settlement, line_id: str) -> Decimal:
    found = settlement.line(f"cap.{line_id}").value
    assert found is not None
    return found


def test_rate_times_member_months(make: Make) -> None:
    """A has 12, B 7, C 5 member months (the 15th counts): 24."""
    months = months_of({"a": range(1, 13), "b": range(3, 10), "c": range(4, 9)})
    contract = make()
    inputs = inputs_of(contract, months, tables=RATES)
    settlement = settle(contract, inputs)
    assert value(settlement, "member-months") == 24
    assert settlement.total == 2400 == total(contract.arrangements[0].audit(inputs))  # type: ignore[attr-defined]
    assert value(settlement, "pmpm") == 100


def test_prorated_months(make: Make) -> None:
    contract = make()
    months = [("b", date(2024, 3, 1), D("0.70967742")), ("c", date(2024, 3, 1), D("0.51612903"))]
    assert settle(contract, inputs_of(contract, months, tables=RATES)).total == D("122.58")


def test_cells_by_age_gender_and_programme_over_time(make: Make) -> None:
    contract = make(cells={"attributes": ["programme"]})
    rates = [
        {"cell": "newborn", "rate": D(900), "months_from": 0, "months_through": 0},
        {"cell": "infant", "rate": D(300), "months_from": 1, "age_through": 0},
        {"cell": "child", "rate": D(80), "age_from": 1, "age_through": 17},
        {"cell": "ssi", "rate": D(700), "age_from": 18, "programme": "SSI"},
        {"cell": "women", "rate": D(200), "age_from": 18, "gender": "female", "programme": "TANF",
         "effective_through": date(2024, 6, 30)},
        {"cell": "women", "rate": D(210), "age_from": 18, "gender": "female", "programme": "TANF",
         "effective_from": date(2024, 7, 1)},
    ]  # fmt: skip
    people = [
        {"member": "baby", "birth_date": date(2024, 5, 20), "gender": "female"},
        {"member": "boy", "birth_date": date(2023, 3, 2), "gender": "male"},
        {"member": "woman", "birth_date": date(1990, 1, 1), "gender": "female"},
    ]
    attributes = [
        {"member": "woman", "programme": "TANF"},
        {"member": "woman", "programme": "SSI", "effective_from": date(2024, 10, 15)},
    ]
    months = months_of({"baby": (5, 6), "boy": (3, 4), "woman": (6, 7, 9, 10)})
    inputs = inputs_of(contract, months, people, tables={"rates": rates, "member_attributes": attributes})
    found = {(row["member"], row["month"].month): (row["cell"], row["rate"]) for row in rows(contract, inputs)}
    assert found == {
        ("baby", 5): ("newborn", 900), ("baby", 6): ("infant", 300),
        ("boy", 3): ("infant", 300),  # a year old on the second
        ("boy", 4): ("child", 80),
        ("woman", 6): ("women", 200), ("woman", 7): ("women", 210), ("woman", 9): ("women", 210),
        ("woman", 10): ("ssi", 700),
    }  # fmt: skip


def test_cells_that_hold_at_once_or_not_at_all_are_refused(make: Make) -> None:
    contract = make()
    months = months_of({"a": [1]})
    twice = [{"cell": "one", "rate": D(1)}, {"cell": "two", "rate": D(2)}]
    with pytest.raises(ContractError, match=r"cap\.cells: tables\.rates: hold at once: one, two"):
        settle(contract, inputs_of(contract, months, tables={"rates": twice}))
    nobody = {"rates": [{"cell": "men", "rate": D(1), "gender": "male"}]}
    with pytest.raises(ContractError, match="no cell holds for member months of 2024-01"):
        settle(contract, inputs_of(contract, months, tables=nobody))
    lenient = make(cells={"unmatched": "unpaid"})
    settlement = settle(lenient, inputs_of(lenient, months, tables=nobody))
    assert settlement.total == 0
    assert [row["status"] for row in rows(lenient, inputs_of(lenient, months, tables=nobody))] == ["unpaid"]


def test_amounts_that_cannot_be_exact_are_refused(make: Make) -> None:
    contract = make()
    tables = {"rates": [{"cell": "all", "rate": D(10) ** 19}]}
    with pytest.raises(ContractError, match="more than 14 digits"):
        settle(contract, inputs_of(contract, months_of({"a": [1]}), tables=tables))


def test_geography(make: Make) -> None:
    contract = make(cells={"attributes": ["county"]}, geo={"attribute": "county"})
    tables = RATES | {
        "member_attributes": [{"member": "a", "county": "1"}, {"member": "b", "county": "2"}],
        "geo_factors": [{"area": "1", "factor": D("1.05")}, {"area": "2", "factor": D("0.9")}],
    }
    months = months_of({"a": [1], "b": [1, 2]})
    assert settle(contract, inputs_of(contract, months, tables=tables)).total == 105 + 180
    with pytest.raises(ContractError, match="area has no factor"):
        settle(contract, inputs_of(contract, months_of({"c": [1]}), tables=tables))
    fixed = make(geo={"factor": D("1.02")})
    assert settle(fixed, inputs_of(fixed, months, tables=RATES)).total == 306


def test_risk_scores_with_a_reference_lag_and_cap(make: Make) -> None:
    contract = make(
        risk={"normalise": "reference", "reference": D("1.25"), "lag_months": 1, "change_cap": D("0.1"), "missing": 1}
    )
    scores = [
        {"member": "a", "score": D(1), "month": date(2024, 1, 1)},
        {"member": "a", "score": D(2), "month": date(2024, 3, 1), "previous": D(1)},
    ]
    months = months_of({"a": range(1, 6)})
    found = rows(contract, inputs_of(contract, months, tables=RATES | {"risk_scores": scores}))
    # of January nobody knows a score yet (1); 2 is more than 10% above 1, and is used from April on
    assert [row["amount"] for row in found] == [80, 80, 80, 88, 88]


def test_budget_neutral_risk_keeps_the_sum_and_shows_the_true_up(make: Make) -> None:
    risk = {"normalise": "budget_neutral", "interim_factor": D("0.95")}
    tables = {
        "rates": [
            {"cell": "f", "rate": D("333.33"), "gender": "female"},
            {"cell": "m", "rate": D(71), "gender": "male"},
        ],
        "risk_scores": [{"member": name, "score": score} for name, score in zip("abc", map(D, SCORES), strict=True)],
    }
    people = [{"member": name, "gender": gender} for name, gender in (("a", "female"), ("b", "male"), ("c", "male"))]
    months = months_of({"a": range(1, 8), "b": range(1, 13), "c": (2, 3)})
    contract = make(risk=risk)
    settlement = settle(contract, inputs_of(contract, months, people, tables=tables))
    unadjusted = 7 * D("333.33") + 14 * 71
    assert value(settlement, "risk.without") == unadjusted == value(settlement, "capitation")
    assert value(settlement, "risk.interim") == unadjusted * D("0.95")
    assert value(settlement, "risk.true-up") == unadjusted * D("0.05")
    interim = make(risk=risk | {"stage": "interim"})
    before = settle(interim, inputs_of(interim, months, people, tables=tables))
    assert value(before, "capitation") == unadjusted * D("0.95")


def test_scores_that_are_missing(make: Make) -> None:
    contract = make(risk={"normalise": "none"})
    with pytest.raises(ContractError, match="members without a score"):
        settle(contract, inputs_of(contract, months_of({"a": [1]}), tables=RATES))


def test_withhold_by_points_tiers_and_a_shared_pool(make: Make) -> None:
    months = months_of({"a": range(1, 11)})  # 1000, 100 withheld
    outcomes = {"q": MeasureScore(None, 100, D("0.7"))}
    by_points = make(POINTS, withhold={"part": D("0.1")})
    settlement = settle(by_points, inputs_of(by_points, months, tables=RATES, outcomes=outcomes))
    assert (value(settlement, "withheld"), value(settlement, "returned")) == (-100, 70)
    assert settlement.total == 970
    tiers = [{"at": D("0.5"), "points": D("0.5")}, {"at": D("0.9"), "points": 1}]
    by_tiers = make(POINTS, withhold={"part": D("0.1"), "earned": "tiers", "tiers": tiers, "deficit_offset": 20})
    assert settle(by_tiers, inputs_of(by_tiers, months, tables=RATES, outcomes=outcomes)).total == 930
    pooled = make(POINTS, withhold={"part": D("0.1"), "shared_pool": "peers", "over_performs_at": D("0.6")})
    peers = [
        {"provider": "x", "withheld": D(300), "earned_share": D("0.8")},
        {"provider": "y", "withheld": D(50), "earned_share": D("0.2")},
    ]
    settlement = settle(pooled, inputs_of(pooled, months, tables=RATES | {"peers": peers}, outcomes=outcomes))
    assert value(settlement, "unearned") == 30 + 60 + 40
    assert value(settlement, "shared-pool") == D(130) * 100 / 400


def test_add_ons_kicks_and_advance(make: Make) -> None:
    contract = make(
        cells={"attributes": ["programme"]},
        add_ons=[
            {"id": "care-management", "pmpm": D("3.50")},
            {"id": "ssi", "pmpm": 10, "where": {"programme": "SSI"}},
        ],
        kicks=[{"id": "delivery", "amount": 6000, "procedure": ["59400", "59510"], "drg": []}],
        advance=1000,
    )
    lines = [
        line("a", date(2023, 11, 2), procedure="59400"),  # the year before: holds back the next nine months
        line("a", date(2024, 6, 2), procedure="59510"),
        line("a", date(2024, 8, 2), procedure="59510"),
        line("a", date(2024, 8, 2), procedure="59400"),
        line("b", date(2024, 3, 2), procedure="59400", denied=True),
        line("b", date(2024, 4, 2), procedure="99213"),
        line("c", date(2024, 5, 2), procedure="59400"),  # no month of its own
    ]
    months = months_of({"a": range(1, 13), "b": (4,), "c": (6,)})
    attributes = [{"member": "b", "programme": "SSI"}]
    settlement = settle(
        contract, inputs_of(contract, months, lines=lines, tables=RATES | {"member_attributes": attributes})
    )
    assert value(settlement, "add-on.care-management") == 14 * D("3.5")
    assert value(settlement, "add-on.ssi") == 10
    assert value(settlement, "kick.delivery") == 6000
    assert settlement.total == 1400 + 49 + 10 + 6000 - 1000


SERVICES = {
    "scope": "partial",
    "categories": [
        {"category": "behavioural", "covered_by": "carve_out", "procedure": ["90832-90838"]},
        {"category": "laboratory", "covered_by": "capitation", "procedure": ["8*"], "claim_type": ["professional"]},
        {"category": "primary care", "covered_by": "capitation", "procedure": ["99202-99215"]},
    ],
}


def test_encounters_leakage_and_carve_outs(make: Make) -> None:
    lines = [
        line("a", date(2024, 1, 2), procedure="99213", tin="1", allowed=D(90), paid=D(0)),
        line("a", date(2024, 1, 3), procedure="99214", tin="1", allowed=D(0), paid=D(0)),
        line("a", date(2024, 1, 3), procedure="80053", claim_type="professional", tin="1", allowed=D(10), paid=D(8)),
        line("a", date(2024, 1, 4), procedure="99213", tin="9", allowed=D(95), paid=D(75)),
        line("a", date(2024, 1, 4), procedure="90834", tin="9", allowed=D(95), paid=D(70)),
        line("a", date(2024, 1, 4), procedure="99213", allowed=D(95), paid=D(60)),
        line("a", date(2024, 1, 4), procedure="70450", tin="9", allowed=D(200), paid=D(150)),
        line("a", date(2024, 2, 4), procedure="99213", tin="9", allowed=D(95), paid=D(75)),  # no month
    ]
    fees = [{"procedure": "99214", "fee": D(130)}]
    contract = make(services=SERVICES, tins=["1"], leakage="deduct_from_cap", fee_schedule="fees")
    inputs = inputs_of(contract, months_of({"a": [1]}), lines=lines, tables=RATES | {"fees": fees})
    settlement = settle(contract, inputs)
    by_label = {one.label: one.value for one in settlement.lines}
    assert by_label["Encounters, primary care: fee-for-service equivalent"] == 220
    assert by_label["Encounters, laboratory: fee-for-service equivalent"] == 10
    assert by_label["carve_out, behavioural: paid for services of others"] == 70
    assert by_label["ffs, other: paid for services of others"] == 150
    assert by_label["capitation, primary care: paid for services without a TIN"] == 60
    assert settlement.total == 100 - 75 == total(contract.arrangements[0].audit(inputs))  # type: ignore[attr-defined]
    recovering = make(services=SERVICES, tins=["1"], paid_encounters="recover")
    assert settle(recovering, inputs_of(recovering, months_of({"a": [1]}), lines=lines, tables=RATES)).total == 92


def test_leakage_that_came_in_late_is_a_difference(make: Make) -> None:
    contract = make(services=SERVICES, tins=["1"], leakage="deduct_from_cap", retro=RETRO)
    before = posted(months_of({"a": [6]}), 100)
    leaked = before[0] | {"rule": "leakage.other.primary care", "cell": "primary care", "rate": D(-30)}
    lines = [line("a", date(2024, 6, 4), procedure="99213", tin="9", paid=D(paid)) for paid in (30, 45)]
    lines += [line("a", date(2024, 6, 4), procedure="80053", claim_type="professional", tin="9", paid=D(5))]
    tables = RATES | {"capitation_posted": [*before, leaked]}
    inputs = inputs_of(contract, months_of({"a": [6]}), lines=lines, tables=tables)
    assert [row["amount"] for row in rows(contract, inputs)] == [-5, -75, 30]
    assert settle(contract, inputs).total == -50


def test_categories_of_a_table_come_after_those_stated(make: Make) -> None:
    stated = {"scope": "global", "table": "categories", "categories": SERVICES["categories"][:1]}  # type: ignore[index]
    contract = make(services=stated, tins=["1"], leakage="deduct_from_cap")
    table = [
        {"category": "mental health", "covered_by": "ffs", "procedure": "90832-90899 H0001"},
        {"category": "transplant", "covered_by": "carve_out", "drg": "001 002"},
    ]
    lines = [
        line("a", date(2024, 1, 1), procedure=code, drg=drg, tin="9", paid=D(1))
        for code, drg in (("90834", None), ("90853", None), ("H0001", None), (None, "001"), ("70450", None))
    ]
    settlement = settle(
        contract, inputs_of(contract, months_of({"a": [1]}), lines=lines, tables=RATES | {"categories": table})
    )
    found = {one.evidence["category"]: one.value for one in settlement.lines if "category" in one.evidence}
    assert found == {"behavioural": 1, "mental health": 2, "transplant": 1, "other": 1}
    assert settlement.total == 99
    wrong = [{"category": "x", "covered_by": "nobody"}]
    with pytest.raises(ContractError, match="row 1: covered_by"):
        settle(contract, inputs_of(contract, [], tables=RATES | {"categories": wrong}))


RETRO = {"cycle": date(2024, 7, 1), "window_months": 3}


def posted(months: list[tuple[str, date, Decimal]], rate: int, factor: int = 1) -> list[Terms]:
    return [
        {"member": member, "month": month, "rule": "base", "cell": "all", "quantity": count, "rate": D(rate),
         "factor": D(factor), "cycle": date(2024, 6, 1)}
        for member, month, count in months
    ]  # fmt: skip


def test_retroactive_adds_terms_and_rates_at_the_rate_of_their_month(make: Make) -> None:
    contract = make(retro=RETRO)
    rates = [
        {"cell": "all", "rate": D(100), "effective_through": date(2024, 5, 31)},
        {"cell": "all", "rate": D(110), "effective_from": date(2024, 6, 1)},
    ]
    before = posted(months_of({"a": range(1, 7), "b": range(1, 6)}), 100)
    now = months_of({"a": range(1, 8), "b": (1, 2), "c": (2, 4)})
    inputs = inputs_of(contract, now, tables={"rates": rates, "capitation_posted": before})
    found = sorted((row["member"], row["month"].month, row["amount"], row["status"]) for row in rows(contract, inputs))
    assert found == [
        ("a", 6, -100, "adjustment"),  # June cost 110: taken back, and posted anew
        ("a", 6, 110, "adjustment"),
        ("a", 7, 110, "paid"),
        ("b", 3, 0, "outside_window"),  # too late, and flagged
        ("b", 4, -100, "adjustment"),
        ("b", 5, -100, "adjustment"),
        ("c", 2, 0, "outside_window"),
        ("c", 4, 100, "adjustment"),
    ]
    assert settle(contract, inputs).total == 20


def test_a_retroactive_change_and_its_reversal_leave_zero(make: Make) -> None:
    contract = make(retro=RETRO)
    first = months_of({"a": range(4, 8)})
    before = posted(first, 100)
    change = rows(contract, inputs_of(contract, first[:1], tables=RATES | {"capitation_posted": before}))
    after = [*before, *({**row, "cycle": date(2024, 7, 1)} for row in change)]
    back = rows(contract, inputs_of(contract, first, tables=RATES | {"capitation_posted": after}))
    assert sum(row["amount"] for row in change) == -300 == -sum(row["amount"] for row in back)


def test_cycles_follow_each_other_and_flag_what_is_too_late_once(make: Make) -> None:
    """Each cycle's table of posted rows is the next one's input; a late end flagged, and taken back, leaves nothing."""
    posted_rows: list[dict[str, Any]] = []

    def cycle(day: date, standing: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        nonlocal posted_rows
        contract = make(retro={"cycle": day, "window_months": 2})
        terms = contract.arrangements[0]
        assert isinstance(terms, Capitation)
        inputs = inputs_of(contract, standing, tables=RATES | {"capitation_posted": posted_rows})
        new = terms.rows(inputs).to_pylist()
        whole = terms.posted(inputs).to_pylist()
        assert whole[: len(posted_rows)] == posted_rows
        posted_rows = whole
        return [(row["month"].month, row["quantity"], row["amount"], row["status"]) for row in new]

    january, nothing = months_of({"a": (1,)}), months_of({})
    assert cycle(date(2024, 1, 1), january) == [(1, 1, 100, "paid")]
    assert cycle(date(2024, 5, 1), nothing) == [(1, -1, 0, "outside_window")]
    assert cycle(date(2024, 6, 1), nothing) == []
    assert cycle(date(2024, 7, 1), january) == [(1, 1, 0, "outside_window")]
    assert cycle(date(2024, 8, 1), january) == []
    assert sum(row["quantity"] for row in posted_rows if row["status"] != "outside_window") == 1


def test_a_score_that_changes_after_payment(make: Make) -> None:
    contract = make(retro=RETRO, risk={"normalise": "none"})
    months = months_of({"a": (5, 6)})
    tables = RATES | {"capitation_posted": posted(months, 100), "risk_scores": [{"member": "a", "score": D("1.2")}]}
    assert [row["amount"] for row in rows(contract, inputs_of(contract, months, tables=tables))] == [
        -100,
        120,
        -100,
        120,
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tins": ["1"]}, "cap.services: is missing"),
        ({"services": SERVICES}, "cap.tins: is missing"),
        ({"services": {"scope": "partial"}, "tins": ["1"]}, "no category is capitated"),
        ({"services": {**SERVICES, "categories": [{"category": "x", "covered_by": "ffs", "procedure": ["9-80"]}]},
          "tins": ["1"]}, "range of codes of different length"),
        ({"geo": {}}, "either a factor or an attribute"),
        ({"geo": {"attribute": "county"}}, "'county' is not among cells.attributes"),
        ({"cells": {"attributes": ["age"]}}, "'age' has another meaning"),
        ({"risk": {"normalise": "reference"}}, "risk.reference"),
        ({"risk": {"normalise": "none", "stage": "interim"}}, "risk.interim_factor"),
        ({"risk": {"normalise": "budget_neutral"}, "retro": RETRO}, "agree a reference"),
        ({"retro": RETRO, "advance": 1}, "posted already"),
        ({"kicks": [{"id": "k", "amount": 1}]}, "says no code"),
        ({"withhold": {"part": D("0.1"), "earned": "tiers"}}, "withhold.tiers"),
        ({"withhold": {"part": D("0.1"), "earned": "all", "shared_pool": "x"}}, "over_performs_at"),
    ],
)  # fmt: skip
def test_contradictions(changes: Terms, message: str) -> None:
    stated = {"kind": "capitation", "id": "cap", "pool": "capitation"} | changes
    found = ARRANGEMENTS["capitation"].model_validate(stated).problems()
    assert any(message in one for one in found), found


def test_no_member_month_is_no_payment(make: Make) -> None:
    contract = make(risk={"normalise": "budget_neutral"}, withhold={"part": D("0.1"), "earned": "nothing"})
    settlement = settle(contract, inputs_of(contract, [], tables=RATES))
    assert settlement.total == 0
    assert settlement.line("cap.pmpm").value is None


def test_the_same_inputs_give_the_same_rows_and_lines(make: Make) -> None:
    contract = make(services=SERVICES, tins=["1"], leakage="deduct_from_cap")
    lines = [line(name, date(2024, 1, 4), procedure="99213", tin="9", paid=D(7)) for name in "abcdef"]
    months = months_of(dict.fromkeys("abcdef", (1, 2)))
    one = inputs_of(contract, months, lines=lines, tables=RATES)
    other = inputs_of(contract, months[::-1], lines=lines[::-1], tables=RATES)
    assert settle(contract, one).to_dict() == settle(contract, other).to_dict()
    terms = contract.arrangements[0]
    assert terms.audit(one).equals(terms.audit(other))  # type: ignore[attr-defined]


def test_tables_are_files_beside_the_contract(contract_terms: Callable[..., Terms], tmp_path: Path) -> None:
    """Columns that are not there are as if empty; what was posted keeps its sixteen places."""
    files = {
        "rates": "cell,rate,age_from,programme\nchild,80.25,,TANF\nadult,210,18,SSI\n",
        "member_attributes": "member,programme\na,TANF\nb,SSI\n",
        "capitation_posted": "member,month,rule,cell,quantity,rate,factor,cycle\n"
        "a,2024-01-01,base,child,1,80.25,1.0000000000000001,2024-01-01\n",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content)
    stated = {"kind": "capitation", "id": "cap", "pool": "capitation", "cells": {"attributes": ["programme"]}}
    terms = contract_terms(
        arrangements=[stated | {"retro": RETRO}], tables={name: {"path": f"{name}.csv"} for name in files}
    )
    contract = Contract.of(terms, tmp_path)
    facts = inputs_of(contract, months_of({"a": [6], "b": [6]}), [{"member": "b", "birth_date": date(1990, 1, 1)}])
    assert facts.facts is not None
    read = {name: one.table for name, one in contract.given.items()}
    inputs = replace(facts, facts=replace(facts.facts, tables=read))
    found = [(row["member"], row["amount"], row["status"], row["factor"]) for row in rows(contract, inputs)]
    assert found == [
        ("a", 0, "outside_window", D("1.0000000000000001")),
        ("a", D("80.25"), "adjustment", 1),
        ("b", 210, "adjustment", 1),
    ]


def test_each_row_says_its_rule(make: Make) -> None:
    contract = make(kicks=[{"id": "delivery", "amount": 5, "drg": ["765-768"]}])
    inputs = inputs_of(contract, months_of({"a": [5]}), lines=[line("a", date(2024, 5, 5), drg="766")], tables=RATES)
    table = contract.arrangements[0].audit(inputs)  # type: ignore[attr-defined]
    assert pc.unique(table["rule"]).to_pylist() == ["base", "kick.delivery"]
