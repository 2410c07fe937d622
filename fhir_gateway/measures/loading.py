"""Reading a run back: whole, or in slices of so many members, so that memory does not grow with the population.

Rows of every table lie in the order of the members, so a slice is what follows in each file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
)
from fhir_gateway.measures.saving import MEMBERS

Json = dict[str, Any]


def slices(
    folder: Path, stated: Json, header: Mapping[str, Any], size: int | None, *, raw: bool = True
) -> Iterator[MeasureResult]:
    """A run of that folder as results of at most ``size`` members; None is all of them at once.

    Without ``raw`` the raw counts are the effective ones. Each slice is a result of its own: its ``run`` is none that
    was saved, unless it is all.
    """
    run = _Run(folder, stated, size, raw)
    while (members := run.next_members()) is not None:
        yield MeasureResult(
            **header,
            members=members,
            groups=tuple(run.group(str(number), group) for number, group in enumerate(stated["groups"])),
            supplemental=tuple(run.supplemental(n, found) for n, found in enumerate(stated["supplemental"])),
            failed=stated["failed"],
            notes=tuple(stated["notes"]),
            seconds=stated["seconds"],
        )


class _Rows:
    """The rows of one file, handed out from its beginning to its end."""

    def __init__(self, path: Path, columns: list[str] | None, size: int | None) -> None:
        self._file = pq.ParquetFile(path)
        self._size, self._columns = size, columns
        self._batches = iter(()) if size is None else self._file.iter_batches(size, columns=columns)
        self._ahead: pa.Table = self._file.schema_arrow.empty_table()
        if columns is not None:
            self._ahead = self._ahead.select(columns)

    @property
    def names(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def whole(self) -> pa.Table:
        return self._file.read(self._columns)

    def rows(self, number: int) -> pa.Table:
        """The next rows, fewer at the end."""
        while self._ahead.num_rows < number and self._more():
            pass
        return self._cut(number)

    def before(self, member: int) -> pa.Table:
        """The next rows whose ``member`` is below that."""
        while (not self._ahead.num_rows or self._ahead["member"][-1].as_py() < member) and self._more():
            pass
        return self._cut(int(np.searchsorted(self._ahead["member"].to_numpy(), member)))

    def _more(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        self._ahead = pa.concat_tables([self._ahead, pa.Table.from_batches([batch])]).unify_dictionaries()
        return True

    def _cut(self, number: int) -> pa.Table:
        found, self._ahead = self._ahead.slice(0, number), self._ahead.slice(number)
        return found


class _Run:
    """Where reading stands in every file of a run."""

    def __init__(self, folder: Path, stated: Json, size: int | None, raw: bool) -> None:
        self._folder, self._size, self._raw = folder, size, raw
        self._files: dict[str, _Rows] = {}
        self._start = self._stop = 0
        self._members = pa.table({})
        self._case_starts: dict[str, int] = {}
        self._begun = False
        self._columns = None if raw else ["member", *_counts(stated["groups"])]

    def next_members(self) -> pa.Array | None:
        """The members of the next slice; None at the end."""
        rows = self._open(MEMBERS, self._columns)
        self._members = rows.whole() if self._size is None else rows.rows(self._size)
        if self._begun and (self._size is None or not self._members.num_rows):
            return None
        self._begun = True
        self._start, self._stop = self._stop, self._stop + self._members.num_rows
        return _array(self._members["member"])

    def group(self, number: str, header: Json) -> GroupResult:
        """A group, or a component of a composite, of the members of this slice."""
        cases = tuple(self._cases(number, place, basis) for place, basis in enumerate(header["cases"]))
        sizes = {found.basis: len(found.member) for found in cases}
        populations = tuple(
            self._population(number, place, population, header["basis"])
            for place, population in enumerate(header["populations"])
        )
        stratifiers = tuple(
            self._stratifier(f"strata-{number}-{place}-", found, sizes)
            for place, found in enumerate(header["stratifiers"])
        )
        for basis, found in sizes.items():
            self._case_starts[f"{number}.{basis}"] = self._case_starts.get(f"{number}.{basis}", 0) + found
        kept = {name: header[name] for name in ("id", "code", "scoring", "improvement_notation", "basis")}
        return GroupResult(
            **kept,
            populations=populations,
            scoring_unit=header["scoring_unit"],
            scoring_precision=header["scoring_precision"],
            cases=cases,
            stratifiers=stratifiers,
            composite=self._composite(number, header["composite"]) if header["composite"] else None,
        )

    def supplemental(self, number: int, header: Json) -> SupplementalResult:
        """Values of a supplemental data element."""
        table = self._of_members(f"supplemental-{number}")
        return SupplementalResult(
            id=header["id"],
            usage=header["usage"],
            code=header["code"],
            report_types=tuple(header["report_types"]),
            member=self._placed(table),
            value=_array(table["value"].unify_dictionaries()),
        )

    def _population(self, number: str, place: int, header: Json, basis: str) -> PopulationResult:
        observations = None
        if header["observations"] is not None:
            table = self._of_members(f"observations-{number}-{place}")
            of = header["basis"] or basis
            start = self._start if of == "boolean" else self._case_starts.get(f"{number}.{of}", 0)
            observations = Observations(
                member=self._placed(table),
                case=_numbers(table["case"], np.int64) - start,
                value=_array(table["value"]),
                **header["observations"],
            )
        counts = self._counts(f"{number}.{place}.counts")
        raw = self._counts(f"{number}.{place}.raw") if self._raw else counts
        return PopulationResult(header["id"], header["code"], counts, raw, observations, header["basis"])

    def _cases(self, number: str, place: int, basis: str) -> Cases:
        table = self._of_members(f"cases-{number}-{place}")
        masks = {
            name.removeprefix("in."): _numbers(table[name], np.bool_)
            for name in table.column_names
            if name.startswith("in.")
        }
        return Cases(basis, self._placed(table), _array(table["reference"]), masks)

    def _composite(self, number: str, header: Json) -> Composite:
        components = [
            Component(
                canonical=component["canonical"],
                group=self.group(f"{number}_{place}", component["group"]),
                weight=Decimal(component["weight"]),
                flipped=component["flipped"],
            )
            for place, component in enumerate(header["components"])
        ]
        return Composite(header["method"], tuple(components))

    def _stratifier(self, prefix: str, header: Json, sizes: Mapping[str, int]) -> StratifierResult:
        strata = {}
        for path in sorted(self._folder.glob(f"{prefix}*.parquet")):
            basis, rows = path.stem.removeprefix(prefix), self._open(path.stem)
            number = sizes.get(basis, self._members.num_rows)
            table = rows.whole() if self._size is None else rows.rows(number)
            strata[basis] = _numbers(table["stratum"], np.int32)
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

    def _counts(self, name: str) -> Any:
        """A column as wide as it is stored."""
        return _array(self._members[name]).to_numpy(zero_copy_only=False)

    def _of_members(self, name: str) -> pa.Table:
        rows = self._open(name)
        return rows.whole() if self._size is None else rows.before(self._stop)

    def _placed(self, table: pa.Table) -> Any:
        """Members as indices into this slice."""
        return _numbers(table["member"], np.int32) - np.int32(self._start)

    def _open(self, name: str, columns: list[str] | None = None) -> _Rows:
        if name not in self._files:
            self._files[name] = _Rows(self._folder / f"{name}.parquet", columns, self._size)
        return self._files[name]


def _counts(groups: list[Json], prefix: str = "") -> Iterator[str]:
    """Names of the columns of effective counts, those of components too."""
    for number, group in enumerate(groups):
        for place in range(len(group["populations"])):
            yield f"{prefix}{number}.{place}.counts"
        if group["composite"]:
            yield from _counts([one["group"] for one in group["composite"]["components"]], f"{prefix}{number}_")


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], combined.type)
    return combined


def _numbers(column: pa.ChunkedArray, dtype: Any) -> Any:
    return _array(column).to_numpy(zero_copy_only=False).astype(dtype)
