"""Where results rest: one folder per run, columns as Parquet beside a JSON header.

::

    layout-1/<run id>/
             header.json        everything about the run that is not a column
             members.parquet    one row per member: member, and counts and raw counts of each population
             observations-<group>-<population>.parquet    member index and value of each observation
             cases-<group>-<basis>.parquet                member index, reference and membership of each episode
             strata-<group>-<stratifier>-<basis>.parquet  number of the stratum of each case
             supplemental-<element>.parquet               member index and value of each supplemental data element
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures.model import (
    Cases,
    Component,
    Composite,
    GroupResult,
    MeasureResult,
    Observations,
    PopulationResult,
    StratifierResult,
    SupplementalResult,
    run_id,
)

_HEADER = "header.json"

#: Layout of the files below; a change gives runs a new folder, so that those of another layout are computed again.
_LAYOUT = "layout-1"


class ResultStore:
    """Results in a local folder; saving the same run twice leaves it as it was."""

    def __init__(self, folder: str | Path) -> None:
        """Open ``folder``, which is made when the first result is saved."""
        self._folder = Path(folder) / _LAYOUT

    def save(self, result: MeasureResult) -> str:
        """Write ``result`` and return its run id. A run is complete or not there at all."""
        run = run_id(result)
        target = self._folder / run
        if (target / _HEADER).exists():
            return run
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=self._folder))
        try:
            for name, table in _tables(result):
                pq.write_table(table, partial / name)
            (partial / _HEADER).write_bytes(orjson.dumps(_header(result), option=orjson.OPT_INDENT_2))
            os.rename(partial, target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if not (target / _HEADER).exists():  # else another process has just saved the same run
                raise
        return run

    def load(self, run: str) -> MeasureResult:
        """Read a run; NotFoundError when there is none of that id."""
        if run not in self.runs():
            raise NotFoundError("there is no evaluation with that id")
        folder = self._folder / run
        header = orjson.loads((folder / _HEADER).read_bytes())
        members = pq.read_table(folder / "members.parquet")
        return MeasureResult(
            url=header["url"],
            version=header["version"],
            name=header["name"],
            title=header["title"],
            period=(date.fromisoformat(header["period"][0]), date.fromisoformat(header["period"][1])),
            evaluated_at=datetime.fromisoformat(header["evaluated_at"]),
            engine_version=header["engine_version"],
            package_hash=header["package_hash"],
            terminology_hash=header["terminology_hash"],
            lake_version=header["lake_version"],
            members=_array(members["member"]),
            groups=tuple(_group(folder, str(number), group, members) for number, group in enumerate(header["groups"])),
            supplemental=tuple(_supplemental(folder, n, found) for n, found in enumerate(header["supplemental"])),
            failed=header["failed"],
            notes=tuple(header["notes"]),
            seconds=header["seconds"],
        )

    def runs(self) -> tuple[str, ...]:
        """Ids of all complete runs, sorted."""
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(found.parent.name for found in self._folder.glob(f"m*/{_HEADER}")))

    def delete(self, run: str) -> None:
        """Remove a run; nothing happens when it is not there."""
        if run in self.runs():
            shutil.rmtree(self._folder / run)


def _header(result: MeasureResult) -> dict[str, Any]:
    return {
        "url": result.url,
        "version": result.version,
        "name": result.name,
        "title": result.title,
        "period": [day.isoformat() for day in result.period],
        "evaluated_at": result.evaluated_at.isoformat(),
        "engine_version": result.engine_version,
        "package_hash": result.package_hash,
        "terminology_hash": result.terminology_hash,
        "lake_version": result.lake_version,
        "failed": dict(result.failed),
        "notes": list(result.notes),
        "seconds": result.seconds,
        "supplemental": [
            {"id": found.id, "usage": found.usage, "code": found.code, "report_types": found.report_types}
            for found in result.supplemental
        ],
        "groups": [_group_header(group) for group in result.groups],
    }


def _group_header(group: GroupResult) -> dict[str, Any]:
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
        "stratifiers": [
            {
                "id": stratifier.id,
                "code": stratifier.code,
                "components": stratifier.components,
                "applies_to": stratifier.applies_to,
                "criteria": stratifier.criteria,
                "values": stratifier.values,
            }
            for stratifier in group.stratifiers
        ],
        "composite": composite
        and {
            "method": composite.method,
            "components": [
                {
                    "canonical": component.canonical,
                    "weight": str(component.weight),
                    "flipped": component.flipped,
                    "group": _group_header(component.group),
                }
                for component in composite.components
            ],
        },
    }


def _population_header(population: PopulationResult) -> dict[str, Any]:
    observations = population.observations
    return {
        "id": population.id,
        "code": population.code,
        "basis": population.basis,
        "observations": observations
        and {
            "aggregate_method": observations.aggregate_method,
            "criteria_reference": observations.criteria_reference,
            "unit": observations.unit,
        },
    }


def _tables(result: MeasureResult) -> Iterator[tuple[str, pa.Table]]:
    columns: dict[str, pa.Array] = {"member": result.members}
    for number, group in enumerate(result.groups):
        yield from _group_tables(str(number), group, columns)
    for number, found in enumerate(result.supplemental):
        yield f"supplemental-{number}.parquet", pa.table({"member": pa.array(found.member), "value": found.value})
    yield "members.parquet", pa.table(columns)


def _group_tables(number: str, group: GroupResult, columns: dict[str, pa.Array]) -> Iterator[tuple[str, pa.Table]]:
    """Tables of one group; its counts are added to ``columns``. Components of a composite are groups in it."""
    for place, population in enumerate(group.populations):
        columns[f"{number}.{place}.counts"] = pa.array(population.counts)
        columns[f"{number}.{place}.raw"] = pa.array(population.raw)
        observations = population.observations
        if observations is not None:
            table = pa.table(
                {
                    "member": pa.array(observations.member),
                    "case": pa.array(observations.case),
                    "value": observations.value,
                }
            )
            yield f"observations-{number}-{place}.parquet", table
    for place, cases in enumerate(group.cases):
        masks = {f"in.{name}": pa.array(mask) for name, mask in cases.populations.items()}
        table = pa.table({"member": pa.array(cases.member), "reference": cases.reference} | masks)
        yield f"cases-{number}-{place}.parquet", table
    for place, stratifier in enumerate(group.stratifiers):
        for basis, numbers in stratifier.strata.items():
            yield f"strata-{number}-{place}-{basis}.parquet", pa.table({"stratum": pa.array(numbers)})
    for place, component in enumerate(group.composite.components if group.composite else ()):
        yield from _group_tables(f"{number}_{place}", component.group, columns)


def _group(folder: Path, number: str, header: dict[str, Any], members: pa.Table) -> GroupResult:
    populations = []
    for place, population in enumerate(header["populations"]):
        observations = None
        if population["observations"] is not None:
            table = pq.read_table(folder / f"observations-{number}-{place}.parquet")
            observations = Observations(
                member=_numbers(table["member"], np.int32),
                case=_numbers(table["case"], np.int64),
                value=_array(table["value"]),
                **population["observations"],
            )
        counts = _numbers(members[f"{number}.{place}.counts"], np.int64)
        raw = _numbers(members[f"{number}.{place}.raw"], np.int64)
        populations.append(
            PopulationResult(population["id"], population["code"], counts, raw, observations, population["basis"])
        )
    cases = []
    for place, basis in enumerate(header["cases"]):
        table = pq.read_table(folder / f"cases-{number}-{place}.parquet")
        masks = {
            name.removeprefix("in."): _numbers(table[name], np.bool_)
            for name in table.column_names
            if name.startswith("in.")
        }
        cases.append(Cases(basis, _numbers(table["member"], np.int32), _array(table["reference"]), masks))
    kept = {name: header[name] for name in ("id", "code", "scoring", "improvement_notation", "basis")}
    return GroupResult(
        **kept,
        populations=tuple(populations),
        scoring_unit=header["scoring_unit"],
        scoring_precision=header["scoring_precision"],
        cases=tuple(cases),
        stratifiers=tuple(_stratifier(folder, f"strata-{number}-{n}-", s) for n, s in enumerate(header["stratifiers"])),
        composite=_composite(folder, number, header["composite"], members) if header["composite"] else None,
    )


def _composite(folder: Path, number: str, header: dict[str, Any], members: pa.Table) -> Composite:
    components = [
        Component(
            canonical=component["canonical"],
            group=_group(folder, f"{number}_{place}", component["group"], members),
            weight=Decimal(component["weight"]),
            flipped=component["flipped"],
        )
        for place, component in enumerate(header["components"])
    ]
    return Composite(header["method"], tuple(components))


def _stratifier(folder: Path, prefix: str, header: dict[str, Any]) -> StratifierResult:
    strata = {
        path.stem.removeprefix(prefix): _numbers(pq.read_table(path)["stratum"], np.int32)
        for path in sorted(folder.glob(f"{prefix}*.parquet"))
    }
    return StratifierResult(
        id=header["id"],
        code=header["code"],
        components=tuple((name, code) for name, code in header["components"]),
        applies_to=tuple(header["applies_to"]),
        criteria=header["criteria"],
        values=tuple(tuple(values) for values in header["values"]),
        strata=strata,
    )


def _supplemental(folder: Path, number: int, header: dict[str, Any]) -> SupplementalResult:
    table = pq.read_table(folder / f"supplemental-{number}.parquet")
    return SupplementalResult(
        id=header["id"],
        usage=header["usage"],
        code=header["code"],
        report_types=tuple(header["report_types"]),
        member=_numbers(table["member"], np.int32),
        value=_array(table["value"]),
    )


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], combined.type)
    return combined


def _numbers(column: pa.ChunkedArray, dtype: Any) -> Any:
    return _array(column).to_numpy(zero_copy_only=False).astype(dtype)
