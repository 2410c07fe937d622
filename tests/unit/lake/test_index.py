"""Ids are found by their hashes, also when two of them have the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.lake.index import Index
from fhir_gateway.lake.staging import id_words


@pytest.mark.parametrize("bits", [64, 3, 0], ids=["all different", "some alike", "all alike"])
@pytest.mark.parametrize("places", [None, np.array([9, 8, 7, 6, 5], np.int32)], ids=["numbers", "places"])
@pytest.mark.parametrize("sure", [False, True])
def test_ids_are_found_whatever_their_hashes(
    bits: int, places: np.ndarray | None, sure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(ids: pa.Array) -> tuple[np.ndarray, ...]:
        first, second, hashed = id_words(ids)
        return first, second, hashed & np.uint64((1 << bits) - 1)

    monkeypatch.setattr("fhir_gateway.lake.index.id_words", words)
    index = Index(pa.array(["a", "b", "c", "d", "e"]), places, sure=sure)
    asked = ["d", None, "a"] if sure else ["d", None, "x", "a", "", "y"]
    expected = {"a": 0, "d": 3} if places is None else {"a": 9, "d": 6}
    found = index.places(pa.array(asked, pa.string()))
    assert found.tolist() == [expected.get(one or "", -1) for one in asked]


def test_among_nobody_nobody_is_found() -> None:
    assert Index(pa.array([], pa.string())).places(pa.array(["a", None])).tolist() == [-1, -1]
