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
_READ = 1 << 23
_KEYS = "SELECT {person} AS person FROM rows"


def organize(folder: Path, files: Sequence[AnswerFile], limit: int) -> list[AnswerFile]:
    """Files of blocks made of files of one type each; with at most so many lines unless a block has more."""
    personal = [one for one in files if one.type == ANCHOR or person_element(one.type)]
    return list(_write(folder, _sorted(folder, personal), limit)) if personal else []


def _sorted(folder: Path, files: Sequence[AnswerFile]) -> Iterator[pa.Table]:
    """Lines with their persons, person by person, the Patient first; only who is meant by each is in memory."""
    lines, persons = [], []
    for one in files:
        found = _lines(folder / one.name)
        lines.append(found)
        persons += [_persons(found.slice(start, _ROWS), one.type) for start in range(0, len(found), _ROWS)]
    person = pa.concat_arrays(persons)
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(one) for one in lines])
    row = np.concatenate([np.arange(len(one), dtype=np.int32) for one in lines])
    anchors = np.array([one.type == ANCHOR for one in files])
    order = pc.sort_indices(
        pa.table({"person": person, "rank": pa.array(~anchors[file])}),
        sort_keys=[("person", "ascending"), ("rank", "ascending")],
    ).to_numpy()
    order = order[np.asarray(pc.not_equal(person, ""))[order]]
    for start in range(0, len(order), _ROWS):
        some = order[start : start + _ROWS]
        yield pa.table({"person": person.take(pa.array(some)), "line": _gathered(lines, file[some], row[some])})


def _gathered(lines: Sequence[pa.Array], file: Places, row: Places) -> pa.Array:
    """Rows of files, in the order given."""
    by_file = np.argsort(file, kind="stable")
    parts = [lines[one].take(pa.array(row[file == one])) for one in np.unique(file).tolist()]
    place = np.empty_like(by_file)
    place[by_file] = np.arange(len(by_file))
    return pa.concat_arrays(parts).take(pa.array(place)).cast(pa.string())


def _lines(path: Path) -> pa.Array:
    """The lines of a file, each with its line feed, as they lie on disk."""
    ends, before = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(_READ):
            ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1 + before)
            before += len(block)
    offsets = np.concatenate(ends)
    mapped = pa.memory_map(str(path)).read_buffer()
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), mapped)


def _persons(lines: pa.Array, resource_type: str) -> pa.Array:
    """Whom each line is about; empty for nobody."""
    person = "json_extract_string(line, '$.id')"
    if resource_type != ANCHOR:
        reference = f"json_extract_string(line, '$.{person_element(resource_type)}.reference')"
        person = f"regexp_extract({reference}, '(?:^|/)Patient/([A-Za-z0-9.-]+)', 1)"
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.register("rows", pa.table({"line": lines}))
        found = connection.sql(_KEYS.format(person=f"coalesce({person}, '')")).to_arrow_table()["person"]
    return found.combine_chunks().cast(pa.string())


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
        lines = concatenated(pc.if_else(pa.array(starts), header, ""), table["line"].combine_chunks())
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
