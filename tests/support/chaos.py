"""The real command line against a source of faults, killed on the way: ``python -m tests.support.chaos --rounds 20``.

A round pulls until the pull is committed, however often that takes; faults and kills come from a seed. What must hold
then is checked by :func:`check`: the lake holds what a quiet pull of the same resources brings, once, and its ledger
balances.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.sources.endpoint import Endpoint
from fhir_gateway.sources.vendors import Mode
from tests.support.misbehaving import Fault, MisbehavingSource, running
from tests.support.moments import Moment, die, stop_at, stop_at_step
from tests.support.waiting import HANG, until

PULL = ("pull", "ehr", "--mode", "bulk")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fhir_gateway.cli.app", "fhir_gateway.jobs.durable", "tests.support.chaos"])

NOW = {"Retry-After": "0"}
OUTCOME = json.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "transient"}]})
EVERYWHERE: tuple[Callable[[], Fault], ...] = (
    lambda: Fault(502, NOW),
    lambda: Fault(503, NOW),
    lambda: Fault(429, NOW),
    lambda: Fault(500, NOW, OUTCOME.encode()),
    lambda: Fault(truncate=True),
    lambda: Fault(stall=0.2),
)
"""Faults of any request."""
SOMEWHERE: dict[str, tuple[Callable[[], Fault], ...]] = {
    "poll": (lambda: Fault(401), lambda: Fault(202, {"X-Progress": "99 %"})),
    "file": (lambda: Fault(401), lambda: Fault(410), lambda: Fault(200, body=b"")),
}
"""Faults of one kind of request: a token that was forgotten, a link that expired, a body cut at a line's end."""


class ChaoticSource(MisbehavingSource):
    """Each request meets each of its faults with a chance of `rate`; `on_request` is told before it is answered."""

    def __init__(self, seed: int = 0, rate: float = 0.0) -> None:
        super().__init__()
        self.page_cap = 10
        self._random = random.Random(seed)  # noqa: S311 - a seed, no secret
        self._rate = rate
        self.count = self.struck = 0
        self.on_request: Callable[[int, str], None] = lambda number, kind: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            kind = self._kind(scope["method"], scope["path"])
            self.count += 1
            self.on_request(self.count, kind)
            for fault in (*EVERYWHERE, *SOMEWHERE.get(kind, ())):
                if self._random.random() < self._rate:
                    self.faults[kind].append(fault())
                    self.struck += 1
                    break
        await super().__call__(scope, receive, send)


def resources(patients: int = 30, each: int = 5, pieces: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Files of an export: patients in pairs of one number, their observations in pieces, one that is not valid."""
    people = [
        {
            "resourceType": "Patient",
            "id": f"p{n}",
            "meta": {"lastUpdated": "2025-03-01T00:00:00Z"},
            "identifier": [{"system": "https://ehr.example/mrn", "value": f"m{n // 2}"}],
            "gender": "unknown",
        }
        for n in range(patients)
    ]
    observations = [
        {
            "resourceType": "Observation",
            "id": f"o{n}",
            "status": "final",
            "code": {"text": f"é {n}"},
            "subject": {"reference": f"Patient/p{n % patients}"},
            "valueQuantity": {"value": n / 8},
        }
        for n in range(patients * each)
    ]
    del observations[7]["status"]
    return {
        "Patient-1": people[: patients // 2],
        "Patient-2": people[patients // 2 :],
        **{f"Observation-{number + 1}": observations[number::pieces] for number in range(pieces)},
        f"Observation-{pieces + 1}": observations[:3],
    }


@dataclass
class Field:
    """A data folder with a registered source, on which commands are let loose."""

    folder: Path
    source: ChaoticSource
    gateway: Gateway
    runs: int = 0
    kills: list[str] = field(default_factory=list)

    def start(self, *arguments: str, die_at: Moment | int | None = None) -> Any:
        """A process of the real command line."""
        self.runs += 1
        process = FORKS.Process(target=command_line, args=(str(self.folder), arguments, die_at), daemon=True)
        process.start()
        return process

    @property
    def committed(self) -> bool:
        """Whether a pull is done."""
        return any(row.state == "committed" for row in self.gateway.pulls.recent())

    def finish(self, *arguments: str, most: int = 30) -> None:
        """Run a command until it succeeds."""
        codes: list[int | None] = []
        while len(codes) < most:
            process = self.start(*arguments)
            process.join()
            codes.append(process.exitcode)
            if process.exitcode == 0:
                return
        raise AssertionError(f"{arguments} ended with {codes}; {(self.folder / 'log').read_text()[-2000:]}")

    def take_over(self) -> None:
        """Have a worker go on with jobs whose processes were killed, as one that runs beside them does."""
        book = JobBook(self.gateway)
        if book.jobs(["waiting", "running"]):
            worker = self.start("worker")
            until(lambda: not book.jobs(["waiting", "running"]))
            worker.kill()
            worker.join()

    def kill_at(self, moment: Moment, *arguments: str) -> bool:
        """Run a command and have it killed at its first step after a moment; whether it came to that."""
        process = self.start(*arguments, die_at=moment)
        process.join(HANG)
        return bool(process.exitcode == -signal.SIGKILL)

    def kill_at_step(self, number: int, *arguments: str) -> bool:
        """Run a command and have it killed at its step of that number in the data folder; whether it came to that."""
        process = self.start(*arguments, die_at=number)
        process.join(HANG)
        return bool(process.exitcode == -signal.SIGKILL)

    def kill_at_request(self, number: int, *arguments: str) -> bool:
        """Run a command and kill it when the source gets its request of that number, before it answers."""
        processes: list[Any] = []
        started, dead = threading.Event(), threading.Event()
        first = self.source.count

        def on_request(count: int, kind: str) -> None:
            if count - first == number:
                self.kills.append(kind)
                started.wait()
                os.kill(processes[0].pid, signal.SIGKILL)
                dead.wait()  # whoever started it waits for it: of two that do one would not learn how it ended

        self.source.on_request = on_request
        processes.append(process := self.start(*arguments))
        started.set()
        process.join(HANG)
        dead.set()
        self.source.on_request = lambda number, kind: None
        return bool(process.exitcode == -signal.SIGKILL)


def command_line(
    folder: str, arguments: tuple[str, ...], die_at: Moment | int | None, environment: Mapping[str, str] | None = None
) -> None:
    """The command line over ``data`` in a folder, in this process; what it prints goes to ``log`` beside that."""
    from fhir_gateway.cli import main

    os.environ.update(environment or {})
    log = os.open(f"{folder}/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if isinstance(die_at, int):
        stop_at_step(die_at, Path(folder) / "data", die)
    elif die_at is not None:
        stop_at(die_at, Path(folder) / "data", die)
    sys.argv = ["fhir-gateway", "--data-dir", f"{folder}/data", *arguments]
    main()
    sys.exit(0)


@contextmanager
def field_of(folder: Path, source: ChaoticSource) -> Iterator[Field]:
    """A data folder with `source` registered as `ehr`."""
    gateway = Gateway(Settings(data_dir=folder / "data"))
    with running(source) as root:
        source.base = f"{root}/fhir"
        gateway.endpoints.add(Endpoint("ehr", source.base, client_id="us"))
        source.jwks = gateway.endpoints.public_jwks()
        try:
            yield Field(folder, source, gateway)
        finally:
            gateway.engine.dispose()


def content(gateway: Gateway) -> dict[str, list[dict[str, Any]]]:
    """What the lake holds: every row of every type with its exact JSON and its person."""
    columns = ["_source", "id", "_member", "_last_updated", "_raw"]
    return {
        kind: gateway.lake.read(kind, ["_raw"]).select(columns).sort_by([("id", "ascending")]).to_pylist()
        for kind in gateway.lake.types()
    }


def quiet_content(
    folder: Path, files: dict[str, list[dict[str, Any]]], mode: Mode = "bulk"
) -> dict[str, list[dict[str, Any]]]:
    """What a pull of those files brings when nothing goes wrong."""
    source = ChaoticSource()
    source.files = files
    with field_of(folder, source) as quiet:
        pull_endpoint(quiet.gateway, "ehr", mode=mode)
        return content(quiet.gateway)


def check(field: Field, expected: dict[str, list[dict[str, Any]]]) -> None:
    """The lake is that of a quiet pull, committed once; the ledger balances from manifest to lake."""
    assert content(field.gateway) == expected
    (version,) = field.gateway.lake.versions()
    row = field.gateway.pulls.get(version.pull_id)
    assert row.state == "committed"
    assert row.complete, row.issues
    assert version.ledger.balanced
    read = sum(entry.lines_read for entry in version.ledger.entries)
    assert read == sum(entry.manifest_count or 0 for entry in version.ledger.entries)
    assert read == sum(one["lines"] for one in row.outcome["arrived"].values())
    assert field.gateway.resources.counts()["Patient"] == row.outcome["persons"]
    assert not list(field.gateway.staging_folder.iterdir())


def chaos(folder: Path, seed: int, rate: float = 0.05, kills: int = 3, mode: Mode = "bulk") -> Field:
    """Faults at `rate`, that many kills at random points, then on to the end.

    A point is a request to the source or a step in the data folder. A round whose pull is over before all kills have
    struck is checked like any other, and another begins.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    files = resources(pieces=20)
    if mode == "search":
        files.popitem()  # a search finds a resource once
    expected = quiet_content(folder / "quiet", files, mode)
    pull = ("pull", "ehr", "--mode", mode)
    for number in itertools.count():
        source = ChaoticSource(chance.randrange(2**32), rate)
        source.files = files
        struck = 0
        with field_of(folder / f"chaos-{number}", source) as field:
            while struck < kills and not field.committed:
                kill, most = chance.choice(((field.kill_at_request, 25), (field.kill_at_step, 150)))
                struck += kill(chance.randint(1, most), *pull)
            if not field.committed:
                field.finish(*pull)
            field.take_over()  # the last kill may have struck between the commit and the tidying up
            check(field, expected)
        if struck == kills:
            return field
    raise AssertionError("rounds do not end")


def main() -> None:
    """Run rounds, each with a seed of its own, and say which failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--rate", type=float, default=0.05, help="of each fault")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--mode", choices=("bulk", "search"), default="bulk")
    asked = parser.parse_args()
    for seed in range(asked.seed, asked.seed + asked.rounds):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            field = chaos(Path(folder), seed, asked.rate, asked.kills, asked.mode)
        print(
            f"seed {seed}: {field.runs} runs, {field.source.count} requests, {field.source.struck} faults, "
            f"{field.source.kickoffs} exports, "
            f"{time.monotonic() - began:.1f} s"
        )


if __name__ == "__main__":
    main()
