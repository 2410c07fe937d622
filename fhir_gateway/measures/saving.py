"""Saving a run as its parts come: each batch goes to disk at once, so memory does not grow with the population.

Parts are spooled to one file beside the run. When all are there, every table is written with one row group per part;
only then is known how wide counts are and how strata are numbered. Nothing of a run is visible before it is whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.measures.copies import left_out
from fhir_gateway.measures.merge import Strata, merge_strata
from fhir_gateway.measures.model import (
    Counts,
    GroupResult,
    PartResult,
    PopulationResult,
    RunDigest,
    RunHeader,
    StratifierResult,
    narrow,
)
from fhir_gateway.measures.observed_units import common_unit, in_unit, odd_members, odd_units
from fhir_gateway.measures.supplemental import unsupplied_notes

HEADER = "header.json"
MEMBERS = "members"
#: Fields of a population's and a stratifier's header that are known when all parts are there.
#: In the header of a run whose observations were in several units.
MIXED = "mixed_units"
UNIT, CRITERIA, VALUES = "unit", "criteria", "values"
_INTEGERS = (pa.int16(), pa.int32(), pa.int64())

_PARTIAL = ".saving-"
#: Seconds after which a run that nobody has added to is taken for that of a process that was killed.
_ABANDONED = 7 * 86_400  # far more than a clock that is wrong by a day makes of a run that lives

Json = dict[str, Any]


@dataclass(slots=True)
class _Kept:
    """A table of the run: where its parts lie in the spool, and the bits that each column of integers needs."""

    parts: list[tuple[int, int, int]] = field(default_factory=list)  # number of the part, offset, length
    widths: dict[str, int] = field(default_factory=dict)


class RunWriter:
    """Takes the parts of one run in their order. A context manager: what is not finished leaves nothing behind."""

    def __init__(self, folder: Path, header: RunHeader) -> None:
        """Save a run under ``folder``, named by its id."""
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        self._folder = folder
        self._header = header
        self._digest = RunDigest(header)
        self._partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        self._spool = (self._partial / "spool").open("wb+")
        self._tables: dict[str, _Kept] = {}
        self._groups: list[Json] = []
        self._units: dict[str, Counter[str | None]] = {}
        self._unit: dict[str, str | None] = {}  # of each observation, when all parts are there
        self._strata: dict[str, list[tuple[bool, Strata]]] = {}
        self._supplemental: dict[str, tuple[int, Json]] = {}
        self._failed: dict[str, str] = {}
        self._notes: dict[str, None] = {}
        self._unsupplied: Counter[str] = Counter()
        self._seconds = 0.0
        self._copies = 0
        self._parts = 0
        self._starts: dict[str, int] = {}  # of members, and of the cases of each group and basis

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Forget a run that was not finished."""
        self._spool.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, part: PartResult) -> None:
        """Take the next part."""
        self._digest.add(part.members)
        columns: dict[str, pa.Array] = {"member": part.members}
        for number, group in enumerate(part.groups):
            self._add_group(str(number), group, columns)
        for found in part.supplemental:
            about = {
                "id": found.id,
                "usage": found.usage,
                "code": found.code,
                "report_types": found.report_types,
            }
            number, _ = self._supplemental.setdefault(found.id, (len(self._supplemental), about))
            value = found.value if pa.types.is_dictionary(found.value.type) else found.value.dictionary_encode()
            self._keep(f"supplemental-{number}", {"member": self._shifted(found.member), "value": value})
        self._keep(MEMBERS, columns)
        self._groups = self._groups or [group_header(group) for group in part.groups]
        self._failed |= part.failed
        self._notes |= dict.fromkeys(part.notes)
        self._unsupplied.update(part.unsupplied)
        self._seconds += part.seconds
        self._copies += part.copies
        self._starts[MEMBERS] = self._starts.get(MEMBERS, 0) + len(part.members)
        self._parts += 1

    def odd_ones(self) -> dict[str, Failure]:
        """Members who must fail before the run can be finished; see :func:`fhir_gateway.measures.merge.odd_ones`."""
        found: dict[str, Failure] = {}
        for name, values in self._units.items():
            odd = odd_units(values)
            if odd:
                number, place = name.split("-")[1:]
                population = _nested(self._groups, number)["populations"][int(place)]["id"]
                found |= odd_members(population, self._observed(name), odd)
        return found

    def _observed(self, name: str) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Member ids and units of the values of an observation, part by part."""
        parts = {part: (start, length) for part, start, length in self._tables[name].parts}
        before = 0
        for part, start, length in self._tables[MEMBERS].parts:
            members = self._part(start, length)["member"].combine_chunks()
            table = self._part(*parts[part])
            index = pc.subtract(table["member"].combine_chunks(), before)
            yield members.take(index), table[UNIT].combine_chunks().cast(pa.string())
            before += len(members)

    def finish(self) -> str:
        """Make the run visible and return its id; a run that is already there stays as it is."""
        run = self._digest.run
        target = self._folder / run
        if (target / HEADER).exists():
            return run
        renumbered = self._settle_strata()
        for number, group in enumerate(self._groups):
            self._settle_units(str(number), group)
        for name, kept in self._tables.items():
            self._write(name, kept, renumbered.get(name))
        (self._partial / HEADER).write_bytes(orjson.dumps(self._stated(), option=orjson.OPT_INDENT_2))
        self._spool.close()
        (self._partial / "spool").unlink()
        try:
            os.rename(self._partial, target)
        except OSError:
            if not (target / HEADER).exists():  # else another process has just saved the same run
                raise
        return run

    def _add_group(self, number: str, group: GroupResult, columns: dict[str, pa.Array]) -> None:
        """Keep one group's tables; its counts are added to ``columns``. Components of a composite are groups in it."""
        for place, population in enumerate(group.populations):
            columns[f"{number}.{place}.counts"] = _narrow(population.counts)
            columns[f"{number}.{place}.raw"] = _narrow(population.raw)
            self._add_observations(f"observations-{number}-{place}", number, group, population)
        for place, stratifier in enumerate(group.stratifiers):
            for basis, numbers in stratifier.strata.items():
                name = f"strata-{number}-{place}-{basis}"
                self._keep(name, {"stratum": pa.array(numbers)})
                self._strata.setdefault(name, []).append((stratifier.criteria, stratifier.values))
        for place, cases in enumerate(group.cases):
            masks = {f"in.{name}": pa.array(mask) for name, mask in cases.populations.items()}
            member = self._shifted(cases.member)
            self._keep(f"cases-{number}-{place}", {"member": member, "reference": cases.reference} | masks)
            start = f"{number}.{cases.basis}"
            self._starts[start] = self._starts.get(start, 0) + len(cases.member)
        for place, component in enumerate(group.composite.components if group.composite else ()):
            self._add_group(f"{number}_{place}", component.group, columns)

    def _add_observations(self, name: str, number: str, group: GroupResult, population: PopulationResult) -> None:
        found = population.observations
        if found is None:
            return
        basis = population.basis or group.basis
        start = self._starts.get(MEMBERS if basis == "boolean" else f"{number}.{basis}", 0)
        columns = {"member": self._shifted(found.member), "case": pa.array(found.case + start), "value": found.value}
        self._keep(name, columns | {UNIT: found.unit_of_each.dictionary_encode()})
        self._units.setdefault(name, Counter()).update(found.counted_units)

    def _shifted(self, member: np.ndarray[Any, Any]) -> pa.Array:
        return pa.array(member + np.int32(self._starts.get(MEMBERS, 0)), pa.int32())

    def _keep(self, name: str, columns: Mapping[str, pa.Array]) -> None:
        """Append a part of a table to the spool."""
        kept = self._tables.setdefault(name, _Kept())
        for column, array in columns.items():
            if array.type in _INTEGERS:
                kept.widths[column] = max(kept.widths.get(column, 0), array.type.bit_width)
        table = pa.table(dict(columns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        written = sink.getvalue()
        start = self._spool.seek(0, os.SEEK_END)
        self._spool.write(written)
        kept.parts.append((self._parts, start, written.size))

    def _part(self, start: int, length: int) -> pa.Table:
        self._spool.seek(start)
        return pa.ipc.open_stream(pa.py_buffer(self._spool.read(length))).read_all()

    def _write(self, name: str, kept: _Kept, renumbered: list[np.ndarray[Any, Any]] | None) -> None:
        """Write a table, one row group per part."""
        writer: pq.ParquetWriter | None = None
        for part, start, length in kept.parts:
            table = self._part(start, length)
            if renumbered is not None:
                table = pa.table({"stratum": pa.array(renumbered[part][table["stratum"].to_numpy()])})
            if name in self._unit:
                table = self._in_one_unit(name, table)
            for column, width in kept.widths.items():
                at = table.schema.get_field_index(column)
                if table.schema.field(at).type in _INTEGERS:
                    table = table.set_column(at, column, table[column].cast(f"int{width}"))
            if writer is None:
                writer = pq.ParquetWriter(self._partial / f"{name}.parquet", table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()

    def _in_one_unit(self, name: str, table: pa.Table) -> pa.Table:
        """Observations of a part in the unit of all parts."""
        told = table.drop_columns([UNIT])
        if len(self._units[name]) < 2:
            return told
        units = table[UNIT].combine_chunks().cast(pa.string())
        value = in_unit(table["value"].combine_chunks(), units, self._unit[name])
        return told.set_column(told.schema.get_field_index("value"), "value", value)

    def _settle_strata(self) -> dict[str, list[np.ndarray[Any, Any]]]:
        """Number the strata of all parts; by table, the new numbers of each part's strata."""
        renumbered = {}
        for name, found in self._strata.items():
            criteria, values, numbers = merge_strata(found)
            renumbered[name] = list(numbers)
            number, place = name.split("-")[1:3]
            header = _nested(self._groups, number)["stratifiers"][int(place)]
            header[CRITERIA], header[VALUES] = criteria, values
        return renumbered

    def _settle_units(self, number: str, group: Json) -> None:
        for place, population in enumerate(group["populations"]):
            if population["observations"] is not None:
                name = f"observations-{number}-{place}"
                self._unit[name] = common_unit(population["id"], self._units.get(name, ()))
                population["observations"][UNIT] = self._unit[name]
        for place, component in enumerate(group["composite"]["components"] if group["composite"] else ()):
            self._settle_units(f"{number}_{place}", component["group"])

    def _stated(self) -> Json:
        header = self._header
        mixed = {MIXED: True} if any(len(units) > 1 for units in self._units.values()) else {}
        return mixed | {
            "url": header.url,
            "version": header.version,
            "name": header.name,
            "title": header.title,
            "period": [day.isoformat() for day in header.period],
            "evaluated_at": header.evaluated_at.isoformat(),
            "engine_version": header.engine_version,
            "package_hash": header.package_hash,
            "terminology_hash": header.terminology_hash,
            "lake_version": header.lake_version,
            "failed": dict(sorted(self._failed.items())),
            "copies": header.copies,
            "notes": [*self._notes, *left_out(self._copies), *unsupplied_notes([self._unsupplied])],
            "seconds": self._seconds,
            "supplemental": [about for _, about in self._supplemental.values()],
            "groups": self._groups,
        }


def _sweep(folder: Path) -> None:
    """Remove what killed processes left of their runs."""
    for path in folder.glob(f"{_PARTIAL}*"):
        with suppress(FileNotFoundError):  # another process sweeps as well
            newest = max(found.stat().st_mtime for found in (path, *path.iterdir()))
            if newest < time.time() - _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def group_header(group: GroupResult) -> Json:
    """Everything about a group that is not a column."""
    composite = group.composite
    return {
        "id": group.id,
        "code": group.code,
        "scoring": group.scoring,
        "improvement_notation": group.improvement_notation,
        "basis": group.basis,
        "scoring_unit": group.scoring_unit,
        "scoring_precision": group.scoring_precision,
        "cases": [cases.basis for cases in group.cases],
        "populations": [_population_header(population) for population in group.populations],
        "stratifiers": [_stratifier_header(stratifier) for stratifier in group.stratifiers],
        "composite": composite
        and {
            "method": composite.method,
            "components": [
                {
                    "canonical": component.canonical,
                    "weight": str(component.weight),
                    "flipped": component.flipped,
                    "group": group_header(component.group),
                }
                for component in composite.components
            ],
        },
    }


def _population_header(population: PopulationResult) -> Json:
    observations = population.observations
    return {
        "id": population.id,
        "code": population.code,
        "basis": population.basis,
        "observations": observations
        and {
            "aggregate_method": observations.aggregate_method,
            "criteria_reference": observations.criteria_reference,
            UNIT: observations.unit,
        },
    }


def _stratifier_header(stratifier: StratifierResult) -> Json:
    return {
        "id": stratifier.id,
        "code": stratifier.code,
        "components": stratifier.components,
        "applies_to": stratifier.applies_to,
        CRITERIA: stratifier.criteria,
        VALUES: stratifier.values,
        "stated": stratifier.stated,
    }


def _nested(groups: list[Json], number: str) -> Json:
    """The header of a group by its number: ``2``, or ``2_0`` for the first component of the composite 2."""
    first, *inner = number.split("_")
    group = groups[int(first)]
    for place in inner:
        group = group["composite"]["components"][int(place)]["group"]
    return group


def _narrow(counts: Counts) -> pa.Array:
    return pa.array(narrow(counts))
