"""Reading a table's files: only the leaves that are asked for, and of members only the row groups they are in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.lake.places import ObjectPath, Place, opened


class Only(NamedTuple):
    """Rows that have one of ``values`` (not empty) in ``column``, which is one of our own."""

    column: str
    values: pa.Array


class Footer(NamedTuple):
    """What a file says of itself; files never change."""

    metadata: pq.FileMetaData
    schema: pa.Schema

    def open(self, path: Place, numbered: Sequence[str] = ()) -> pq.ParquetFile:
        """The file; ``numbered`` are Parquet columns of text to be read as numbers into a dictionary."""
        return pq.ParquetFile(
            opened(path),
            metadata=self.metadata,
            memory_map=True,
            pre_buffer=_ahead(path),
            read_dictionary=list(numbered),
        )


def _ahead(path: Place) -> bool:
    """Whether Arrow is to ask for neighbouring columns at once: each request to an object storage is a journey."""
    return isinstance(path, ObjectPath)


def footer(path: Place) -> Footer:
    """The footer of a file, kept for the files that were read last: understanding it takes longer than a small read."""
    return _kept(path) or _footer(path)


def _footer(path: Place) -> Footer:
    file = pq.ParquetFile(opened(path), memory_map=True)
    return Footer(file.metadata, file.schema_arrow)


@lru_cache(maxsize=512)
def _kept(path: Place) -> Footer | None:
    """None for a long one. A part takes some 400 bytes: 200 MB at most for all, in practice a tenth of that."""
    found = _footer(path)
    return found if found.metadata.num_row_groups * found.metadata.num_columns <= 1024 else None


def stored_rows(path: Place, bucket: int, schema: pa.Schema, only: Only | None = None) -> pa.Table:
    """A file's rows with exactly the columns of ``schema``: columns and nested fields that it lacks are null.

    ``_bucket`` is not in the file: it is the folder's.
    """
    about = footer(path)
    file = about.open(path)
    groups = list(range(file.num_row_groups))
    kept = None
    if only is not None:
        groups = groups_with(about, only)
        found = file.read_row_groups(groups, columns=[only.column], use_threads=False)[only.column]
        kept = pc.indices_nonzero(pc.is_in(found, value_set=only.values))
    if kept is not None and len(kept) == 0:
        return schema.empty_table()
    wanted = [file.schema.column(leaf).path for leaf in leaves(about.schema, schema)]
    table = file.read_row_groups(groups, columns=wanted, use_threads=False)
    size = table.num_rows if wanted else sum(file.metadata.row_group(group).num_rows for group in groups)
    if kept is not None:
        table, size = table.take(kept), len(kept)
    return laid_out(table, size, bucket, schema)


def laid_out(table: pa.Table, size: int, bucket: int, schema: pa.Schema) -> pa.Table:
    """``size`` rows of a file with exactly the columns of ``schema``."""
    there = set(table.column_names)
    columns = []
    for field in schema:
        if field.name == "_bucket":
            columns.append(pa.repeat(pa.scalar(bucket, pa.int32()), size))
        elif field.name in there:
            column = table[field.name]
            columns.append(column if column.type.equals(field.type) else column.cast(field.type))
        else:
            columns.append(pa.nulls(size, field.type))
    return pa.table(columns, schema=schema)


def filled(wanted: pa.Schema, stored: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of ``wanted`` and their parts that some of the ``stored`` files have; our own stay."""
    fields = []
    for field in wanted:
        if field.name.startswith("_") or field.name == "id":
            fields.append(field)
            continue
        types = [schema.field(field.name).type for schema in stored if field.name in schema.names]
        if types:
            fields.append(pa.field(field.name, _filled_type(field.type, types)))
    return pa.schema(fields)


def _filled_type(wanted: pa.DataType, stored: Sequence[pa.DataType]) -> pa.DataType:
    if pa.types.is_list(wanted):
        return pa.list_(_filled_type(wanted.value_type, [kind.value_type for kind in stored]))
    if not pa.types.is_struct(wanted):
        return wanted
    fields = []
    for field in wanted:
        types = [kind.field(field.name).type for kind in stored if kind.get_field_index(field.name) >= 0]
        if types:
            fields.append(pa.field(field.name, _filled_type(field.type, types)))
    return pa.struct(fields or [wanted.field(0)])  # the element is there, if only with other parts


def groups_with(about: Footer, only: Only) -> list[int]:
    """Row groups that may hold such rows: those without statistics may."""
    column = about.schema.names.index(only.column)  # our own columns are flat and come first
    bounds = pc.min_max(only.values)
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    found = []
    for group in range(about.metadata.num_row_groups):
        statistics = about.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max or (statistics.min <= most and statistics.max >= least):
            found.append(group)
    return found


def leaves(stored: pa.Schema, wanted: pa.Schema) -> list[int]:
    """Numbers of the Parquet columns behind the ``wanted`` columns that the file has."""
    chosen: list[int] = []
    first = 0
    for field in stored:
        if field.name in wanted.names:
            chosen += _leaves_below(field.type, wanted.field(field.name).type, first)
        first += leaf_count(field.type)
    return chosen


def _leaves_below(stored: pa.DataType, wanted: pa.DataType, first: int) -> list[int]:
    if pa.types.is_list(stored):
        return _leaves_below(stored.value_type, wanted.value_type, first)
    if not pa.types.is_struct(stored):
        return [first]
    chosen: list[int] = []
    at = first
    for field in stored:
        if wanted.get_field_index(field.name) >= 0:
            chosen += _leaves_below(field.type, wanted.field(field.name).type, at)
        at += leaf_count(field.type)
    return chosen or [first]  # any leaf says where the element is there


def leaf_count(stored: pa.DataType) -> int:
    """How many Parquet columns a column is."""
    if pa.types.is_list(stored):
        return leaf_count(stored.value_type)
    if pa.types.is_struct(stored):
        return sum(leaf_count(field.type) for field in stored)
    return 1
