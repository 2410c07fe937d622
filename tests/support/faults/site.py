"""A gateway with work to do, as processes that faults may strike, and what must have come of it in the end."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import ENDED, Job, JobBook
from fhir_gateway.jobs.calculations import CALCULATIONS
from fhir_gateway.jobs.durable import MOST_RECOVERIES
from fhir_gateway.sandbox.population import generate
from tests.support.chaos import FORKS, command_line, content
from tests.support.moments import Moment
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract
from tests.support.waiting import HANG, until

NOW = "2026-04-01T00:00:00+00:00"
YEAR = ["2025-01-01", "2025-12-31"]
#: Tables whose rows say how things went, not what came of them, or that a single process keeps for itself.
_COURSE = frozenset(
    {
        "alembic_version",
        "audit_event",
        "auth_assertion",
        "auth_client",
        "auth_token",
        "fhir_change",  # what is still to be told to subscribers
        "fhir_search_index",
        "job_publication",
        "job_request",
    }
)
#: Types of what a server publishes of itself when it starts.
_OF_ITSELF = frozenset(
    {"CapabilityStatement", "CodeSystem", "OperationDefinition", "SearchParameter", "StructureDefinition", "ValueSet"}
)
#: When something was written, and how long it took: two quiet runs differ in them.
_MOMENTS = frozenset({"last_updated", "noticed_at", "started", "finished", "created_at", "outcome", "key"})


@dataclass(frozen=True)
class World:
    """What there is to be pulled and settled: a small population and a contract with its practices."""

    population: Path
    contract: str

    @classmethod
    def make(cls, folder: Path, patients: int = 20) -> World:
        """Make it up in a folder."""
        generate(folder / "population", patients=patients, seed=11, year=2025)
        terms = contract_terms("p4p-2025", tins_of(folder / "population"))
        return cls(folder / "population", write_contract(folder, terms))

    def asked(self, kind: str) -> dict[str, Any]:
        """What a calculation of that kind is asked for."""
        more: Mapping[str, dict[str, Any]] = {
            "evaluate": {"packages": ["ed-visits-per-1000", "diabetes-hba1c-poor-control"], "period": YEAR},
            "attribute": {"contract": self.contract},
            "settle": {"contract": self.contract},
            "compact": {"files": 2},
        }
        return {**more.get(kind, {}), "now": NOW}


#: Calculations of a year's end, which may be made side by side.
CALCULATED = ("evaluate", "attribute", "settle")
#: The same, and then the lake's upkeep, which makes versions: reports name the version that they were made from.
UPKEEP = ("compact", "retain")
WORK = (*CALCULATED, *UPKEEP)


_AT_WORK = "carrying out jobs as"
_OPEN: list[Site] = []


@dataclass
class Site:
    """A data folder (``data``) and its settings; whatever runs on it is a process of its own."""

    folder: Path
    world: World
    database_url: str | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: {"lake_buckets": 2})
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, world: World, pulled: Path, **more: Any) -> Site:
        """A site that begins with a copy of a data folder."""
        site = cls(folder, world, **more)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(pulled, folder / "data", dirs_exist_ok=True)
        return site

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway in this process, which no fault strikes."""
        url = None if self.database_url is None else SecretStr(self.database_url)
        _OPEN.append(self)
        return Gateway(Settings(data_dir=self.folder / "data", database_url=url, **self.settings))

    @cached_property
    def book(self) -> JobBook:
        """Its book of jobs."""
        _OPEN.append(self)
        return JobBook(self.gateway)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its processes."""
        stated = {**self.settings, "database_url": self.database_url, "data_dir": self.folder / "data"}
        named = {f"FHIR_GATEWAY_{name.upper()}": str(value) for name, value in stated.items() if value is not None}
        return {**named, **self.environment}

    def prepare(self) -> None:
        """Pull the population; everything else is work for later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pulled = pull_population(self.world.population, self.folder / "data", **self._stated())
        pulled.engine.dispose()

    def _stated(self) -> dict[str, Any]:
        url = {} if self.database_url is None else {"database_url": SecretStr(self.database_url)}
        return {**self.settings, **url}

    def start(self, *arguments: str, die_at: Moment | int | None = None) -> Any:
        """A process of the real command line."""
        process = FORKS.Process(
            target=command_line, args=(str(self.folder), arguments, die_at, self.variables), daemon=False
        )
        process.start()
        return process

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[list[Any]]:
        """So many workers, at work when the block begins, killed in the end if they live still."""
        before = self.log.count(_AT_WORK)
        started = [self.start("worker") for _ in range(count)]
        try:
            until(lambda: self.log.count(_AT_WORK) == before + count)
            yield started
        finally:
            for one in started:
                kill(one)

    def submit(self, kinds: Sequence[str]) -> list[str]:
        """Leave calculations to workers; their ids."""
        for kind in kinds:
            self.book.submit(kind, kind, asked=self.world.asked(kind))
        return list(kinds)

    def ended(self, ids: Sequence[str]) -> list[Job]:
        """Wait until those jobs have ended; they must have succeeded."""
        jobs: list[Job] = []

        def over() -> bool:
            jobs[:] = [self.book.job(id) for id in ids]
            return all(one.state in ENDED for one in jobs)

        until(over, pause=0.2)
        failed = [(one.id, one.error) for one in jobs if one.state != "done"]
        assert not failed, (failed, self.log[-3000:])
        assert all(one.recoveries <= MOST_RECOVERIES for one in jobs)
        return jobs

    def calculate(self, kinds: Sequence[str]) -> None:
        """Calculate here and now, undisturbed."""
        for kind in kinds:
            CALCULATIONS[kind](self.gateway, self.world.asked(kind))

    @property
    def log(self) -> str:
        """What its processes wrote."""
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def close(self) -> None:
        """Let go of its databases in this process."""
        if book := self.__dict__.pop("book", None):
            book.close()
        if gateway := self.__dict__.pop("gateway", None):
            gateway.engine.dispose()


def close_all() -> None:
    """Let go of the databases of rounds that failed in the middle."""
    while _OPEN:
        _OPEN.pop().close()


def kill(process: Any) -> None:
    """kill -9, and wait until it is dead."""
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(HANG)


def outcome(gateway: Gateway) -> dict[str, Any]:
    """Everything that came of the work, without when and how: rows of the lake and of the control plane, and files.

    Reports, rosters, settlements and results are compared byte for byte, but for when they were stored.
    """
    data = gateway.data_folder
    return {
        "lake": content(gateway),
        "versions": [(one.version, one.pull_id, one.ledger.balanced) for one in gateway.lake.versions()],
        **{f"table {name}": rows for name, rows in _tables(gateway)},
        **{
            f"file {path.relative_to(data)}": _bytes(path)
            for folder in ("results", "settlements", "attributions")
            for path in sorted((data / folder).rglob("*"))
            if path.is_file()
            and path.name != "services.parquet"  # the same rows in the order of a hash table
            and not any(part.startswith(".") for part in path.relative_to(data).parts)  # nobody reads them
        },
    }


def _tables(gateway: Gateway) -> Iterator[tuple[str, list[str]]]:
    names = sorted(set(sa.inspect(gateway.engine).get_table_names()) - _COURSE)
    with snapshot(gateway.engine) as connection:
        for name in names:
            rows = connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()  # noqa: S608 - our own tables
            found = [
                {key: _plain(value) for key, value in row.items() if key not in _MOMENTS}
                for row in rows
                if row.get("type") not in _OF_ITSELF
            ]
            yield name, sorted(orjson.dumps(one, option=orjson.OPT_SORT_KEYS, default=str).decode() for one in found)


def _plain(value: Any) -> Any:
    """A value as both databases give it; bodies of resources without the moment at which they were stored."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value.tzinfo else f"{value.isoformat()}+00:00"
    if isinstance(value, bool):
        return int(value)
    text = bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | memoryview) else value
    if isinstance(text, str) and text[:1] in "{[" and text:
        try:
            text = orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    if isinstance(text, dict) and isinstance(text.get("meta"), dict):
        return text | {"meta": {name: one for name, one in text["meta"].items() if name != "lastUpdated"}}
    return text


def _bytes(path: Path) -> bytes:
    if path.name != "header.json":
        return path.read_bytes()
    header = orjson.loads(path.read_bytes())
    return orjson.dumps({name: value for name, value in header.items() if name != "seconds"})


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of what is not as expected; for an assertion that can be read."""
    told = []
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            ours, theirs = found.get(name), expected.get(name)
            if isinstance(ours, list) and isinstance(theirs, list):
                only = [one for one in ours if one not in theirs][:2], [one for one in theirs if one not in ours][:2]
                told.append(f"{name}: {len(ours)} for {len(theirs)} rows; only here {only[0]}, only there {only[1]}")
            else:
                told.append(f"{name}: {'differs' if name in found and name in expected else 'is here or there only'}")
    return told
