"""Stories of searches and histories as standard clients ask them, and of what answers can be asked to look like."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
from fhir_face import BASE, client_for, enter, new_gateway
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.db.search.clinical import ELSEWHERE
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.factory import Gateway
from fhir_gateway.measures.reports import summary
from fhir_gateway.r4.models import summary_elements
from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import SERVED
from fhir_gateway.server.summary import _SUMMARY
from tests.support.backend_client import lasting
from tests.support.results import cohort

pytestmark = pytest.mark.anyio

PERSONS = [("p1", "Young", "2010"), ("p2", "Old", "1940-02"), ("p3", "Old", "1950")]
#: Summary elements that differ from R4's marks, and why stands beside them in the module.
DIFFERENT = {"Library": {"content"}, "Group": {"extension"}, "Coverage": {"relationship"}}


class Face:
    def __init__(self, http: httpx.AsyncClient, headers: Mapping[str, str], run: str) -> None:
        self.http, self.headers, self.run = http, headers, run

    async def get(self, path: str, **more: str) -> httpx.Response:
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in more.items()}}
        return await self.http.get(f"/fhir/{path}", headers=headers)

    async def found(self, path: str) -> list[tuple[str, str]]:
        """Every entry on all pages as (mode, type/id)."""
        found: list[tuple[str, str]] = []
        url: str | None = f"{BASE}/{path}"
        while url:
            answer = await self.http.get(url, headers=self.headers)
            assert answer.status_code == 200, answer.text
            bundle = answer.json()
            for one in bundle.get("entry", ()):
                resource = one["resource"]
                found.append((one["search"]["mode"], f"{resource['resourceType']}/{resource.get('id', '')}"))
            url = next((one["url"] for one in bundle["link"] if one["relation"] == "next"), None)
        return found

    async def matches(self, path: str) -> list[str]:
        """Matches on all pages in order."""
        return [name.rpartition("/")[2] for mode, name in await self.found(path) if mode == "match"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def face(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Face]:
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("data")}))
    evaluated = cohort([person for person, *_ in PERSONS])
    run = gateway.results.save(evaluated)
    url = evaluated.url
    gateway.resources.put_many(
        [
            {"resourceType": "Organization", "id": "parent", "name": "Holding"},
            {
                "resourceType": "Organization",
                "id": "clinic",
                "name": "Clinic",
                "partOf": {"reference": "Organization/parent"},
            },
            {"resourceType": "Library", "id": "lib", "url": "http://l/One", "version": "3", "status": "active"},
            {
                "resourceType": "Measure",
                "id": "m",
                "url": url,
                "version": "1.0.0",
                "status": "active",
                "title": "The one",
                "relatedArtifact": [{"type": "depends-on", "resource": "http://l/One|3"}],
            },
            {
                "resourceType": "Measure",
                "id": "m0",
                "url": url,
                "version": "0.9.0",
                "status": "retired",
                "title": "The one",
            },
            summary(evaluated, {"reference": "Organization/clinic"}),
        ]
    )
    for person, family, born in PERSONS:
        patient = {"resourceType": "Patient", "id": person, "name": [{"family": family}], "birthDate": born}
        beneficiary = {"reference": f"Patient/{person}"}
        payor = [{"reference": "Organization/clinic"}]
        coverage = {"resourceType": "Coverage", "id": f"cov-{person}", "beneficiary": beneficiary, "payor": payor}
        gateway.resources.put_many([patient, coverage])
        time.sleep(0.002)  # the next is stored in another millisecond
    app = create_app(gateway)
    async with client_for(app) as http:
        headers = await enter(http, gateway, "reader", "system/*.rs")
        lasting(gateway)
        yield Face(http, headers, run)


async def test_sorting_by_several_keys_and_paging(face: Face) -> None:
    expected = {
        "family,-birthdate": ["p3", "p2", "p1"],
        "-family,birthdate": ["p1", "p2", "p3"],
        "birthdate": ["p2", "p3", "p1"],
        "-_lastUpdated,_id": ["p3", "p2", "p1"],
        "gender,-_id": ["p3", "p2", "p1"],
    }
    for sort, order in expected.items():
        for count in (1, 2, 50):
            assert await face.matches(f"Patient?_sort={sort}&_count={count}") == order, (sort, count)
    assert (await face.get("Patient?_sort=shoe-size")).status_code == 400


async def test_chains_reach_individual_reports(face: Face) -> None:
    run = face.run
    assert set(await face.matches("MeasureReport?patient.family=old")) == {f"{run}-p2", f"{run}-p3"}
    assert set(await face.matches("MeasureReport?subject:Patient.birthdate=lt1945")) == {f"{run}-p2"}
    assert set(await face.matches("MeasureReport?subject.family=young&measure.title=the")) == {f"{run}-p1"}
    assert await face.matches("MeasureReport?subject.family=young&measure.title=another") == []
    assert await face.matches("MeasureReport?subject:Group.name=x") == []
    assert await face.matches("MeasureReport?patient:Patient._has:Coverage:beneficiary:_id=cov-p1") == [f"{run}-p1"]
    assert len(await face.matches("MeasureReport?reporter:Organization.partof.name=hold")) == 4
    pages = await face.matches("MeasureReport?patient.family=old&type=individual&_count=1")
    assert sorted(pages) == [f"{run}-p2", f"{run}-p3"]
    refused = await face.get("Patient?_has:MeasureReport:patient:status=complete")
    assert (refused.status_code, refused.json()["issue"][0]["expression"]) == (400, ["_has"])


async def test_includes_both_ways_and_again(face: Face) -> None:
    async def included(path: str) -> set[str]:
        return {name for mode, name in await face.found(path) if mode == "include"}

    run = face.run
    assert await included("Coverage?_id=cov-p1&_include=Coverage:beneficiary") == {"Patient/p1"}
    payors = "Coverage?_id=cov-p1&_include=Coverage:payor"
    assert await included(payors) == {"Organization/clinic"}
    assert await included(f"{payors}&_include:iterate=Organization:partof") == {
        "Organization/clinic",
        "Organization/parent",
    }
    assert await included(f"{payors}:Practitioner") == set()
    assert await included("Patient?_id=p1&_revinclude=Coverage:patient") == {"Coverage/cov-p1"}
    assert await included(
        "Patient?_id=p1&_revinclude=MeasureReport:patient&_include:iterate=MeasureReport:measure"
    ) == {
        f"MeasureReport/{run}-p1",
        "Measure/m",
    }, "also those that are rendered, and the version of the measure that they name"
    assert await included("Measure?_id=m&_include=Measure:depends-on") == {"Library/lib"}
    assert await included("Measure?_id=m0&_revinclude=MeasureReport:measure") == set()
    reports = await included("Measure?_id=m&_revinclude=MeasureReport:measure")
    assert reports == {f"MeasureReport/{run}"} | {f"MeasureReport/{run}-{person}" for person, *_ in PERSONS}
    assert await included("Organization?_id=clinic&_revinclude:iterate=Organization:partof") == set()
    for wrong in (
        "Patient?_include=Coverage:payor",
        "Patient?_revinclude=Coverage:status",
        "Patient?_revinclude=*",
        "Patient?_include=Patient:general-practitioner:Nobody",
        "Patient?" + "&".join(f"_include=Patient:organization&x={n}" for n in range(11)),
    ):
        assert (await face.get(wrong)).status_code == 400, wrong


async def test_searches_over_types(face: Face) -> None:
    everything = await face.matches("?_type=Patient,Organization&_count=2")
    assert everything == ["clinic", "parent", "p1", "p2", "p3"] or everything == ["parent", "clinic", "p1", "p2", "p3"]
    totals = (await face.get("?_type=Patient,Organization&_count=2")).json()
    assert totals["total"] == 5
    assert (await face.get("?_type=Coverage,Patient&_summary=count")).json()["total"] == 6
    assert await face.matches("?_id=p1,clinic") == ["clinic", "p1"]
    assert (await face.get("?_type=Patient&name=old")).json()["entry"][-1]["search"]["mode"] == "outcome"
    assert (await face.get("?_type=Patient&name=old", Prefer="handling=strict")).status_code == 400
    for wrong in ("?_type=Patient&_sort=_id", "?_include=Patient:organization"):
        assert (await face.get(wrong)).status_code == 400, wrong
    posted = await face.http.post("/fhir/_search", data={"_type": "Patient", "_id": "p2"}, headers=face.headers)
    assert [one["resource"]["id"] for one in posted.json()["entry"]] == ["p2"]
    assert "p2" not in json.dumps(posted.json()["link"])


async def test_totals_and_counts(face: Face) -> None:
    for mode, there in (("accurate", True), ("estimate", True), ("none", False)):
        assert ("total" in (await face.get(f"Patient?_total={mode}")).json()) is there
    nothing = (await face.get("Patient?_count=0")).json()
    assert (nothing["total"], "entry" in nothing, len(nothing["link"])) == (3, False, 1)
    for wrong in ("_total=some", "_count=many", "_summary=yes", "_summary=true&_elements=id"):
        assert (await face.get(f"Patient?{wrong}")).status_code == 400, wrong


async def test_unsupported_modifiers_are_refused_by_name(face: Face) -> None:
    for query in ("family:text=a", "family:above=a", "identifier:of-type=a", "birthdate:not=2020", "_id:exact=p1"):
        answer = await face.get(f"Patient?{query}")
        code, _, modifier = query.partition("=")[0].partition(":")
        assert answer.status_code == 400
        said = answer.json()["issue"][0]["diagnostics"]
        assert code in said, query
        assert f":{modifier}" in said, query


async def test_every_type_has_subsets(face: Face) -> None:
    for name in set(SERVED) - ELSEWHERE:
        for query in ("_summary=true", "_summary=text", "_summary=data", "_elements=id"):
            answer = await face.get(f"{name}?{query}&_count=1")
            assert answer.status_code == 200, (name, query)
    part = (await face.get("Patient/p1?_elements=birthDate")).json()
    assert set(part) == {"resourceType", "id", "meta", "birthDate"}


def test_summaries_are_those_of_the_definitions() -> None:
    for name in SERVED:
        marked = summary_elements(name) - {"id", "meta", "implicitRules"}
        assert _SUMMARY.get(name, marked) ^ marked <= DIFFERENT.get(name, set()), name


async def test_history_as_bundles(face: Face) -> None:
    bundle = (await face.get("Patient/_history?_count=2")).json()
    assert bundle["type"] == "history"
    entry = bundle["entry"][0]
    assert entry["request"] == {"method": "POST", "url": "Patient"}
    assert entry["response"]["status"] == "201 Created"
    assert entry["response"]["lastModified"] == entry["resource"]["meta"]["lastUpdated"]
    following = next(one["url"] for one in bundle["link"] if one["relation"] == "next")
    rest = (await face.http.get(following, headers=face.headers)).json()
    assert len(rest["entry"]) == 1
    only = (await face.get(f"MeasureReport/{face.run}-p1/_history")).json()["entry"]
    assert [one["resource"]["id"] for one in only] == [f"{face.run}-p1"], "a rendered report has one version"
    assert "entry" not in (await face.get(f"MeasureReport/{face.run}-p1/_history?_since=2999-01-01")).json()
    assert "entry" not in (await face.get("Patient/_history?_since=2999-01-01T00:00:00Z")).json()
    assert "entry" not in (await face.get("Patient/_history?_at=1999")).json()
    for wrong in ("_since=yesterday", "_at=x", "_count=-1", "_page=x"):
        assert (await face.get(f"Patient/_history?{wrong}")).status_code == 400, wrong
    assert (await face.get("Patient/_history?shoe=1")).status_code == 200
    assert (await face.get("Patient/_history?shoe=1", Prefer="handling=strict")).status_code == 400
    search = (await face.get("Patient?_count=1")).json()["link"][1]["url"]
    bent = search.replace("/Patient?", "/Patient/_history?")
    assert (await face.http.get(bent, headers=face.headers)).status_code == 400, "a page of another kind"


async def test_heads_and_indented_answers(face: Face) -> None:
    whole, head = await face.get("Patient/p1"), await face.http.head("/fhir/Patient/p1", headers=face.headers)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "last-modified", "content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]
    assert (await face.http.head("/fhir/Patient/nobody", headers=face.headers)).status_code == 404
    assert (await face.http.head("/fhir/Patient/p1")).status_code == 401
    pretty = await face.get("Patient/p1?_pretty=true")
    assert pretty.text.startswith('{\n  "resourceType": "Patient"')
    assert pretty.json() == whole.json()
    preflight = await face.http.options(
        "/fhir/metadata", headers={"Origin": "https://x.example", "Access-Control-Request-Method": "GET"}
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    closed = await face.http.options("/fhir/Patient", headers={"Origin": "https://x.example"})
    assert closed.status_code == 405


NAMES = sorted(
    {name for kind in SERVED for name in search_parameters(kind)} | {"_id", "_lastUpdated", "_sort", "_count"}
)
PIECES = st.sampled_from(
    [":", ".", ",", "|", "$", "\\", "%00", "_has", "Patient", "Coverage", "exact", "missing", "-", "Z", "9999-12-31"]
)
TEXT = st.one_of(st.text(max_size=20), st.lists(PIECES | st.sampled_from(NAMES), max_size=6).map("".join))


@settings(max_examples=150)
@given(
    kind=st.sampled_from(
        [*sorted(SERVED), "", "_history", "Patient/_history", "Observation/_history", "AuditEvent/_history", "Nonsense"]
    ),
    pairs=st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), TEXT), TEXT), min_size=1, max_size=4),
    form=st.booleans(),
)
async def test_no_search_string_is_too_strange(face: Face, kind: str, pairs: list[tuple[str, str]], form: bool) -> None:
    clean = [(name.encode(errors="ignore").decode(), value.encode(errors="ignore").decode()) for name, value in pairs]
    if form and "_history" not in kind:
        answer = await face.http.post(
            f"/fhir/{kind}/_search".replace("//", "/"), data=dict(clean), headers=face.headers
        )
    else:
        answer = await face.http.get(f"/fhir/{kind}", params=clean, headers=face.headers)
    assert answer.status_code < 500, answer.text
    assert answer.json()["resourceType"] == ("Bundle" if answer.status_code == 200 else "OperationOutcome")
