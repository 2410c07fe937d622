"""Behavioral health clinics: units, populations, crisis services, nothing paid twice, quality bonus."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from contract_parts import measure
from hypothesis import given, settings
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts import MeasureScore

D = Decimal
TIN = "100000001"


def day(month: int, number: int) -> date:
    return date(2025, month, number)


def line(member: str, on: date, code: str = "90834", paid: str = "0", tin: str = TIN, **more: Any) -> dict[str, Any]:
    basis = {"_member": member, "service_from": on, "procedure": code, "tin": tin, "denied": False}
    return basis | {"allowed": paid, "paid": paid} | more


def pps(model: str, **changes: Any) -> dict[str, Any]:
    rates = {"standard": "245.10"} if model in ("PPS-1", "PPS-3") else {"standard": 812, "smi": 1_000}
    base = {"kind": "ccbhc", "model": model, "rates": rates, "services": ["90834", "H0031"], "tins": [TIN]}
    bonus = {} if model in ("PPS-1", "PPS-3") else {"bonus": {"rate": "0.05"}}
    crisis = {"crisis_rates": {"mobile": 600}, "crisis_services": {"H2011": "mobile"}}
    return base | bonus | (crisis if model in ("PPS-3", "PPS-4") else {}) | {"members": "all"} | changes


NO_QUALITY: dict[str, Any] = {
    "measures": [measure("q", "1", scoring={"kind": "threshold", "target": "0.5"})],
    "outcomes": {"q": MeasureScore(None, 100, D("0.4"))},
}


def test_the_daily_rate_of_the_sheet() -> None:
    visits = [line("a", day(3, 3), code) for code in ("90834", "H0031", "90834")] + [line("a", day(3, 4))]
    visits.append(line("a", day(3, 4), "99999"))  # does not qualify
    assert settled(pps("PPS-1"), lines=visits).paid == D("490.20")


def test_the_monthly_rate_of_the_sheet() -> None:
    visits = [line("a", day(3, 3)), line("a", day(3, 20))]
    assert settled(pps("PPS-2"), lines=visits, **NO_QUALITY).paid == 812


def test_a_rate_out_of_a_cost_report_with_its_update() -> None:
    report = {"standard": {"allowable_cost": 1_000_000, "visits": 4_080}}  # 245.098...
    assert settled(pps("PPS-1", rates=report), lines=[line("a", day(3, 3))]).paid == D("245.10")
    assert settled(pps("PPS-1", rates=report, trend="0.035"), lines=[line("a", day(3, 3))]).paid == D("253.68")


def test_whose_services_count() -> None:
    visits = [line("a", day(3, 3), tin="999"), line("b", day(3, 3), denied=True), line("c", date(2024, 12, 31))]
    assert settled(pps("PPS-1"), lines=visits).paid == 0
    roster = [{"member": "a"}]
    mine = [line("a", day(3, 3)), line("z", day(3, 3))]
    assert settled(pps("PPS-1", members="attributed"), lines=mine, people=roster).paid == D("245.10")
    partner = pps("PPS-1", tins=[TIN, "999"])  # an organization that works for the clinic: the same day once
    assert settled(partner, lines=[line("a", day(3, 3), tin="999"), line("a", day(3, 3))]).paid == D("245.10")


def test_special_populations_by_the_first_day_of_the_month() -> None:
    terms = pps("PPS-2", populations_table="populations")
    tables = {
        "populations": [
            {"member": "a", "population": "smi", "start": day(3, 10), "end": None},
            {"member": "b", "population": "unlisted", "start": day(1, 1)},
        ]
    }
    visits = [line("a", day(3, 3)), line("a", day(3, 20)), line("a", day(4, 1)), line("b", day(4, 1))]
    result = settled(terms, lines=visits, tables=tables, **NO_QUALITY)
    assert result.value("rate.standard.units") == 2  # a in March: not yet special on its first day; b
    assert result.value("rate.smi.units") == 1
    assert result.paid == 2 * 812 + 1_000


def test_outlier_months() -> None:
    terms = pps("PPS-2", outlier={"threshold": 2_000, "share": "0.8"})
    visits = [line("a", day(3, 3), allowed="1500"), line("a", day(3, 9), allowed="1000"), line("b", day(3, 3))]
    result = settled(terms, lines=visits, **NO_QUALITY)
    assert result.value("outlier") == 400
    assert result.paid == 2 * 812 + 400


@pytest.mark.parametrize(("both", "paid"), [(True, "1445.10"), (False, "1200.00")])
def test_crisis_services_have_their_own_rate(both: bool, paid: str) -> None:
    visits = [line("a", day(3, 3), "H2011"), line("a", day(3, 3)), line("a", day(3, 5), "H2011")]
    assert settled(pps("PPS-3", crisis_with_standard=both), lines=visits).paid == D(paid)


def test_crisis_services_by_month() -> None:
    visits = [line("a", day(3, 3), "H2011"), line("a", day(3, 9), "H2011"), line("a", day(4, 5))]
    assert settled(pps("PPS-4"), lines=visits, **NO_QUALITY).paid == 600 + 812


def test_nothing_is_paid_twice() -> None:
    visits = [
        line("a", day(3, 3), paid="90"),
        line("a", day(3, 3), "T1040", paid="200"),
        line("a", day(3, 3), "99999", "50"),
    ]
    result = settled(pps("PPS-1"), lines=visits)
    assert result.value("paid-rates") == -200
    assert result.value("paid-services") == -90
    assert result.paid == D("245.10") - 290


def test_encounters_instead_of_claims() -> None:
    terms = pps("PPS-3", services=[], crisis_services={}, encounters_table="encounters")
    tables = {
        "encounters": [
            {"member": "a", "day": day(3, 3)},
            {"member": "a", "day": day(3, 3), "crisis": "mobile"},
            {"member": "b", "day": day(3, 3), "crisis": "unrated"},
        ]
    }
    assert settled(terms, tables=tables).paid == 2 * D("245.10") + 600


@pytest.mark.parametrize(
    ("pays", "second", "bonus"), [("all", "0.9", "40.60"), ("all", "0.4", "0"), ("proportion", "0.4", "20.30")]
)
def test_quality_bonus(pays: str, second: str, bonus: str) -> None:
    scoring = {"scoring": {"kind": "threshold", "target": "0.5"}}
    measures = [measure("a", "0.5", **scoring), measure("b", "0.5", **scoring)]
    outcomes = {"a": MeasureScore(None, 100, D("0.6")), "b": MeasureScore(None, 100, D(second))}
    terms = pps("PPS-2", bonus={"rate": "0.05", "pays": pays})
    result = settled(terms, lines=[line("a", day(3, 3))], measures=measures, outcomes=outcomes)
    assert result.value("bonus") == D(bonus)
    assert result.paid == 812 + D(bonus)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "PPS-2", "bonus": None}, "requires a quality bonus"),
        ({"model": "PPS-1", "rates": {"smi": 1}}, "none for 'standard'"),
        ({"model": "PPS-1", "crisis_rates": {"mobile": 1}}, "belong to PPS-3"),
        ({"model": "PPS-3", "crisis_services": {"H2011": "other"}}, "'other' has no rate"),
        ({"model": "PPS-1", "outlier": {"threshold": 1}}, "belongs to PPS-2"),
        ({"model": "PPS-1", "encounters_table": "e"}, "either procedure codes or"),
        ({"model": "PPS-1", "tins": []}, "whose claim lines"),
        ({"model": "PPS-1", "per_diem_codes": ["90834"]}, "is a service too"),
        ({"model": "PPS-1", "populations_table": "p"}, "one rate for all"),
    ],
)
def test_contradictions(changes: dict[str, Any], message: str) -> None:
    assert any(message in found for found in problems(pps(**changes)))


visits_of = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 364), st.sampled_from(["90834", "H0031", "H2011"])), max_size=12
)


@settings(max_examples=10)
@given(visits=visits_of)
def test_order_and_repetition_do_not_matter(visits: list[tuple[str, int, str]]) -> None:
    lines = [line(who, date(2025, 1, 1) + timedelta(n), code) for who, n, code in visits]
    again = [*lines, *reversed(lines)]
    assert settled(pps("PPS-3"), lines=again).paid == settled(pps("PPS-3"), lines=lines).paid
    days = {(who, n) for who, n, code in visits if code != "H2011"}
    crises = {(who, n) for who, n, code in visits if code == "H2011"}
    assert settled(pps("PPS-3"), lines=lines).paid == len(days) * D("245.10") + len(crises) * 600


def test_codes_are_ranges_and_beginnings_too() -> None:
    visits = [line("a", day(3, 3), "99213"), line("a", day(3, 4), "H2019"), line("b", day(3, 4), "99216")]
    assert settled(pps("PPS-1", services=["99212-99215", "H2*"]), lines=visits).paid == D("490.20")
    paid = [line("a", day(3, 3), "99213", "100"), line("a", day(3, 3), "T1041", "45.10")]
    assert settled(pps("PPS-1", services=["99212-99215"], per_diem_codes=["T104*"]), lines=paid).paid == 100
    crises = pps("PPS-3", services=["H*"], crisis_services={"H2011-H2012": "mobile", "H20*": "mobile"})
    assert settled(crises, lines=[line("a", day(3, 3), "H2012"), line("b", day(3, 3), "H1000")]).paid == D("845.10")


@pytest.mark.parametrize("name", ["services", "covered_services", "per_diem_codes"])
def test_codes_that_match_nothing_are_refused(name: str) -> None:
    for code in ("99215-99212", "9921-99215", "99212 - 99215", "99212:99215", ""):
        assert any(f".{name}: " in found and code in found for found in problems(pps("PPS-1", **{name: [code]})))


def test_a_rate_that_is_a_service_too_is_refused_however_it_is_written() -> None:
    for services, rates in ((["T1040"], ["T10*"]), (["T1030-T1040"], ["T1040"]), (["T*"], ["T1039-T1041"])):
        found = problems(pps("PPS-1", services=services, per_diem_codes=rates))
        assert any("per_diem_codes" in one and "is a service too" in one for one in found)
    assert not problems(pps("PPS-1", services=["T1030-T1039", "T2*"], per_diem_codes=["T1040", "T1041-T1049"]))
