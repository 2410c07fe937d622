"""The moment of an export: what is written while others write is in it, or changes after it; nothing is in between."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fhir_gateway.db.freezing import changed
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.search.dates import parse_range
from tests.support.databases import KINDS, control_plane


def patient(id: str, number: int) -> dict[str, object]:
    return {"resourceType": "Patient", "id": id, "multipleBirthInteger": number}


@pytest.mark.parametrize("kind", KINDS)
def test_changes_since_a_moment_are_all_that_it_lacks(kind: str, tmp_path: Path) -> None:
    with control_plane(kind, tmp_path) as engine:
        store = ResourceStore(engine)
        stop = threading.Event()

        def write(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                store.put(patient(name, number))

        writers = [threading.Thread(target=write, args=(f"w{one}",)) for one in range(3)]
        for writer in writers:
            writer.start()
        copies: dict[str, bytes] = {}
        moments: list[int] = []
        try:
            for _ in range(15):  # a client that goes on from moment to moment
                with store.frozen() as moment:
                    chosen = store.selecting("Patient").where(*changed(moments[-1] if moments else None, None))
                    for rows in moment.rows(chosen, 2):
                        copies |= {row.id: bytes(row.body) for row in rows}
                    moments.append(moment.as_of)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        with store.frozen() as moment:
            chosen = store.selecting("Patient").where(*changed(moments[-1], None))
            copies |= {row.id: bytes(row.body) for rows in moment.rows(chosen, 100) for row in rows}
        assert moments == sorted(set(moments))
        assert copies == {one.id: one.body for one in store.search("Patient").resources}


def test_what_is_written_next_is_later(tmp_path: Path) -> None:
    with control_plane("sqlite", tmp_path) as engine:
        store = ResourceStore(engine)
        for number in range(20):
            with store.frozen() as moment:
                as_of, instant = moment.as_of, moment.instant
            written = store.put(patient("p", number))
            assert parse_range(written.last_updated)[0] > as_of
            assert parse_range(instant)[0] == as_of


def test_a_moment_does_not_see_what_comes_after_it(tmp_path: Path) -> None:
    with control_plane("sqlite", tmp_path) as engine:
        store = ResourceStore(engine)
        store.put_many(patient(f"p{one}", one) for one in range(5))
        with store.frozen() as moment:
            assert moment.ids(store.selecting("Patient")) == [f"p{one}" for one in range(5)]
            thread = threading.Thread(target=store.delete, args=("Patient", "p0"))
            thread.start()
            thread.join()
            assert len(moment.ids(store.selecting("Patient"))) == 5
            assert moment.ids(store.selecting("Patient", deleted=True)) == []
            assert moment.ids(store.selecting("Patient", [[("_id", "p1")], [("_id", "p2")]])) == ["p1", "p2"]
        with store.frozen() as moment:
            assert moment.ids(store.selecting("Patient", deleted=True)) == ["p0"]
