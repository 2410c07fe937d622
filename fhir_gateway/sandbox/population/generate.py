"""Writes a population, one batch of persons after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from zlib_ng import gzip_ng

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.sandbox.population import truth as truths
from fhir_gateway.sandbox.population.calendar import NEVER
from fhir_gateway.sandbox.population.claims import adjudicate, make_claims
from fhir_gateway.sandbox.population.clinical import (
    Prescriptions,
    diagnose,
    hba1c_results,
    measure_pressures,
    prescribe,
    weigh,
)
from fhir_gateway.sandbox.population.columns import Bools, Ints, TextArray
from fhir_gateway.sandbox.population.directory import Directory, make_directory
from fhir_gateway.sandbox.population.ehr import EhrSheets
from fhir_gateway.sandbox.population.explanations import ClaimSheets
from fhir_gateway.sandbox.population.laboratory import draw_blood
from fhir_gateway.sandbox.population.payer import PayerSheets
from fhir_gateway.sandbox.population.people import People, end_coverage_at_death, make_people
from fhir_gateway.sandbox.population.render import Sheet
from fhir_gateway.sandbox.population.sources import (
    BATCH_SPACE,
    EHR_PREFIX,
    PAYER_PREFIX,
    Ids,
    provider_sheets,
    roster,
)
from fhir_gateway.sandbox.population.stays import make_stays
from fhir_gateway.sandbox.population.truth import Truth
from fhir_gateway.sandbox.population.visits import SKILLED_NURSING, Events, make_events

#: Persons per batch: bounds memory. Part of what determines the output, like the seed.
BATCH = 20_000
FIRST_YEAR, LAST_YEAR = 2000, 2100

Counts = dict[str, dict[str, int]]
Sheets = dict[str, list[Sheet]]


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written: resources per source folder and type, and the ground truth about them."""

    folder: Path
    patients: int
    seed: int
    year: int
    counts: Mapping[str, Mapping[str, int]]
    truth: Truth
    size: int  # bytes of JSON

    @property
    def resources(self) -> int:
        """All resources of both sources."""
        return sum(sum(types.values()) for types in self.counts.values())


@dataclass(frozen=True, slots=True)
class _Batch:
    """Everything of one batch: resources to render and what is true about them."""

    sheets: Mapping[str, Sheets]
    truth: Truth
    persons: pa.Table


def _on_ehr(people: People, directory: Directory, events: Events) -> Ints:
    """Events that the EHR knows; visits in nursing facilities are recorded elsewhere."""
    seen = people.in_ehr[events.person] & directory.on_ehr[events.organization] & (events.what != SKILLED_NURSING)
    return np.flatnonzero(seen)


def _orders(prescriptions: Prescriptions, seen: Ints, events: int) -> Prescriptions:
    """Prescriptions ordered on the EHR, with positions in its events."""
    position = np.full(events, -1)
    position[seen] = np.arange(len(seen))
    event = position[prescriptions.event]
    kept = event >= 0
    return Prescriptions(
        prescriptions.person[kept], event[kept], prescriptions.medication[kept], prescriptions.diagnosis[kept]
    )


def _make_batch(
    sequence: np.random.SeedSequence,
    number: int,
    first: int,
    count: int,
    directory: Directory,
    seed: int,
    year: int,
    drawn: float,
) -> _Batch:
    """One batch. Each room has its own random stream, so that a change in one leaves the others as they were."""
    streams = [np.random.default_rng(child) for child in sequence.spawn(8)]
    people = make_people(streams[0], first, count, directory, year)
    stays = make_stays(streams[1], people, directory, year)
    end_coverage_at_death(people)
    everything = make_events(streams[2], people, directory, stays, year)
    seen = _on_ehr(people, directory, everything)
    events = everything.take(seen)
    pressures, weights = measure_pressures(streams[3], people, events), weigh(streams[3], people, events)
    hba1c, diagnoses = hba1c_results(events), diagnose(people, events, year)
    draws = draw_blood(streams[7], events, drawn)
    prescriptions = prescribe(streams[4], people, everything)
    claims, lines = make_claims(streams[5], people, directory, everything, stays, prescriptions, year)
    versions = adjudicate(streams[6], claims, lines)
    base = number * BATCH_SPACE
    if max(len(everything), len(claims) * 3, len(diagnoses.event)) >= BATCH_SPACE:  # draws are some of the events
        raise ConfigurationError("the batch has too many events: choose a smaller batch size")

    ehr = EhrSheets(seed, base, year, people, directory, events, stays)
    payer = PayerSheets(seed, year, people, directory)
    billed = ClaimSheets(seed, base, people, directory, everything, stays)
    paid, attributed = truths.claims_truth(people, directory, everything, claims, lines, versions, year)
    return _Batch(
        sheets={
            "ehr": {
                "Patient": ehr.patients(),
                "Encounter": ehr.encounters(diagnoses),
                "Condition": ehr.conditions(diagnoses),
                "Observation": [*ehr.observations(pressures, hba1c, weights), *ehr.panels(draws)],
                "Procedure": ehr.procedures(),
                "MedicationRequest": ehr.medication_requests(_orders(prescriptions, seen, len(everything))),
            },
            "payer": {
                "Patient": payer.patients(),
                "Coverage": payer.coverages(),
                "Claim": billed.claims(claims, lines, versions),
                "ExplanationOfBenefit": billed.explanations(claims, lines, versions),
            },
        },
        truth=truths.person_truth(people, year)
        + truths.clinical_truth(people, events, pressures, hba1c, year)
        + truths.utilization_truth(people, events, stays, year)
        + paid,
        persons=_crosswalk(people, directory, attributed, seed),
    )


def _where(present: Bools, texts: TextArray) -> TextArray:
    return pc.if_else(pa.array(present), texts, None).cast(pa.string())


def _crosswalk(people: People, directory: Directory, attributed: Ints, seed: int) -> pa.Table:
    """One row per person: patient ids in both sources, how they can be matched, and the attributed tax number."""
    count = len(people)
    ids = {prefix: Ids(prefix, seed).patients(people.number).text(0, count) for prefix in (EHR_PREFIX, PAYER_PREFIX)}
    tins = [f"{tin:09}" for tin in directory.organization_tin.tolist()]
    outcome = np.where(people.in_payer, np.where(attributed == -2, 1, np.where(attributed == -1, 0, 2)), 3)
    own = (people.ehr_member == people.number) | (people.ehr_mbi == people.number)
    misfiled = (people.ehr_member >= 0) & (people.ehr_member != people.number)
    link = np.select([~(people.in_ehr & people.in_payer), misfiled, own], [0, 3, 1], 2)
    return pa.table(
        {
            "person": people.number,
            "ehr_patient": _where(people.in_ehr, ids[EHR_PREFIX]),
            "payer_patient": _where(people.in_payer, ids[PAYER_PREFIX]),
            "link": pa.array(["one source", "identifier", "demographics", "misfiled"]).take(pa.array(link)),
            "birth_date": pa.array(people.birth.astype(np.int32), pa.int32()).cast(pa.date32()),
            "death_date": pa.array(people.death.astype(np.int32), pa.int32(), mask=people.death >= NEVER).cast(
                pa.date32()
            ),
            "attribution": pa.array(["none", "tied", "won", "not a member"]).take(pa.array(outcome)),
            "attributed_tin": pa.array(tins).take(
                pa.array(np.where(attributed >= 0, attributed, 0), mask=attributed < 0)
            ),
        }
    )


def _write(folder: Path, part: int, sheets: Sheets, counts: dict[str, int], compressed: bool) -> int:
    """Write a file for each type; bytes of JSON."""
    size = 0
    for resource_type, parts in sheets.items():
        rows = sum(sheet.rows for sheet in parts)
        if not rows:
            continue
        path = folder / f"{resource_type}.{part:03}.ndjson"
        with _opened(path, compressed) as file:
            for sheet in parts:
                for lines in sheet.lines():
                    file.write(lines)
                    size += len(lines)
        counts[resource_type] = counts.get(resource_type, 0) + rows
    return size


def _opened(path: Path, compressed: bool) -> IO[bytes]:
    if not compressed:
        return path.open("wb")
    return cast(IO[bytes], gzip_ng.open(f"{path}.gz", "wb", compresslevel=1))  # type: ignore[no-untyped-call] # it has no types


def generate(
    folder: Path,
    *,
    patients: int,
    seed: int,
    year: int,
    batch: int = BATCH,
    drawn: float = 0.0,
    compressed: bool = False,
    batches: range | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Write a population to ``folder``.

    ``ehr/`` and ``payer/`` hold NDJSON by type; beside them are ``roster.json`` (practices and their clinicians),
    ``persons.parquet`` (who is who in both sources) and ``summary.json``. ``patients`` is the number of persons;
    ``year`` the measurement year, whose data and the year before are written. The same arguments give the same bytes.
    ``drawn`` is the share of the EHR's visits with blood drawn, each of which gives a result for every analyte of
    :data:`~fhir_gateway.sandbox.population.laboratory.ANALYTES`; ``compressed`` writes gzip.
    ``batches`` writes only some of the batches, so that several processes can write one population, each into a folder;
    providers are in that of the first batch.
    ``folder`` must be empty or new. ``progress`` is called with the number of persons written so far.
    """
    if (
        not 1 <= patients <= 10_000_000
        or batch < 1
        or seed < 0
        or not FIRST_YEAR <= year <= LAST_YEAR
        or not 0 <= drawn <= 1
    ):
        raise ConfigurationError(
            f"patients must be 1 to 10,000,000, seed at least 0, batch at least 1, year {FIRST_YEAR} to {LAST_YEAR}, "
            "drawn 0 to 1"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError("the output folder is not empty")
    counts: Counts = {"ehr": {}, "payer": {}}
    for source in counts:
        (folder / source).mkdir(parents=True, exist_ok=True)
    number_of_batches = -(-patients // batch)
    chosen = batches if batches is not None else range(number_of_batches)
    first_seed, *seeds = np.random.SeedSequence(seed).spawn(number_of_batches + 1)
    directory = make_directory(np.random.default_rng(first_seed), patients)
    size = 0
    for source, prefix in (("ehr", EHR_PREFIX), ("payer", PAYER_PREFIX)):
        if 0 not in chosen:
            continue
        providers = provider_sheets(Ids(prefix, seed), directory, year, us_core=source == "ehr")
        size += _write(folder / source, 0, providers, counts[source], compressed)
    total, persons = Truth(), list[pa.Table]()
    for number in chosen:
        first = number * batch
        made = _make_batch(seeds[number], number, first, min(batch, patients - first), directory, seed, year, drawn)
        for source, sheets in made.sheets.items():
            size += _write(folder / source, number, sheets, counts[source], compressed)
        total, persons = total + made.truth, [*persons, made.persons]
        if progress:
            progress(min(first + batch, patients))
    pq.write_table(pa.concat_tables(persons), folder / "persons.parquet")
    _dump(folder / "roster.json", roster(directory, seed))
    ordered = {source: dict(sorted(types.items())) for source, types in counts.items()}
    arguments = {"patients": patients, "seed": seed, "year": year, "batch": batch}
    _dump(folder / "summary.json", arguments | {"counts": ordered, "truth": asdict(total)})
    return Summary(folder, patients, seed, year, ordered, total, size)


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
