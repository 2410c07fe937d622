"""Individual MeasureReports rendered from a run's columns, searched together with the stored ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from fhir_face import BASE

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.remarks import Remarks
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.server.problems import UnknownResource
from fhir_gateway.server.reports import ReportCatalog
from fhir_gateway.server.search import parse_query
from tests.support.results import cohort

MEMBERS = ["pa", "pc", "pb", "pe", "pd"]  # by bucket, not sorted: as the lake gives them


def result(name: str, initial: list[int]) -> MeasureResult:
    return cohort(MEMBERS, initial, url=f"http://measures.example/Measure/{name}", name=name, title=name)


RUNS = {"run-1": result("One", [1, 1, 0, 1, 1]), "run-2": result("Two", [0, 1, 1, 0, 1])}


class Results:
    def load(self, run: str) -> MeasureResult:
        if run not in RUNS:
            raise NotFoundError("no such run")
        return RUNS[run]

    def runs(self) -> tuple[str, ...]:
        return tuple(RUNS)


def report(run: MeasureResult, kind: str) -> dict[str, Any]:
    return {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": kind,
        "measure": run.canonical,
        "date": "2026-01-15T00:00:00Z",
        "reporter": {"reference": "Organization/us"},
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
    }


def render(run: MeasureResult, index: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    subject = {"reference": f"Patient/{run.members[index].as_py()}"}
    return report(run, "individual") | {"subject": subject, "reporter": summary["reporter"]}


@pytest.fixture
def catalog() -> Iterator[ReportCatalog]:
    engine = create_engine("sqlite://")
    upgrade(engine)
    store = ResourceStore(engine, BASE)
    store.put_many([report(run, "summary") | {"id": name} for name, run in RUNS.items()])
    store.put(report(RUNS["run-1"], "summary") | {"id": "of-a-contract"})
    yield ReportCatalog(store, Results, render, Remarks(engine))
    engine.dispose()


def found(catalog: ReportCatalog, *criteria: tuple[str, str]) -> tuple[list[str], int | None]:
    """Ids on all pages, and the total of the first."""
    query = parse_query("MeasureReport", [*criteria, ("_count", "2")], strict=True)
    page = catalog.search(query)
    total, ids = page.total, [one.id for one in page.resources]
    while page.after:
        page = catalog.search(replace(query, after=page.after, total=total, count_total=False))
        assert page.total == total
        assert page.resources
        assert len(page.resources) <= 2
        ids += [one.id for one in page.resources]
    return ids, total


ALL_ONE = ["run-1-pa", "run-1-pc", "run-1-pe", "run-1-pd"]
ALL_TWO = ["run-2-pc", "run-2-pb", "run-2-pd"]


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ([], ["run-1", "run-2", "of-a-contract", *ALL_ONE, *ALL_TWO]),
        ([("type", "individual")], [*ALL_ONE, *ALL_TWO]),
        ([("type", "summary")], ["run-1", "run-2", "of-a-contract"]),
        ([("type", "individual,summary"), ("measure", "http://measures.example/Measure/Two")], ["run-2", *ALL_TWO]),
        ([("measure", "http://measures.example/Measure/One|1.0.0"), ("type", "individual")], ALL_ONE),
        ([("measure", "http://measures.example/Measure/One|2.0.0")], []),
        ([("patient", "Patient/pc")], ["run-1-pc", "run-2-pc"]),
        ([("patient", "pc,pb")], ["run-1-pc", "run-2-pc", "run-2-pb"]),
        ([("subject", f"{BASE}/Patient/pb")], ["run-2-pb"]),
        ([("subject:Patient", "pa")], ["run-1-pa"]),
        ([("subject", "Group/pa")], []),
        ([("patient", "pc"), ("measure", "http://measures.example/Measure/Two")], ["run-2-pc"]),
        ([("patient", "pb"), ("subject", "Patient/pc")], []),
        ([("patient", "nobody")], []),
        ([("_id", "run-1-pd,run-2,run-2-pa")], ["run-2", "run-1-pd"]),
        ([("period", "ge2026")], []),
        ([("date", "2026-01-15"), ("patient", "pd")], ["run-1-pd", "run-2-pd"]),
        ([("type", "individual"), ("_sort", "-date")], [*ALL_TWO, *ALL_ONE]),
    ],
)
def test_search(catalog: ReportCatalog, criteria: list[tuple[str, str]], expected: list[str]) -> None:
    ids, total = found(catalog, *criteria)
    assert ids == expected
    assert total == len(expected)


def test_count_only(catalog: ReportCatalog) -> None:
    page = catalog.search(parse_query("MeasureReport", [("_summary", "count")], strict=True))
    assert (page.total, page.resources, page.after) == (10, (), None)


def test_read_renders_with_version_and_instant_of_the_summary(catalog: ReportCatalog) -> None:
    rendered = catalog.read("MeasureReport", "run-1-pd")
    body = rendered.json()
    assert body["id"] == "run-1-pd"
    assert body["subject"] == {"reference": "Patient/pd"}
    assert body["meta"]["lastUpdated"] == catalog.read("MeasureReport", "run-1").last_updated
    assert catalog.vread("MeasureReport", "run-1-pd", 1).body == rendered.body
    for unknown in ("run-1-pb", "run-1-nobody", "of-a-contract-pa", "run-9-pa", "run"):
        with pytest.raises(UnknownResource):
            catalog.read("MeasureReport", unknown)
    with pytest.raises(UnknownResource):
        catalog.vread("MeasureReport", "run-1-pd", 2)


@pytest.mark.parametrize(
    "criteria", [[("_sort", "date")], [("type:not", "summary")], [("patient:missing", "true")]], ids=str
)
def test_what_cannot_be_answered_right_is_refused(catalog: ReportCatalog, criteria: list[tuple[str, str]]) -> None:
    with pytest.raises(InputError):
        found(catalog, *criteria)
