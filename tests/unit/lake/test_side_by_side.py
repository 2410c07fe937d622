"""Several threads of one process take lines in at the same time: each gets what it gets alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pytest

from fhir_gateway.lake import scan
from fhir_gateway.lake.grammar import Grammar
from fhir_gateway.lake.kernel import tables
from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.scan import Scanner
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import typed_rows
from fhir_gateway.r4 import spec
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.broken import broken_texts
from tests.support.invalid import types, valid
from tests.support.lake_pulls import People

_THREADS = 4
_VALUES = {"string": "x", "code": "x", "boolean": True, "integer": 7, "date": "2020-02", "uri": "urn:x", "decimal": 1.5}


def of_all_types() -> Iterator[bytes]:
    """A line of each type of R4 with most of its plain elements: between them they need large tables."""
    for name in spec.resource_types():
        resource: dict[str, Any] = {"resourceType": name, "id": "1"}
        for element in spec.type_definition(name).elements.values():
            value = _VALUES.get(element.type)
            if value is not None and not element.choice and not element.codes and element.name != "id":
                resource[element.name] = [value] if element.is_list else value
        yield json.dumps(resource).encode()


class Found(NamedTuple):
    """What lines gave, by their number before they were shuffled."""

    rows: dict[int, tuple[str, str, int, bool]]
    refused: dict[int, tuple[str | None, str]]
    columns: dict[str, pa.Table]


def taken_in(grammar: Grammar, lines: list[bytes], seed: int) -> Found:
    """Check the lines in an order of this seed, a few at a time, and make columns of them."""
    order = random.Random(seed).sample(range(len(lines)), len(lines))  # noqa: S311 - a test's choice
    scanner = Scanner(grammar)
    found = Found({}, {}, {})
    batches: dict[str, list[pa.RecordBatch]] = {}
    with duckdb.connect() as connection, Texts() as texts:
        for first in range(0, len(order), 50):
            part = order[first : first + 50]
            text = b"".join(lines[number] + b"\n" for number in part)
            scanned = scanner.scan(LineBlock(text, first + 1, len(part)), None, "f", first, texts)
            for line in scanned.refused:
                found.refused[order[line.line - 1]] = line.path, line.rule
            for name, batch in scanned.rows:
                batches.setdefault(name, []).append(batch)
                for place, *row in zip(*(batch[n].to_pylist() for n in ("_order", "id", "_hash", "_odd")), strict=True):
                    found.rows[order[place]] = (name, *row)
        for name, parts in batches.items():
            rows = pa.Table.from_batches(parts)
            rows = rows.take(pa.array(sorted(range(len(rows)), key=lambda i: order[rows["_order"][i].as_py()])))
            pieces = typed_rows(connection, grammar, name, texts, rows, scanner.shape(name))
            found.columns[name] = pa.Table.from_batches(
                [pa.RecordBatch.from_struct_array(piece.columns) for piece in pieces]
            )
    return found


def together(work: Callable[[int], Any]) -> list[Any]:
    """Do the same in several threads that begin at once."""
    ready = Barrier(_THREADS)

    def begin(number: int) -> Any:
        ready.wait()
        return work(number)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(begin, range(_THREADS)))


def test_threads_that_learn_from_each_other_find_what_each_finds_alone() -> None:
    """Tables grow under walks that go on: no walk may meet what its own tables do not hold."""
    lines = [*of_all_types(), *broken_texts(5, 1200), *(json.dumps(valid(kind, "1")).encode() for kind in types())]
    alone = taken_in(Grammar(), lines, 0)
    assert len(alone.rows) > 100  # of them a part only by the exact judge
    for turn in range(6):
        grammar = Grammar()
        for found in together(lambda number: taken_in(grammar, lines, 10 * turn + number)):  # noqa: B023 - at once
            assert found == alone


def test_what_a_walk_follows_stays_as_it_is_while_others_learn() -> None:
    grammar = Grammar()
    patient = grammar.root("Patient")
    with grammar.lent() as first:
        before = [array.copy() for array in first]
        for name in spec.resource_types():
            root = grammar.root(name)
            for key in spec.type_definition(name).elements:
                assert grammar.learn(tables.NEED_KEY, root, key.encode())
        assert all((old == new).all() for old, new in zip(before, first, strict=True))
        first.nodes[patient, tables.FIRST] = 1  # as the walk does at any time
        with grammar.lent() as second:
            assert len(second.keys) > len(first.keys)
            assert second.nodes[patient, tables.FIRST] == -1
    with grammar.lent() as third:
        assert third is second  # nobody learned anything


def test_several_lakes_are_written_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls of several sources in one process, beginning with a grammar that knows nothing."""
    lines = [
        *broken_texts(3, 400),
        *(json.dumps(valid(kind, f"good-{n}")).encode() for kind in types() for n in range(9)),
    ]
    path = tmp_path / "pull.ndjson"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    pull = StagedPull("p", "a", "files", None, (StagedFile(path, path.name, None, None),))

    def content(number: int) -> Any:
        lake = Lake.open(tmp_path / f"lake-{number}", buckets=4)
        ledger = lake.commit(pull, People())
        columns = {name: ["_raw", *spec.column_structure(name)] for name in lake.types()}
        return ledger, {name: lake.read(name, columns[name]) for name in lake.types()}, lake.quarantined()

    monkeypatch.setattr(scan, "GRAMMAR", Grammar())
    alone = content(_THREADS)
    monkeypatch.setattr(scan, "GRAMMAR", Grammar())
    for found in together(content):
        assert found == alone
