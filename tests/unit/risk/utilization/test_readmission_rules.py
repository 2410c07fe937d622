"""Which stay is an index, which one is its readmission, and which was planned: one small chain of claims each."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from utilization_parts import YEAR, day, line, lines, months, people, stay

from fhir_gateway.errors import InputError
from fhir_gateway.risk.utilization import Options, Population, ReadmissionTerms, Tables, Utilization, stays, utilization

CHEMOTHERAPY = {"diagnosis": "Z51.11"}


def run(
    *rows: dict[str, Any],
    options: Options | None = None,
    born: str = "1950-01-01",
    died: str | None = None,
    **more: Any,
) -> Utilization:
    population = Population(months({"m": 12}), people=people(("m", born, died)), **more)
    return utilization(lines(*rows), population, YEAR, through=day("2027-03-31"), options=options)


def counted(found: Utilization) -> tuple[int, int, int]:
    """Index stays, readmissions, unplanned ones."""
    every, unplanned = found.row("readmissions-30-day-all"), found.row("readmissions-30-day")
    return int(every["denominator"]), int(every["numerator"]), int(unplanned["numerator"])


def chain(first_thru: str, second: str, **second_claim: Any) -> list[dict[str, Any]]:
    """A stay at H1 that ends on a day, and one at H2 that begins on another."""
    more = {"organization": "H2"} | second_claim
    return [stay("m", "1", "01-02", first_thru), stay("m", "2", second, second, **more)]


def test_thirty_days_after_counts() -> None:
    rows = [stay("m", "1", "2025-12-28", "01-01"), stay("m", "2", "01-31", "02-02")]
    assert counted(run(*rows)) == (2, 1, 1)


def test_thirty_one_days_after_does_not() -> None:
    rows = [stay("m", "1", "2025-12-28", "01-01"), stay("m", "2", "02-01", "02-02")]
    assert counted(run(*rows)) == (2, 0, 0)


def test_a_chain_of_transfers_is_one_stay_of_its_last_hospital() -> None:
    rows = [
        stay("m", "a", "01-01", "01-03", organization="A"),
        stay("m", "b", "01-03", "01-09", organization="B"),
        stay("m", "c", "01-20", "01-22", organization="C"),
    ]
    found = utilization(lines(*rows), Population(months({"m": 12})), YEAR, through=day("2027-01-31"), by_rendering=True)
    assert counted(found) == (2, 1, 1)
    assert found.row("readmissions-30-day", "rendering", "B")["numerator"] == 1
    assert found.row("readmissions-30-day", "rendering", "A")["denominator"] == 0


def test_chemotherapy_is_planned() -> None:
    assert counted(run(*chain("01-05", "01-20", **CHEMOTHERAPY))) == (2, 1, 0)


def test_against_advice_is_no_index() -> None:
    rows = [stay("m", "1", "01-01", "01-05", discharge_status="07"), stay("m", "2", "01-20", "01-22")]
    assert counted(run(*rows)) == (1, 0, 0)


def test_two_that_come_back_are_an_event_each_of_the_stay_before() -> None:
    rows = [stay("m", str(n), first, last) for n, (first, last) in enumerate(
        (("01-01", "01-01"), ("01-06", "01-07"), ("01-21", "01-22")))]  # fmt: skip
    assert counted(run(*rows)) == (3, 2, 2)


def test_a_planned_stay_stops_the_search() -> None:
    rows = [*chain("01-05", "01-10", **CHEMOTHERAPY), stay("m", "3", "01-20", "01-22")]
    found = run(*rows)
    assert counted(found) == (3, 2, 1)  # 1 -> 2 planned, 2 -> 3 not


@pytest.mark.parametrize(
    ("change", "index"),
    [
        ({"discharge_status": "20"}, 1),
        ({"discharge_status": "02"}, 1),
        ({"discharge_status": "30"}, 1),
        ({"discharge_status": "01"}, 2),
        ({"diagnosis": "F32.9"}, 1),
        ({"diagnosis": "C50.911"}, 1),
        ({"revenue_code": "0128"}, 1),
        ({"drg": "885"}, 1),
        ({"drg": "795"}, 1),
        ({"bill_type": "0121"}, 1),
    ],
)
def test_what_is_no_index(change: dict[str, str], index: int) -> None:
    rows = [stay("m", "1", "01-01", "01-05", **change), stay("m", "2", "06-01", "06-02")]
    assert counted(run(*rows))[0] == index


def test_who_died_or_is_a_child_is_no_index() -> None:
    rows = [stay("m", "1", "01-01", "01-05")]
    assert counted(run(*rows, died="01-05"))[0] == 0
    assert counted(run(*rows, died="01-06"))[0] == 1  # who dies within 30 days stays in the denominator
    assert counted(run(*rows, born="2008-01-02"))[0] == 0
    assert counted(run(*rows, born="2008-01-01"))[0] == 1
    older = Options(readmissions=ReadmissionTerms(min_age=65))
    assert counted(run(*rows, born="1970-01-01", options=older))[0] == 0


def test_enrolment_where_it_is_asked_for() -> None:
    terms = Options(readmissions=ReadmissionTerms(enrolment="required"))
    rows = lines(stay("m", "1", "06-01", "06-05"), stay("m", "2", "12-20", "12-24"))
    known = people(("m", "1950-01-01", None))
    whole = months({"m": 24}, day("2025-01-01"))
    for covered, index in (
        (whole, 1),
        (months({"m": 25}, day("2025-01-01")), 2),
        (months({"m": 8}, day("2025-06-01")), 0),
    ):
        found = utilization(rows, Population(covered, people=known), YEAR, through=day("2027-03-31"), options=terms)
        assert counted(found)[0] == index
        assert "readmissions: enrolment before and after a stay is not looked at" not in found.notes


def test_what_is_not_known_long_enough_is_no_index() -> None:
    rows = lines(stay("m", "1", "11-01", "11-30"), stay("m", "2", "12-02", "12-02"))
    population = Population(months({"m": 12}))
    for through, index in (("12-30", 1), ("12-29", 0), ("2027-01-01", 2)):
        assert counted(utilization(rows, population, YEAR, through=day(through)))[0] == index


def test_the_same_day_at_the_same_hospital() -> None:
    first = stay("m", "1", "01-01", "01-05", diagnosis="I50.9")
    again = stay("m", "2", "01-05", "01-07", diagnosis="I50.1")
    other = stay("m", "2", "01-05", "01-07", diagnosis="J18.9")
    assert counted(run(first, again)) == (1, 0, 0)  # for the same condition it is one stay
    assert counted(run(first, other)) == (2, 1, 1)


def test_skilled_nursing_is_no_readmission() -> None:
    rows = [stay("m", "1", "01-01", "01-05"), stay("m", "2", "01-05", "01-20", bill_type="0211", organization="S")]
    assert counted(run(*rows)) == (1, 0, 0)


def test_imported_tables_judge_potentially_planned_procedures() -> None:
    table = (
        b"value_set,code,version\nreadmission-planned-procedures,0SRD0J9,4.0\nreadmission-acute-diagnoses,S72*,4.0\n"
    )
    tables = Options(tables=Tables.shipped().with_imported("value-sets", table, "planned.csv"))
    knee = {"procedures": ["0SRD0J9"], "diagnosis": "M17.11"}
    broken = {"procedures": ["0SRD0J9"], "diagnosis": "S72.001A"}
    assert counted(run(*chain("01-05", "01-20", **knee))) == (2, 1, 1)  # without the table nobody knows
    assert counted(run(*chain("01-05", "01-20", **knee), options=tables)) == (2, 1, 0)
    assert counted(run(*chain("01-05", "01-20", **broken), options=tables)) == (2, 1, 1)


def test_surgery_of_a_cancer_is_an_index_where_the_table_is_known() -> None:
    table = b"value_set,code\nreadmission-surgical-procedures,0HTT0ZZ\n"
    tables = Options(tables=Tables.shipped().with_imported("value-sets", table, "surgery.csv"))
    row = stay("m", "1", "01-01", "01-05", diagnosis="C50.911", procedures=["0HTT0ZZ"])
    assert counted(run(row))[0] == 0
    assert counted(run(row, options=tables))[0] == 1


def test_follow_up_is_a_visit_before_any_next_admission() -> None:
    def rates(*rows: dict[str, Any]) -> list[Decimal | None]:
        found = run(*rows)
        return [found.score(f"follow-up-{days}-day") for days in (7, 14, 30)]

    home = stay("m", "1", "01-01", "01-05", discharge_status="01")
    visit = {"procedure": "99213", "place_of_service": "11", "npi": "1"}
    assert rates(home, line("m", "v", "01-05", **visit)) == [0, 0, 0]  # the day of discharge is not after it
    assert rates(home, line("m", "v", "01-12", **visit)) == [100, 100, 100]
    assert rates(home, line("m", "v", "01-13", **visit)) == [0, 100, 100]
    assert rates(home, line("m", "v", "01-20", procedure="99496")) == [0, 0, 100]
    back = stay("m", "2", "01-08", "01-09", discharge_status="20")
    assert rates(home, back, line("m", "v", "01-12", **visit)) == [0, 0, 0]
    assert rates(stay("m", "1", "01-01", "01-05", discharge_status="62")) == [None, None, None]


def test_interim_bills_are_one_stay_and_other_claims_keep_their_dates() -> None:
    rows = [
        stay("m", "1", "01-01", "01-31", bill_type="0112", discharge_status="30"),
        stay("m", "2", "02-01", "02-10", bill_type="0114", discharge_status="01"),
        # a claim whose period is not that of its lines: the lines are believed
        stay("n", "3", "01-10", "01-12") | {"claim_from": day("2027-01-10"), "claim_thru": day("2028-01-10")},
        # and what the claim says of the stay itself is believed first
        stay("o", "4", "01-10", "01-12") | {"admitted": day("01-09"), "discharged": day("01-14")},
    ]
    found = [(s["member"], s["admitted"], s["discharged"], s["days"]) for s in stays(lines(*rows)).to_pylist()]
    assert found == [
        ("m", day("01-01"), day("02-10"), 40),
        ("n", day("01-10"), day("01-12"), 2),
        ("o", day("01-09"), day("01-14"), 5),
    ]


ED = b"diagnosis,non_emergent,primary_care_treatable,avoidable\n"


@pytest.mark.parametrize(
    ("form", "content", "rule"),
    [
        ("value-sets", b"name,code\nx,1\n", "no column value_set"),
        ("value-sets", b"value_set,code\nx,1;DROP\n", "row 2"),
        ("value-sets", b"value_set,code\nx,A9-A10\n", "row 2"),
        ("ed-probabilities", b"diagnosis,non_emergent\nR51,1\n", "no column primary_care_treatable"),
        ("ed-probabilities", ED + b"R51,1.5,0,0\n", "between 0 and 1"),
        ("ed-probabilities", ED + b"R51,a,0,0\n", "are numbers"),
        ("ed-probabilities", ED + b"R51,1,0,0\nR5.1,1,0,0\n", "twice"),
    ],
)  # fmt: skip
def test_tables_that_are_wrong_are_refused(form: Any, content: bytes, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        Tables.shipped().with_imported(form, content, "table.csv")


def test_codes_keep_their_leading_zeros() -> None:
    tables = Tables.shipped().with_imported("value-sets", b"value_set,code\nx,0270\nx,001-009\n", "t.csv")
    assert tables.value_sets["x"].codes == ("0270", "001-009")
