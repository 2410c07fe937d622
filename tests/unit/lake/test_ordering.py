"""The order of first rows, by person and id, however alike ids begin; and the patient in a reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.lake.columns import patient_ids
from fhir_gateway.lake.kernel import heads
from fhir_gateway.lake.links import SCHEMA
from fhir_gateway.lake.ordering import in_order, ordered, seats
from fhir_gateway.lake.scan import CHECKED
from fhir_gateway.lake.staging import StagedRows, id_words

_IDS = st.lists(
    st.text("ab-.0Z", min_size=1, max_size=4).map(lambda end: "urn-of-many-alike" + end) | st.text("ab0", min_size=1),
    unique=True,
)


@given(_IDS, st.randoms(use_true_random=False))
def test_rows_come_by_rank_and_id(ids: list[str], random: object) -> None:
    ranks = [random.randint(-1, 2) for _ in ids]  # type: ignore[attr-defined]
    order = in_order(np.array(ranks, np.int64), pa.array(ids, pa.string()))
    assert [(ranks[i], ids[i]) for i in order] == sorted(zip(ranks, ids, strict=True))


_ALIKE = {
    "different": (lambda i: i % 97 - 1, lambda i: f"{i * 7919 % 100003:06}"),
    "one person has most": (lambda i: 5 if i % 10 else i % 3 - 1, lambda i: f"{i * 7919 % 100003:06}"),
    "nobody's, alike in 4 bytes": (lambda i: -1, lambda i: f"orga-{i * 7919 % 100003:06}"),
    "nobody's, alike in 8 bytes": (lambda i: -1, lambda i: f"practitioner-{i * 7919 % 100003:06}"),
    "nobody's, alike in 16 bytes": (lambda i: -1, lambda i: f"practitioner-role-{i * 7919 % 100003:06}"),
    "in order": (lambda i: i // 100, lambda i: f"{i:06}"),
    "one key of many": (lambda i: 3 if i > 50 else 0, lambda i: f"same{i:06}"),
}


@pytest.mark.parametrize("how", _ALIKE)
def test_many_rows_come_by_rank_and_id_through_the_disk(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However alike they are, never more than a part of them is in order in memory at a time."""
    monkeypatch.setattr("fhir_gateway.lake.parting.PART_ROWS", 64)
    sorted_at_once = []
    monkeypatch.setattr(
        "fhir_gateway.lake.ordering.in_order",
        lambda rank, ids: sorted_at_once.append(len(ids)) or in_order(rank, ids),
    )
    rank, name = _ALIKE[how]
    rows = [(rank(i), name(i)) for i in range(5000)]
    ranks, ids = zip(*rows, strict=True)
    table = pa.table({"rank": pa.array(ranks, pa.int32()), "id": ids})
    tables = [table.slice(at, 333) for at in range(0, len(rows), 333)]
    found = list(ordered(lambda: tables, len(rows), tmp_path / "rows"))
    assert [part.num_rows for part in found] == [64] * 78 + [8]
    whole = pa.concat_tables(found)
    assert list(zip(*whole.to_pydict().values(), strict=True)) == sorted(rows)
    assert max(sorted_at_once) <= (5000 if "16 bytes" in how else 64), "beyond 16 bytes they are compared in memory"
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("repeated", [False, True])
def test_repeated_ids_are_found_through_the_disk(
    repeated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_gateway.lake.staging._COMPARED", 10)
    staged = StagedRows("Patient", tmp_path)
    ids = [f"p{i}" for i in range(999)] + (["p17"] if repeated else [])
    for at in range(0, len(ids), 70):
        columns = {"id": pa.array(ids[at : at + 70])}
        count = len(columns["id"])
        staged.add(pa.record_batch([columns.get(f.name, pa.nulls(count, f.type)) for f in CHECKED], schema=CHECKED))
    staged.spill()
    staged.close()
    assert staged.all_different() is not repeated


@pytest.mark.parametrize("alike", [False, True])
def test_patients_are_seated_by_bucket_and_person(alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two patients of a person have one rank; that two ids have one hash changes nothing."""
    if alike:
        words = id_words
        monkeypatch.setattr(
            "fhir_gateway.lake.index.id_words", lambda ids: (*words(ids)[:2], np.zeros(len(ids), np.uint64))
        )
    links = pa.table(
        [["a", "a", "b", "a"], ["x", "y", "x", "z"], ["p2", "p1", "p3", "p2"], [0, 1, 0, 0]], schema=SCHEMA
    )
    seated = seats(links, "a")
    places = seated.of(pa.chunked_array([["z", None], ["y", "x"]]))
    assert places[1] == -1
    found = places[[0, 2, 3]]
    assert seated.members.take(pa.array(found)).to_pylist() == ["p2", "p1", "p2"]
    assert seated.rank[found].tolist() == [0, 1, 0]
    assert seats(links, "none").of(pa.chunked_array([[None, None]], pa.string())).tolist() == [-1, -1]


def test_ids_are_told_apart_by_their_hash() -> None:
    ids = [f"the-same-sixteen-bytes-{i}" for i in range(1000)]
    _, _, hashed = id_words(pa.array([*ids, ids[7]]))
    assert len(set(hashed.tolist())) == 1000
    assert hashed[7] == hashed[1000]


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/1",
        "http://x.org/fhir/Patient/a-b.c",
        "urn:uuid:8f1d9a56-0000-4000-8000-1234567890ab",
        "urn:uuid:",
        "urn:oid:1.2.3",
        "Group/1",
        "Patient/",
        "Patient/a b",
        "XPatient/1",
        "x/Patient/1/more",
        "Patient/" + "1" * 65,
        "Patient",
        "#p",
        "/Patient/7",
        "urn:uuid:a/b",
        "Patient/Patient/9",
    ],
)
def test_the_patient_in_a_reference(reference: str) -> None:
    text = np.zeros(len(reference) + 64, np.uint8)
    text[: len(reference)] = np.frombuffer(reference.encode(), np.uint8)
    starts, lengths = np.zeros(1, np.int64), np.array([len(reference)], np.int64)
    assert heads.patients(text, starts, lengths)
    found = reference[starts[0] : starts[0] + lengths[0]] if lengths[0] else None
    assert [found] == patient_ids(pa.array([reference])).to_pylist()


def test_a_version_of_a_patient_is_left_to_the_expression() -> None:
    text = np.frombuffer(b"Patient/1/_history/2" + bytes(64), np.uint8).copy()
    assert not heads.patients(text, np.zeros(1, np.int64), np.array([20], np.int64))
