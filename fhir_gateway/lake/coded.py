"""Reading only the rows that have one of some codes: most resources are never asked for.

The codes of a table are looked at first, as numbers into the dictionary they were written with; of the other columns
only the rows found are made, and of row groups without any nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.lake.places import Place
from fhir_gateway.lake.reading import Footer, Only, footer, groups_with, laid_out, leaf_count, leaves

#: Paths to codes (``code.coding.code``) and the codes that are wanted there.
Coded = Mapping[str, frozenset[str]]
_Rows = npt.NDArray[np.int64]


def coded_rows(path: Place, bucket: int, schema: pa.Schema, only: Only | None, coded: Coded) -> pa.Table:
    """The rows of a file that have a wanted code at any of the paths, as :func:`reading.stored_rows` gives them."""
    about = footer(path)
    stored = about.metadata.schema
    found = {place: leaf for place in coded if (leaf := _leaf(about.schema, place.split("."))) is not None}
    columns = leaves(about.schema, schema)
    numbered = [leaf for leaf in {*found.values(), *columns} if _is_numbered(about, leaf)]
    reader = about.open(path, [stored.column(leaf).path for leaf in numbered])
    wanted = [stored.column(leaf).path for leaf in columns]
    parts = []
    for group in groups_with(about, only) if only is not None else range(about.metadata.num_row_groups):
        rows = _rows_with(reader, group, {leaf: (place.split("."), coded[place]) for place, leaf in found.items()})
        if only is not None and len(rows):
            own = reader.read_row_group(group, columns=[only.column], use_threads=False)[only.column].take(rows)
            rows = rows[np.asarray(pc.is_in(own.cast(only.values.type), value_set=only.values))]
        if len(rows):
            table = reader.read_row_group(group, columns=wanted, use_threads=False).take(rows)
            parts.append(laid_out(table, len(rows), bucket, schema))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _rows_with(reader: pq.ParquetFile, group: int, places: Mapping[int, tuple[Sequence[str], frozenset[str]]]) -> _Rows:
    """Rows of a row group with a wanted code at one of the places, which are said by leaf."""
    found = [np.zeros(0, np.int64)]
    paths = [reader.schema.column(leaf).path for leaf in places]
    table = reader.read_row_group(group, columns=paths, use_threads=False) if paths else None
    for (column, *below), codes in places.values():
        assert table is not None  # noqa: S101 - there are places
        found.append(_rows_of(table[column].combine_chunks(), below, codes))
    return np.unique(np.concatenate(found)) if len(found) > 2 else found[-1]


def _rows_of(array: pa.Array, below: Sequence[str], codes: frozenset[str]) -> _Rows:
    """Rows of a column with one of the codes at the path ``below`` it."""
    rows: _Rows | None = None
    for name in (*below, ""):
        if pa.types.is_list(array.type):
            parents = np.asarray(pc.list_parent_indices(array)).astype(np.int64)
            rows = parents if rows is None else rows[parents]
            array = pc.list_flatten(array)
        array = pc.struct_field(array, name) if name else array
    hits = np.flatnonzero(_wanted(array, codes))
    return np.unique(hits if rows is None else rows[hits]).astype(np.int64)


def _wanted(array: pa.Array, codes: frozenset[str]) -> npt.NDArray[np.bool_]:
    if not pa.types.is_dictionary(array.type):
        return np.asarray(pc.is_in(array, value_set=pa.array(codes, pa.string())), np.bool_)
    known = np.array([text in codes for text in array.dictionary.to_pylist()], np.bool_)
    if not known.any():
        return np.zeros(len(array), np.bool_)
    hits: npt.NDArray[np.bool_] = np.append(known, False)[np.asarray(array.indices.fill_null(len(known)))]
    return hits


def _leaf(stored: pa.Schema | pa.DataType, parts: Sequence[str], first: int = 0) -> int | None:
    """Number of the Parquet column at a path; None where the file has none."""
    for field in stored:
        if field.name == parts[0]:
            inner = field.type
            while pa.types.is_list(inner):
                inner = inner.value_type
            if pa.types.is_struct(inner):
                return _leaf(inner, parts[1:], first) if len(parts) > 1 else None
            return first if len(parts) == 1 else None
        first += leaf_count(field.type)
    return None


def _is_numbered(about: Footer, leaf: int) -> bool:
    """Whether a column is text that was written as numbers into a dictionary."""
    if not about.metadata.num_row_groups or about.metadata.schema.column(leaf).logical_type.type != "STRING":
        return False
    return bool(about.metadata.row_group(0).column(leaf).has_dictionary_page)
