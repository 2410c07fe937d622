"""Whose data changed between two versions of the lake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.columns import belongs_to_patients
from fhir_gateway.lake.places import side_by_side
from fhir_gateway.lake.reading import Only, stored_rows
from fhir_gateway.lake.tables import ResourceTable, StoredFile

_COLUMNS = pa.schema([("id", pa.string()), ("_member", pa.string()), ("_seq", pa.int64())])


@dataclass(frozen=True, slots=True)
class Changes:
    """``members`` (sorted) have or had rows that are new, replaced, moved or gone; the ``shared`` types have such rows
    that belong to no patient, and may concern anybody."""

    members: pa.Array
    shared: frozenset[str]


def changed(tables: Iterable[tuple[ResourceTable, Sequence[StoredFile]]], since: int) -> Changes:
    """What the lake versions after ``since`` wrote into these tables, whose files of all commits are given.

    Who had a row before somebody else has it now is one of them: rows are looked for by their ids in all that was
    written before.
    """
    members = [pa.array([], pa.string())]
    shared = set()
    for table, files in tables:
        new: list[StoredFile] = []
        old: list[StoredFile] = []
        for file in files:
            (new if file.seq > since else old).append(file)
        if not new:
            continue
        if not belongs_to_patients(table.resource_type):
            shared.add(table.resource_type)
            continue
        rows = _rows(table, new)
        rows = rows.filter(pc.greater(rows["_seq"], since))
        ids = pc.unique(rows["id"].combine_chunks())
        if len(ids):
            members.append(pc.unique(rows["_member"]))
            before = _rows(table, old, Only("id", ids))
            members.append(pc.unique(before["_member"]))
    everybody = pc.unique(pa.chunked_array(members, pa.string())).drop_null()
    return Changes(everybody.take(pc.sort_indices(everybody)), frozenset(shared))


def _rows(table: ResourceTable, files: list[StoredFile], only: Only | None = None) -> pa.Table:
    def read(file: StoredFile) -> pa.Table:
        return stored_rows(file.path, file.bucket, _COLUMNS, only)

    return pa.concat_tables([_COLUMNS.empty_table(), *side_by_side(read, files, table.path)])
