"""Searches of one shape share a statement, and find what each of them finds by one of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fhir_gateway.db import resources as module
from fhir_gateway.db.audience import EVERYONE, Audience, label, labelled
from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.resources import Page, ResourceStore
from fhir_gateway.db.search.kept import KeptSearch, shape_of

BASE = "https://gateway.example/fhir"
PERSONS = [f"p{number}" for number in range(6)]
URLS = ["http://example.org/m", "http://example.org/it's", "http://example.org/100%"]
CRITERIA: list[tuple[str, list[tuple[str, str]]]] = [
    *(("Patient", [("_id", one)]) for one in ("p1", "p2", "nobody", "p1,p2", "kept-7d1f0a52c3-0")),
    *(("Patient", [("gender", one)]) for one in ("male", "female", "|male", "http://x|male")),
    ("Patient", [("identifier", "http://ids|1")]),
    ("Patient", [("identifier", "http://ids|2"), ("gender", "female")]),
    ("Patient", [("identifier", "http://ids|")]),
    ("Patient", [("gender:not", "male")]),
    ("Patient", [("name", "ann")]),
    *(("MeasureReport", [("subject", one)]) for one in ("p1", "Patient/p2", f"{BASE}/Patient/p3", "Group/p1")),
    *(("MeasureReport", [("subject", one)]) for one in ("https://other.example/Patient/p1", "Nothing/p1", "p1\\,")),
    ("MeasureReport", [("patient", "p1"), ("status", "complete")]),
    ("MeasureReport", [("subject", "p1"), ("subject", "p1")]),
    ("MeasureReport", [("subject", "p1"), ("subject", "p2")]),
    *(("MeasureReport", [("measure", one)]) for one in (*URLS, f"{URLS[0]}|1")),
    ("MeasureReport", []),
]
AUDIENCES = [EVERYONE, Audience.of(["contract:aco"]), Audience.of(["contract:other"]), Audience.of([])]


@pytest.fixture
def store() -> Iterator[ResourceStore]:
    engine = create_engine("sqlite://")
    upgrade(engine)
    made = ResourceStore(engine, BASE)
    persons = [
        {
            "resourceType": "Patient",
            "id": one,
            "gender": ("male", "female")[number % 2],
            "name": [{"family": "Anna"}],
            "identifier": [{"system": "http://ids", "value": str(number)}],
        }
        for number, one in enumerate(PERSONS)
    ]
    reports = [
        {
            "resourceType": "MeasureReport",
            "id": f"r-{one}-{number}",
            "status": "complete",
            "type": "individual",
            "measure": URLS[number],
            "subject": {"reference": f"Patient/{one}"},
            "period": {"start": "2025-01-01", "end": "2025-12-31"},
        }
        for one, number in itertools.product(PERSONS, range(3))
    ]
    members = [{"entity": {"reference": f"Patient/{one}"}} for one in PERSONS[:3]]
    group = {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "member": members}
    made.put_many([*persons, *reports, labelled(group, label("contract", "aco"))])
    yield made
    engine.dispose()


@pytest.mark.parametrize("audience", AUDIENCES, ids=["everybody", "list", "empty list", "nothing"])
def test_the_same_is_found(store: ResourceStore, audience: Audience, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = store.seen_by(audience)

    def all_of_them() -> list[Page]:
        return [
            seen.search(kind, criteria, count, sort=sort, total=total)
            for kind, criteria in CRITERIA
            for count, sort, total in ((50, None, True), (2, "-_id", True), (2, None, False), (0, None, True))
        ]

    kept = all_of_them()
    assert kept == all_of_them()
    monkeypatch.setattr(module, "shape_of", lambda *_: None)
    assert kept == all_of_them()


def test_another_value_makes_no_other_statement(store: ResourceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[KeptSearch] = []
    make = KeptSearch.__init__

    def noted(self: KeptSearch, *given: object) -> None:
        made.append(self)
        make(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(KeptSearch, "__init__", noted)
    found = [store.search("MeasureReport", [("subject", f"Patient/{one}"), ("measure", URLS[0])]) for one in PERSONS]
    assert [one.resources[0].id for one in found] == [f"r-{one}-0" for one in PERSONS]
    assert len(made) == 1
    store.seen_by(Audience.of(["contract:aco"])).search("MeasureReport", [("subject", "Patient/p1")])
    assert len(made) == 2


@pytest.mark.parametrize(
    "criteria",
    [
        [("gender:not", "male")],
        [("name", "ann")],
        [("birthdate", "2020")],
        [("_lastUpdated", "2020")],
        [("gender", "a,b")],
        [("gender", "a\\|b")],
        [("gender", "x" * 5000)],
        [("general-practitioner.name", "x")],
        [("_has:MeasureReport:patient:measure", "x")],
        [("gender", "male")] * 9,
        [("unknown", "x")],
    ],
)
def test_what_is_not_plain_has_no_shape(criteria: list[tuple[str, str]]) -> None:
    assert shape_of("Patient", criteria, BASE) is None
