"""Fewer files, and nothing that is read is different: not what is, not what was, not what became of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.lake import compacting
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.versions import VersionLog
from tests.support.lake_pulls import MakePull, People, observation, patient

COLUMNS = {
    "Patient": ["gender", "_raw", "_seq"],
    "Observation": ["status", "valueQuantity", "_raw", "_seq"],
    "Organization": ["name", "_raw", "_seq"],
}


def pull_of(make_pull: MakePull, number: int, draw: random.Random) -> Any:
    """Some patients, what was observed of them (with other elements each time), organizations and nobody's rows."""
    people = draw.sample(range(9), 3)
    seen = [
        observation(
            f"o{one}-{draw.randrange(4)}",
            f"Patient/{one}",
            status=draw.choice(["final", "amended"]),
            **({"valueQuantity": {"value": number}} if number % 2 else {"valueString": str(number)}),
        )
        for one in people
        for _ in range(2)
    ]
    nobody = observation(f"nobody-{draw.randrange(3)}", status=draw.choice(["final", "amended"]))
    del nobody["subject"]
    offices = [{"resourceType": "Organization", "id": f"g{draw.randrange(4)}", "name": str(number)}]
    lines = {
        "Patient": [patient(str(one), gender=draw.choice(["female", "male"])) for one in people],
        "Observation": [*{one["id"]: one for one in [*seen, nobody]}.values()],
        "Organization": offices,
    }
    return make_pull(f"pull-{number}", lines)


def seen(lake: Lake, version: int) -> list[Any]:
    """All that is read of a version."""
    found: list[Any] = []
    for name, columns in COLUMNS.items():
        found += [lake.read(name, columns, version=version).to_pylist()]
        found += [lake.read(name, columns, version=version, bucket=bucket).to_pylist() for bucket in range(3)]
        found += [lake.read(name, ["id"], version=version, sparse=True).to_pylist()]
    members = lake.members(version=version)
    found += [lake.read("Observation", ["_raw"], version=version, members=members[:2]).to_pylist()]
    coded = {"code.coding.code": frozenset({"4548-4"})}
    found += [lake.read("Observation", ["_raw"], version=version, coded=coded).to_pylist()]
    return found


def told(lake: Lake, version: int) -> list[Any]:
    """What became of every row, and how it was."""
    found: list[Any] = []
    for name in COLUMNS:
        rows = lake.history(name, columns=["_raw"], version=version).to_pylist()
        found.append(sorted(map(str, rows)))
        rows = lake.history(name, ids=pa.array(["o1-1", "g1", "4"]), version=version).to_pylist()
        found.append(sorted(map(str, rows)))
        found.append([(one.seq, one.number, one.file.bucket, one.file.rows) for one in lake.journal(name, version)])
        some = lake.read(name, ["_seq"], version=version)
        found.append(sorted(map(str, lake.texts(name, some, version).to_pylist())))
        found.append(sorted(map(str, lake.history(name, since=version // 2, version=version).to_pylist())))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_is_read_is_different(
    tmp_path: Path, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(compacting, "_PIECE", 4)
    draw = random.Random(seed)  # noqa: S311 - made-up pulls
    plain, small = Lake.open(tmp_path / "plain", buckets=3), Lake.open(tmp_path / "small", buckets=3)
    people = People()
    written: dict[int, int] = {}  # version of a pull in the one lake, and in the other
    versions: dict[int, int] = {}  # the same, when the other was put together
    for number in range(12):
        pull = pull_of(make_pull, number, draw)
        gone = {"Observation": [f"o{draw.randrange(9)}-1"], "Organization": ["g1"]} if number % 3 == 2 else None
        if number in (4, 9):
            people.same[("a", str(draw.randrange(9)))] = f"a/{draw.randrange(9)}"
        ledgers = [lake.commit(pull, people, deletions=gone) for lake in (plain, small)]
        assert ledgers[0] == ledgers[1]
        written[plain.version] = versions[plain.version] = small.version
        if number in (3, 4, 8, 11):
            version = small.version
            assert bool(small.compact(2)) is (small.version > version)
            versions[plain.version] = small.version
            assert small.compact(2) == (), "there is nothing left to do"
        if number == 8:
            assert small.retain() > 0
            assert small.retain() == 0
    again = Lake.open(tmp_path / "small")
    assert max(table.most_files for table in again.stored()) == 1
    for before, after in versions.items():
        assert seen(again, after) == [_renumbered(rows, written) for rows in seen(plain, before)]
    last = told(again, again.version)
    assert len(last) == len(told(plain, plain.version))
    for kind in range(0, len(last), 5):
        assert len(last[kind]) == len(told(plain, plain.version)[kind])
    changes = [lake.changes(since).members.to_pylist() for lake, since in ((plain, 2), (again, versions[2]))]
    assert changes[0] == changes[1]


def _renumbered(rows: Any, written: dict[int, int]) -> Any:
    """Rows with the version that wrote them as the other lake numbers it."""
    if not rows or "_seq" not in rows[0]:
        return rows
    return [row | {"_seq": written[row["_seq"]]} for row in rows]


def test_what_is_told_is_as_before(tmp_path: Path, make_pull: MakePull) -> None:
    """The history of one lake, before its files are put together and after, and after copies are gone."""
    draw = random.Random(7)  # noqa: S311 - made-up pulls
    lake = Lake.open(tmp_path / "lake", buckets=3)
    for number in range(8):
        lake.commit(pull_of(make_pull, number, draw), People(), deletions={"Observation": ["o1-1"]})
    before = {version: (seen(lake, version), told(lake, version)) for version in (3, 8)}
    lake.compact(2)
    middle = lake.version
    lake.commit(pull_of(make_pull, 8, draw), People())
    lake.compact(2)
    reader = Lake.open(tmp_path / "lake")
    for opened in (lake, reader):
        for version, known in before.items():
            assert (seen(opened, version), told(opened, version)) == known
    read = seen(reader, middle)
    assert read == before[8][0]
    assert lake.retain() > 0
    for opened in (reader, Lake.open(tmp_path / "lake")):
        assert seen(opened, middle) == read, "copies are gone; what was written is not"
        assert told(opened, 8) == before[8][1]


def test_killed_on_the_way(tmp_path: Path, make_pull: MakePull, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each table: what was done stays, the rest is done the next time, nothing else is seen."""
    draw = random.Random(3)  # noqa: S311 - made-up pulls
    lake = Lake.open(tmp_path / "lake", buckets=2)
    for number in range(5):
        lake.commit(pull_of(make_pull, number, draw), People())
    known = seen(lake, 5)
    publish = VersionLog.add
    for survived in range(2):
        left = [survived]

        def die(self: VersionLog, version: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            publish(self, version)

        with monkeypatch.context() as patch:
            patch.setattr(VersionLog, "add", die)
            with pytest.raises(KeyboardInterrupt):
                Lake.open(tmp_path / "lake").compact(2)
        again = Lake.open(tmp_path / "lake")
        assert seen(again, again.version) == known
        again.commit(make_pull(f"empty-{survived}", {"Patient": []}), People())
    again.compact(2)
    assert seen(again, again.version) == known
    assert again.retain(age=0) > 0, "files of those who were killed"
    assert seen(Lake.open(tmp_path / "lake"), again.version) == known
    assert seen(Lake.open(tmp_path / "lake"), 5) == known
