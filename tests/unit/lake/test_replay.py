"""Refused lines taken in again: the ledger stays balanced, and nothing newer is overwritten."""

from __future__ import annotations

import json

import pytest

from fhir_gateway.lake import judge
from fhir_gateway.lake.store import Lake
from tests.support.lake_pulls import MakePull, People, observation, patient


def actives(lake: Lake) -> dict[str, bool | None]:
    table = lake.read("Patient", ["active"])
    return dict(zip(table["id"].to_pylist(), table["active"].to_pylist(), strict=True))


def places(lake: Lake, pull_id: str | None = None) -> list[tuple[str, int, str]]:
    return [(line.file, line.line, line.rule) for line in lake.quarantined(pull_id)]


def test_edited_lines_are_taken_in_and_the_rest_stays(lake: Lake, people: People, make_pull: MakePull) -> None:
    lines = [patient("0"), patient("1", gender="F"), patient("2", gender="M"), "{"]
    lake.commit(make_pull("p1", {"Patient": lines, "Observation": [observation("o", status="done")]}), people)
    lake.commit(make_pull("p2", {"Patient": ["]"]}), people)
    assert lake.replay("p0", people) is None
    edits = {
        ("p1-Patient.ndjson", 2): json.dumps(patient("1", gender="female"), indent=1).encode(),
        ("p1-Patient.ndjson", 3): json.dumps(patient("2", gender="m")).encode(),
    }
    ledger = lake.replay("p1", people, edits)
    assert ledger is not None
    assert ledger.balanced
    counts = {
        entry.resource_type: (entry.lines_read, entry.rows_stored, entry.rows_quarantined) for entry in ledger.entries
    }
    assert counts == {"Patient": (3, 1, 2), "Observation": (1, 0, 1)}
    assert (ledger.source, lake.version, lake.versions()[-1].replays) == ("a", 3, 1)
    assert actives(lake).keys() == {"0", "1"}
    assert patient("1", gender="female") in map(json.loads, lake.read("Patient", ["_raw"])["_raw"].to_pylist())
    still = [
        ("p1-Patient.ndjson", 3, "binding"),
        ("p1-Patient.ndjson", 4, "not-json"),
        ("p1-Observation.ndjson", 1, "binding"),
    ]
    assert sorted(places(lake, "p1")) == sorted(still)
    assert sorted(places(lake)) == sorted([*still, ("p2-Patient.ndjson", 1, "not-json")])
    lake.replay("p1", people, {("p1-Patient.ndjson", 4): json.dumps(patient("3")).encode()})
    assert actives(lake).keys() == {"0", "1", "3"}
    assert len(places(lake, "p1")) == 2


def test_a_changed_rule_lets_lines_in(
    lake: Lake, people: People, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [patient(str(i), nonsense=i) for i in range(5)]
    lake.commit(make_pull("p1", {"Patient": bad}), people)
    assert lake.types() == ()
    monkeypatch.setattr(judge, "issues", lambda resource, promised=None: iter(()))
    ledger = lake.replay("p1", people)
    assert ledger is not None
    assert (ledger.entries[0].rows_stored, lake.quarantined()) == (5, [])
    assert lake.replay("p1", people) is None


@pytest.mark.parametrize(("late", "wins"), [({}, False), ({"meta": {"lastUpdated": "2024-01-02T00:00:00Z"}}, True)])
def test_what_came_since_is_not_overwritten(
    lake: Lake, people: People, make_pull: MakePull, late: dict[str, object], wins: bool
) -> None:
    lake.commit(make_pull("p1", {"Patient": [patient("1", active=1, **late), patient("2", active=1)]}), people)
    since = patient("1", active=True, **({"meta": {"lastUpdated": "2024-01-01T00:00:00Z"}} if late else {}))
    lake.commit(make_pull("p2", {"Patient": [since, patient("2", active=True)]}), people)
    lake.commit(make_pull("p3", {}), people, deletions={"Patient": ["2"]})
    edits = {
        ("p1-Patient.ndjson", 1): json.dumps(patient("1", active=False, **late)).encode(),
        ("p1-Patient.ndjson", 2): json.dumps(patient("2", active=False)).encode(),
    }
    ledger = lake.replay("p1", people, edits)
    assert ledger is not None
    assert ledger.balanced
    assert ledger.entries[0].rows_unchanged == (1 if wins else 2)
    assert actives(lake) == {"1": not wins}
