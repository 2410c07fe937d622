"""Deletions that a source reports: rows disappear from the next version on, and only those."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fhir_gateway.lake.store import Lake
from tests.support.lake_pulls import MakePull, People, observation, patient


def ids(lake: Lake, resource_type: str, version: int | None = None) -> list[str]:
    return sorted(lake.read(resource_type, version=version)["id"].to_pylist())


def deleted(lake: Lake) -> dict[str | None, int]:
    return {entry.resource_type: entry.rows_deleted for entry in lake.versions()[-1].ledger.entries}


def test_deleted_rows_are_gone_from_the_next_version_on(lake: Lake, people: People, make_pull: MakePull) -> None:
    lake.commit(make_pull("p1", {"Observation": [observation(f"o{i}", f"Patient/{i}") for i in range(6)]}), people)
    lake.commit(make_pull("p1b", {"Observation": [observation("o0")]}, source="b"), people)
    ledger = lake.commit(
        make_pull("p2", {"Patient": [patient("1")]}), people, deletions={"Observation": ["o0", "o3", "never"]}
    )
    assert ledger.balanced
    assert deleted(lake) == {"Observation": 2, "Patient": 0}
    assert ids(lake, "Observation") == ["o0", "o1", "o2", "o4", "o5"]  # o0 is of another source
    assert ids(lake, "Observation", version=1) == [f"o{i}" for i in range(6)]


def test_deleting_twice_changes_nothing_and_what_comes_again_is_there(
    lake: Lake, people: People, make_pull: MakePull
) -> None:
    lake.commit(make_pull("p1", {"Observation": [observation("o1"), observation("o2")]}), people)
    lake.commit(make_pull("p2", {}), people, deletions={"Observation": ["o1"]})
    assert (ids(lake, "Observation"), deleted(lake)) == (["o2"], {"Observation": 1})
    lake.commit(make_pull("p3", {}), people, deletions={"Observation": ["o1"], "Condition": ["c"]})
    assert (ids(lake, "Observation"), deleted(lake)) == (["o2"], {"Observation": 0})
    again = lake.commit(make_pull("p4", {"Observation": [observation("o1")]}), people)
    assert again.entries[0].rows_stored == 1
    assert ids(lake, "Observation") == ["o1", "o2"]


def test_what_the_same_pull_brings_is_there(lake: Lake, people: People, make_pull: MakePull) -> None:
    lake.commit(make_pull("p1", {"Observation": [observation("o1"), observation("o2")]}), people)
    changed = observation("o1", status="amended")
    pull = make_pull("p2", {"Observation": [changed, observation("o2")]})
    lake.commit(pull, people, deletions={"Observation": ["o1", "o2"]})
    assert (ids(lake, "Observation"), deleted(lake)) == (["o1", "o2"], {"Observation": 0})


def test_deletions_reach_rows_whose_patient_moves_in_the_same_commit(
    lake: Lake, people: People, make_pull: MakePull
) -> None:
    rows = [observation(f"o{i}") for i in range(3)]
    lake.commit(make_pull("p1", {"Patient": [patient("1")], "Observation": rows}), people)
    people.same["a", "1"] = "somebody else"
    lake.commit(make_pull("p2", {"Patient": [patient("2")]}), people, deletions={"Observation": ["o1"]})
    assert ids(lake, "Observation") == ["o0", "o2"]
    assert set(lake.read("Observation")["_member"].to_pylist()) == {people.person("a", "1")}


def test_what_was_superseded_and_what_is_gone_is_in_the_history(
    lake: Lake, people: People, make_pull: MakePull
) -> None:
    lake.commit(make_pull("p1", {"Observation": [observation("o1"), observation("o2")]}), people)
    lake.commit(make_pull("p2", {"Observation": [observation("o1", status="amended")]}), people)
    lake.commit(make_pull("p3", {}), people, deletions={"Observation": ["o1"]})

    def written(**asked: Any) -> list[tuple[str, int, bool]]:
        rows = lake.history("Observation", **asked)
        return sorted(zip(*(rows[name].to_pylist() for name in ("id", "_seq", "_deleted")), strict=True))

    of_one = [("o1", 1, False), ("o1", 2, False), ("o1", 3, True)]
    assert written() == [*of_one, ("o2", 1, False)]
    assert written(ids=pa.array(["o1", "never"])) == of_one
    assert written(ids=pa.array(["o1"]), version=2) == of_one[:2]
    assert written(since=2) == of_one[2:]
    texts = lake.history("Observation", pa.array(["o1"]), ["_raw"]).sort_by("_seq")["_raw"].to_pylist()
    assert ["amended" in text for text in texts[:2]] == [False, True]
    assert lake.history("Condition").num_rows == 0
    assert lake.settled() == lake.version == 3
