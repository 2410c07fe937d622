"""A lake that is parted into more buckets: nothing that is read is different, of no version; a kill costs nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fhir_gateway.errors import ConfigurationError, InputError
from fhir_gateway.lake import store
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.links import read_links
from fhir_gateway.lake.store import Lake, buckets_for
from fhir_gateway.lake.tables import ResourceTable
from fhir_gateway.lake.versions import VersionLog
from tests.support.lake_pulls import MakePull, People, patient
from tests.unit.lake.test_compacting import COLUMNS, pull_of


def seen(lake: Lake, version: int) -> list[Any]:
    """All that is read of a version, but in which bucket."""
    buckets = range(lake.buckets_of(version))
    members = lake.members(version=version)
    coded = {"code.coding.code": frozenset({"4548-4"})}
    found: list[Any] = [lake.types(version), members.to_pylist()]
    for name, columns in COLUMNS.items():
        whole = lake.read(name, columns, version=version)
        found.append(whole.drop_columns("_bucket").to_pylist())
        if name == "Organization":
            continue
        parts = pa.concat_tables(lake.read(name, columns, version=version, bucket=bucket) for bucket in buckets)
        of_members = whole.filter(whole["_member"].is_valid())
        assert sorted(map(str, parts.to_pylist())) == sorted(map(str, of_members.to_pylist()))
        for member, bucket in zip(of_members["_member"].to_pylist(), of_members["_bucket"].to_pylist(), strict=True):
            assert bucket == bucket_of(member, len(buckets))
        found.append(
            lake.read(name, ["_raw"], version=version, members=members[:2]).drop_columns("_bucket").to_pylist()
        )
    found.append(sorted(lake.read("Observation", ["_raw"], version=version, coded=coded)["_raw"].to_pylist()))
    return found


def told(lake: Lake, version: int) -> list[Any]:
    """What became of every row: its text, its place, and what a version wrote."""
    found: list[Any] = []
    for name in COLUMNS:
        rows = lake.read(name, ["_seq", "_raw"], version=version)
        texts = lake.texts(name, rows.drop_columns("_raw"), version)
        columns = ["_source", "id", "_member", "_seq", "_raw"]
        stated, texts_of = (sorted(map(str, one.select(columns).to_pylist())) for one in (rows, texts))
        assert stated == texts_of
        found.append(stated)
        live = lake.history(name, columns=["_raw"], version=version).drop_columns("_bucket")
        live = live.filter(pc.invert(live["_deleted"]))
        found.append(sorted(map(str, live.to_pylist())))
    found += [lake.changes(since, version).members.to_pylist() for since in range(version)]
    return found


@pytest.mark.parametrize("seed", [0, 2])
def test_nothing_that_is_read_is_different(tmp_path: Path, make_pull: MakePull, seed: int) -> None:
    """Pulls, people who move, deletions, compaction, retention: the same in a lake that is parted twice on the way."""
    draw = random.Random(seed)  # noqa: S311 - made-up pulls
    plain, parted = Lake.open(tmp_path / "plain", buckets=2), Lake.open(tmp_path / "parted", buckets=2)
    people, same = People(), {}
    for number in range(10):
        pull = pull_of(make_pull, number, draw)
        gone = {"Observation": [f"o{draw.randrange(9)}-1"], "Organization": ["g1"]} if number % 3 == 2 else None
        if number in (2, 4, 6, 8):
            people.same[("a", str(draw.randrange(9)))] = f"a/{draw.randrange(9)}"
        assert len({lake.commit(pull, people, deletions=gone) for lake in (plain, parted)}) == 1
        kinds = {3: 4, 6: 8}
        if number in kinds:
            assert parted.rebucket(kinds[number])
            assert (parted.buckets, parted.described(parted.version).kind) == (kinds[number], "rebucket")
            assert parted.rebucket(kinds[number]) == ()
            plain.commit(make_pull(f"nothing-{number}", {"Organization": []}), people)  # versions go side by side
        if number in (1, 4, 8) and seed:
            plain.compact(2)
            parted.compact(2)
            while plain.version < parted.version:
                plain.commit(make_pull(f"nothing-{plain.version}", {"Organization": []}), people)
            while parted.version < plain.version:
                parted.commit(make_pull(f"nothing-{parted.version}", {"Organization": []}), people)
        if number in (5, 9) and seed == 2:
            plain.retain()
            parted.retain()
        same[number] = (plain.version, parted.version)
    again = Lake.open(tmp_path / "parted")
    for before, after in same.values():
        assert before == after
        assert seen(again, after) == seen(plain, before)
    assert told(again, again.version) == told(plain, plain.version)


class Killed(BaseException):
    """What ends a process, as far as it can tell."""


@pytest.mark.parametrize("step", [0, 3, 5])
def test_whoever_is_killed_has_done_nothing(
    tmp_path: Path, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """After so many steps: copies, tables, the version itself."""
    draw, people = random.Random(7), People()  # noqa: S311 - made-up pulls
    lake = Lake.open(tmp_path / "lake", buckets=2)
    for number in range(3):
        lake.commit(pull_of(make_pull, number, draw), people)
    before, reader = seen(lake, 3), Lake.open(tmp_path / "lake")
    left = [step]

    def dying(true: Any) -> Any:
        def work(*given: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return true(*given)

        return work

    with monkeypatch.context() as patched:
        patched.setattr(store, "copied", dying(store.copied))
        patched.setattr(ResourceTable, "_actions", dying(ResourceTable._actions))
        patched.setattr(VersionLog, "add", dying(VersionLog.add))
        with pytest.raises(Killed):
            lake.rebucket(4)
    for one in (lake, reader, Lake.open(tmp_path / "lake")):
        assert (one.version, one.buckets, seen(one, 3)) == (3, 2, before)
    pull = pull_of(make_pull, 3, draw)
    other = Lake.open(tmp_path / "lake")
    other.commit(pull, people)
    other.rebucket(6)
    assert (reader.version, reader.buckets) == (5, 6), "who has it open sees it too"
    assert seen(reader, 3) == before
    assert seen(reader, 5) == seen(reader, 4)


def test_links_say_the_buckets_of_the_version(tmp_path: Path, make_pull: MakePull) -> None:
    lake = Lake.open(tmp_path / "lake", buckets=2)
    lake.commit(make_pull("one", {"Patient": [patient(str(one)) for one in range(20)]}), People())
    lake.rebucket(8)
    folder = tmp_path / "lake" / "_lake"
    links = read_links(folder / str(lake.described(2).links))
    for member, bucket in zip(links["_member"].to_pylist(), links["_bucket"].to_pylist(), strict=True):
        assert bucket == bucket_of(member, 8)
    assert read_links(folder / str(lake.described(1).links))["_bucket"].to_pylist() != links["_bucket"].to_pylist()


@pytest.mark.parametrize("buckets", [1, 3, 5, 8192])
def test_buckets_are_only_parted(tmp_path: Path, make_pull: MakePull, buckets: int) -> None:
    lake = Lake.open(tmp_path / "lake", buckets=2)
    with pytest.raises(InputError, match="empty"):
        lake.rebucket(4)
    lake.commit(make_pull("one", {"Patient": [patient("1")]}), People())
    with pytest.raises(InputError, match="2 buckets"):
        lake.rebucket(buckets)
    assert lake.version == 1


@pytest.mark.parametrize(
    ("members", "buckets"), [(0, 8), (100_000, 8), (100_001, 16), (1_000_000, 128), (10_000_000, 1024), (10**9, 4096)]
)
def test_buckets_by_the_population(members: int, buckets: int) -> None:
    assert buckets_for(members) == buckets


def test_the_first_pull_decides(tmp_path: Path, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody said how many; a lake that is outgrown is told of, and parted when somebody asks for it."""
    monkeypatch.setattr(store, "MEMBERS_OF_A_BUCKET", 2)
    few, more = ([patient(f"{one}") for one in range(count)] for count in (20, 80))
    lake, asked = Lake.open(tmp_path / "lake"), Lake.open(tmp_path / "asked", buckets=3)
    for one in (lake, asked):
        one.commit(make_pull("one", {"Patient": few}), People())
    again = Lake.open(tmp_path / "lake")
    assert (lake.buckets, again.buckets, again.advised()) == (16, 16, 16)
    assert (asked.buckets, asked.advised()) == (3, 12)
    assert sorted(set(again.read("Patient")["_bucket"].to_pylist())) != [0]
    again.commit(make_pull("two", {"Patient": more}), People())
    assert (again.buckets, again.advised()) == (16, 64)
    again.rebucket()
    assert (again.buckets, again.advised(), again.rebucket()) == (64, 64, ())
    assert Lake.open(tmp_path / "lake", buckets=64).version == 3
    with pytest.raises(ConfigurationError, match="buckets"):
        Lake.open(tmp_path / "lake", buckets=16)
