"""Criteria over one resource in memory say what they say in SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_gateway.db.audience import Audience, Grant
from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.search.matching import evaluable, matches
from fhir_gateway.errors import AuthorizationError, InputError, NotFoundError

BASE = "https://gateway.example/fhir"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
GROUPS: list[dict[str, Any]] = [
    {
        "resourceType": "Group",
        "id": "a",
        "identifier": [{"system": "s", "value": "1"}],
        "name": "Älpha",
        "actual": True,
    },
    {
        "resourceType": "Group",
        "id": "b",
        "identifier": [{"value": "1"}],
        "member": [{"entity": {"reference": "Patient/p"}}],
    },
    {
        "resourceType": "Group",
        "id": "c",
        "name": "beta, gamma",
        "managingEntity": {"reference": f"{BASE}/Organization/o", "identifier": {"system": "npi", "value": "9"}},
        "meta": {"tag": [{"system": "t", "code": "x"}], "profile": ["http://p|1.0"]},
    },
]
REPORTS: list[dict[str, Any]] = [
    {"resourceType": "MeasureReport", "id": "r", "measure": "http://m|1.0", "date": "2025-06-01T10:00:00+05:45"},
    {"resourceType": "MeasureReport", "id": "s", "measure": "http://m|2.0", "period": {"start": "2025-01-01"}},
    {
        "resourceType": "MeasureReport",
        "id": "t",
        "period": {"start": "2024-01-01", "end": "2024-12-31"},
        "date": "2025",
    },
]
CRITERIA: list[tuple[str, str, str]] = [
    ("Group", name, value)
    for name, value in [
        ("_id", "a,c"),
        ("identifier", "1"),
        ("identifier", "s|1"),
        ("identifier", "|1"),
        ("identifier", "s|"),
        ("identifier:not", "s|1"),
        ("identifier:missing", "true"),
        ("identifier:missing", "false"),
        ("actual", "true"),
        ("name", "alp"),
        ("name", "beta\\, gamma"),
        ("name:exact", "Älpha"),
        ("name:exact", "alpha"),
        ("name:contains", "gam,LPH"),
        ("member", "Patient/p"),
        ("member", "p"),
        ("member:Patient", "p"),
        ("member:Group", "p"),
        ("managing-entity", "Organization/o"),
        ("managing-entity", f"{BASE}/Organization/o"),
        ("managing-entity:identifier", "npi|9"),
        ("_tag", "t|x"),
        ("_profile", "http://p"),
        ("_profile", "http://p|1.0,http://q"),
        ("_lastUpdated", "ge2026-03-01"),
        ("_lastUpdated", "lt2026-03-01"),
    ]
]
CRITERIA += [
    ("MeasureReport", name, value)
    for name, value in [
        ("measure", "http://m"),
        ("measure", "http://m|2.0"),
        ("measure:missing", "true"),
        *(("date", f"{prefix}2025-06-01") for prefix in ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")),
        *(("period", f"{prefix}2025") for prefix in ("", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")),
        ("date", "2025-06-01T10:00:00 05:45"),
        ("date", "2024,2025"),
    ]
]


@pytest.fixture(scope="module")
def store() -> ResourceStore:
    engine = create_engine("sqlite://")
    upgrade(engine)
    filled = ResourceStore(engine, BASE, lambda: NOW)
    filled.put_many([*GROUPS, *REPORTS])
    return filled


@pytest.mark.parametrize(("kind", "name", "value"), CRITERIA)
def test_memory_and_sql_agree(store: ResourceStore, kind: str, name: str, value: str) -> None:
    assert evaluable(kind, [(name, value)])
    everything = [store.read(kind, one).json() for one in store.ids(kind)]
    found = [one["id"] for one in everything if matches(one, [(name, value)], BASE, NOW)]
    assert found == store.ids(kind, [(name, value)])


def test_what_cannot_be_evaluated_is_said_so_and_refused() -> None:
    for name in ("nonsense", "member.name", "_has:Group:member:_id", "_filter", "identifier:above", "_id:not", "_text"):
        assert not evaluable("Group", [(name, "x")]), name
    assert not evaluable("MeasureReport", [("date", "soon")])
    assert evaluable("*", [("_tag", "x")])
    assert not evaluable("*", [("identifier", "x")])
    with pytest.raises(InputError):
        matches(GROUPS[0], [("nonsense", "x")], None, NOW)


def _view(store: ResourceStore, *grants: Grant) -> ResourceStore:
    return store.seen_by(Audience(grants=grants))


ONE = Grant("Group", "rs", (("identifier", "s|1"),))
OTHER = Grant("Group", "rs", (("name:contains", "gamma"),))


def test_grants_on_one_type_are_alternatives_and_their_criteria_hold_together(store: ResourceStore) -> None:
    assert _view(store, ONE).ids("Group") == ["a"]
    assert _view(store, ONE, OTHER).ids("Group") == ["a", "c"]
    assert _view(store, Grant("Group", "rs", ONE.criteria + OTHER.criteria)).ids("Group") == []
    assert _view(store, ONE, Grant("Group", "rs")).ids("Group") == ["a", "b", "c"]  # one without lifts the restriction
    assert _view(store, ONE, Grant("*", "rs")).ids("Group") == ["a", "b", "c"]
    assert _view(store, ONE).ids("MeasureReport") == ["r", "s", "t"]  # nothing is said of it
    assert _view(store, Grant("*", "rs", (("_tag", "x"),))).ids("MeasureReport") == []


def test_what_differs_between_reading_and_searching_is_told_apart_and_together_is_the_stricter(
    store: ResourceStore,
) -> None:
    audience = Audience(grants=(Grant("Group", "r", ONE.criteria), Grant("Group", "s", OTHER.criteria)))
    seen = {letters: store.seen_by(audience.to(letters)).ids("Group") for letters in ("r", "s", "rs")}
    assert seen == {"r": ["a"], "s": ["c"], "rs": []}


def test_no_way_of_reading_passes_by_a_restriction(store: ResourceStore) -> None:
    view = _view(store, ONE)
    assert view.read("Group", "a").id == "a"
    assert [one.id for one in view.read_many([("Group", "a"), ("Group", "b")])] == ["a"]
    for call in (view.read, view.history, lambda kind, one: view.vread(kind, one, 1)):
        with pytest.raises(NotFoundError):
            call("Group", "b")
    assert view.search("Group", [("_id", "a,b,c")]).total == 1
    assert view.permits(GROUPS[0])
    assert not view.permits(GROUPS[1])
    for write in (lambda: view.put_many([]), lambda: view.delete("Group", "a"), view.counts):
        with pytest.raises(AuthorizationError):
            write()


def test_earlier_versions_are_shown_where_they_met_the_restriction() -> None:
    engine = create_engine("sqlite://")
    upgrade(engine)
    store = ResourceStore(engine, BASE, lambda: NOW)
    for value in ("0", "1", "1"):
        store.put({**GROUPS[0], "identifier": [{"system": "s", "value": value}], "quantity": int(value)})
    store.put({**GROUPS[0], "quantity": 5})
    assert [one.version for one in _view(store, ONE).history("Group", "a")] == [3, 2]
    with pytest.raises(NotFoundError):
        _view(store, ONE).vread("Group", "a", 1)


def test_a_restriction_on_persons_narrows_the_members(store: ResourceStore) -> None:
    assert _view(store, ONE).members() is None
    assert _view(store, Grant("Patient", "rs", (("_id", "p"),))).members() == []
