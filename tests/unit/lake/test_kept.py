"""Tables that are kept: the same one again, the oldest let go of, large ones never kept."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fhir_gateway.lake.kept import KeptTables


def table(rows: int) -> pa.Table:
    return pa.table({"n": pa.array(range(rows), pa.int64())})


def test_what_was_read_is_given_again_until_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhir_gateway.lake.kept.MOST_BYTES", 1000)
    monkeypatch.setattr("fhir_gateway.lake.kept.MOST_BYTES_IN_ALL", 2000)
    kept, reads = KeptTables(), []

    def get(key: str, rows: int = 100) -> pa.Table:
        return kept.get(key, lambda: (reads.append(key), table(rows))[1])

    first = get("a")
    assert get("a") is first
    get("b")
    assert get("a") is first
    get("c")  # no room for three: b was asked for longest ago
    assert get("a") is first
    get("b")
    assert reads == ["a", "b", "c", "b"]
    get("large", 1000)
    get("large", 1000)
    assert reads[4:] == ["large", "large"]
