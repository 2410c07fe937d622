"""Typed columns of checked rows: by the walk where it has passed them, by DuckDB for the odd ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.lake.assemble import assemble
from fhir_gateway.lake.columns import transform_structure
from fhir_gateway.lake.grammar import Grammar
from fhir_gateway.lake.kernel import heads, tables
from fhir_gateway.r4 import spec

#: JSON text that is typed at a time: what the walk notes of it should stay in the processor's cache.
_CHUNK_BYTES = 1 << 22


def typed_rows(
    connection: duckdb.DuckDBPyConnection,
    grammar: Grammar,
    resource_type: str,
    rows: pa.Table,
    order: np.ndarray,
    shape: Mapping[str, Any],
) -> Iterator[tuple[np.ndarray, pa.StringArray, pa.StructArray]]:
    """Go through ``rows`` (with ``_raw`` and ``_odd``) in the given order, a piece at a time.

    Gives the row numbers of the piece, its text, and its columns ``shape``.
    """
    raw = rows["_raw"].combine_chunks()
    offsets = np.frombuffer(raw.buffers()[1], np.int32, len(raw) + 1, raw.offset * 4)
    source = np.frombuffer(raw.buffers()[2], np.uint8) if raw.buffers()[2] is not None else np.empty(0, np.uint8)
    odd = rows["_odd"].to_numpy()[order]
    starts, lengths = offsets[:-1].astype(np.int64)[order], np.diff(offsets).astype(np.int64)[order]
    ends = np.cumsum(lengths)
    at = 0
    while at < len(order):
        reached = ends[at - 1] if at else 0
        to = max(at + 1, int(np.searchsorted(ends, reached + _CHUNK_BYTES, "right")))
        size = int(ends[to - 1] - reached)
        text = np.empty(size + tables.PADDING, np.uint8)
        text[size:] = 0
        places = np.empty(to - at + 1, np.int32)
        heads.take(source, starts[at:to], lengths[at:to], text, places)
        buffers = [None, pa.py_buffer(places), pa.py_buffer(text[:size])]
        piece = pa.Array.from_buffers(pa.string(), to - at, buffers)
        columns = _columns(connection, grammar, resource_type, text, places, piece, odd[at:to], shape)
        yield order[at:to], piece, columns
        at = to


def _columns(
    connection: duckdb.DuckDBPyConnection,
    grammar: Grammar,
    resource_type: str,
    text: np.ndarray,
    places: np.ndarray,
    piece: pa.StringArray,
    odd: np.ndarray,
    shape: Mapping[str, Any],
) -> pa.StructArray:
    starts = places[:-1].astype(np.int64)
    size = int(places[-1])
    if not odd.any():
        return assemble(grammar, resource_type, text, starts, size, shape)
    usual = assemble(grammar, resource_type, text, starts[~odd], size, shape)
    special = _by_duckdb(connection, piece.filter(pa.array(odd)), shape)
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
