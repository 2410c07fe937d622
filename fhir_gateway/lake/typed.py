"""Typed columns of checked rows: by the walk where it has passed them, by DuckDB for the odd ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.lake.assemble import SCRATCH, Assembly, Rows
from fhir_gateway.lake.columns import transform_structure
from fhir_gateway.lake.grammar import Grammar
from fhir_gateway.lake.kernel import tables
from fhir_gateway.lake.texts import Texts
from fhir_gateway.r4 import spec

#: JSON text and rows that are typed at a time.
PIECE_BYTES = 1 << 24
PIECE_ROWS = 1 << 14


class Piece(NamedTuple):
    """Some rows: from which to which, their text, and their columns."""

    start: int
    end: int
    raw: pa.StringArray
    columns: pa.StructArray


def typed_rows(
    connection: duckdb.DuckDBPyConnection,
    grammar: Grammar,
    resource_type: str,
    texts: Texts,
    rows: pa.Table,
    shape: Mapping[str, Any],
) -> Iterator[Piece]:
    """Go through ``rows`` (with ``TEXT_COLUMNS``), a piece at a time; columns are ``shape``.

    A piece's text is only there until this thread asks for the next, of whichever rows.
    """
    found = Rows.of(rows)
    assembly = Assembly(grammar, resource_type, shape)
    ends = np.cumsum(found.lengths)
    at = 0
    while at < len(ends):
        reached = ends[at - 1] if at else 0
        fitting = int(np.searchsorted(ends, reached + PIECE_BYTES, "right"))
        to = max(at + 1, min(fitting, at + PIECE_ROWS))
        size = int(ends[to - 1] - reached)
        text = SCRATCH.text(max(size, PIECE_BYTES) + tables.PADDING)
        text[size : size + tables.PADDING] = 0
        raw, columns = _made(connection, assembly, texts, found.part(at, to), text, size, shape)
        yield Piece(at, to, raw, columns)
        del raw, columns  # memory that nobody has any more is the next piece's
        at = to


def _made(
    connection: duckdb.DuckDBPyConnection,
    assembly: Assembly,
    texts: Texts,
    rows: Rows,
    text: np.ndarray,
    size: int,
    shape: Mapping[str, Any],
) -> tuple[pa.StringArray, pa.StructArray]:
    """The text of rows, ``size`` bytes in all, and their columns."""
    offsets, usual = assembly.read(texts, rows, text)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text[:size])]
    raw = pa.Array.from_buffers(pa.string(), len(rows.starts), buffers)
    return raw, _with_odd(connection, usual, raw, rows.odd, shape)


def _with_odd(
    connection: duckdb.DuckDBPyConnection,
    usual: pa.StructArray,
    raw: pa.StringArray,
    odd: np.ndarray,
    shape: Mapping[str, Any],
) -> pa.StructArray:
    """The columns of all rows: those of the ``usual`` ones and, among them, of the odd ones."""
    if not odd.any():
        return usual
    special = _by_duckdb(connection, raw.filter(pa.array(odd)), shape)
    place = np.empty(len(odd), np.int64)
    place[~odd] = np.arange(len(usual))
    place[odd] = np.arange(len(special)) + len(usual)
    return pa.concat_arrays([usual, special]).take(pa.array(place))


def _by_duckdb(connection: duckdb.DuckDBPyConnection, raw: pa.Array, shape: Mapping[str, Any]) -> pa.StructArray:
    target = spec.arrow_type(dict(shape))
    structure = transform_structure(shape)
    if structure == "{}":
        return pa.array([{}] * len(raw), target)
    connection.register("odd", pa.table({"i": pa.array(np.arange(len(raw))), "_raw": raw}))
    found = connection.sql(
        "select json_transform(_raw, ?) as columns from odd order by i", params=[structure]
    ).to_arrow_table()
    connection.unregister("odd")
    return found["columns"].combine_chunks().cast(target)
