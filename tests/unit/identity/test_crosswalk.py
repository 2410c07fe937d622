"""Patients to persons: what links, what does not, and what stays when more arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.identity import store
from fhir_gateway.identity.crosswalk import Crosswalk
from fhir_gateway.identity.models import IdentityRules, PersonChange
from fhir_gateway.lake.persons import PersonAssigner
from fhir_gateway.r4.spec import arrow_type, column_structure
from tests.support.databases import KINDS, control_plane

SCHEMA = pa.schema(
    [("id", pa.string())]
    + [(name, arrow_type(column_structure("Patient")[name])) for name in ("identifier", "name", "birthDate", "gender")]
)
MBI, SSN = "http://hl7.org/fhir/sid/us-mbi", "http://hl7.org/fhir/sid/us-ssn"


def mbi(value: str) -> dict[str, Any]:
    return {"system": MBI, "value": value}


def typed(code: str, system: str | None, value: str, assigner: str | None = None) -> dict[str, Any]:
    coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code}
    number = {"system": system, "value": value, "type": {"coding": [coding]}}
    return number | ({"assigner": {"reference": assigner}} if assigner else {})


HOSPITAL = "https://hospital.example/fhir/Organization/1"


def patient(
    patient_id: str, *identifiers: dict[str, Any], birth: str | None = "1950-01-01", gender: str | None = "male"
) -> dict[str, Any]:
    return {"id": patient_id, "identifier": list(identifiers), "birthDate": birth, "gender": gender}


def table(*patients: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(patients), schema=SCHEMA)


@pytest.fixture
def engine() -> Iterator[Engine]:
    opened = create_engine("sqlite://")
    upgrade(opened)
    yield opened
    opened.dispose()


@pytest.fixture(params=KINDS)
def any_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with control_plane(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def crosswalk(engine: Engine) -> Crosswalk:
    return Crosswalk(engine, clock=lambda: datetime(2025, 1, 1, tzinfo=UTC))


def assign(crosswalk: PersonAssigner, source: str, *patients: dict[str, Any]) -> list[str]:
    found: list[str] = crosswalk.assign(source, table(*patients)).to_pylist()
    return found


def lookup(crosswalk: PersonAssigner, source: str, *ids: str) -> list[str]:
    found: list[str] = crosswalk.lookup(source, pa.array(ids, pa.string())).to_pylist()
    return found


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (mbi("1EG4-TE5-MK73"), {"system": "http://terminology.hl7.org/NamingSystem/cmsMBI", "value": "1eg4te5mk73"}),
        ({"system": SSN, "value": "987-65-4321"}, {"system": "urn:oid:2.16.840.1.113883.4.1", "value": "987654321"}),
        ({"system": SSN, "value": "987-65-4321"}, typed("SS", None, "987654321")),
        (typed("MR", "urn:hospital", "0042"), typed("MR", "urn:hospital", " 0042 ")),
        (typed("MB", "urn:payer", "W1"), typed("MB", "urn:payer", "W1")),
        (typed("MR", None, "0042", HOSPITAL), typed("MR", "", "0042", f"{HOSPITAL}/_history/2")),
        (
            typed("DL", "urn:oid:2.16.840.1.113883.4.3.25", "S99"),
            typed("DL", "urn:oid:2.16.840.1.113883.4.3.25", "S99"),
        ),
    ],
)
def test_the_same_person_level_identifier_links(
    crosswalk: Crosswalk, left: dict[str, Any], right: dict[str, Any]
) -> None:
    assert assign(crosswalk, "ehr", patient("a", left)) == assign(crosswalk, "payer", patient("b", right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (typed("MR", "urn:hospital", "0042"), typed("MR", "urn:clinic", "0042")),  # another system
        (typed("MR", None, "0042"), typed("MR", None, "0042")),  # a record number without its system
        (typed("MR", None, "0042", HOSPITAL), typed("MR", None, "0042", f"{HOSPITAL}2")),  # another assigner
        (typed("MR", None, "0042", "Organization/1"), typed("MR", None, "0042", "Organization/1")),  # of each source
        (typed("SN", "urn:payer", "F1"), typed("SN", "urn:payer", "F1")),  # a family shares a subscriber number
        ({"system": "urn:whatever", "value": "7A"}, {"system": "urn:whatever", "value": "7A"}),  # neither kind
        (mbi("0000-0000"), mbi("00000000")),
        (mbi("unknown"), mbi("Unknown")),
        (mbi("N/A"), mbi("n/a")),
        (mbi(" - "), mbi(" - ")),
        ({"system": SSN, "value": "123-45-6789"}, {"system": SSN, "value": "123456789"}),
        ({"system": SSN}, {"system": SSN}),
    ],
)
def test_other_identifiers_and_placeholders_do_not_link(
    crosswalk: Crosswalk, left: dict[str, Any], right: dict[str, Any]
) -> None:
    assert assign(crosswalk, "ehr", patient("a", left)) != assign(crosswalk, "payer", patient("b", right))
    assert crosswalk.reviews() == []


@pytest.mark.parametrize(("left", "right"), [("1950-01-01", "1950"), ("1950-01-01", None), ("1950-01", "1950-01-31")])
def test_birth_dates_of_less_precision_agree(crosswalk: Crosswalk, left: str, right: str | None) -> None:
    first = assign(crosswalk, "ehr", patient("a", mbi("1EG4"), birth=left))
    assert first == assign(crosswalk, "payer", patient("b", mbi("1EG4"), birth=right, gender="unknown"))


@pytest.mark.parametrize(
    ("rule", "other"),
    [("birthDate", {"birth": "1950-01-02"}), ("birthDate", {"birth": "1951"}), ("gender", {"gender": "female"})],
)
def test_contradictions_are_not_merged_but_listed_for_review(
    crosswalk: Crosswalk, rule: str, other: dict[str, str]
) -> None:
    first = assign(crosswalk, "ehr", patient("a", mbi("1EG4")))
    assert first != assign(crosswalk, "payer", patient("b", mbi("1EG4"), **other))
    (review,) = crosswalk.reviews()
    assert (review.rule, review.system) == (rule, "mbi")
    assert (review.source, review.patient_id) == ("ehr", "a")
    assert (review.other_source, review.other_patient_id) == ("payer", "b")
    assert "1EG4" not in str(review)
    assign(crosswalk, "payer", patient("c"))
    assert len(crosswalk.reviews()) == 1


def test_a_patient_without_birth_date_does_not_chain_two_people(crosswalk: Crosswalk) -> None:
    a, b, c = assign(
        crosswalk,
        "ehr",
        patient("a", mbi("X1"), birth="1950"),
        patient("b", mbi("X1"), mbi("Y2"), birth=None),
        patient("c", mbi("Y2"), birth="1990"),
    )
    assert len({a, b, c}) == 3
    assert {review.rule for review in crosswalk.reviews()} == {"chain"}


def test_an_identifier_that_too_many_patients_of_one_source_share_names_nobody(engine: Engine) -> None:
    crosswalk = Crosswalk(engine, IdentityRules(max_per_source=3))
    shared = typed("MB", "urn:payer", "GROUP-7")
    assert len(set(assign(crosswalk, "a", *(patient(f"p{n}", shared) for n in range(3))))) == 1
    persons = assign(crosswalk, "b", *(patient(f"p{n}", shared) for n in range(4)))
    assert len({*persons, *lookup(crosswalk, "a", "p0", "p1", "p2")}) == 7
    (review,) = crosswalk.reviews()
    assert (review.rule, review.source, review.patients, review.patient_id) == ("shared-identifier", "b", 4, None)


def test_person_ids_are_fhir_ids_of_the_first_patient(crosswalk: Crosswalk) -> None:
    (alone,) = assign(crosswalk, "ehr", patient("a"))
    assert len(alone) == 17
    assert alone[0] == "p"
    assert set(alone[1:]) <= set("0123456789abcdef")
    assert lookup(crosswalk, "ehr", "a", "a", "b") == [alone, alone, lookup(crosswalk, "ehr", "b")[0]]
    assert lookup(crosswalk, "payer", "a") != [alone]
    assert crosswalk.patients(alone) == [("ehr", "a")]


def test_a_patient_that_was_referred_to_first_keeps_its_person(crosswalk: Crosswalk) -> None:
    before = lookup(crosswalk, "ehr", "a")
    assert assign(crosswalk, "ehr", patient("a", mbi("X1"))) == before


def test_a_patient_that_was_referred_to_first_yields_to_the_person_it_is(crosswalk: Crosswalk) -> None:
    known = assign(crosswalk, "payer", patient("m", mbi("X1")))
    assert lookup(crosswalk, "ehr", "a") != known
    assert assign(crosswalk, "ehr", patient("a", mbi("X1"))) == known == lookup(crosswalk, "ehr", "a")


def test_two_persons_that_turn_out_to_be_one_are_merged_into_the_older(crosswalk: Crosswalk) -> None:
    (older,) = assign(crosswalk, "z-ehr", patient("a", mbi("X1")))
    (younger,) = assign(crosswalk, "a-payer", patient("m", typed("MB", "urn:payer", "W1")))
    assert older != younger
    assert assign(crosswalk, "lab", patient("l", mbi("X1"), typed("MB", "urn:payer", "W1"))) == [older]
    assert lookup(crosswalk, "a-payer", "m") == [older]
    assert crosswalk.changes() == [
        PersonChange("merge", older, younger, "mbi, urn:payer", "2025-01-01T00:00:00+00:00"),
    ]
    assert crosswalk.surviving(younger) == older
    assert crosswalk.surviving(older) == older
    assert crosswalk.patients(older) == [("a-payer", "m"), ("lab", "l"), ("z-ehr", "a")]
    assert crosswalk.patients(younger) == []


def test_what_no_longer_holds_is_undone_and_ids_come_back(any_engine: Engine) -> None:
    crosswalk = Crosswalk(any_engine)
    (older,) = assign(crosswalk, "ehr", patient("a", mbi("X1")))
    (younger,) = assign(crosswalk, "payer", patient("m", mbi("Y2")))
    assert assign(crosswalk, "lab", patient("l", mbi("X1"), mbi("Y2"))) == [older]
    assert assign(crosswalk, "lab", patient("l", mbi("X1"))) == [older]  # the lab corrected its record
    assert lookup(crosswalk, "payer", "m") == [younger]
    assert crosswalk.surviving(younger) == younger
    assert [(one.kind, one.person, one.other) for one in crosswalk.changes()] == [
        ("merge", older, younger),
        ("split", older, younger),
    ]


def test_the_last_row_of_a_repeated_patient_counts(crosswalk: Crosswalk) -> None:
    known = assign(crosswalk, "payer", patient("m", mbi("X1")))
    assert assign(crosswalk, "ehr", patient("a", mbi("Q9")), patient("a", mbi("X1"))) == known * 2


def test_no_patients_are_no_persons(crosswalk: Crosswalk) -> None:
    assert assign(crosswalk, "ehr") == []
    assert lookup(crosswalk, "ehr") == []


def test_many_are_asked_for_by_name_some_at_a_time(
    crosswalk: Crosswalk, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pull reads of the crosswalk does not grow with all who are known of its source."""
    monkeypatch.setattr(store, "_SLICE", 2)
    ids = [f"i{number}" for number in range(9)]
    persons = assign(crosswalk, "ehr", *(patient(one, mbi(f"M{one}")) for one in ids))
    assert lookup(crosswalk, "ehr", *ids) == persons
    assert assign(crosswalk, "ehr", *(patient(one, mbi(f"M{one}")) for one in ids)) == persons
    with engine.connect() as connection:
        asked = pa.array(["i1", "unknown", "i5", "i8", "i2"])
        assert sorted(store.assigned(connection, "ehr", asked)["id"].to_pylist()) == ["i1", "i2", "i5", "i8"]
        assert store.patients_of(connection, "payer", asked).num_rows == 0


# A world of few identifiers and demographics, so that links, contradictions and shared identifiers all happen.
PATIENTS = st.builds(
    lambda keys, birth, gender: (tuple(sorted(keys)), birth, gender),
    st.sets(st.sampled_from(["X1", "Y2", "Z3", "W4"]), max_size=2),
    st.sampled_from(["1950-01-01", "1950", "1990-05-05", None]),
    st.sampled_from(["male", "female", "unknown", None]),
)
WORLDS = st.lists(st.lists(PATIENTS, min_size=1, max_size=4), min_size=1, max_size=3)


def pull(source: int, rows: Sequence[tuple[tuple[str, ...], str | None, str | None]]) -> tuple[str, pa.Table]:
    made = [
        patient(f"{n}", *map(mbi, keys), birth=birth, gender=gender) for n, (keys, birth, gender) in enumerate(rows)
    ]
    return f"s{source}", table(*made)


def persons(pulls: Sequence[tuple[str, pa.Table]]) -> tuple[dict[tuple[str, str], str], Crosswalk, Engine]:
    engine = create_engine("sqlite://")
    upgrade(engine)
    crosswalk = Crosswalk(engine, IdentityRules(max_per_source=3))
    for source, rows in pulls:
        crosswalk.assign(source, rows)
    return final(pulls, crosswalk), crosswalk, engine


def final(pulls: Sequence[tuple[str, pa.Table]], crosswalk: Crosswalk) -> dict[tuple[str, str], str]:
    return {
        (source, patient_id): person
        for source, rows in pulls
        for patient_id, person in zip(
            rows["id"].to_pylist(), lookup(crosswalk, source, *rows["id"].to_pylist()), strict=True
        )
    }


def together(assigned: dict[tuple[str, str], str]) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in combinations(assigned, 2) if assigned[pair[0]] == assigned[pair[1]]}


@settings(max_examples=20)
@given(world=WORLDS, order=st.randoms(use_true_random=False))
def test_the_order_of_sources_does_not_change_who_is_who(world: list[Any], order: Any) -> None:
    pulls = [pull(number, rows) for number, rows in enumerate(world)]
    shuffled = list(pulls)
    order.shuffle(shuffled)
    first, _, one = persons(pulls)
    second, _, two = persons(shuffled)
    assert together(first) == together(second)
    one.dispose()
    two.dispose()


@settings(max_examples=8)
@given(world=WORLDS)
def test_assigning_twice_is_assigning_once(world: list[Any]) -> None:
    pulls = [pull(number, rows) for number, rows in enumerate(world)]
    once, crosswalk, engine = persons(pulls)
    before = (crosswalk.changes(), crosswalk.reviews())
    for source, rows in reversed(pulls):
        crosswalk.assign(source, rows)
    assert final(pulls, crosswalk) == once
    assert (crosswalk.changes(), crosswalk.reviews()) == before
    engine.dispose()


@settings(max_examples=8)
@given(world=WORLDS)
def test_no_person_contradicts_itself(world: list[Any]) -> None:
    pulls = [pull(number, rows) for number, rows in enumerate(world)]
    assigned, _, engine = persons(pulls)
    facts = {(source, row["id"]): row for source, rows in pulls for row in rows.to_pylist()}
    for left, right in map(tuple, together(assigned)):
        births = [facts[one]["birthDate"] or "" for one in (left, right)]
        genders = {facts[one]["gender"] for one in (left, right)} - {None, "unknown"}
        assert births[0].startswith(births[1]) or births[1].startswith(births[0])
        assert len(genders) <= 1
    engine.dispose()
