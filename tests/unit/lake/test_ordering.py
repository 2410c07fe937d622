"""The order of first rows, by person and id, however alike ids begin; and the patient in a reference."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.lake.columns import patient_ids
from fhir_gateway.lake.kernel import heads
from fhir_gateway.lake.ordering import in_order
from fhir_gateway.lake.staging import id_words

_IDS = st.lists(
    st.text("ab-.0Z", min_size=1, max_size=4).map(lambda end: "urn-of-many-alike" + end) | st.text("ab0", min_size=1),
    unique=True,
)


@given(_IDS, st.randoms(use_true_random=False))
def test_rows_come_by_rank_and_id(ids: list[str], random: object) -> None:
    ranks = [random.randint(-1, 2) for _ in ids]  # type: ignore[attr-defined]
    order = in_order(np.array(ranks, np.int64), pa.array(ids, pa.string()))
    assert [(ranks[i], ids[i]) for i in order] == sorted(zip(ranks, ids, strict=True))


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
