"""NDJSON files as Arrow columns of lines that stay on disk (memory-mapped), and what an index needs of each line."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import Location, ResourceError
from fhir_gateway.r4.spec import patient_element, resource_types

_SCAN_BYTES = 64 * 1024 * 1024
_EXTRACT_BYTES = 32 * 1024 * 1024
_ID = r"^[A-Za-z0-9\-.]{1,64}$"
_COMPARTMENT_ELEMENTS = ("patient", "subject", "beneficiary", "individual", "for")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One uncompressed NDJSON file: its name in the folder, and its lines, each with its line end."""

    name: str
    lines: pa.LargeBinaryArray


def open_files(folder: Path, spool: Path) -> list[StoredFile]:
    """Open every ``*.ndjson`` and ``*.ndjson.gz`` of the folder, in order of name.

    Compressed files are unpacked into ``spool``, since reading one resource of them needs random access.
    """
    paths = sorted([*folder.glob("*.ndjson"), *folder.glob("*.ndjson.gz")])
    return [_open(path.name, _unpacked(path, spool) if path.suffix == ".gz" else path) for path in paths]


def _unpacked(path: Path, spool: Path) -> Path:
    target = spool / path.stem
    try:
        with gzip.open(path) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1024 * 1024)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ResourceError("the file is no complete gzip", location=Location(path.name, rule="gzip")) from error
    return target


def _open(name: str, path: Path) -> StoredFile:
    if path.stat().st_size == 0:
        return StoredFile(name, pa.array([], pa.large_binary()))
    with pa.memory_map(str(path)) as mapped:
        buffer = mapped.read_buffer()
    content = np.frombuffer(buffer, np.uint8)
    ends = [np.flatnonzero(content[at : at + _SCAN_BYTES] == ord("\n")) + at + 1 for at in _steps(content.size)]
    offsets = np.concatenate([np.zeros(1, np.int64), *ends])
    if offsets[-1] != content.size:  # the last line has no line end
        offsets = np.append(offsets, content.size)
    lines = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), offsets.size - 1, [None, pa.py_buffer(offsets.astype(np.int64, copy=False)), buffer]
    )
    return StoredFile(name, lines)


def _steps(size: int) -> range:
    return range(0, size, _SCAN_BYTES)


def describe(file: StoredFile) -> pa.Table:
    """One row per resource of the file, in order: line (0-based), type, id, updated (epoch µs or null), patient.

    ``patient`` is the id that the type's compartment element refers to, null when it names none. Blank lines are
    passed over. ResourceError names the first line that is no resource a server could hold.
    """
    compartment = pa.table(
        {
            "type": pa.array(resource_types()),
            "position": pa.array([_position(name) for name in resource_types()], pa.int32()),
        }
    )
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("compartment", compartment)
        parts = [_described(connection, file, start, stop) for start, stop in _chunks(file.lines)]
    return pa.concat_tables(parts) if parts else NO_RESOURCES


#: Shape of what :func:`describe` gives.
NO_RESOURCES = pa.table(
    {
        "line": pa.array([], pa.int32()),
        "type": pa.array([], pa.string()),
        "id": pa.array([], pa.string()),
        "updated": pa.array([], pa.int64()),
        "patient": pa.array([], pa.string()),
    }
)

_PATHS = ["$.resourceType", "$.id", "$.meta.lastUpdated", *(f"$.{name}.reference" for name in _COMPARTMENT_ELEMENTS)]
_PATIENT_REFERENCE = r"(?:(?:^|/)Patient/|^urn:uuid:)([A-Za-z0-9.\-]{1,64})(?:/_history/.*)?$"
_QUERY = f"""
with parsed as (
    select line, case when json_valid(text) then json_extract_string(text, {_PATHS!r}) end as found
    from chunk where trim(text, ' \t\r\n') <> ''
)
select line::integer as line, found[1] as type, found[2] as id,
    epoch_us(try_cast(found[3] as timestamptz)) as updated,
    nullif(regexp_extract(found[3 + position], '{_PATIENT_REFERENCE}', 1), '') as patient,
    found is not null as valid
from parsed left join compartment on found[1] = compartment.type
order by line
"""  # noqa: S608  # made of constants only


def _described(connection: duckdb.DuckDBPyConnection, file: StoredFile, start: int, stop: int) -> pa.Table:
    try:
        text = file.lines.slice(start, stop - start).cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise ResourceError("the file is not UTF-8", location=Location(file.name, rule="utf-8")) from error
    connection.register("chunk", pa.table({"line": pa.array(range(start, stop), pa.int64()), "text": text}))
    table = connection.sql(_QUERY).to_arrow_table()
    connection.unregister("chunk")
    known = pc.is_in(table["type"], pa.array(resource_types()))
    named = pc.fill_null(pc.match_substring_regex(table["id"], _ID), False)
    for holds, rule in ((table["valid"], "JSON object"), (known, "resourceType"), (named, "id")):
        position = pc.index(pc.fill_null(holds, False), pa.scalar(False)).as_py()
        if position >= 0:
            location = Location(file.name, table["line"][position].as_py() + 1, rule=rule)
            raise ResourceError("a line is no resource that a server could hold", location=location)
    return table.drop_columns("valid").cast(NO_RESOURCES.schema)


def _position(resource_type: str) -> int | None:
    element = patient_element(resource_type)
    return None if element is None else _COMPARTMENT_ELEMENTS.index(element) + 1


def _chunks(lines: pa.LargeBinaryArray) -> Iterator[tuple[int, int]]:
    if len(lines) == 0:
        return
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[: len(lines) + 1]
    start = 0
    while start < len(lines):
        stop = int(np.searchsorted(offsets, offsets[start] + _EXTRACT_BYTES, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop
