"""Lines in, checked rows and refusals out.

Each block of lines is walked by the compiled check. What it is unsure of goes to :mod:`fhir_gateway.lake.judge`, a line
at a time, which has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fhir_gateway.lake import columns
from fhir_gateway.lake.assemble import used_shape
from fhir_gateway.lake.grammar import MOST_COLUMNS, Grammar
from fhir_gateway.lake.judge import judge, refusal
from fhir_gateway.lake.kernel import heads, many, tables
from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.quarantine import QuarantinedLine
from fhir_gateway.lake.texts import Texts
from fhir_gateway.r4 import spec

#: Rows of one type that have passed. ``_order`` is their place in the pull, ``_at`` where their text begins among that
#: of the commit and ``_told_at`` where what the walk said of it, ``_told`` events; ``_odd`` rows have passed the exact
#: judge only, and their columns are not the walk's to make.
CHECKED = pa.schema(
    [
        ("_order", pa.int64()),
        ("id", pa.string()),
        ("_patient", pa.string()),
        ("_last_updated", pa.timestamp("us", "UTC")),
        ("_version", pa.int64()),
        ("_hash", pa.int64()),
        ("_at", pa.int64()),
        ("_size", pa.int32()),
        ("_told_at", pa.int64()),
        ("_told", pa.int32()),
        ("_odd", pa.bool_()),
    ]
)

#: What stands for a type that R4 does not have: no line has it.
_NO_NODE = 1 << 30

#: What every block of the process has taught; a commit begins with what the ones before it have learned.
GRAMMAR = Grammar()


@dataclass
class Scanned:
    """What one block of lines gave: rows by type and refused lines.

    ``lines`` are those that are not blank, ``places`` how many places in the pull the block takes.
    """

    rows: list[tuple[str, pa.RecordBatch]]
    refused: list[QuarantinedLine]
    lines: int
    places: int


@dataclass
class Scanner:
    """Checks blocks and remembers which columns the rows that passed fill; for one thread at a time."""

    grammar: Grammar = field(default_factory=lambda: GRAMMAR)

    def __post_init__(self) -> None:
        self._used = np.zeros(MOST_COLUMNS, np.uint8)
        self._odd_shapes: dict[str, dict[str, Any]] = {}
        self._frames = np.zeros((5, tables.MAX_DEPTH + 1), np.int64)
        self.rest()

    def rest(self) -> None:
        """Give the memory back that it works in: no block comes for a while."""
        self._padded = np.empty(0, np.uint8)
        self._events = np.empty(0, np.int64)

    def beside(self) -> Scanner:
        """One for another thread: what rows fill is remembered in common, the memory it works in is its own."""
        other = Scanner(self.grammar)
        other._used, other._odd_shapes = self._used, self._odd_shapes
        return other

    def shape(self, resource_type: str) -> dict[str, Any]:
        """The part of the type's column structure that is filled so far."""
        shape = used_shape(self.grammar, resource_type, self._used)
        merged = columns.pruned(_merged(shape, self._odd_shapes.get(resource_type, {})))
        return {name: merged[name] for name in spec.column_structure(resource_type) if name in merged}

    def scan(
        self, block: LineBlock, promised: str | None, file: str, order: int, texts: Texts | None = None
    ) -> Scanned:
        """Check a block of ``file``, whose sender promised a type (None: any), and lay it down in ``texts``.

        ``order`` is the place in the pull of the first row. Without ``texts`` no columns can be made of the rows.
        """
        text = block.text
        at = texts.add(text) if texts else 0
        if len(self._padded) < len(text) + tables.PADDING:
            self._padded = np.empty(2 * len(text) + tables.PADDING, np.uint8)
        padded = padded_into(self._padded, text)
        if texts and len(self._events) < len(text) // 2 + 16:
            self._events = np.empty(len(text) + 16, np.int64)
        lines, state = self._walk(padded, block, promised, self._events if texts else self._events[:0])
        told = state[tables.EVENTS]
        told_at = texts.add(self._events[:told].view(np.uint8).data) if texts else 0
        passed = lines.passed
        if state[tables.BEYOND_ASCII] and not _is_utf8(padded, len(text)):
            passed &= [_decodes(line) for line in lines.texts(text)]
        scanned = Scanned([], [], len(passed), len(passed))
        roots = lines.slot_start[0]
        whole = passed.all() and (roots == roots[:1]).all()  # the usual block of an export
        for root in roots[:1] if whole else np.unique(roots[passed]):
            name = self.grammar.type_of(int(root))
            rows = slice(None) if whole else np.flatnonzero(passed & (roots == root))
            scanned.rows.append((name, _batch(name, padded, lines, rows, order, at, told_at)))
        unsure = np.flatnonzero(~passed)
        if len(unsure):
            self._judge_all(scanned, text, lines, unsure, promised, file, order, at)
        return scanned

    def _walk(
        self, padded: np.ndarray, block: LineBlock, promised: str | None, events: np.ndarray
    ) -> tuple[_Lines, np.ndarray]:
        """What is known of the lines, and the state after them; no ``events`` where there is no room."""
        lines = _Lines(block.count)
        state = np.zeros(tables.STATE, np.int64)
        place = np.array([0, 0, block.number, 0], np.int64)
        root = -1 if promised is None else self.grammar.root(promised)
        if promised is not None and root < 0:
            root = _NO_NODE
        while True:
            with self.grammar.lent() as known:
                answer = many.walk_lines(
                    known,
                    padded,
                    len(block.text),
                    root,
                    lines.start,
                    lines.end,
                    lines.number,
                    lines.passed,
                    lines.event,
                    lines.slot_start,
                    lines.slot_length,
                    self._used,
                    events,
                    self._frames,
                    state,
                    place,
                )
            if answer == tables.DONE:
                return lines.cut(int(place[many.ROW])), state
            word = block.text[state[tables.ASKED_START] : state[tables.ASKED_END]]
            place[many.FORCED] = not self.grammar.learn(answer, int(state[tables.ASKED]), word)

    def _judge_all(
        self,
        scanned: Scanned,
        text: bytes,
        lines: _Lines,
        unsure: np.ndarray,
        promised: str | None,
        file: str,
        order: int,
        at: int,
    ) -> None:
        kept: dict[str, list[_Odd]] = {}
        for row in unsure.tolist():
            ended = text[lines.start[row] : lines.end[row]].rstrip()
            line = ended.lstrip()
            begin = int(lines.start[row]) + len(ended) - len(line) + at
            if not line:
                scanned.lines -= 1
                continue
            resource, issue = judge(line, promised)
            if issue is None:
                kept.setdefault(resource["resourceType"], []).append(_Odd(row + order, begin, line, resource))
            else:
                scanned.refused.append(refusal(line, int(lines.number[row]), resource, promised, file, issue))
        for name, odd in kept.items():
            shape = self._odd_shapes.setdefault(name, {})
            columns.widen(shape, [one.resource for one in odd], spec.column_structure(name))
            scanned.rows.append((name, _odd_batch(name, odd)))


class _Odd(NamedTuple):
    """A line that only the exact judge could pass, and where it begins."""

    order: int
    at: int
    line: bytes
    resource: Any


class _Lines:
    """Arrays about the lines of a block, one entry per line that is not blank."""

    def __init__(self, most: int) -> None:
        self.start, self.end, self.number = (np.empty(most, np.int64) for _ in range(3))
        self.passed = np.empty(most, np.bool_)
        self.event = np.empty(most + 1, np.int64)  # the first of each line's
        self.slot_start, self.slot_length = (np.zeros((tables.SLOTS, most), np.int64) for _ in range(2))

    def cut(self, count: int) -> _Lines:
        """Only the first ``count``."""
        self.start, self.end, self.number = self.start[:count], self.end[:count], self.number[:count]
        self.passed, self.event = self.passed[:count], self.event[: count + 1]
        self.slot_start, self.slot_length = self.slot_start[:, :count], self.slot_length[:, :count]
        return self

    def texts(self, text: bytes) -> Iterator[bytes]:
        """The lines themselves."""
        for start, end in zip(self.start.tolist(), self.end.tolist(), strict=True):
            yield text[start:end]


def padded_into(target: np.ndarray, text: bytes) -> np.ndarray:
    """A text as the walk wants it; writable like all others, else everything would be compiled a second time.

    ``target`` is used again for the next: asking for fresh memory costs more than the check.
    """
    padded = target[: len(text) + tables.PADDING]
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    padded[len(text) :] = 0
    return padded


def padded(text: bytes) -> np.ndarray:
    """The same in memory of its own."""
    return padded_into(np.empty(len(text) + tables.PADDING, np.uint8), text)


def _batch(
    resource_type: str, text: np.ndarray, lines: _Lines, rows: np.ndarray | slice, order: int, at: int, told_at: int
) -> pa.RecordBatch:
    starts, lengths = lines.start[rows], lines.end[rows] - lines.start[rows]
    count = len(starts)
    events = lines.event[:-1][rows]

    def slot(number: int) -> tuple[np.ndarray, np.ndarray]:
        return lines.slot_start[number][rows], lines.slot_length[number][rows]

    hashes = np.empty(count, np.int64)
    heads.hashes(text, starts, lengths, hashes)
    versions, known = np.empty(count, np.int64), np.empty(count, np.bool_)
    heads.versions(text, *slot(tables.VERSION_SLOT), versions, known)
    moments = np.zeros(count, np.int64)
    updated = slot(tables.UPDATED_SLOT)
    heads.instants(text, *updated, moments)
    ids = _strings(text, *slot(tables.ID_SLOT))
    if resource_type == "Patient":
        patients = ids
    elif spec.patient_element(resource_type) is None:
        patients = pa.nulls(count, pa.string())
    else:
        patients = _patients(text, *slot(tables.PATIENT_SLOT))
    return pa.record_batch(
        [
            pa.array(np.arange(len(lines.start))[rows] + order),
            ids,
            patients,
            _array(pa.timestamp("us", "UTC"), updated[1] > 0, moments),
            _array(pa.int64(), known, versions),
            pa.array(hashes),
            pa.array(starts + at),
            pa.array(lengths.astype(np.int32)),
            pa.array(8 * events + told_at),
            pa.array((lines.event[1:][rows] - events).astype(np.int32)),
            _array(pa.bool_(), None, np.zeros((count + 7) // 8, np.uint8), rows=count),
        ],
        schema=CHECKED,
    )


def _patients(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> pa.StringArray:
    narrowed = starts.copy(), lengths.copy()
    if heads.patients(text, *narrowed):
        return _strings(text, *narrowed)
    return columns.patient_ids(_strings(text, starts, lengths))


def _strings(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> pa.StringArray:
    """Pieces of a text as an Arrow column; empty pieces are null."""
    offsets = np.empty(len(starts) + 1, np.int32)
    target = np.empty(int(lengths.sum()) + 8, np.uint8)
    heads.take(text, starts, lengths, target, offsets)
    return _array(pa.string(), lengths > 0, offsets, target[: offsets[-1]], rows=len(starts))


def _array(made: pa.DataType, there: np.ndarray | None, *buffers: np.ndarray, rows: int | None = None) -> pa.Array:
    """An Arrow array of numbers that are laid out as it wants them, null where nothing is ``there``."""
    validity = None if there is None or there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    count = len(buffers[0]) if rows is None else rows
    return pa.Array.from_buffers(made, count, [validity, *(pa.py_buffer(buffer) for buffer in buffers)])


def _is_utf8(padded: np.ndarray, size: int) -> bool:
    offsets = pa.py_buffer(np.array([0, size], np.int64))
    whole = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(padded)])
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _odd_batch(resource_type: str, odd: Sequence[_Odd]) -> pa.RecordBatch:
    """Rows from lines that only the exact judge could pass."""
    resources = [one.resource for one in odd]
    metas = [resource.get("meta") or {} for resource in resources]
    ids = pa.array([resource["id"] for resource in resources], pa.string())
    patients = ids if resource_type == "Patient" else columns.patient_ids(_references(resource_type, resources))
    lengths = np.array([len(one.line) for one in odd], np.int64)
    hashes = np.empty(len(odd), np.int64)
    heads.hashes(padded(b"".join(one.line for one in odd)), np.cumsum(lengths) - lengths, lengths, hashes)
    return pa.record_batch(
        [
            pa.array([one.order for one in odd], pa.int64()),
            ids,
            patients,
            columns.instants(pa.array([meta.get("lastUpdated") for meta in metas], pa.string())),
            columns.version_numbers(pa.array([meta.get("versionId") for meta in metas], pa.string())),
            pa.array(hashes),
            pa.array([one.at for one in odd], pa.int64()),
            pa.array(lengths.astype(np.int32)),
            pa.array([0] * len(odd), pa.int64()),
            pa.array([0] * len(odd), pa.int32()),
            pa.array([True] * len(odd)),
        ],
        schema=CHECKED,
    )


def _references(resource_type: str, resources: Sequence[Any]) -> pa.Array:
    name = spec.patient_element(resource_type)
    if name is None:
        return pa.nulls(len(resources), pa.string())
    if spec.type_definition(resource_type).elements[name].is_list:
        texts = ([r.get("reference") or "" for r in resource.get(name, ())] for resource in resources)
        found = [next((text for text in each if "Patient/" in text), None) for each in texts]
    else:
        found = [(resource.get(name) or {}).get("reference") for resource in resources]
    return pa.array(found, pa.string())


def _merged(one: Any, other: Any) -> Any:
    """Both of two parts of a column structure."""
    if isinstance(one, list):
        return [_merged(one[0], other[0])]
    if isinstance(one, str):
        return one
    both = dict(one)
    for name, part in other.items():
        both[name] = _merged(both[name], part) if name in both else part
    return both
