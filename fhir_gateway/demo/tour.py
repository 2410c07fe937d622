"""The tour: generate, pull, match, attribute, evaluate, settle, each once, over one gateway in one folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb

from fhir_gateway.config import Settings
from fhir_gateway.demo.client import register_client
from fhir_gateway.demo.sources import SOURCES, Sandboxes, make_population
from fhir_gateway.demo.steps import Note, Steps
from fhir_gateway.demo.summary import MeasureSummary, PullSummary, SettlementSummary, Summary
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.jobs.settle import settle
from fhir_gateway.server.registry import DEFINITIONS
from fhir_gateway.sources.models import LedgerEntry
from fhir_gateway.sources.outcome import Progress, PullProgress

#: The contracts of the demo, with practices of the synthetic population (their tax numbers do not depend on the seed).
CONTRACTS = tuple(sorted((Path(__file__).parent / "contracts").glob("*.toml")))


@dataclass(frozen=True, slots=True)
class Options:
    """What the tour is over. The measurement year is ``year``; measures are evaluated as of three months later."""

    folder: Path = Path(".demo")
    patients: int = 2000
    seed: int = 20250101
    year: int = 2025
    port: int = 8000

    @property
    def period(self) -> tuple[date, date]:
        """The measurement year."""
        return date(self.year, 1, 1), date(self.year, 12, 31)

    @property
    def as_of(self) -> datetime:
        """The evaluation instant: fixed, so that the same data gives the same reports, run after run."""
        return datetime(self.year + 1, 4, 1, tzinfo=UTC)

    @property
    def key_file(self) -> Path:
        """The private key of the demo's client."""
        return self.folder / "demo-client.jwk"


def open_gateway(options: Options) -> Gateway:
    """The demo's own gateway: stores in its folder, whatever the environment says."""
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Gateway(
        Settings.read(
            data_dir=options.folder / "gateway",
            database_url=None,
            lake_url=None,
            lake_buckets=2,  # thousands of persons, not millions: fewer and larger batches
            encryption_key=None,
            public_url=f"http://127.0.0.1:{options.port}",
        )
    )


def run(gateway: Gateway, options: Options, steps: Steps) -> Summary:
    """Take the tour and return what came of it."""
    started = time.perf_counter()
    population = options.folder / "population"
    with steps.step("Generate a population") as note:
        generated, reused = make_population(
            population, options.patients, options.seed, options.year, lambda done: note(f"{done:,} persons")
        )
        resources = {source: sum(types.values()) for source, types in generated["counts"].items()}
        note(
            ("already there: " if reused else "")
            + ", ".join(f"{count:,} resources at the {source}" for source, count in resources.items())
        )
    pulls = _pull(gateway, population, steps)
    with steps.step("Match persons") as note:
        persons, shared = count_persons(gateway)
        note(f"{persons:,} persons, {shared:,} of them known to both sources")
    for contract in CONTRACTS:
        with steps.step("Attribute members") as note:
            roster = attribute(gateway, str(contract), now=options.as_of, progress=_tell(note))
            note(f"{len(roster.members):,} of {roster.attribution.table.num_rows:,}: {roster.contract.title}")
    with steps.step("Evaluate measures") as note:
        reports = evaluate(gateway, (), options.period, now=options.as_of, progress=_tell(note))
        note(", ".join(report.measure for report in reports))
    settlements = []
    for contract in CONTRACTS:
        with steps.step("Settle a contract") as note:
            settled = settle(gateway, str(contract), now=options.as_of, progress=_tell(note))
            settlements.append(SettlementSummary.of(settled))
            note(f"{settled.settlement.total:,} {settled.settlement.currency}: {settled.contract.title}")
    with steps.step("Register a client") as note:
        register_client(gateway, options.key_file)
        note(f"key in {options.key_file}")
    return Summary(
        patients=options.patients,
        year=options.year,
        resources=resources,
        pulls=pulls,
        persons=persons,
        persons_in_both=shared,
        measures=tuple(MeasureSummary.of(report.run, report.result) for report in reports),
        settlements=tuple(settlements),
        served={kind: count for kind, count in gateway.resources.counts().items() if kind not in DEFINITIONS},
        seconds=time.perf_counter() - started,
    )


def _pull(gateway: Gateway, population: Path, steps: Steps) -> tuple[PullSummary, ...]:
    """Pull both sandboxes; what an earlier run has committed is not pulled again."""
    made = {name: _committed(gateway, name) for name in SOURCES}
    if all(made.values()):
        return tuple(PullSummary.of(name, entries) for name, entries in made.items())
    pulls = []
    with Sandboxes(gateway, population):
        for name in SOURCES:
            with steps.step(f"Pull the {name}") as note:
                entries = made[name]
                if not entries:
                    report = pull_endpoint(gateway, name, progress=_tell(note))
                    entries = list(report.ledger.entries)
                summary = PullSummary.of(name, entries)
                pulls.append(summary)
                note(f"{summary.lines:,} lines, {summary.quarantined:,} in quarantine, ledger balanced")
    return tuple(pulls)


def _committed(gateway: Gateway, name: str) -> list[LedgerEntry]:
    """Ledger of the newest committed pull of a source; empty when there is none."""
    for row in gateway.pulls.recent(100):
        if row.source == name and row.state == "committed" and row.ledger:
            return [LedgerEntry(**entry) for entry in row.ledger]
    return []


def count_persons(gateway: Gateway) -> tuple[int, int]:
    """Persons, and how many of them more than one source knows."""
    patients = gateway.lake.read("Patient")
    with duckdb.connect() as connection:
        connection.register("patients", patients)
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (sources > 1) FROM "
            "(SELECT _member, count(DISTINCT _source) AS sources FROM patients GROUP BY _member)"
        ).fetchone()
    persons, shared = row or (0, 0)
    return int(persons), int(shared)


def _tell(note: Note) -> Progress:
    def tell(progress: PullProgress) -> None:
        count = f" {progress.done:,}" if progress.done else ""
        note(f"{progress.phase}: {progress.message}{count}")

    return tell
