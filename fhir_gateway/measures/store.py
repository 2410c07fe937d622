"""Where results rest: one folder per run, columns as Parquet beside a JSON header.

::

    layout-2/<run id>/
             header.json        everything about the run that is not a column
             members.parquet    one row per member: member, and counts and raw counts of each population
             observations-<group>-<population>.parquet    member index and value of each observation
             cases-<group>-<basis>.parquet                member index, reference and membership of each episode
             strata-<group>-<stratifier>-<basis>.parquet  number of the stratum of each case
             supplemental-<element>.parquet               member index and value of each supplemental data element
"""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
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
    PartResult,
    PopulationResult,
    RunHeader,
    StratifierResult,
    SupplementalResult,
)
from fhir_gateway.measures.saving import HEADER, MEMBERS, RunWriter

#: Layout of the files below; a change gives runs a new folder, so that those of another layout are computed again.
_LAYOUT = "layout-2"
_RUN = re.compile("m[0-9a-f]{24}")


class ResultStore:
    """Results in a local folder; saving the same run twice leaves it as it was."""

    def __init__(self, folder: str | Path) -> None:
        """Open ``folder``, which is made when the first result is saved."""
        self._folder = Path(folder) / _LAYOUT

    def save(self, result: MeasureResult) -> str:
        """Write ``result`` and return its run id. A run is complete or not there at all."""
        with self.writing(result) as writer:
            writer.add(
                PartResult(
                    members=result.members,
                    groups=result.groups,
                    failed=result.failed,
                    supplemental=result.supplemental,
                    notes=result.notes,
                    seconds=result.seconds,
                )
            )
            return writer.finish()

    def writing(self, header: RunHeader) -> RunWriter:
        """A writer that takes a run part by part."""
        return RunWriter(self._folder, header)

    def header(self, run: str) -> RunHeader:
        """What was evaluated and when, without reading a column; NotFoundError when there is no run of that id."""
        return RunHeader(**_run_header(self._stated(run)))

    def load(self, run: str) -> MeasureResult:
        """Read a run; NotFoundError when there is none of that id."""
        header = self._stated(run)
        folder = self._folder / run
        members = pq.ParquetFile(folder / f"{MEMBERS}.parquet")
        return MeasureResult(
            **_run_header(header),
            members=_array(members.read(["member"])["member"]),
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
        return tuple(sorted(found.parent.name for found in self._folder.glob(f"m*/{HEADER}")))

    def delete(self, run: str) -> None:
        """Remove a run; nothing happens when it is not there."""
        if run in self.runs():
            shutil.rmtree(self._folder / run)

    def _stated(self, run: str) -> dict[str, Any]:
        if _RUN.fullmatch(run):  # an id, no path
            try:
                stated: dict[str, Any] = orjson.loads((self._folder / run / HEADER).read_bytes())
                return stated
            except FileNotFoundError:
                pass
        raise NotFoundError("there is no evaluation with that id")


def _run_header(stated: dict[str, Any]) -> dict[str, Any]:
    """Fields of a :class:`RunHeader`."""
    first, last = (date.fromisoformat(day) for day in stated["period"])
    evaluated_at = datetime.fromisoformat(stated["evaluated_at"])
    stated = {"copies": "all"} | stated  # runs from before copies were looked for
    return {name.name: stated[name.name] for name in fields(RunHeader)} | {
        "period": (first, last),
        "evaluated_at": evaluated_at,
    }


def _group(folder: Path, number: str, header: dict[str, Any], members: pq.ParquetFile) -> GroupResult:
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
        counts, raw = (_column(members, f"{number}.{place}.{kind}") for kind in ("counts", "raw"))
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


def _composite(folder: Path, number: str, header: dict[str, Any], members: pq.ParquetFile) -> Composite:
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
        stated=header.get("stated", False),  # runs from before value sets of strata were read
    )


def _supplemental(folder: Path, number: int, header: dict[str, Any]) -> SupplementalResult:
    table = pq.read_table(folder / f"supplemental-{number}.parquet")
    return SupplementalResult(
        id=header["id"],
        usage=header["usage"],
        code=header["code"],
        report_types=tuple(header["report_types"]),
        member=_numbers(table["member"], np.int32),
        value=_array(table["value"].unify_dictionaries()),
    )


def _column(file: pq.ParquetFile, name: str) -> Any:
    """One column of a file, as wide as it is stored."""
    return _array(file.read([name])[name]).to_numpy(zero_copy_only=False)


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], combined.type)
    return combined


def _numbers(column: pa.ChunkedArray, dtype: Any) -> Any:
    return _array(column).to_numpy(zero_copy_only=False).astype(dtype)
