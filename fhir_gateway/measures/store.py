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
from collections.abc import Iterator
from dataclasses import fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures.loading import slices
from fhir_gateway.measures.model import MeasureResult, PartResult, RunHeader
from fhir_gateway.measures.saving import HEADER, MIXED, RunWriter

#: Layout of the files below; a change gives runs a new folder, so that those of another layout are computed again.
_LAYOUT = "layout-2"
_RUN = re.compile("m[0-9a-f]{24}")


class ResultStore:
    """Results in a local folder; saving the same run twice leaves it as it was."""

    def __init__(self, folder: str | Path) -> None:
        """Open ``folder``, which is made when the first result is saved."""
        self._folder = Path(folder) / _LAYOUT
        self._headers: dict[str, RunHeader] = {}  # a run does not change

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
        if run not in self._headers or not (self._folder / run / HEADER).exists():
            self._headers.pop(run, None)
            self._headers[run] = RunHeader(**_run_header(self._stated(run)))
        return self._headers[run]

    def mixed(self, run: str) -> bool:
        """Whether observations of the run were given in several units, and are kept in one of them."""
        return bool(self._stated(run).get(MIXED))

    def load(self, run: str) -> MeasureResult:
        """Read a run; NotFoundError when there is none of that id."""
        (loaded,) = self.slices(run, None)
        return loaded

    def slices(self, run: str, size: int | None, *, raw: bool = True) -> Iterator[MeasureResult]:
        """A run as results of at most ``size`` members, read as they are asked for; NotFoundError when it is not there.

        Without ``raw`` the raw counts are not read.
        """
        stated = self._stated(run)
        return slices(self._folder / run, stated, _run_header(stated), size, raw=raw)

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
