"""Commits: every line accounted for, newest content kept, nothing half done."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.errors import ConfigurationError, InputError, LedgerError
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.versions import VersionLog
from fhir_gateway.sources.models import Ledger, StagedFile, StagedPull
from tests.support.lake_pulls import Line, MakePull, People, line_bytes, observation, patient


def counts(ledger: Ledger, resource_type: str | None = "Patient") -> tuple[int, int, int, int, int]:
    """Lines read, stored, replaced, unchanged, quarantined."""
    (entry,) = [entry for entry in ledger.entries if entry.resource_type == resource_type]
    assert entry.balanced
    return (
        entry.lines_read,
        entry.rows_stored,
        entry.rows_replaced,
        entry.rows_unchanged,
        entry.rows_quarantined,
    )


def at(day: int, identifier: str = "1", **elements: Any) -> dict[str, Any]:
    return patient(identifier, meta={"lastUpdated": f"2024-01-{day:02d}T00:00:00Z"}, **elements)


def raws(lake: Lake, resource_type: str = "Patient", version: int | None = None) -> dict[str, str]:
    table = lake.read(resource_type, ["_raw"], version=version)
    return dict(zip(table["id"].to_pylist(), table["_raw"].to_pylist(), strict=True))


def test_a_pull_is_stored_with_its_exact_text(lake: Lake, people: People, make_pull: MakePull) -> None:
    text = (
        '{"resourceType":"Observation", "id":"o1","status":"final","code":{"text":"é"},"valueQuantity":{"value":1.00}}'
    )
    ledger = lake.commit(make_pull("p1", {"Patient": [patient("1")], "Observation": [text + "\r"]}), people)
    assert ledger.balanced
    assert counts(ledger) == (1, 1, 0, 0, 0)
    assert lake.version == 1
    assert lake.types() == ("Observation", "Patient")
    assert raws(lake, "Observation") == {"o1": text}


def test_bad_lines_are_quarantined_and_counted(lake: Lake, people: People, make_pull: MakePull) -> None:
    lines: list[Line] = [
        patient("1"),
        "{not json",
        patient("2", gender="F"),
        "",
        patient("3", birthDate="2023-02-30"),
        observation("o1"),
        {"resourceType": "Patient"},
        patient("4"),
    ]
    ledger = lake.commit(make_pull("p1", {"Patient": lines}), people)
    assert counts(ledger) == (7, 2, 0, 0, 5)
    assert [(q.line, q.rule) for q in lake.quarantined("p1")] == [
        (2, "not-json"),
        (3, "binding"),
        (5, "format"),
        (6, "resource-type"),
        (7, "required"),
    ]
    assert lake.quarantined("p1")[0].raw == b"{not json"
    assert lake.quarantined() == lake.quarantined("p1")
    assert lake.quarantined("other") == []
    assert lake.members().to_pylist() == sorted([people.person("a", "1"), people.person("a", "4")])


def test_mixed_types_in_a_file_that_promises_none(lake: Lake, people: People, make_pull: MakePull) -> None:
    lines: list[Line] = [
        observation("o1"),
        patient("1"),
        "{",
        {"resourceType": "Organization", "id": "org", "name": "x"},
    ]
    ledger = lake.commit(make_pull("p1", {None: lines}), people)
    assert [entry.resource_type for entry in ledger.entries] == [None, "Observation", "Organization", "Patient"]
    assert counts(ledger, None) == (1, 0, 0, 0, 1)
    assert counts(ledger, "Observation") == (1, 1, 0, 0, 0)


def test_the_same_pull_again_changes_nothing(lake: Lake, people: People, make_pull: MakePull) -> None:
    pull = make_pull("p1", {"Patient": [patient("1")]})
    first = lake.commit(pull, people)
    assert lake.commit(pull, people) == first
    assert Lake.open(lake.root, buckets=4).commit(pull, people) == first
    assert lake.version == 1


def test_the_same_lines_in_another_pull_are_unchanged(lake: Lake, people: People, make_pull: MakePull) -> None:
    files: dict[str | None, Any] = {"Patient": [patient("1"), patient("2")], "Observation": [observation("o1")]}
    lake.commit(make_pull("p1", files), people)
    before = lake.read("Patient", ["_raw", "_seq"])
    ledger = lake.commit(make_pull("p2", files), people)
    assert counts(ledger) == (2, 0, 0, 2, 0)
    assert counts(ledger, "Observation") == (1, 0, 0, 1, 0)
    assert lake.version == 2
    assert lake.read("Patient", ["_raw", "_seq"]) == before


def test_two_sources_do_not_replace_each_other(lake: Lake, people: People, make_pull: MakePull) -> None:
    lake.commit(make_pull("p1", {"Patient": [patient("1", active=True)]}, source="a"), people)
    ledger = lake.commit(make_pull("p2", {"Patient": [patient("1", active=False)]}, source="b's"), people)
    assert counts(ledger) == (1, 1, 0, 0, 0)
    table = lake.read("Patient", ["active"])
    assert sorted(zip(table["_source"].to_pylist(), table["active"].to_pylist(), strict=True)) == [
        ("a", True),
        ("b's", False),
    ]


@pytest.mark.parametrize(
    ("old", "new", "fate", "wins"),
    [
        (at(1, active=True), at(2, active=False), "replaced", "new"),
        (at(2, active=True), at(1, active=False), "unchanged", "old"),
        (at(1, active=True), at(1, active=False), "replaced", "new"),
        (at(2, active=True), patient("1", active=False), "replaced", "new"),
        (patient("1", meta={"versionId": "10"}), patient("1", meta={"versionId": "9"}), "unchanged", "old"),
        (patient("1", meta={"versionId": "9"}), patient("1", meta={"versionId": "10"}), "replaced", "new"),
        (patient("1", meta={"versionId": "b"}), patient("1", meta={"versionId": "a"}), "replaced", "new"),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_the_newer_version_wins(
    lake: Lake, people: People, make_pull: MakePull, old: Line, new: Line, fate: str, wins: str, apart: bool
) -> None:
    if apart:
        lake.commit(make_pull("p1", {"Patient": [old]}), people)
        ledger = lake.commit(make_pull("p2", {"Patient": [new]}), people)
        assert counts(ledger) == ((1, 0, 1, 0, 0) if fate == "replaced" else (1, 0, 0, 1, 0))
    else:
        lake.commit(make_pull("p1", {"Patient": [old, new]}), people)
        if "lastUpdated" not in str(new) and "lastUpdated" in str(old):
            wins = "old"  # inside a pull the dated version is taken for the newer
    assert raws(lake) == {"1": json.dumps(new if wins == "new" else old)}


def test_duplicates_in_a_pull(lake: Lake, people: People, make_pull: MakePull) -> None:
    lines = [
        patient("same"),
        patient("same"),
        patient("other", active=True),
        patient("other", active=False),
        at(1, "dated"),
        at(3, "dated", active=True),
        at(2, "dated", active=False),
    ]
    ledger = lake.commit(make_pull("p1", {"Patient": lines}), people)
    assert counts(ledger) == (7, 3, 1, 3, 0)
    assert raws(lake) == {"same": json.dumps(lines[0]), "other": json.dumps(lines[3]), "dated": json.dumps(lines[5])}


def test_an_empty_file_is_recorded(lake: Lake, people: People, make_pull: MakePull) -> None:
    ledger = lake.commit(
        make_pull("p1", {"Patient": [patient("1")], "Observation": []}, counts={"Observation": 0}), people
    )
    assert counts(ledger, "Observation") == (0, 0, 0, 0, 0)
    assert lake.types() == ("Patient",)
    assert lake.version == 1


@pytest.mark.parametrize("lines", [[], [patient("1")], [patient("1"), patient("2"), "{"]])
def test_a_count_that_differs_from_the_manifest_commits_nothing(
    lake: Lake, people: People, make_pull: MakePull, lines: list[Line]
) -> None:
    with pytest.raises(LedgerError, match=r"p1-Patient\.ndjson \[manifest-count\]"):
        lake.commit(make_pull("p1", {"Patient": lines}, counts={"Patient": 2}), people)
    assert lake.version == 0
    assert lake.types() == ()


def test_manifest_counts_of_several_files_add_up(
    lake: Lake, people: People, make_pull: MakePull, tmp_path: Path
) -> None:
    one = make_pull("p1", {"Patient": [patient("1"), "{"]}, counts={"Patient": 2}).files
    two = make_pull("p2", {"Patient": [patient("2")]}, counts={"Patient": 1}).files
    ledger = lake.commit(StagedPull("p", "a", "bulk", None, one + two), people)
    assert ledger.entries[0].manifest_count == 3
    assert counts(ledger) == (3, 2, 0, 0, 1)


def test_a_truncated_gzip_commits_nothing(lake: Lake, people: People, make_pull: MakePull) -> None:
    pull = make_pull("p1", {"Organization": [{"resourceType": "Organization", "id": "x", "name": "y"}], "Patient": []})
    broken = pull.files[1].path
    broken.write_bytes(gzip.compress(line_bytes(patient("1")) + b"\n" + line_bytes(patient("2")) + b"\n")[:-12])
    with pytest.raises(InputError, match=r"^p1-Patient\.ndjson \[truncated\]: "):  # no line was reached
        lake.commit(pull, people)
    assert lake.version == 0
    broken.write_bytes(line_bytes(patient("1")))
    lake.commit(pull, people)
    assert lake.types() == ("Organization", "Patient")


@pytest.mark.parametrize("first", [True, False])
def test_a_crash_before_the_manifest_leaves_the_lake_as_it_was(
    lake: Lake, people: People, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    if not first:
        lake.commit(make_pull("p0", {"Patient": [patient("1"), patient("0")]}), people)
    before = raws(lake)
    pull = make_pull("p1", {"Patient": [patient("1", active=True)], "Observation": [observation("o1")]})
    with monkeypatch.context() as patch:
        patch.setattr(VersionLog, "add", lambda self, version: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lake.commit(pull, people)
    reopened = Lake.open(lake.root, buckets=4)
    assert reopened.version == (0 if first else 1)
    assert raws(reopened) == before
    assert reopened.read("Observation").num_rows == 0
    other = make_pull("p2", {"Patient": [patient("2")]})
    assert counts(reopened.commit(other, people)) == (1, 1, 0, 0, 0)
    assert raws(reopened) == before | {"2": json.dumps(patient("2"))}
    assert not (lake.root / "Observation").exists()
    assert counts(reopened.commit(pull, people))[0] == 1
    assert raws(reopened, "Observation") == {"o1": json.dumps(observation("o1"))}


def test_a_crash_while_a_table_is_made(
    lake: Lake, people: People, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = make_pull("p1", {"Patient": [patient("1")]})
    with monkeypatch.context() as patch:
        patch.setattr("fhir_gateway.lake.tables.found_table", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lake.commit(pull, people)
    assert (lake.root / "Patient").exists()
    lake.commit(pull, people)
    assert lake.members().to_pylist() == [people.person("a", "1")]


def test_old_versions_stay_readable(lake: Lake, people: People, make_pull: MakePull) -> None:
    lake.commit(make_pull("p1", {"Patient": [at(1)]}), people)
    lake.commit(make_pull("p2", {"Patient": [at(2), patient("2")], "Observation": [observation("o")]}), people)
    assert raws(lake, version=1) == {"1": json.dumps(at(1))}
    assert raws(lake, version=2).keys() == {"1", "2"}
    assert lake.types(version=1) == ("Patient",)
    assert lake.read("Observation", version=1).num_rows == 0
    assert len(lake.members(version=1)) == 1
    assert [version.pull_id for version in lake.versions()] == ["p1", "p2"]


def test_progress_is_told(lake: Lake, people: People, make_pull: MakePull) -> None:
    told: list[tuple[str, int]] = []
    lake.commit(
        make_pull("p1", {"Patient": [patient("1"), "{"]}), people, lambda name, lines: told.append((name, lines))
    )
    assert told[-1] == ("Patient", 2)


def test_a_lake_keeps_its_buckets(lake: Lake) -> None:
    with pytest.raises(ConfigurationError, match="4 buckets, not 8"):
        Lake.open(lake.root, buckets=8)
    assert Lake.open(lake.root.as_uri(), buckets=4).root == lake.root
    assert Lake.open(lake.root).buckets == 4, "who does not say takes what is there"
    with pytest.raises(ConfigurationError, match="ftp://"):
        Lake.open("ftp://host/lake")


def test_rows_parted_before_sorting_are_the_same_rows(
    people: People, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """First rows are put in order by us, others by DuckDB, and go through the disk if there are too many for a part."""
    organizations = [{"resourceType": "Organization", "id": str(i), "name": "x"} for i in range(9)]
    observations = [observation(f"o{i}", f"Patient/{i * 7 % 30}", valueString=str(i)) for i in range(200)]
    pull = make_pull("p1", {"Observation": observations, "Organization": organizations})
    tables = []
    for first, size in ((True, 1 << 20), (True, 100), (True, 7), (False, 1 << 20), (False, 100), (False, 7)):
        monkeypatch.setattr("fhir_gateway.lake.staging.StagedRows.all_different", lambda _, first=first: first)
        monkeypatch.setattr("fhir_gateway.lake.parting.PART_ROWS", size)
        monkeypatch.setattr("fhir_gateway.lake.staging._HELD_BYTES", size)
        lake = Lake.open(tmp_path / f"lake-{first}-{size}", buckets=4)
        assert lake.commit(pull, people).balanced
        tables.append([lake.read(name, ["_raw", *more]) for name, more in _PARTED.items()])
    assert all(table == tables[0] for table in tables)
    assert [table.num_rows for table in tables[0]] == [200, 9]


_PARTED = {"Observation": ["valueString", "subject"], "Organization": ["name"]}


_VERSIONS = st.builds(
    lambda identifier, day, active: (at(day, identifier) if day else patient(identifier)) | {"active": active},
    st.sampled_from(["1", "2", "3"]),
    st.integers(0, 3),
    st.booleans(),
)
_LINES = st.lists(st.one_of(_VERSIONS, st.just("{"), _VERSIONS.map(lambda p: p | {"gender": "F"})), max_size=8)


@given(st.lists(_LINES, min_size=1, max_size=3))
@settings(max_examples=12)
def test_ingest_twice_is_ingest_once(tmp_path_factory: pytest.TempPathFactory, pulls: list[list[Line]]) -> None:
    """Every ledger balances; pulling the last pull again, under a new name, changes no row."""
    folder = tmp_path_factory.mktemp("twice")
    lake = Lake.open(folder / "lake", buckets=2)
    people = People()
    staged = []
    for number, lines in enumerate([*pulls, pulls[-1]]):
        path = folder / f"{number}.ndjson"
        path.write_bytes(b"\n".join(map(line_bytes, lines)))
        staged.append(StagedPull(str(number), "a", "files", None, (StagedFile(path, path.name),)))
    for pull in staged[:-1]:
        assert lake.commit(pull, people).balanced
    once = lake.read("Patient", ["_raw", "_seq"])
    ledger = lake.commit(staged[-1], people)
    assert ledger.balanced
    assert sum(entry.rows_stored for entry in ledger.entries) == 0
    assert lake.read("Patient", ["_raw", "_seq"]) == once


@pytest.mark.parametrize("few", [0, 1 << 16])
def test_stored_rows_are_found_alike_by_few_ids_and_by_many(
    lake: Lake, people: People, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    for module in ("tables", "commit"):
        monkeypatch.setattr(f"fhir_gateway.lake.{module}.FEW_IDS", few)
    lake.commit(make_pull("p1", {"Patient": [at(1), at(1, "2"), at(1, "3")]}), people)
    lake.commit(make_pull("p2", {"Patient": [at(3, active=True)]}), people)
    ledger = lake.commit(make_pull("p3", {"Patient": [at(2), at(4, "2"), at(1, "3"), at(1, "4")]}), people, None, {})
    assert counts(ledger) == (4, 1, 1, 2, 0)
    lake.commit(make_pull("p4", {"Patient": []}), people, None, {"Patient": ["1", "absent"]})
    assert set(raws(lake)) == {"2", "3", "4"}
    assert counts(lake.commit(make_pull("p5", {"Patient": [at(5), at(5, "2")]}), people)) == (2, 1, 1, 0, 0)
