"""The compiled walk against the exact judge and DuckDB's reading: it passes nothing wrong, and reads what it passes."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.lake.columns import transform_structure
from fhir_gateway.lake.grammar import Grammar
from fhir_gateway.lake.judge import judge
from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.scan import Scanned, Scanner
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import typed_rows
from fhir_gateway.r4 import spec
from tests.support.broken import broken_texts
from tests.support.invalid import invalid_lines, types, valid
from tests.support.lake_pulls import MakePull, People


def scan(scanner: Scanner, lines: list[bytes], promised: str | None = None, texts: Texts | None = None) -> Scanned:
    return scanner.scan(LineBlock(b"".join(line + b"\n" for line in lines), 1, len(lines)), promised, "f", 0, texts)


def odd_count(scanned: Scanned) -> int:
    return sum(batch["_odd"].to_pylist().count(True) for _, batch in scanned.rows)


def test_every_kind_of_invalid_line_is_quarantined_and_no_valid_one_is_lost(
    lake: Lake, people: People, make_pull: MakePull
) -> None:
    bad = list(invalid_lines())
    assert len({line.kind for line in bad}) >= 25
    assert len(bad) >= 200
    lines: list[bytes] = []
    expected = {}
    for number, line in enumerate(bad):
        kind = types()[number % len(types())]
        lines += [json.dumps(valid(kind, f"good-{number}")).encode(), line.line]
        expected[len(lines)] = (line.path, line.rule)
    ledger = lake.commit(make_pull("p1", {None: lines}), people)
    assert {line.line: (line.path, line.rule) for line in lake.quarantined()} == expected
    assert ledger.balanced
    assert sum(entry.rows_stored for entry in ledger.entries) == len(bad)
    kept = {name for kind in types() for name in lake.read(kind)["id"].to_pylist()}
    assert kept == {f"good-{number}" for number in range(len(bad))}


@pytest.mark.parametrize("kind", types())
def test_usual_resources_need_no_judge(kind: str) -> None:
    scanned = scan(Scanner(), [json.dumps(valid(kind, "1")).encode()])
    assert (scanned.refused, odd_count(scanned)) == ([], 0)


def test_what_the_walk_passes_the_judge_passes() -> None:
    lines = list(broken_texts(7, 6000))
    scanned = scan(Scanner(Grammar()), lines)
    refused = {line.line: (line.path, line.rule) for line in scanned.refused}
    passed = 0
    for number, line in enumerate(lines, 1):
        _, issue = judge(line.strip(), None)
        assert refused.get(number) == (None if issue is None else (issue.path, issue.rule)), line
        passed += issue is None
    assert passed > 500
    assert odd_count(scanned) < passed / 4  # most of the valid ones are the walk's


_ODD_TEXTS = (
    "x|a b| x||2023-02-30|2020-02|24:00:00|23:59:60|urn:oid:1.02|urn:uuid:0b5b6f2c-0000-4000-8000-00000000000g|é|\u00a0"
)
_ODD_VALUES: list[Any] = [None, True, 0, -1, 1.5, 1e-7, 10**25, [], {}, ["x"], [None], [{}], {"id": "x"}]
_VALUES = st.sampled_from([*_ODD_TEXTS.split("|"), *_ODD_VALUES])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a resource with each of its keys or indexes."""
    found = []
    if isinstance(value, dict):
        found = [(value, key) for key in value]
    elif isinstance(value, list):
        found = [(value, index) for index in range(len(value))]
    return [*found, *(place for container, key in found for place in places(container[key]))]


@given(
    st.sampled_from(types()),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), _VALUES), min_size=1, max_size=3),
)
@settings(max_examples=300)
def test_changed_resources_are_judged_alike(kind: str, changes: list[tuple[int, int, Any]]) -> None:
    resource = valid(kind, "1")
    for where, how, value in changes:
        options = places(resource)
        container, key = options[where % len(options)]
        if how == 0:
            container[key] = deepcopy(value)
        elif how == 1:
            del container[key]
        elif how == 2 and isinstance(container, dict):
            container[f"_{key}"] = {"extension": [{"url": "http://example.org/absent", "valueCode": "unknown"}]}
        else:
            container[key] = [container[key]]
    line = json.dumps(resource).encode()
    scanned = scan(Scanner(), [line])
    _, issue = judge(line, None)
    found = [(line.path, line.rule) for line in scanned.refused]
    assert found == ([] if issue is None else [(issue.path, issue.rule)])


def test_columns_are_what_duckdb_reads() -> None:
    lines = []
    for line in broken_texts(11, 3000):
        _, issue = judge(line.strip(), None)
        if issue is None:
            lines.append(line.strip())
    for kind in types():
        scanner = Scanner(Grammar())
        with duckdb.connect() as connection, Texts() as texts:
            scanned = scan(scanner, lines, texts=texts)
            batches = [batch for name, batch in scanned.rows if name == kind]
            rows = pa.Table.from_batches(batches)
            shape = scanner.shape(kind)
            text = b"".join(line + b"\n" for line in lines)
            rows = rows.take(np.random.default_rng(3).permutation(rows.num_rows))
            raws, parts = [], []
            for piece in typed_rows(connection, scanner.grammar, kind, texts, rows, shape):
                raws += piece.raw.to_pylist()
                parts.append(piece.columns)
            places = zip(rows["_at"].to_pylist(), rows["_size"].to_pylist(), strict=True)
            assert raws == [text[at : at + size].decode() for at, size in places]
            raw = pa.array(raws)
            found = pa.Table.from_struct_array(pa.chunked_array(parts))
            found.validate(full=True)
            connection.register("raw", pa.table({"raw": raw}))
            structure = transform_structure(shape)
            read = connection.sql("select unnest(json_transform(raw, ?)) from raw", params=[structure]).to_arrow_table()
        expected = read.cast(pa.schema([(name, spec.arrow_type(part)) for name, part in shape.items()]))
        assert found.num_rows > 20
        assert found.to_pylist() == expected.to_pylist()


def part_of(shape: dict[str, Any], chance: np.random.Generator) -> dict[str, Any]:
    """A part of a column structure: some elements are left out, of others some parts."""
    kept: dict[str, Any] = {}
    for name, part in shape.items():
        inner = part[0] if isinstance(part, list) else part
        if isinstance(inner, dict):
            inner = part_of(inner, chance)
        if inner and chance.random() < 0.6:
            kept[name] = [inner] if isinstance(part, list) else inner
    return kept


@pytest.mark.parametrize("kind", types())
def test_a_part_of_the_columns_is_what_duckdb_reads(kind: str) -> None:
    """Values that are not asked for, lists among them, are passed over by their own length."""
    chance = np.random.default_rng(7)
    lines = [line.strip() for line in broken_texts(13, 600)]
    lines = [json.dumps(valid(kind, "1")).encode(), *(line for line in lines if judge(line, None)[1] is None)]
    scanner = Scanner(Grammar())
    with duckdb.connect() as connection, Texts() as texts:
        scanned = scan(scanner, lines, texts=texts)
        rows = pa.Table.from_batches([batch for name, batch in scanned.rows if name == kind])
        whole = scanner.shape(kind)
        for _ in range(12):
            shape = part_of(whole, chance)
            if not shape:
                continue
            pieces = list(typed_rows(connection, scanner.grammar, kind, texts, rows, shape))
            raw = pa.chunked_array([piece.raw for piece in pieces])
            connection.register("raw", pa.table({"raw": raw}))
            structure = transform_structure(shape)
            read = connection.sql("select unnest(json_transform(raw, ?)) from raw", params=[structure]).to_arrow_table()
            expected = read.cast(pa.schema([(name, spec.arrow_type(part)) for name, part in shape.items()]))
            found = pa.Table.from_struct_array(pa.chunked_array([piece.columns for piece in pieces]))
            assert found.to_pylist() == expected.to_pylist()


def test_elements_of_which_nothing_is_a_column_move_nothing_else(
    lake: Lake, people: People, make_pull: MakePull
) -> None:
    """A contact with an extension only is a list whose parts are no columns: what comes after it stays as it is."""
    contact = [{"extension": [{"url": "http://example.org/of-a-contact", "valueCode": "some"}]}]
    lines = [
        {"resourceType": "Patient", "id": f"p{number}", "contact": contact * number, "gender": "female", "name": [name]}
        for number, name in enumerate([{"family": "Almeida"}, {"family": "Berg", "given": ["Ulla", "Mia"]}], 1)
    ]
    lake.commit(make_pull("p1", {"Patient": lines}), people)
    rows = lake.read("Patient", ["gender", "name.family", "name.given"])
    assert rows["gender"].to_pylist() == ["female", "female"]
    assert sorted(name["family"] for names in rows["name"].to_pylist() for name in names) == ["Almeida", "Berg"]
    assert [name["given"] for names in rows["name"].to_pylist() for name in names if name["given"]] == [["Ulla", "Mia"]]


def test_decimals_are_exact() -> None:
    texts = ["12345678901234567890.12345678", "-0.00000001", "0.123456785", "-99999999999999999999", "1.005", "0"]
    lines = [
        b'{"resourceType":"Observation","id":"%d","status":"final","code":{"text":"x"},"valueQuantity":{"value":%s}}'
        % (number, text.encode())
        for number, text in enumerate(texts)
    ]
    scanner = Scanner()
    with duckdb.connect() as connection, Texts() as laid:
        ((_, batch),) = scan(scanner, lines, "Observation", laid).rows
        shape = scanner.shape("Observation")
        (piece,) = typed_rows(connection, scanner.grammar, "Observation", laid, pa.table(batch), shape)
    values = [value["value"] for value in piece.columns.field("valueQuantity").to_pylist()]
    assert [str(value) for value in values] == [
        "12345678901234567890.12345678",
        "-1E-8",
        "0.12345679",
        "-99999999999999999999.00000000",
        "1.00500000",
        "0E-8",
    ]


def test_long_texts_between_columns_are_passed_over() -> None:
    lines: list[bytes] = []
    for size in (1, 1 << 16, (1 << 17) - 1, 1 << 17, 1 << 20):
        resource = valid("Patient", f"p{size}")
        resource["text"]["div"] = f'<div xmlns="http://www.w3.org/1999/xhtml">{"x" * size}</div>'
        resource["name"][0]["family"] = "é" * size
        lines.append(json.dumps(resource, ensure_ascii=size == 1).encode())
    scanner = Scanner(Grammar())
    with duckdb.connect() as connection, Texts() as texts:
        ((_, batch),) = scan(scanner, lines, "Patient", texts).rows
        assert not any(batch["_odd"].to_pylist())
        (piece,) = typed_rows(connection, scanner.grammar, "Patient", texts, pa.table(batch), scanner.shape("Patient"))
        names = [json.loads(line)["name"][0]["family"] for line in lines]
        assert [row["name"][0]["family"] for row in piece.columns.to_pylist()] == names


def test_members_of_the_header_are_read_from_the_line() -> None:
    resource = valid("Observation", "o1")
    same_day = {**resource, "id": "o2", "meta": {"versionId": "x-7", "lastUpdated": "2000-02-29T23:59:60.9999999Z"}}
    other = {**resource, "id": "o3", "subject": {"reference": "http://x.org/fhir/Patient/a-b.c/_history/4"}}
    odd = {**other, "id": "o4", "valueQuantity": {"value": 1e-7}}
    ((_, usual), (_, judged)) = scan(Scanner(), [json.dumps(r).encode() for r in (resource, same_day, other, odd)]).rows
    assert usual["id"].to_pylist() == ["o1", "o2", "o3"]
    assert usual["_patient"].to_pylist() == ["1", "1", "a-b.c"]
    assert [moment.isoformat() for moment in usual["_last_updated"].to_pylist()] == [
        "2024-05-06T05:08:09.123000+00:00",
        "2000-02-29T23:59:59.999999+00:00",
        "2024-05-06T05:08:09.123000+00:00",
    ]
    assert usual["_version"].to_pylist() == [3, None, 3]
    head = ["id", "_patient", "_last_updated", "_version"]
    assert pa.table(judged).select(head).to_pylist() == [{**pa.table(usual).select(head).to_pylist()[2], "id": "o4"}]
    assert judged["_odd"].to_pylist() == [True]
    again = {name: batch["_hash"].to_pylist() for name, batch in scan(Scanner(), [json.dumps(odd).encode()]).rows}
    assert again == {"Observation": judged["_hash"].to_pylist()}
