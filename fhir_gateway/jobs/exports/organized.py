"""Output organized by patient (Bulk Data 3.0.0): a block of lines for each, put in order outside of memory.

A block is a header (Parameters that name the patient), the Patient, and what is about that patient. A block is never
split over files. What is about nobody has no block and is left out, as the specification allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.jobs.exports.models import person_element
from fhir_gateway.jobs.requests import AnswerFile
from fhir_gateway.measures.texts import concatenated, contents

ANCHOR = "Patient"
Places = np.ndarray[tuple[int], np.dtype[np.intp]]

_ROWS = 2000
_MEMORY = "512MB"
#: Lines are read whole: no JSON has the character between columns.
_LINES = """
SELECT {person} AS person, {rank} AS rank, line FROM read_csv(
    {files}, columns = {{'line': 'VARCHAR'}}, header = false, delim = '\x01', quote = '', escape = '',
    max_line_size = 268435456, auto_detect = false, strict_mode = false
)
"""


def organize(folder: Path, files: Sequence[AnswerFile], limit: int) -> list[AnswerFile]:
    """Files of blocks made of files of one type each; with at most so many lines unless a block has more."""
    personal = [one for one in files if one.type == ANCHOR or person_element(one.type)]
    return list(_write(folder, _sorted(folder, personal), limit)) if personal else []


def _sorted(folder: Path, files: Sequence[AnswerFile]) -> Iterator[pa.Table]:
    """Lines with their persons: person by person, the Patient first."""
    selected = []
    for kind in sorted({one.type for one in files}):
        names = [str(folder / one.name) for one in files if one.type == kind]
        person = "json_extract_string(line, '$.id')"
        if kind != ANCHOR:
            reference = f"json_extract_string(line, '$.{person_element(kind)}.reference')"
            person = f"regexp_extract({reference}, '(?:^|/)Patient/([A-Za-z0-9.-]+)', 1)"
        selected.append(_LINES.format(person=person, rank=int(kind != ANCHOR), files=names))
    everything = " UNION ALL ".join(f"({one})" for one in selected)
    with duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": str(folder / "sorting")}) as connection:
        connection.execute("SET preserve_insertion_order = false")
        found = connection.sql(
            f"SELECT person, line FROM ({everything}) WHERE person <> '' ORDER BY person, rank, line"  # noqa: S608
        )
        reader: pa.RecordBatchReader = found.to_arrow_reader(_ROWS)
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _write(folder: Path, tables: Iterator[pa.Table], limit: int) -> Iterator[AnswerFile]:
    """Write blocks; a file ends where a block does."""
    number = count = 0
    out = None
    last = None
    for table in tables:
        person = table["person"].combine_chunks()
        starts = np.ones(len(person), np.bool_)
        starts[1:] = np.asarray(pc.not_equal(person[1:], person[:-1]))
        starts[0] = person[0].as_py() != last
        last = person[-1].as_py()
        header = concatenated(
            '{"resourceType":"Parameters","parameter":[{"name":"header","valueReference":{"reference":"Patient/',
            person,
            '"}}]}\n',
        )
        lines = concatenated(pc.if_else(pa.array(starts), header, ""), table["line"].combine_chunks(), "\n")
        places = np.flatnonzero(starts)
        begin = 0
        while begin < len(lines):
            end = _end(places, begin, len(lines), limit - count, empty=out is None)
            if end == begin and out is not None:
                out.close()
                yield AnswerFile("", _name(number), count)
                out, count = None, 0
                continue
            if out is None:
                number += 1
                out = (folder / _name(number)).open("wb")
            out.write(contents(lines[begin:end]))
            count += end - begin
            begin = end
    if out is not None:
        out.close()
        yield AnswerFile("", _name(number), count)


def _end(places: Places, begin: int, size: int, room: int, *, empty: bool) -> int:
    """Up to which row a file takes what comes: all, or whole blocks that fit; an empty one takes a block whatever."""
    if size - begin <= room:
        return size
    fitting = places[(places > begin) & (places <= begin + room)]
    if len(fitting):
        return int(fitting[-1])
    if not empty and begin in places:
        return begin
    following = places[places > begin]
    return int(following[0]) if len(following) else size


def _name(number: int) -> str:
    return f"{ANCHOR}-blocks.{number}.ndjson"
