"""Medicare attribution by the regulation: windows, eligibility, facilities, code lists of years, ACO REACH and LEAD."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import SELECTION_SCHEMA, AttributionTerms, Facts, Participant, attribute
from fhir_gateway.attribution.eligibility import PROGRAMME_SCHEMA, RESIDENCE_SCHEMA, months_by
from fhir_gateway.attribution.services import PROVIDER_SCHEMA

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
ACO = Participant("aco", tins=("100000001", "100000002"))
X = "200000001"
FAMILY, NURSE, CARDIOLOGY = "08", "50", "06"


def line(tin: str | None, allowed: str, day: date = date(2025, 5, 5), **more: Any) -> dict[str, Any]:
    return {"tin": tin, "npi": f"{tin}1", "specialty": FAMILY, "allowed": allowed, "service_from": day} | more


@pytest.fixture(scope="module")
def terms() -> AttributionTerms:
    return AttributionTerms.load("mssp-primary-care-2025")


def with_terms(terms: AttributionTerms, **changes: Any) -> AttributionTerms:
    return AttributionTerms.model_validate(terms.model_dump() | changes)


@pytest.fixture(scope="module")
def one(make_lines: Any, make_coverage: Any) -> Any:
    """The row of one member."""

    def found(rows: list[dict[str, Any]], terms: AttributionTerms, *coverage: Any, **more: Any) -> dict[str, Any]:
        spans = make_coverage(*(coverage or [("p1", "2022-01-01", None, "AB", "active")]))
        participants = more.pop("participants", [ACO])
        period = more.pop("period", PERIOD)
        result = attribute(make_lines(rows), spans, terms, period, participants, **more)
        row: dict[str, Any] = result.table.to_pylist()[0]
        return row

    return found


# 1.1 eligibility


def test_a_month_with_part_a_alone_excludes(one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "10")]
    both = [("p1", "2025-01-01", None, "A", "active"), ("p1", "2025-01-01", None, "B", "active")]
    assert one(rows, terms, *both)["months"] == 12
    late = [("p1", "2025-01-01", None, "A", "active"), ("p1", "2025-03-01", None, "B", "active")]
    found = one(rows, terms, *late)
    assert (found["entity"], found["reason"], found["months"]) == (None, "split-months", 10)
    lenient = terms.eligibility.model_copy(update={"split_months": "ignored"})
    assert one(rows, terms.model_copy(update={"eligibility": lenient}), *late)["entity"] == "aco"
    with_drugs = [*both, ("p1", "2024-01-01", None, "D", "active")]
    assert one(rows, terms, *with_drugs)["months"] == 12


def test_parts_are_read_from_coverage_classes_too(one: Any, terms: AttributionTerms, make_lines: Any) -> None:
    structure = pa.struct([("value", pa.string())])
    rows = [
        {"_member": "p1", "_source": "cms", "id": part, "status": "active", "class": [{"value": f"Part {part}"}],
         "type": None, "period": {"start": "2025-01-01", "end": end}}
        for part, end in (("A", None), ("B", "2025-04-30"))
    ]  # fmt: skip
    coverage = pa.Table.from_pylist(
        rows,
        pa.schema(
            [(name, pa.string()) for name in ("_member", "_source", "id", "status")]
            + [
                ("class", pa.list_(structure)),
                ("type", pa.struct([("coding", pa.list_(pa.struct([("code", pa.string())])))])),
            ]
            + [("period", pa.struct([("start", pa.string()), ("end", pa.string())]))]
        ),
    )
    found = attribute(make_lines([line("100000001", "10")]), coverage, terms, PERIOD, [ACO]).table.to_pylist()[0]
    assert (found["reason"], found["months"]) == ("split-months", 4)


def test_death_ends_months_and_keeps_the_member(one: Any, terms: AttributionTerms) -> None:
    deaths = pa.table({"member": ["p1"], "died": pa.array([date(2025, 6, 10)])})
    found = one([line("100000001", "10")], terms, deaths=deaths)
    assert (found["entity"], found["months"]) == ("aco", 6)


@pytest.mark.parametrize(("country", "reason"), [("US", None), ("PR", None), ("CA", "not-resident"), (None, None)])
def test_residence_is_by_the_latest_address(
    one: Any, terms: AttributionTerms, country: str | None, reason: str | None
) -> None:
    rows = [
        {"member": "p1", "since": None, "country": "CA"},
        {"member": "p1", "since": date(2025, 3, 1), "country": country},
        {"member": "p1", "since": date(2026, 3, 1), "country": "FR"},
    ]
    facts = Facts(residence=pa.Table.from_pylist(rows[1:] if country is None else rows, RESIDENCE_SCHEMA))
    assert one([line("100000001", "10")], terms, facts=facts)["reason"] == reason


def test_another_programme_excludes(one: Any, terms: AttributionTerms) -> None:
    inside = pa.Table.from_pylist([{"member": "p1", "programme": "other-shared-savings"}], PROGRAMME_SCHEMA)
    assert one([line("100000001", "10")], terms, facts=Facts(programmes=inside))["reason"] == "other-programme"
    needed = with_terms(terms, eligibility={"require_programmes": ["high-needs"]})
    assert one([line("100000001", "10")], needed, facts=Facts(programmes=inside))["reason"] == "criteria-not-met"


# 1.2 windows


def test_the_prospective_window_ends_three_months_before_the_year(one: Any) -> None:
    terms = AttributionTerms.load("mssp-prospective-2025")
    inside = [line("100000001", "10", date(2024, 9, 30)), line(X, "99", date(2024, 10, 1))]
    found = one(inside, terms)
    assert (found["entity"], found["amount"]) == ("aco", 10)
    assert (found["window_start"], found["window_end"]) == (date(2023, 10, 1), date(2024, 9, 30))
    assert one([line("100000001", "10", date(2023, 9, 30))], terms)["reason"] == "no-competing-clinician"
    # eligible in the window, a health plan in the year
    spans = [("p1", "2022-01-01", None, "AB", "active"), ("p1", "2025-08-01", "2025-08-31", "MA", "active")]
    assert one(inside, terms, *spans)["reason"] == "excluded-coverage"
    assert one(inside, terms, ("p1", "2024-10-01", None, "AB", "active"))["reason"] == "below-minimum-months"


def test_step_three_reaches_back_a_year_further_and_says_so(one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "100", specialty=NURSE), line("100000001", "80", date(2024, 6, 30))]
    found = one(rows, terms)
    assert (found["step"], found["amount"]) == ("step 3", 180)
    assert (found["window_start"], found["window_end"]) == (date(2024, 1, 1), date(2025, 12, 31))
    assert found["rule"] == "mssp-primary-care|2025.2"


# 1.3 steps


def test_voluntary_alignment_needs_no_service_and_comes_first(one: Any, terms: AttributionTerms) -> None:
    chosen = {"member": "p1", "npi": "7", "made": date(2024, 12, 1), "kind": "voluntary"}
    selections = pa.Table.from_pylist([chosen], SELECTION_SCHEMA)
    clinicians = pa.Table.from_pylist(
        [
            {"npi": "7", "tin": X, "specialty": "30", "start": None, "end": date(2024, 12, 31)},
            {"npi": "7", "tin": "100000001", "specialty": "30", "start": date(2025, 1, 1)},
        ],
        PROVIDER_SCHEMA,
    )
    rows = [line(X, "1000")]
    found = one(rows, terms, selections=selections, facts=Facts(providers=clinicians))
    assert (found["entity"], found["method"], found["step"]) == ("aco", "selection", "voluntary")
    assert one(rows, terms, ("p1", "2025-01-01", None, "MA", "active"), selections=selections)["entity"] is None
    other_kind = pa.Table.from_pylist([chosen | {"kind": "member_selected_pcp"}], SELECTION_SCHEMA)
    found = one([line("100000001", "10")], terms, selections=other_kind)
    assert found["method"] == "plurality"


def test_the_participants_of_a_rival_are_pooled(
    one: Any, terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    rows = [line("100000001", "100"), line(X, "60"), line("200000002", "60")]
    assert one(rows, terms)["entity"] == "aco"
    both = [ACO, Participant("rival", tins=(X, "200000002"))]
    found = one(rows, terms, participants=both)
    assert (found["entity"], found["amount"], found["participant"]) == ("rival", 120, True)
    alone = attribute(make_lines(rows), make_coverage(), terms, PERIOD, [ACO])
    assert (alone.rivals, attribute(make_lines(rows), make_coverage(), terms, PERIOD, both).rivals) == (
        "single",
        "pooled",
    )


def test_rivals_are_read_from_a_table() -> None:
    columns = [(name, pa.string()) for name in ("entity", "tin", "npi", "ccn")]
    rows = [
        ("r", "1", None, None),
        ("r", "2", None, None),
        ("r", None, None, "450001"),
        ("s", "3", "7", None),
        ("s", "3", "8", None),
    ]
    table = pa.Table.from_pylist(
        [dict(zip(("entity", "tin", "npi", "ccn"), row, strict=True)) for row in rows], pa.schema(columns)
    )
    assert Participant.rivals(table) == (
        Participant("r", tins=("1", "2"), ccns=("450001",)),
        Participant("s", tins=("3",), npis=("7", "8")),
    )


# 1.3 facilities


def institutional(bill: str, allowed: str, **more: Any) -> dict[str, Any]:
    return line(X, allowed, bill_type=bill, claim_type="outpatient", procedure="G0467", specialty=None) | more


def test_every_service_of_a_health_center_is_primary_care(one: Any, terms: AttributionTerms) -> None:
    rows = [line("100000001", "50"), institutional("771", "80")]
    assert one(rows, terms)["entity"] == f"tin:{X}"
    rows[1] |= {"bill_type": "131"}
    assert one(rows, terms)["entity"] == "aco"


def test_a_hospital_visit_is_no_primary_care_but_method_two_is(one: Any, terms: AttributionTerms) -> None:
    rows = [
        line("100000001", "50"),
        institutional("851", "80", procedure="99213", specialty=FAMILY, revenue_code="0510"),
    ]
    assert one(rows, terms)["entity"] == "aco"
    rows[1] |= {"revenue_code": "0960"}
    assert one(rows, terms)["entity"] == f"tin:{X}"
    rows[1] |= {"procedure": "71046"}
    assert one(rows, terms)["entity"] == "aco"


def test_an_electing_teaching_hospital_is_known_by_its_number(
    one: Any, terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    rows = [line("100000001", "50"), institutional("131", "80", procedure="G0463")]
    lines = make_lines(rows).append_column("ccn", pa.array([None, "450001"], pa.string()))
    coverage = make_coverage(("p1", "2022-01-01", None, "AB", "active"))
    assert attribute(lines, coverage, terms, PERIOD, [ACO]).table.to_pylist()[0]["entity"] == "aco"
    facilities = [
        one.model_dump() | ({"ccns": ["450001"]} if one.name == "ETA hospital" else {})
        for one in terms.facility_services
    ]
    electing = with_terms(terms, facility_services=facilities)
    assert attribute(lines, coverage, electing, PERIOD, [ACO]).table.to_pylist()[0]["entity"] == "ccn:450001"
    ours = Participant("aco", tins=ACO.tins, ccns=("450001",))
    assert attribute(lines, coverage, electing, PERIOD, [ours]).table.to_pylist()[0]["amount"] == 130


# 1.5 codes


def test_an_add_on_counts_beside_its_base_alone(one: Any) -> None:
    terms = AttributionTerms.load("mssp-primary-care-2024")
    day, period = date(2022, 5, 5), (date(2022, 1, 1), date(2022, 12, 31))
    rows = [
        line("100000001", "50", day, eob="a"),
        line("100000001", "30", day, procedure="99354", eob="b"),
        line(X, "70", day),
    ]
    assert one(rows, terms, period=period)["entity"] == f"tin:{X}"
    rows[1] |= {"eob": "a"}
    assert one(rows, terms, period=period)["amount"] == 80


def test_telephone_visits_count_in_all_of_a_window_that_touches_the_emergency(one: Any) -> None:
    terms = AttributionTerms.load("mssp-primary-care-2024")
    for year, counts in ((2023, True), (2024, False)):
        rows = [
            line("100000001", "50", date(year, 11, 5)),
            line("100000001", "30", date(year, 12, 5), procedure="99442"),
        ]
        found = one(rows, terms, period=(date(year, 1, 1), date(year, 12, 31)))
        assert found["amount"] == (80 if counts else 50)


def test_a_visit_during_a_stay_of_somebody_else_counts(
    one: Any, terms: AttributionTerms, make_lines: Any, make_coverage: Any
) -> None:
    stay = line("300000001", "9000", date(2025, 5, 1), procedure=None, claim_type="inpatient", bill_type="211",
                service_thru=date(2025, 5, 20), _member="p2")  # fmt: skip
    rows = [line("100000001", "500", procedure="99309", place_of_service="32"), line(X, "130"), stay]
    spans = make_coverage(*((name, "2022-01-01", None, "AB", "active") for name in ("p1", "p2")))
    assert attribute(make_lines(rows), spans, terms, PERIOD, [ACO]).table.to_pylist()[0]["entity"] == "aco"


# 2 ACO REACH and LEAD

OLDER, RECENT = date(2023, 3, 3), date(2024, 3, 3)  # alignment years July 2022 - June 2024 of performance year 2025


@pytest.mark.parametrize("name", ["aco-reach-2025", "lead-2027"])
def test_recent_years_weigh_twice(one: Any, name: str) -> None:
    terms = AttributionTerms.load(name)
    shift = (terms.year or 0) - 2025
    older, recent = (day.replace(year=day.year + shift) for day in (OLDER, RECENT))
    period = (date(2025 + shift, 1, 1), date(2025 + shift, 12, 31))
    rows = [line("100000001", "200.00", older), line(X, "100.01", recent)]
    found = one(rows, terms, period=period)
    assert (found["entity"], found["amount"], found["runner_up_amount"]) == (
        f"tin:{X}", Decimal("66.67333333"), Decimal("66.66666667"))  # fmt: skip
    assert (found["window_start"], found["window_end"]) == (date(2022 + shift, 7, 1), date(2024 + shift, 6, 30))
    rows[1] |= {"allowed": Decimal("100.00")}
    assert one(rows, terms, period=period)["tie_break"] == "latest"  # two thirds are exactly two thirds


def test_a_tenth_of_primary_care_decides_by_primary_care(one: Any) -> None:
    terms = AttributionTerms.load("aco-reach-2025")
    rows = [line("100000001", "100", RECENT), line(X, "900", RECENT, specialty=CARDIOLOGY)]
    found = one(rows, terms)
    assert (found["entity"], found["step"]) == ("aco", "primary care specialists")
    rows[1] |= {"allowed": Decimal("900.01")}
    found = one(rows, terms)
    assert (found["entity"], found["step"]) == (f"tin:{X}", "selected specialists")


def test_clinicians_at_a_practice_compete_for_the_entity(one: Any) -> None:
    terms = AttributionTerms.load("aco-reach-2025")
    rows = [
        line("100000001", "100", RECENT, npi="1"),
        line("100000001", "500", RECENT, npi="2"),
        line(X, "200", RECENT),
    ]
    narrow = [Participant("aco", tins=("100000001",), npis=("1",))]
    assert one(rows, terms, participants=narrow)["entity"] == "tin:100000001"
    both = [Participant("aco", tins=("100000001",), npis=("1", "2"))]
    assert one(rows, terms, participants=both)["amount"] == 400


def test_months_are_eligible_one_by_one(one: Any) -> None:
    terms = AttributionTerms.load("aco-reach-2025")
    spans = [("p1", "2022-01-01", None, "AB", "active"), ("p1", "2025-02-10", "2025-04-30", "MA", "active")]
    found = one([line("100000001", "100", RECENT)], terms, *spans)
    assert (found["entity"], found["months"]) == ("aco", 9)


@pytest.mark.parametrize("name", ["mssp-primary-care-2025", "aco-reach-2025", "commercial-primary-care"])
def test_whoever_asks_later_counts_the_same_months(name: str, make_lines: Any, make_coverage: Any) -> None:
    """Settlements and the ledger count months as attribution did: parts, excluded months, deaths."""
    terms = AttributionTerms.load(name)
    spans = make_coverage(
        ("both", "2022-01-01", None, "AB", "active"),
        ("a-only", "2022-01-01", None, "A", "active"), ("a-only", "2025-03-01", None, "B", "active"),
        ("plan", "2022-01-01", None, "AB", "active"), ("plan", "2025-02-10", "2025-04-30", "MA", "active"),
        ("drugs", "2022-01-01", "2025-06-30", "AB", "active"), ("drugs", "2022-01-01", None, "D", "active"),
        ("died", "2022-01-01", None, "AB", "active"),
    )  # fmt: skip
    people = pa.table(
        {
            "member": ["both", "a-only", "plan", "drugs", "died"],
            "birth_date": pa.array([date(1950, 1, 1)] * 5),
            "died": pa.array([None, None, None, None, date(2025, 8, 3)], pa.date32()),
        }
    )
    deaths = people.filter(people["died"].is_valid()).select(["member", "died"])
    found = attribute(make_lines([line("100000001", "10")]), spans, terms, PERIOD, [ACO], deaths=deaths)
    counted = months_by(terms.eligibility, spans, PERIOD, people).group_by("member").aggregate([("months", "sum")])
    sums = dict(zip(counted["member"].to_pylist(), counted["months_sum"].to_pylist(), strict=True))
    rows = [row for row in found.table.to_pylist() if row["member"] != "p1"]
    assert len(rows) == 5
    for row in rows:
        assert row["months"] == sums.get(row["member"], 0), row["member"]
    assert sums["died"] == 8


def test_months_count_in_the_service_area(one: Any) -> None:
    terms = AttributionTerms.load("aco-reach-2025")
    local = [Participant("aco", tins=ACO.tins, service_area=("48453", "78701"))]
    rows = [line("100000001", "100", RECENT)]
    homes: list[dict[str, Any]] = [
        {"member": "p1", "since": None, "county": "48453", "country": "US"},
        {"member": "p1", "since": date(2025, 6, 2), "county": "48201", "country": "US"},
    ]
    found = one(rows, terms, participants=local, facts=Facts(residence=pa.Table.from_pylist(homes, RESIDENCE_SCHEMA)))
    assert (found["entity"], found["months"]) == ("aco", 6)
    elsewhere = pa.Table.from_pylist([homes[1], homes[0] | {"county": "48201"}], RESIDENCE_SCHEMA)
    found = one(rows, terms, participants=local, facts=Facts(residence=elsewhere))
    assert (found["entity"], found["reason"], found["months"]) == (None, "outside-service-area", 0)
    by_zip = pa.Table.from_pylist([{"member": "p1", "postal_code": "78701-1234"}], RESIDENCE_SCHEMA)
    assert one(rows, terms, participants=local, facts=Facts(residence=by_zip))["months"] == 12
