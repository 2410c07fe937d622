"""What a source has stored that meets the criteria of a conditional interaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.conditions import Criteria, Token


class StoredMatches:
    """Looks through the newest rows of one source, in columns; each type is read once."""

    def __init__(self, lake: Lake, source: str) -> None:
        self._lake, self._source, self._version = lake, source, lake.version
        self._types: dict[tuple[str, bool], _Rows] = {}

    def __call__(self, criteria: Criteria) -> Sequence[str]:
        """Ids of the rows that meet the criteria, sorted."""
        rows = self._rows(criteria.kind, identifiers=bool(criteria.identifiers))
        met = np.ones(len(rows.ids), dtype=bool)
        for some in criteria.ids:
            met &= pc.is_in(rows.ids, value_set=pa.array(sorted(some))).to_numpy(zero_copy_only=False)
        for tokens in criteria.identifiers:
            met &= rows.having(tokens)
        return sorted(rows.ids.filter(pa.array(met)).to_pylist())

    def has(self, kind: str, ids: Iterable[str]) -> set[str]:
        """Which of some ids of a type are there."""
        known = self._rows(kind, identifiers=False).ids
        return set(known.filter(pc.is_in(known, value_set=pa.array(list(ids), pa.string()))).to_pylist())

    def versions(self, kind: str, ids: Iterable[str]) -> dict[str, int]:
        """The lake versions that wrote the rows of some ids of a type."""
        table = self._lake.read(kind, ["_seq"], version=self._version, ordered=False)
        wanted = pc.is_in(table["id"], value_set=pa.array(sorted(ids), pa.string()))
        rows = table.filter(pc.and_(wanted, pc.equal(table["_source"], self._source)))
        return dict(zip(rows["id"].to_pylist(), rows["_seq"].to_pylist(), strict=True))

    def _rows(self, kind: str, *, identifiers: bool) -> _Rows:
        key = kind, identifiers
        if key not in self._types:
            names = ["identifier.system", "identifier.value"] if identifiers else []
            table = self._lake.read(kind, names, version=self._version, ordered=False)
            self._types[key] = _Rows(table.filter(pc.equal(table["_source"], self._source)))
        return self._types[key]


class _Rows:
    """Ids of the rows of a type, and their identifiers: one element for each, with the number of its row."""

    def __init__(self, table: pa.Table) -> None:
        self.ids = table["id"].combine_chunks()
        if "identifier" not in table.column_names:
            return
        stated = table["identifier"].combine_chunks()
        if pa.types.is_list(stated.type):
            self._rows, flat = pc.list_parent_indices(stated).to_numpy(), pc.list_flatten(stated)
        else:
            self._rows, flat = np.arange(len(stated)), stated
        self._systems = pc.fill_null(pc.struct_field(flat, "system"), "")
        self._values = pc.struct_field(flat, "value")

    def having(self, tokens: Sequence[Token]) -> NDArray[np.bool_]:
        """Rows with an identifier that one of the tokens means."""
        met = np.zeros(len(self.ids), dtype=bool)
        for token in tokens:
            here = pc.equal(self._values, token.value)
            if token.system is not None:
                here = pc.and_(here, pc.equal(self._systems, token.system))
            met[self._rows[pc.fill_null(here, False).to_numpy(zero_copy_only=False)]] = True
        return met
