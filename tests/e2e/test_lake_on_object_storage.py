"""The lake on an S3 that is not ours: the same as in a folder, whatever fails, is killed or writes at the same time.

``make test-third-party`` installs the server and runs this; without it the tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConflictError, StorageError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.backup import backup, restore
from fhir_gateway.lake import places
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.versions import LakeVersion
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.lake_pulls import People, observation, patient
from tests.support.object_storage import FAULTS, DisturbedStorage, Fault, forgetful, make_bucket, moto, needs_moto
from tests.support.waiting import HANG

pytestmark = needs_moto

COLUMNS = {"Patient": ["gender", "_raw"], "Observation": ["status", "_raw"]}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def way(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DisturbedStorage]:
    """A way to the storage that can be disturbed, and the environment that leads there."""
    way = DisturbedStorage(server)
    with forgetful(monkeypatch, way.url):
        yield way
    way.close()


@pytest.fixture
def url(server: str, way: DisturbedStorage, request: pytest.FixtureRequest) -> str:
    """Where a lake may be made."""
    bucket = f"lake-{abs(hash(request.node.name)) % 10**9}"
    make_bucket(server, bucket)
    return f"s3://{bucket}/some/where"


Pull = Callable[[int], StagedPull]


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    """Pull after pull: everybody and everything first, then some of it changed, something new, and a bad line."""

    def made(number: int) -> StagedPull:
        people = range(6) if number == 0 else {number % 6, (number + 1) % 6}
        lines: dict[str, list[Any]] = {
            "Patient": [patient(str(one), gender=("female", "male", "other")[number % 3]) for one in people],
            "Observation": [
                observation(f"o{one}-{many}", f"Patient/{one}", status=("final", "amended", "corrected")[number % 3])
                for one in people
                for many in range(1 + number)
                if many < 4
            ],
        }
        files = []
        for name, rows in lines.items():
            path = tmp_path / f"{number}-{name}.ndjson"
            path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + b"no line\n")
            files.append(StagedFile(path, path.name, name, None))
        return StagedPull(f"pull-{number}", "a", "files", None, tuple(files))

    return made


def contents(lake: Lake, version: int | None = None) -> dict[str, Any]:
    """All that readers see."""
    rows = {name: lake.read(name, columns, version=version).to_pylist() for name, columns in COLUMNS.items()}
    return rows | {
        "by bucket": [lake.read("Observation", ["_raw"], bucket=k, version=version).num_rows for k in range(4)]
    }


def history(lake: Lake) -> list[Any]:
    """What came of each pull, and its refused lines."""
    versions = [(one.version, one.pull_id, one.ledger) for one in lake.versions()]
    return [versions, [(one.file, one.line, one.raw) for one in lake.quarantined()]]


def test_the_same_as_in_a_folder(url: str, pull: Pull, tmp_path: Path, way: DisturbedStorage) -> None:
    there, here = Lake.open(url, 4), Lake.open(tmp_path / "lake", 4)
    for number in range(4):
        gone = {"Observation": ["o0-0", "o5-0"]} if number == 2 else None
        ledgers = [lake.commit(pull(number), People(), deletions=gone) for lake in (there, here)]
        assert ledgers[0] == ledgers[1]
        assert contents(there) == contents(here)
    for lake in (there, here):
        moved = People()
        moved.same[("a", "1")] = "a/4"
        assert lake.reassign(moved) == 1
        assert lake.replay("pull-1", moved, {("1-Patient.ndjson", 3): json.dumps(patient("9")).encode()}) is not None
    for lake in (there, here):
        assert lake.compact(2)
        lake.commit(pull(4), moved)
        assert lake.compact(2)
        assert lake.retain() > 0
    again = Lake.open(url)
    assert history(again) == history(there) == history(here)
    for version in range(1, here.version + 1):
        assert contents(again, version) == contents(here, version)
    assert max(table.most_files for table in again.stored()) == 1
    some = here.read("Observation", ["_seq"], ordered=False)
    assert again.texts("Observation", some).num_rows == some.num_rows
    person = pa.array([People().person("a", "4")])
    asked: list[dict[str, Any]] = [
        {"members": person},
        {"members": person, "bucket": 2},
        {"coded": {"code.coding.code": frozenset({"4548-4"})}},
    ]
    for ask in asked:
        assert again.read("Observation", ["code"], **ask) == here.read("Observation", ["code"], **ask)
    assert (
        again.history("Observation", columns=["_raw"]).num_rows
        == here.history("Observation", columns=["_raw"]).num_rows
    )
    assert again.rows() == here.rows()
    assert again.commit(pull(3), People()) == ledgers[0], "a pull that is in changes nothing"
    assert again.version == here.version
    assert not [path for method, path in way.requests if "test" in path.lower() or "secret" in path.lower()]


def test_each_request_may_fail_once(url: str, pull: Pull, tmp_path: Path, way: DisturbedStorage) -> None:
    """Refused, answer lost, halves: tried again by the library, or the commit fails as a whole and is done again."""
    there, here = Lake.open(url, 4), Lake.open(tmp_path / "lake", 4)
    there.commit(pull(0), People())
    here.commit(pull(0), People())
    injected = 0
    for number in range(1, 17):
        fault: Fault = FAULTS[number % 4]
        unlucky = number * 7 // 2

        def disturb(at: int, method: str, path: str, unlucky: int = unlucky, fault: Fault = fault) -> Fault | None:
            return fault if at == unlucky else None

        way.begin()
        way.disturb = disturb
        try:
            there.commit(pull(number), People())
        except StorageError:
            injected += 1
            way.begin()
            there.commit(pull(number), People())
        else:
            injected += len(way.requests) > unlucky
        way.begin()
        here.commit(pull(number), People())
        if number % 4 == 0:
            assert contents(Lake.open(url)) == contents(here)
    assert history(Lake.open(url)) == history(here)
    assert contents(Lake.open(url)) == contents(here)
    assert injected == 16, "each was disturbed"


def way_ends(way: DisturbedStorage, end: int) -> None:
    """From this request on all are refused."""
    way.disturb = lambda at, method, path: "refused" if at >= end else None


def test_an_outage_leaves_the_lake_as_it_was(
    server: str, url: str, pull: Pull, tmp_path: Path, way: DisturbedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RETRIES", 0)
    there, here = Lake.open(url, 4), Lake.open(tmp_path / "lake", 4)
    there.commit(pull(0), People())
    here.commit(pull(0), People())
    before, number = contents(there), 1
    told: list[str] = []
    for end in range(0, 64, 4):
        way.begin()
        way_ends(way, end)
        try:
            there.commit(pull(number), People())
        except StorageError as error:
            told.append(str(error))
            way.begin()
            assert Lake.open(url).version == there.version == here.version
            assert contents(Lake.open(url)) == before
            continue
        way.begin()  # the storage went away when all was done
        here.commit(pull(number), People())
        before, number = contents(here), number + 1
        assert contents(Lake.open(url)) == before
    assert told
    assert not [text for text in told if "127.0.0.1" in text]
    there.commit(pull(number), People())
    here.commit(pull(number), People())
    assert history(there) == history(here)
    assert contents(there) == contents(here)


_COMMITTING = """
import sys
from pathlib import Path
from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.lake_pulls import People
url, pull, *files = sys.argv[1:]
staged = tuple(StagedFile(Path(one), Path(one).name, Path(one).stem.split("-")[1], None) for one in files)
Lake.open(url).commit(StagedPull(pull, "a", "files", None, staged), People())
"""
#: The request at which the process is killed, and whether the storage still does what it says.
MOMENTS = {
    "a file is written": ("/_bucket", False),
    "some files are written": ("/_bucket", True),
    "a table is written": ("/_delta_log/", True),
    "the links are written": ("/_lake/", True),
    "the version is not yet published": ("/_lake/v", False),
    "the version is published": ("/_lake/v", True),
}


class Killer:
    """Starts a commit in a process of its own, and kills it at its first request that writes ``part``."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str]) -> None:
        here = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMITTING, *arguments],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(here)},
            stderr=subprocess.DEVNULL,
        )
        self._started.set()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(HANG)

    def act(self, number: int, method: str, path: str) -> None:
        assert self._started.wait(HANG)
        assert self._process is not None
        if method == "PUT" and self._part in path:
            self._process.send_signal(signal.SIGKILL)
            self.wait()

    def refuse(self, number: int, method: str, path: str) -> Fault | None:
        """Nothing that the dead say is passed on."""
        self.act(number, method, path)
        assert self._process is not None
        return "refused" if self._process.poll() is not None else None


def test_a_committing_process_is_killed(url: str, pull: Pull, tmp_path: Path, way: DisturbedStorage) -> None:
    there, here = Lake.open(url, 4), Lake.open(tmp_path / "lake", 4)
    for number, (moment, (part, done)) in enumerate(MOMENTS.items()):
        before = history(there)
        staged = pull(number)
        way.begin()
        killer = Killer(part)
        if done:
            way.passed = killer.act
        else:
            way.disturb = killer.refuse
        killer.start([url, staged.id, *(str(one.path) for one in staged.files)])
        assert killer.wait() == -signal.SIGKILL, moment
        way.begin()
        if moment == "the version is published":
            assert history(Lake.open(url)) != before
        else:
            assert history(Lake.open(url)) == before, moment
        again = Lake.open(url)
        again.commit(staged, People())
        here.commit(staged, People())
        assert history(again) == history(here), moment
        assert contents(again) == contents(here), moment


class Meanwhile(People):
    """Somebody else does something while a commit asks who is who."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._acts = [act]

    def assign(self, source: str, patients: pa.Table) -> pa.Array:
        while self._acts:
            self._acts.pop()()
        return super().assign(source, patients)


def both_are_in(url: str, pull: Pull) -> None:
    """Pulls 0 to 2 are in, in some order, each once, and nothing else."""
    lake = Lake.open(url)
    assert sorted(one.pull_id for one in lake.versions()) == ["pull-0", "pull-1", "pull-2"]
    for name in COLUMNS:
        rows = lake.history(name, columns=["_pull"])
        written = {one.version: one.pull_id for one in lake.versions()}
        assert {(row["_seq"], row["_pull"]) for row in rows.to_pylist()} == set(written.items()), (
            "no row is of another version"
        )
    alone = [one.ledger for one in lake.versions()]
    assert all(ledger.balanced for ledger in alone)
    assert lake.read("Observation").num_rows == len({row["id"] for row in lake.read("Observation").to_pylist()})


def test_another_writer_whom_nothing_keeps_waiting(url: str, pull: Pull) -> None:
    """One writer commits wholly while the other is in the middle of it: the other begins anew."""
    first, second = Lake.open(url, 4), Lake.open(url)
    first.commit(pull(0), People())
    first.commit(pull(1), Meanwhile(lambda: second.commit(pull(2), People())))
    assert [one.pull_id for one in Lake.open(url).versions()] == ["pull-0", "pull-2", "pull-1"]
    both_are_in(url, pull)


def test_a_writer_who_was_thought_dead(url: str, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tables are written when another writer undoes that and publishes first."""
    first, second = Lake.open(url, 4), Lake.open(url)
    first.commit(pull(0), People())
    publish = first._log.add

    def late(version: LakeVersion) -> None:
        if version.pull_id == "pull-1" and second.version == 1:
            second.commit(pull(2), People())
        publish(version)

    monkeypatch.setattr(first._log, "add", late)
    first.commit(pull(1), People())
    assert [one.pull_id for one in Lake.open(url).versions()] == ["pull-0", "pull-2", "pull-1"]
    both_are_in(url, pull)


def test_a_writer_who_publishes_after_it_was_undone(url: str, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other has undone our tables, but we publish first: what we name is still there, also of new tables."""
    first, second = Lake.open(url, 4), Lake.open(url)
    publish = first._log.add
    waiting: list[LakeVersion] = []
    monkeypatch.setattr(first._log, "add", waiting.append)
    first.commit(pull(0), People())
    assert Lake.open(url).version == 0
    second.commit(pull(1), Meanwhile(lambda: publish(waiting.pop())))
    second.commit(pull(2), People())
    both_are_in(url, pull)


def test_two_writers_at_once_all_the_time(url: str, pull: Pull) -> None:
    """Without a guard, as often as it takes; what is in is in once."""
    Lake.open(url, 4).commit(pull(0), People())
    pulls = {number: pull(number) for number in range(1, 7)}

    def write(numbers: range) -> None:
        lake = Lake.open(url)
        for number in numbers:
            done = False
            while not done:
                with suppress(ConflictError):
                    lake.commit(pulls[number], People())
                    done = True

    writers = [threading.Thread(target=write, args=(range(first, 7, 2),)) for first in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(HANG)
    lake = Lake.open(url)
    assert sorted(one.pull_id for one in lake.versions()) == sorted(f"pull-{number}" for number in range(7))
    written = {one.version: one.pull_id for one in lake.versions()}
    for name in COLUMNS:
        rows = lake.history(name, columns=["_pull"]).to_pylist()
        assert {(row["_seq"], row["_pull"]) for row in rows} <= set(written.items())


def test_a_gateway_on_object_storage_and_its_backup(url: str, tmp_path: Path, server: str) -> None:
    """By one URL: writers wait for each other by a lock of the control plane; a backup brings all back elsewhere."""
    gateway = Gateway(Settings(data_dir=tmp_path / "data", lake_url=url, lake_buckets=4))
    path = tmp_path / "0-Patient.ndjson"
    path.write_text("".join(json.dumps(patient(str(one))) + "\n" for one in range(5)))
    with gateway.lake.standing_still():
        other = Gateway(Settings(data_dir=tmp_path / "data", lake_url=url))
        started = threading.Event()

        def commit() -> None:
            started.set()
            staged = (StagedFile(path, path.name, "Patient", None),)
            other.lake.commit(StagedPull("one", "a", "files", None, staged), other.persons)

        writer = threading.Thread(target=commit)
        writer.start()
        assert started.wait(HANG)
        assert gateway.lake.version == 0
    writer.join(HANG)
    assert gateway.lake.read("Patient").num_rows == 5
    made = backup(gateway, tmp_path / "backup")
    assert made.lake_version == 1
    make_bucket(server, "another")
    elsewhere = Settings(data_dir=tmp_path / "restored", lake_url="s3://another/place")
    restore(tmp_path / "backup", elsewhere)
    restored = Gateway(elsewhere)
    assert restored.lake.read("Patient", ["_raw"]).equals(gateway.lake.read("Patient", ["_raw"]))
