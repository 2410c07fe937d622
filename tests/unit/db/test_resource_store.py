"""Stored resources: versions, identity of bodies, paging."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine, transaction
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.resources import PutOutcome, ResourceStore
from fhir_gateway.db.search.dates import microseconds
from fhir_gateway.errors import InputError, NotFoundError, ResourceError


class Clock:
    """Each reading is a second later."""

    def __init__(self) -> None:
        self.now = datetime(2024, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def store(engine: Engine) -> ResourceStore:
    return ResourceStore(engine, "https://gateway.example/fhir", Clock())


def organization(name: str, resource_id: str = "o1", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Organization", "id": resource_id, "name": name, **more}


def test_a_resource_lives_through_versions(store: ResourceStore) -> None:
    first = store.put(organization("North"))
    assert (first.version, first.json()["meta"]["versionId"]) == (1, "1")
    assert first.json()["meta"]["lastUpdated"] == first.last_updated == "2024-03-01T12:00:01.000Z"
    store.put(organization("South"))
    store.delete("Organization", "o1")
    with pytest.raises(NotFoundError):
        store.read("Organization", "o1")
    assert store.search("Organization").total == 0
    back = store.put(organization("East"))
    assert back.version == 4
    versions = store.history("Organization", "o1")
    assert [(one.version, one.deleted) for one in versions] == [(4, False), (3, True), (2, False), (1, False)]
    assert store.vread("Organization", "o1", 1).json()["name"] == "North"
    assert store.vread("Organization", "o1", 3).deleted
    assert [one.json()["name"] for one in store.search("Organization", [("name", "east")]).resources] == ["East"]
    assert store.search("Organization", [("name", "north")]).total == 0


def test_an_equal_body_makes_no_new_version(store: ResourceStore) -> None:
    stored = store.put(organization("North", meta={"profile": ["http://example.org/p"], "versionId": "77"}))
    reordered = dict(reversed(stored.json().items()))
    assert store.put_many([reordered]) == PutOutcome(created=0, updated=0, unchanged=1)
    again = store.read("Organization", "o1")
    assert again == stored
    assert again.json()["meta"]["profile"] == ["http://example.org/p"]
    changed = stored.json() | {"meta": {"profile": ["http://example.org/q"]}}
    assert store.put_many([changed]) == PutOutcome(created=0, updated=1, unchanged=0)


def test_what_does_not_exist_is_not_found(store: ResourceStore) -> None:
    for missing in (
        lambda: store.read("Organization", "o1"),
        lambda: store.history("Organization", "o1"),
        lambda: store.delete("Organization", "o1"),
    ):
        with pytest.raises(NotFoundError):
            missing()
    store.put(organization("North"))
    with pytest.raises(NotFoundError):
        store.vread("Organization", "o1", 2)


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        ({"resourceType": "Nonsense", "id": "a"}, "resourceType"),
        ({"id": "a"}, "resourceType"),
        ({"resourceType": "Patient"}, "Patient.id"),
        ({"resourceType": "Patient", "id": "not an id"}, "Patient.id"),
        ({"resourceType": "Patient", "id": "a", "birthDate": "12/31/1950"}, "Patient"),
        ({"resourceType": "Patient", "id": "a", "birthDate": "1950-02-30"}, "Patient"),
    ],
)
def test_one_bad_resource_stores_nothing(store: ResourceStore, resource: dict[str, Any], path: str) -> None:
    with pytest.raises(ResourceError) as caught:
        store.put_many([organization("North"), resource])
    assert caught.value.location.path == path
    assert store.counts() == {}


def test_many_are_put_and_read_in_one_go(store: ResourceStore) -> None:
    many = [organization(f"Clinic {n}", f"o{n}") for n in range(12_000)]
    assert store.put_many(many) == PutOutcome(created=12_000, updated=0, unchanged=0)
    changed = [organization(f"Clinic {n}" if n % 2 else "Other", f"o{n}") for n in range(12_002)]
    assert store.put_many(changed) == PutOutcome(created=2, updated=6_000, unchanged=6_000)
    assert store.counts() == {"Organization": 12_002}
    wanted = [("Organization", f"o{n}") for n in range(0, 3000, 2)] + [("Organization", "none"), ("Patient", "o1")]
    assert {one.id for one in store.read_many(wanted)} == {f"o{n}" for n in range(0, 3000, 2)}
    assert store.search("Organization", [("name", "clinic")], count=0).total == 6_001
    assert len(store.ids("Organization", [("name", "other")])) == 6_001


def test_of_equal_ids_in_one_put_the_last_counts(store: ResourceStore) -> None:
    outcome = store.put_many([organization("North"), organization("South")])
    assert outcome == PutOutcome(created=1, updated=0, unchanged=1)
    assert store.read("Organization", "o1").json()["name"] == "South"


def pages(store: ResourceStore, count: int, sort: str | None) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = store.search("Organization", count=count, after=after, sort=sort)
        found += [one.id for one in page.resources]
        if page.next is None:
            return found
        after = page.next


@settings(max_examples=25)
@given(
    names=st.lists(st.sampled_from(["", "A", "b", "B", "Ä", "zz"]), min_size=1, max_size=12),
    count=st.integers(1, 5),
    sort=st.sampled_from([None, "_id", "-_id", "_lastUpdated", "-_lastUpdated", "name", "-name"]),
)
def test_pages_show_each_resource_once(names: list[str], count: int, sort: str | None) -> None:
    engine = create_engine("sqlite://")
    upgrade(engine)
    store = ResourceStore(engine, clock=Clock())
    for number, name in enumerate(names):
        store.put(
            organization(name, f"o{number:02}") if name else {"resourceType": "Organization", "id": f"o{number:02}"}
        )
    found = pages(store, count, sort)
    assert found == pages(store, 100, sort)
    assert sorted(found) == [f"o{number:02}" for number in range(len(names))]
    if sort in ("_id", "_lastUpdated", None):
        assert found == sorted(found)
    if sort in ("-_id", "-_lastUpdated"):
        assert found == sorted(found, reverse=True)
    engine.dispose()


def test_a_page_is_not_disturbed_by_what_is_written_meanwhile(store: ResourceStore) -> None:
    store.put_many([organization("X", f"o{number}") for number in range(4)])
    page = store.search("Organization", count=2)
    store.put_many([organization("X", "a0"), organization("Y", "o0")])
    rest = store.search("Organization", count=10, after=page.next)
    assert [one.id for one in (*page.resources, *rest.resources)] == ["o0", "o1", "o2", "o3", "a0"]


def test_damaged_and_foreign_page_tokens_are_refused(store: ResourceStore) -> None:
    store.put_many([organization("X", f"o{number}") for number in range(4)])
    token = store.search("Organization", count=2, sort="name").next
    for after, sort in (
        (token, "-name"),
        (token, None),
        ("%%%", None),
        ("bnVsbA==", None),
        ("WzEsMl0=", None),
        ("W251bGwsImEiLDFd", None),
    ):
        with pytest.raises(InputError, match="page token"):
            store.search("Organization", after=after, sort=sort)
    with pytest.raises(InputError, match="is sorted by _id"):
        store.search("Organization", sort="shoe-size")


def test_the_index_is_written_anew_when_its_definitions_changed(engine: Engine) -> None:
    store = ResourceStore(engine, clock=Clock())
    store.put_many([organization(f"Clinic {n}", f"o{n}") for n in range(3)])
    store.delete("Organization", "o2")
    assert store.index_anew() == 2, "an older gateway did not say what it indexed by"
    assert store.index_anew() == 0
    with transaction(engine) as connection:
        connection.execute(sa.text("UPDATE fhir_search_state SET digest = 'of an older version'"))
        connection.execute(sa.text("DELETE FROM fhir_search_index"))
    assert store.search("Organization", [("name", "clinic")]).total == 0
    assert store.index_anew() == 2
    assert store.search("Organization", [("name", "clinic")]).total == 2


def test_history_by_type_and_time(store: ResourceStore) -> None:
    """Writes are a second apart, from 12:00:01 on: o1 three times, o2 once, a Patient, o2 deleted."""
    for name in ("North", "South", "East"):
        store.put(organization(name))
    store.put(organization("West", "o2"))
    store.put({"resourceType": "Patient", "id": "p"})
    store.delete("Organization", "o2")

    def told(page: Any) -> list[str]:
        return [f"{one.id}/{one.version}" for one in page.resources]

    everything = ["o2/2", "p/1", "o2/1", "o1/3", "o1/2", "o1/1"]
    second = 1_000_000
    noon = microseconds(datetime(2024, 3, 1, 12, tzinfo=UTC))
    assert told(store.versions(["Organization", "Patient"])) == everything
    assert told(store.versions(["Organization"])) == [one for one in everything if one != "p/1"]
    assert told(store.versions(["Organization"], "o1")) == ["o1/3", "o1/2", "o1/1"]
    assert told(store.versions(["Organization"], since=noon + 3 * second)) == ["o2/2", "o2/1", "o1/3"]
    at = (noon + 2 * second, noon + 3 * second)
    assert told(store.versions(["Organization"], at=at)) == ["o1/2"], "in force in that second"
    assert told(store.versions(["Organization"], at=(noon + 5 * second, noon + 7 * second))) == ["o2/2", "o2/1", "o1/3"]
    for count in (1, 2, 4):
        found, after = [], None
        while True:
            page = store.versions(["Organization", "Patient"], count=count, after=after)
            found += told(page)
            if len(found) == count:  # what is written meanwhile comes before, and moves nothing
                store.put(organization("Another", "o3"))
                store.put(organization(f"Later {count}"))
            if page.next is None:
                break
            after = page.next
        assert [one for one in found if one in everything] == everything
        assert len(found) == len(set(found))
    for damaged in ("x", "WzFd", "WzEsMiwzLDRd"):
        with pytest.raises(InputError, match="page token"):
            store.versions(["Organization"], after=damaged)
