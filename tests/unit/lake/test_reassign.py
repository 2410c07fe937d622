"""The lake follows persons that were merged or parted between two pulls."""

from __future__ import annotations

from pathlib import Path

from fhir_gateway.lake.store import Lake
from tests.support.lake_pulls import MakePull, People, observation, patient


def test_rows_follow_their_patient_without_a_pull(tmp_path: Path, make_pull: MakePull) -> None:
    people = People()
    lake = Lake.open(tmp_path / "lake", buckets=4)
    lake.commit(make_pull("a", {None: [patient("1"), observation("o1")]}, source="ehr"), people)
    lake.commit(make_pull("b", {None: [patient("1"), observation("o2")]}, source="payer"), people)
    assert len(lake.members()) == 2
    assert lake.reassign(people) == 0
    assert lake.version == 2

    people.same[("payer", "1")] = "ehr/1"
    assert lake.reassign(people) == 1
    assert lake.version == 3
    assert lake.versions()[-1].kind == "persons"
    (person,) = lake.members().to_pylist()
    rows = lake.read("Observation")
    assert rows["_member"].to_pylist() == [person, person]
    assert len(set(rows["_bucket"].to_pylist())) == 1
    assert lake.read("Observation", version=2)["_member"].to_pylist() != [person, person]

    people.same.clear()
    assert lake.reassign(people) == 1
    assert lake.read("Observation", ["_raw"]) == lake.read("Observation", ["_raw"], version=2)
