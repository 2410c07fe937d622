"""Stories of a client that reads and searches a sandbox, page by page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.sandbox.server import create_app
from tests.support.backend_client import Partner
from tests.support.ehr_folder import write_folder

pytestmark = pytest.mark.anyio

BASE = "http://ehr.example"
KEY = generate_key("ES384", "k")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Reader:
    """A client with a token for everything."""

    def __init__(self, http: httpx.AsyncClient, partner: Partner, headers: dict[str, str]) -> None:
        self.http = http
        self.partner = partner
        self.headers = headers

    async def get(self, path: str, status: int = 200, **headers: str) -> httpx.Response:
        return self._checked(await self.http.get(path, headers=self.headers | headers), status)

    async def post(self, path: str, status: int = 200, **options: Any) -> httpx.Response:
        return self._checked(await self.http.post(path, headers=self.headers, **options), status)

    async def pages(self, path: str) -> list[list[str]]:
        """Ids of every page of a search, following next links to the end."""
        pages, url = [], f"/fhir/{path}"
        while url:
            bundle = (await self.get(url)).json()
            pages.append([entry["resource"]["id"] for entry in bundle.get("entry", [])])
            links = {link["relation"]: link["url"] for link in bundle["link"]}
            assert all(target.startswith(f"{BASE}/fhir/") for target in links.values())
            url = links.get("next", "")
        return pages

    def _checked(self, response: httpx.Response, status: int) -> httpx.Response:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/fhir+json"
        if status >= 400:
            assert response.json()["resourceType"] == "OperationOutcome"
        return response


@asynccontextmanager
async def reading(folder: Path, scope: str = "system/*.rs") -> AsyncIterator[Reader]:
    write_folder(folder / "ndjson")
    app = create_app(folder / "ndjson", base_url=BASE, clients={"partner": public_key_set(KEY)})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        partner = Partner(http, f"{BASE}/auth/token", KEY, "ES384")
        yield Reader(http, partner, await partner.bearer(scope))
    app.state.close()


async def test_resources_are_read_as_they_are_stored(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        for line in (tmp_path / "ndjson" / "Coverage.ndjson").read_bytes().splitlines():
            stored = json.loads(line)
            assert (await reader.get(f"/fhir/Coverage/{stored['id']}")).content == line
        for patient in ("p1", "p2", "p3"):  # with CRLF, without a line end, with a blank line behind
            assert (await reader.get(f"/fhir/Patient/{patient}")).json()["id"] == patient
        everyone = (await reader.get("/fhir/Group/all")).json()
        assert (everyone["type"], everyone["quantity"]) == ("person", 3)


async def test_a_search_is_paged_to_the_end(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        assert await reader.pages("Observation") == [["o1", "o2", "o3", "o4", "o5"]]
        assert await reader.pages("Observation?_count=2") == [["o1", "o2"], ["o3", "o4"], ["o5"]]
        assert await reader.pages("Observation?_count=5") == [["o1", "o2", "o3", "o4", "o5"]]
        assert await reader.pages("Observation?_count=1&patient=p2") == [["o2"], ["o5"]]
        assert await reader.pages("Observation?_count=0") == [[]]
        bundle = (await reader.get("/fhir/Observation?_count=2&patient=Patient/p2,p3")).json()
        assert (bundle["type"], bundle["total"], len(bundle["entry"])) == ("searchset", 3, 2)
        entry = bundle["entry"][0]
        assert (entry["fullUrl"], entry["search"]) == (f"{BASE}/fhir/Observation/o2", {"mode": "match"})


async def test_searches_select(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        for query, ids in {
            "Patient?_id=p1,p3,unknown": ["p1", "p3"],
            "Observation?subject=Patient/p1": ["o1"],
            "Coverage?patient=p3": ["c2"],
            "Coverage?patient=unknown": [],
            "Coverage?patient=p3&_id=c1": [],
            "Observation?_lastUpdated=ge2026-01-02": ["o2", "o4", "o5"],  # o3 has no time
            "Observation?_lastUpdated=2026-01-02": ["o2"],
            "Observation?_lastUpdated=ne2026-01-02": ["o1", "o4", "o5"],
            "Observation?_lastUpdated=gt2026-01-01&_lastUpdated=lt2026-01-05": ["o2", "o4"],
            "Observation?_lastUpdated=gt2026-01-02T10:00:00%2B02:00": ["o4", "o5"],
            "Observation?_lastUpdated=le2026-01-02T08:00:00.000Z": ["o1", "o2"],
            "Observation?_lastUpdated=2026": ["o1", "o2", "o4", "o5"],
            "Observation?_lastUpdated=eb2026-01&_format=json": [],
            "Group?_id=all": ["all"],
            "Group": ["all", "g"],
        }.items():
            assert await reader.pages(query) == [ids], query
        by_form = await reader.post("/fhir/Observation/_search?_count=1", data={"patient": "Patient/p2"})
        assert by_form.json()["total"] == 2
        lenient = await reader.get("/fhir/Patient?nonsense=1&_id=p1", Prefer="handling=lenient")
        assert lenient.json()["total"] == 1
        assert "nonsense" not in lenient.text  # the self link says what was used


async def test_mistakes_are_outcomes(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        for path in ("Patient/unknown", "Nonsense/1", "Nonsense", "Encounter", "Procedure", "Patient/p1/_history"):
            await reader.get(f"/fhir/{path}", 404)
        for path in (
            "Patient?nonsense=1",
            "Patient?patient=p1",
            "Organization?patient=p1",
            "Patient?_count=-1",
            "Patient?_count=many",
            "Patient?_count=1&_count=2",
            "Patient?_lastUpdated=tomorrow",
            "Patient?_lastUpdated=2026-13",
            "Patient?_lastUpdated=2026-02-30",
            "Patient?_lastUpdated=xx2026",
        ):
            await reader.get(f"/fhir/{path}", 400)
        await reader.post("/fhir/Patient/_search", 400, content=b"\xff")
        await reader.post("/fhir/Patient", 405, json={"resourceType": "Patient"})
        await reader.get("/elsewhere", 404)


async def test_scopes_are_asked_for_each_interaction(tmp_path: Path) -> None:
    async with reading(tmp_path, "system/Patient.r system/Coverage.s") as reader:
        await reader.get("/fhir/Patient/p1")
        await reader.get("/fhir/Patient", 403)
        await reader.get("/fhir/Coverage")
        await reader.get("/fhir/Coverage/c1", 403)
        await reader.get("/fhir/Organization/org", 403)
