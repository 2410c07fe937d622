"""A population of four whose every metric was computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from utilization_parts import YEAR, day, line, lines, months, people, stay, strata

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.validator import Validator
from fhir_gateway.errors import ConfigurationError, NotFoundError
from fhir_gateway.risk.utilization import (
    NETWORK_SCHEMA,
    Options,
    Population,
    Tables,
    Utilization,
    metrics,
    utilization,
    utilization_of,
)
from fhir_gateway.risk.utilization.reports import measure, report

ROOT = Path(__file__).parents[4]
ED_TABLE = b"diagnosis,non_emergent,primary_care_treatable,avoidable,not_avoidable\nR51.9,0.5,0.25,0,0.25\n"

# Ann, 76: two hospitals are one stay, back after 11 days; conditions of the year before
ANN = [
    stay("ann", "a1", "01-01", "01-03", 1000, diagnosis="I50.9", discharge_status="02"),
    stay("ann", "a2", "01-03", "01-09", 2000, diagnosis="I50.9", organization="H2"),
    stay("ann", "a3", "01-20", "01-22", 500, diagnosis="I50.9", organization="H3", tin="200000002"),
    line("ann", "a4", "01-12", 80, procedure="99214", place_of_service="11", npi="1"),
    line("ann", "a5", "2025-03-01", 0, diagnosis="I50.9", diagnoses=["I50.9", "E11.9"]),
    line("ann", "a6", "2025-04-01", 0, diagnosis="I50.9", diagnoses=["I50.9", "E11.9"]),
]
_ED = {"claim_type": "outpatient", "bill_type": "0131", "organization": "H1", "revenue_code": "0450"}
# Bob, 46: three ED visits, of which one was of low acuity, one observed and one admitted
BOB = [
    line("bob", "b1", "02-01", 300, procedure="99283", diagnosis="R51.9", **_ED),
    line("bob", "b2", "02-01", 50, procedure="99283", place_of_service="23", npi="2", diagnosis="R51.9"),
    line("bob", "b3", "03-01", 500, procedure="99285", diagnosis="R07.9", **_ED),
    line("bob", "b3", "03-01", 200, procedure="G0378", diagnosis="R07.9", **{**_ED, "revenue_code": "0762"}),
    line("bob", "b4", "04-05", 400, procedure="99285", diagnosis="J18.9", **_ED),
    stay("bob", "b5", "04-05", "04-08", 4000, diagnosis="J18.9", discharge_status="01"),
    line("bob", "b6", "05-10", 25, claim_type="pharmacy"),
]
_SNF = {"organization": "S1", "diagnosis": "J45.901"}
# Cleo, 26, half a year: from hospital to a nursing facility that bills by month
CLEO = [
    line("cleo", "c1", "06-03", 60, procedure="99203", place_of_service="20", npi="3"),
    stay("cleo", "c2", "06-10", "06-12", 1500, diagnosis="J45.901", discharge_status="03"),
    stay("cleo", "c3", "06-12", "06-30", 900, bill_type="0212", **_SNF),
    stay("cleo", "c4", "07-01", "07-10", 300, bill_type="0214", **_SNF),
]
# Dan, 6: one visit, adjusted; what was replaced, denied or sent by another source does not count
DAN = [
    line("dan", "d1", "08-01", 70, procedure="99213", place_of_service="11", npi="1"),
    line("dan", "d1", "08-01", -10, procedure="99213", place_of_service="11", npi="1"),
    line("dan", "d1", "08-01", 90, procedure="99213", place_of_service="11", npi="1", counts=False),
    line("dan", "d2", "08-02", 0, procedure="99213", place_of_service="11", npi="1", denied=True),
    stay("dan", "d3", "08-03", "08-05", 5000, counts=False),
]


LINES = lines(*ANN, *BOB, *CLEO, *DAN)
EVERYBODY = Population(
    months({"ann": 12, "bob": 12, "cleo": 6, "dan": 12}),
    people=people(
        ("ann", "1950-01-01", None),
        ("bob", "1980-01-01", None),
        ("cleo", "2000-01-01", None),
        ("dan", "2020-01-01", None),
    ),
    strata=strata(
        [(name, "sex", sex) for name, sex in (("ann", "f"), ("bob", "m"), ("cleo", "f"), ("dan", "m"))]
        + [("ann", "payer", "x"), ("bob", "payer", "y")]
    ),
    network=pa.Table.from_pylist([{"tin": "100000001", "npi": None}], schema=NETWORK_SCHEMA),
)
OPTIONS = Options(high_cost=3000, tables=Tables.shipped().with_imported("ed-probabilities", ED_TABLE, "ed.csv"))


def _of(table: pa.Table, column: str, members: list[str]) -> pa.Table:
    return table.filter(pc.is_in(table[column], value_set=pa.array(members, pa.string())))


def _part(members: list[str]) -> Population:
    return replace(
        EVERYBODY,
        **{name: _of(getattr(EVERYBODY, name), "member", members) for name in ("months", "people", "strata")},
    )


@pytest.fixture(scope="module")
def found() -> Utilization:
    return utilization(
        LINES,
        EVERYBODY,
        YEAR,
        through=day("2027-03-31"),
        options=OPTIONS,
        by_rendering=True,
        keep_members=True,
    )


# numerator, denominator, per: computed by hand from the claims above
BY_HAND: dict[str, tuple[int | str, int | None, int]] = {
    "members": (4, None, 1),
    "member-months": (42, None, 1),
    "paid-pmpm": (11875, 42, 1),
    "allowed-pmpm": (23750, 42, 1),
    "medical-paid-pmpm": (11850, 42, 1),
    "pharmacy-paid-pmpm": (25, 42, 1),
    "admissions-per-1000": (4, 42, 12000),
    "acute-admissions-per-1000": (4, 42, 12000),
    "acute-days-per-1000": (8 + 2 + 3 + 2, 42, 12000),
    "acute-average-length-of-stay": (15, 4, 1),
    "ed-visits-per-1000": (2, 42, 12000),
    "ed-visits-all-per-1000": (3, 42, 12000),
    "ed-visits-observed-per-1000": (1, 42, 12000),
    "ed-visits-without-observation-per-1000": (1, 42, 12000),
    "avoidable-ed-visits-per-1000": ("0.75", 42, 12000),
    "avoidable-ed-share": ("0.75", 1, 100),
    "low-acuity-ed-visits-per-1000": (1, 42, 12000),
    "low-acuity-ed-share": (1, 2, 100),
    "observation-stays-per-1000": (1, 42, 12000),
    "snf-admissions-per-1000": (1, 42, 12000),
    "snf-days-per-1000": (28, 42, 12000),
    "snf-average-length-of-stay": (28, 1, 1),
    "office-visits-per-1000": (2, 42, 12000),
    "office-visits-per-member": (2, 42, 12),
    "urgent-care-visits-per-1000": (1, 42, 12000),
    "ambulatory-visits-per-1000": (3, 42, 12000),
    "readmissions-30-day": (1, 4, 100),
    "readmissions-30-day-all": (1, 4, 100),
    "follow-up-7-day": (1, 3, 100),
    "follow-up-14-day": (1, 3, 100),
    "follow-up-30-day": (1, 3, 100),
    "pqi-01": (0, 30, 1200000),
    "pqi-03": (0, 30, 1200000),
    "pqi-05": (0, 24, 1200000),
    "pqi-07": (0, 30, 1200000),
    "pqi-08": (2, 30, 1200000),
    "pqi-11": (1, 30, 1200000),
    "pqi-12": (0, 30, 1200000),
    "pqi-14": (0, 30, 1200000),
    "pqi-15": (1, 6, 1200000),
    "pqi-16": (0, 30, 1200000),
    "pqi-90": (4, 30, 1200000),
    "pqi-91": (1, 30, 1200000),
    "pqi-92": (3, 30, 1200000),
    "pqi-93": (0, 30, 1200000),
    "uamcc": (2, 12, 1200),
    "leakage": (1000, 23700, 100),
    "high-cost-members-per-1000": (2, 4, 1000),
    "high-cost-share": (3580 + 5475, 11875, 100),
    "top-1-percent-share": (5475, 11875, 100),
    "top-5-percent-share": (5475, 11875, 100),
}


def test_every_metric_was_computed_by_hand(found: Utilization) -> None:
    assert set(BY_HAND) == set(metrics())
    assert found.refused == {}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_metric_by_hand(found: Utilization, name: str) -> None:
    numerator, denominator, per = BY_HAND[name]
    row = found.row(name)
    assert row["numerator"] == Decimal(numerator)
    assert row["denominator"] == (None if denominator is None else denominator)
    score = Decimal(numerator) if denominator is None else Decimal(numerator) * per / denominator
    assert row["score"] == score
    assert metrics()[name].per == per


def test_cost_by_service_category_adds_up(found: Utilization) -> None:
    paid = {
        row["category"]: row["numerator"]
        for row in found.table.to_pylist()
        if row["metric"] == "paid-pmpm" and row["dimension"] is None and row["category"]
    }
    assert paid == {
        "inpatient-acute": 9000,
        "emergency": 1250,
        "observation": 200,
        "skilled-nursing": 1200,
        "urgent-care": 60,
        "office-visits": 140,
        "pharmacy": 25,
    }
    assert sum(paid.values()) == 11875


@pytest.mark.parametrize("name", BY_HAND)
def test_strata_add_up_to_the_whole(found: Utilization, name: str) -> None:
    whole = found.row(name)
    parts = [found.row(name, "sex", sex) for sex in ("f", "m")]
    assert sum(part["numerator"] for part in parts) == whole["numerator"]
    if whole["denominator"] is not None:
        assert sum(part["denominator"] for part in parts) == whole["denominator"]


def test_who_is_in_no_stratum_is_in_none(found: Utilization) -> None:
    assert found.row("member-months", "payer", "x")["numerator"] == 12
    assert found.row("member-months", "payer", "y")["numerator"] == 12
    assert found.score("ed-visits-per-1000", "payer", "y") == Decimal(2 * 12000) / 12


def test_by_who_rendered_it(found: Utilization) -> None:
    assert found.row("ed-visits-per-1000", "rendering", "H1") == {
        "numerator": 2,
        "denominator": 42,
        "score": Decimal(2 * 12000) / 42,
    }
    assert found.score("readmissions-30-day", "rendering", "H2") == 100  # the last hospital of the chain
    assert found.score("readmissions-30-day", "rendering", "H3") == 0
    assert found.score("acute-average-length-of-stay", "rendering", "H2") == 8
    assert found.row("paid-pmpm", "rendering", "1")["numerator"] == 140


def test_what_each_member_adds(found: Utilization) -> None:
    assert found.per_member("ed-visits-per-1000").to_pylist() == [
        {"member": name, "numerator": events, "denominator": months}
        for name, events, months in (("ann", 0, 12), ("bob", 2, 12), ("cleo", 0, 6), ("dan", 0, 12))
    ]


@pytest.mark.parametrize("parts", [[["ann"], ["bob"], ["cleo"], ["dan"]], [["dan", "ann"], [], ["cleo", "bob"]]])
def test_slices_add_up_to_the_same(found: Utilization, parts: list[list[str]]) -> None:
    again = utilization_of(
        ((_of(LINES, "_member", part), _part(part)) for part in parts),
        YEAR,
        through=day("2027-03-31"),
        options=OPTIONS,
        by_rendering=True,
        keep_members=True,
    )
    assert again.table.equals(found.table)
    assert again.members == found.members
    assert (again.refused, again.notes, again.versions) == (found.refused, found.notes, found.versions)


def test_a_metric_that_one_slice_cannot_have_is_refused() -> None:
    known = (lines(*ANN), Population(months({"ann": 12}), people=people(("ann", "1950-01-01", None))))
    unknown = (lines(*BOB), Population(months({"bob": 12})))
    again = utilization_of([known, unknown], YEAR)
    assert again.refused["pqi-90"] == "nobody's date of birth is known"
    assert again.row("member-months")["numerator"] == 24
    assert utilization_of([], YEAR).score("members") is None


def test_only_the_members_of_a_list_count() -> None:
    both = months({"ann": 12, "bob": 12})
    found = utilization(lines(*ANN, *BOB), Population(both, roster=pa.array(["bob"])), YEAR)
    assert found.row("member-months")["numerator"] == 12
    assert found.row("acute-admissions-per-1000")["numerator"] == 1
    assert found.row("paid-pmpm")["numerator"] == 5475


def test_what_cannot_be_computed_is_refused_with_the_reason() -> None:
    found = utilization(lines(*BOB), Population(months({"bob": 12})), YEAR)
    assert found.refused["avoidable-ed-share"] == "no table ed-probabilities was imported"
    assert found.refused["leakage"] == "no network was given"
    assert found.refused["pqi-90"] == found.refused["uamcc"] == "nobody's date of birth is known"
    assert not {"pqi-90", "leakage"} & set(found.table["metric"].to_pylist())


def test_sixty_one_visits_in_four_thousand_and_twenty_months() -> None:
    visits = [
        line(f"m{n}", f"v{n}", "03-03", 10, procedure="99284", **_ED)
        for n in range(61)
    ]  # fmt: skip
    members = {f"m{n}": 12 for n in range(335)}
    score = utilization(lines(*visits), Population(months(members)), YEAR).score("ed-visits-per-1000")
    assert score is not None
    assert round(score, 2) == Decimal("182.09")


def test_nobody_and_nothing() -> None:
    found = utilization(lines(), Population(months({})), YEAR)
    assert found.score("ed-visits-per-1000") is None
    found = utilization(lines(), Population(months({"ann": 12})), YEAR)
    assert found.score("ed-visits-per-1000") == 0
    assert found.score("readmissions-30-day") is None


def test_columns_that_are_not_there_and_metrics_that_are_not() -> None:
    with pytest.raises(ConfigurationError, match=r"claim lines lack .*diagnoses"):
        utilization(lines().drop_columns(["diagnoses"]), Population(months({})), YEAR)
    with pytest.raises(NotFoundError, match="visits-to-the-moon"):
        utilization(lines(), Population(months({})), YEAR).row("visits-to-the-moon")


def test_results_as_fhir(found: Utilization) -> None:
    issued = datetime(2027, 4, 1, tzinfo=UTC)
    made = report(found, {"reference": "Organization/payer"}, issued)
    validator = Validator(Definitions.of(ROOT / "profiles", None))
    assert validator.validate(made).findings == []
    assert validator.validate(measure()).findings == []
    groups = {group["id"]: group for group in made["group"]}
    assert list(groups) == list(BY_HAND)
    visits = groups["ed-visits-per-1000"]
    assert [one["code"] for one in visits["code"]["coding"]] == ["ed-visit", "ed-visits-per-1000"]
    assert visits["measureScore"] == {
        "value": 571.428571,
        "system": "http://unitsofmeasure.org",
        "code": "/(10*3.a)",
    }
    assert [one["count"] for one in visits["population"]] == [2, 42]
    money = groups["paid-pmpm"]["measureScore"]["extension"][0]["valueMoney"]
    assert money == {"value": 282.74, "currency": "USD"}
    assert {one["code"][0]["text"] for one in groups["paid-pmpm"]["stratifier"]} == {
        "category",
        "payer",
        "rendering",
        "sex",
    }
    assert made["id"] == report(found, {"reference": "Organization/payer"}, datetime(2028, 1, 1, tzinfo=UTC))["id"]


def test_the_code_system_names_every_metric() -> None:
    system = json.loads((ROOT / "profiles" / "CodeSystem-utilization-metric.json").read_text(encoding="utf-8"))
    assert {one["code"]: (one["display"], one["definition"]) for one in system["concept"]} == {
        one.id: (one.title, one.definition) for one in metrics().values()
    }


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "use" / "utilization.md").read_text(encoding="utf-8")
    assert [name for name in metrics() if f"`{name}`" not in text and not name.startswith("pqi-")] == []
