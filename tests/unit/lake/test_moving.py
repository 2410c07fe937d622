"""Patients who turn out to be somebody else, and resources that change their patient."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.store import Lake
from tests.support.lake_pulls import MakePull, People, observation, patient


def members(lake: Lake, resource_type: str = "Observation", version: int | None = None) -> dict[tuple[str, str], str]:
    """Member of each resource, and that it lies in the bucket of its member and only there."""
    table = lake.read(resource_type, version=version)
    rows = table.to_pylist()
    assert len({(row["_source"], row["id"]) for row in rows}) == len(rows)
    by_bucket = [lake.read(resource_type, bucket=bucket, version=version) for bucket in range(lake.buckets)]
    assert pa.concat_tables(by_bucket).num_rows == len(rows)
    for row in rows:
        assert row["_bucket"] == bucket_of(row["_member"], lake.buckets)
    return {(row["_source"], row["id"]): row["_member"] for row in rows}


def test_rows_follow_a_patient_who_is_another_person(lake: Lake, people: People, make_pull: MakePull) -> None:
    first = {
        "Patient": [patient(str(i)) for i in range(6)],
        "Observation": [observation(f"o{i}", f"Patient/{i}", valueString=str(i)) for i in range(6)],
    }
    lake.commit(make_pull("p1", first, source="ehr"), people)
    before = members(lake)
    people.same = {("ehr", str(i)): "one and the same" for i in range(3)}
    lake.commit(make_pull("p2", {"Patient": [patient("x")]}, source="payer"), people)
    person = people.person("ehr", "0")
    after = members(lake)
    assert {key for key, member in after.items() if member == person} == {("ehr", f"o{i}") for i in range(3)}
    assert {key: after[key] for key in after if after[key] != person} == {
        key: before[key] for key in before if key[1] in ("o3", "o4", "o5")
    }
    assert members(lake, "Patient")["ehr", "1"] == person
    assert len(lake.members()) == 5
    assert members(lake, version=1) == before
    values = lake.read("Observation", ["valueString"])
    assert sorted(values["valueString"].to_pylist()) == [str(i) for i in range(6)]


def test_moving_there_and_back(lake: Lake, people: People, make_pull: MakePull) -> None:
    files = {"Patient": [patient("1"), patient("2")], "Observation": [observation("o1", "Patient/1")]}
    lake.commit(make_pull("p1", files), people)
    start = members(lake)
    for number in range(2, 6):
        people.same = {("a", "1"): f"turn {number}"} if number % 2 == 0 else {}
        lake.commit(make_pull(f"p{number}", {"Patient": [patient("3", active=bool(number % 2))]}), people)
        assert members(lake) == {("a", "o1"): people.person("a", "1")}
        assert len(lake.members()) == 3
    assert members(lake) == start


def test_a_patient_who_comes_after_their_data(lake: Lake, people: People, make_pull: MakePull) -> None:
    lake.commit(make_pull("p1", {"Observation": [observation("o1")]}), people)
    provisional = members(lake)["a", "o1"]
    people.same = {("a", "1"): "known from elsewhere"}
    lake.commit(make_pull("p2", {"Patient": [patient("1")]}), people)
    assert members(lake)["a", "o1"] == people.person("a", "1") != provisional


def test_a_moved_resource_that_is_also_replaced(lake: Lake, people: People, make_pull: MakePull) -> None:
    lake.commit(
        make_pull("p1", {"Patient": [patient("1")], "Observation": [observation("o1"), observation("o2")]}), people
    )
    people.same = {("a", "1"): "somebody else"}
    again = {"Patient": [patient("1")], "Observation": [observation("o1", valueString="new"), observation("o2")]}
    ledger = lake.commit(make_pull("p2", again), people)
    assert [(e.rows_replaced, e.rows_unchanged) for e in ledger.entries] == [(1, 1), (0, 1)]
    assert set(members(lake).values()) == {people.person("a", "1")}
    assert lake.read("Observation", ["valueString"])["valueString"].to_pylist() == ["new", None]


def test_a_resource_that_changes_its_patient(lake: Lake, people: People, make_pull: MakePull) -> None:
    for number in range(6):
        lake.commit(make_pull(f"p{number}", {"Observation": [observation("o1", f"Patient/{number % 3}")]}), people)
        assert members(lake) == {("a", "o1"): people.person("a", str(number % 3))}
    lake.commit(make_pull("p6", {"Observation": [observation("o1", "Group/1")]}), people)
    assert lake.read("Observation").select(["_member", "_bucket"]).to_pylist() == [{"_member": None, "_bucket": -1}]


def test_the_assigner_must_answer_for_everyone(lake: Lake, people: People, make_pull: MakePull) -> None:
    people.lookup = lambda source, ids: pa.nulls(len(ids), pa.string())  # type: ignore[method-assign]
    with pytest.raises(GatewayError, match="one person for every patient"):
        lake.commit(make_pull("p1", {"Observation": [observation("o1")]}), people)
    assert lake.version == 0


def test_types_that_move_side_by_side_keep_their_patients(lake: Lake, people: People, make_pull: MakePull) -> None:
    """Tables are written by several threads: none may see another's text while it looks for the patient."""
    count = 3000
    about = [str(i) for i in range(count)]
    kinds: dict[str | None, list[Any]] = {
        "Patient": [patient(i) for i in about],
        "Observation": [observation(f"o{i}", f"Patient/{i}", valueString="x" * (1 + int(i) % 90)) for i in about],
        "Condition": [
            {"resourceType": "Condition", "id": f"c{i}", "subject": {"reference": f"Patient/{i}"}} for i in about
        ],
        "Encounter": [
            {
                "resourceType": "Encounter",
                "id": f"e{i}",
                "status": "finished",
                "class": {"code": "AMB"},
                "subject": {"reference": f"Patient/{i}"},
            }
            for i in about
        ],
    }
    lake.commit(make_pull("p1", kinds), people)
    people.same = {("a", i): f"now {i}" for i in about}
    lake.reassign(people)
    expected = {i: people.person("a", i) for i in about}
    for kind in ("Observation", "Condition", "Encounter"):
        rows = lake.read(kind)
        assert {
            id[1:]: member for id, member in zip(*(rows[n].to_pylist() for n in ("id", "_member")), strict=True)
        } == (expected)


def test_buckets_are_stable() -> None:
    assert [bucket_of(f"p{i:016x}", 8) for i in range(8)] == [6, 4, 1, 5, 1, 6, 2, 4]
