"""Stories of a client that exports a sandbox: discover, authorize, kick off, poll, download, delete."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import time_machine

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.sandbox.server import create_app
from fhir_gateway.sandbox.server.bulk import accepts_gzip
from tests.support.backend_client import Partner
from tests.support.ehr_folder import write_folder
from tests.support.waiting import HANG

pytestmark = pytest.mark.anyio

BASE = "http://ehr.example"
KEY = generate_key("ES384", "k")
OTHER_KEY = generate_key("ES384", "other")
ASYNC = {"Prefer": "respond-async", "Accept": "application/fhir+json"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Later:
    """An executor that works when it is told to, so that a job can be seen while it waits."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call(*arguments))
                except OSError as error:
                    future.set_exception(error)

        self.waiting.append(run)
        return future

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def shutdown(self, wait: bool = True) -> None:
        self.work()


class Ehr:
    """A running sandbox and its authorized client."""

    def __init__(self, http: httpx.AsyncClient, executor: Later, stored: dict[str, list[dict[str, Any]]]) -> None:
        self.http = http
        self.executor = executor
        self.stored = stored
        self.partner = Partner(http, f"{BASE}/auth/token", KEY, "ES384")
        self.other = Partner(http, f"{BASE}/auth/token", OTHER_KEY, "ES384", "other")

    async def kick_off(
        self, path: str, *, scope: str = "system/*.rs", status: int = 202, method: str = "GET", **options: Any
    ) -> httpx.Response:
        headers = await self.partner.bearer(scope) | ASYNC | options.pop("headers", {})
        response = await self.http.request(method, f"/fhir/{path}", headers=headers, **options)
        assert response.status_code == status, response.text
        if status != 202:
            _is_outcome(response)
        return response

    async def export(self, path: str, **options: Any) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """Kick off, work, and download everything; checks types and counts on the way."""
        started = await self.kick_off(path, **options)
        self.executor.work()
        bearer = await self.partner.bearer()
        done = await self.http.get(started.headers["content-location"], headers=bearer)
        assert done.status_code == 200, done.text
        assert done.headers["content-type"] == "application/json"
        assert done.headers["expires"].endswith("GMT")
        manifest = done.json()
        found: dict[str, list[dict[str, Any]]] = {}
        for item in manifest["output"]:
            file = await self.http.get(item["url"], headers=bearer)
            assert file.headers["content-type"] == "application/fhir+ndjson"
            lines = [json.loads(line) for line in file.text.splitlines()]
            assert len(lines) == item["count"] > 0
            assert {line["resourceType"] for line in lines} == {item["type"]}
            found.setdefault(item["type"], []).extend(lines)
        return manifest, found


def _is_outcome(response: httpx.Response) -> None:
    assert response.headers["content-type"] == "application/fhir+json"
    body = response.json()
    assert body["resourceType"] == "OperationOutcome"
    assert body["issue"][0]["severity"] == "error"


@asynccontextmanager
async def ehr(folder: Path, **options: Any) -> AsyncIterator[Ehr]:
    stored = write_folder(folder / "ndjson")
    executor = Later()
    clients = {"partner": public_key_set(KEY), "other": public_key_set(OTHER_KEY)}
    app = create_app(folder / "ndjson", base_url=BASE, clients=clients, executor=executor, **options)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        yield Ehr(http, executor, stored)
    app.state.close()


async def test_the_whole_story_of_an_export(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        discovery = (await source.http.get("/fhir/.well-known/smart-configuration")).json()
        assert discovery["token_endpoint"] == f"{BASE}/auth/token"
        statement = (await source.http.get("/fhir/metadata")).json()
        assert statement["fhirVersion"] == "4.0.1"
        assert [r["type"] for r in statement["rest"][0]["resource"]] == sorted(source.stored)

        before = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
        started = await source.kick_off("$export")
        where = started.headers["content-location"]
        assert where.startswith(f"{BASE}/bulk/")
        bearer = await source.partner.bearer()
        waiting = await source.http.get(where, headers=bearer)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "1")
        assert 0 < len(waiting.headers["x-progress"]) < 100

        source.executor.work()
        manifest = (await source.http.get(where, headers=bearer)).json()
        assert manifest["request"] == f"{BASE}/fhir/$export"
        assert manifest["requiresAccessToken"] is True
        assert manifest["error"] == []
        assert before < datetime.fromisoformat(manifest["transactionTime"])
        assert {i["type"]: i["count"] for i in manifest["output"]} == {t: len(r) for t, r in source.stored.items()}

        url = next(item["url"] for item in manifest["output"] if item["type"] == "Observation")
        plain = await source.http.get(url, headers=bearer | {"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == gzip.decompress((tmp_path / "ndjson" / "Observation.ndjson.gz").read_bytes())
        packed = await source.http.get(url, headers=bearer | {"Accept-Encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content

        deleted = await source.http.delete(where, headers=bearer)
        assert deleted.status_code == 202
        for gone in (where, url):
            response = await source.http.get(gone, headers=bearer)
            assert response.status_code == 404
            _is_outcome(response)


async def test_every_level_exports_its_own(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        _, everything = await source.export("$export")
        assert {t: {r["id"] for r in rows} for t, rows in everything.items()} == {
            t: {r["id"] for r in rows} for t, rows in source.stored.items()
        }
        for path in ("Patient/$export", "Group/all/$export"):
            _, compartments = await source.export(path)
            ids = {t: sorted(r["id"] for r in rows) for t, rows in compartments.items()}
            assert ids == {
                "Patient": ["p1", "p2", "p3"],
                "Observation": ["o1", "o2", "o3", "o5"],  # o4 is of no patient
                "Coverage": ["c1", "c2"],
                "Organization": ["org"],
            }
        _, members = await source.export("Group/g/$export")
        ids = {t: sorted(r["id"] for r in rows) for t, rows in members.items()}
        assert ids == {
            "Patient": ["p1", "p2"],  # p3 is inactive
            "Observation": ["o1", "o2", "o5"],
            "Coverage": ["c1"],
            "Organization": ["org"],
        }


async def test_parameters_narrow_the_export(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        manifest, found = await source.export("$export?_type=Patient,Coverage&_type=Organization")
        assert set(found) == {"Patient", "Coverage", "Organization"}
        assert manifest["request"].endswith("$export?_type=Patient,Coverage&_type=Organization")

        # strictly after; o3 has no time and may have changed
        since = "2026-01-02T10:00:00.000%2B02:00"
        _, found = await source.export(f"$export?_type=Patient,Observation&_since={since}")
        assert {t: [r["id"] for r in rows] for t, rows in found.items()} == {
            "Patient": ["p3"],
            "Observation": ["o3", "o4", "o5"],
        }
        _, unescaped = await source.export(f"$export?_type=Patient&_since={since.replace('%2B', '+')}")
        assert [r["id"] for r in unescaped["Patient"]] == ["p3"]
        _, nothing = await source.export("$export?_since=2030-01-01T00:00:00Z&_type=Patient")
        assert nothing == {}

        for name in ("application/fhir%2Bndjson", "application/ndjson", "ndjson"):
            await source.export(f"$export?_outputFormat={name}")

        body = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "_type", "valueString": "Patient"},
                {"name": "_since", "valueInstant": "2026-01-02T08:00:00Z"},
            ],
        }
        manifest, found = await source.export("Patient/$export", method="POST", json=body)
        assert [r["id"] for r in found["Patient"]] == ["p3"]
        assert manifest["request"] == f"{BASE}/fhir/Patient/$export"
        _, found = await source.export("$export?_type=ValueSet", method="POST")  # parameters in the URL, empty body
        assert set(found) == {"ValueSet"}


async def test_what_is_not_supported_is_refused_or_ignored_aloud(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        for wrong in (
            "$export?_typeFilter=Patient%3Fgender%3Dmale",
            "$export?_until=2026-01-01T00:00:00Z",
            "$export?_type=Encounter",
            "$export?_type=Nonsense",
            "Patient/$export?_type=ValueSet",
            "Group/g/$export?_type=Group",
            "$export?_outputFormat=text/csv",
            "$export?_since=2026-01-01",
            "$export?_since=2026-02-31T00:00:00Z",
            "$export?_since=yesterday",
            "$export?_since=2026-01-01T00:00:00Z&_since=2026-01-01T00:00:00Z",
        ):
            await source.kick_off(wrong, status=400)
        for body in (b"{", b"[]", b'{"resourceType":"Parameters","parameter":[{"name":"_type"}]}'):
            await source.kick_off("$export", status=400, method="POST", content=body)
        await source.kick_off("Group/unknown/$export", status=404)
        await source.kick_off("$export", status=400, headers={"Prefer": "handling=strict"})

        lenient = {"Prefer": "respond-async, handling=lenient"}
        manifest, found = await source.export("$export?_type=Patient,Nonsense&_elements=id", headers=lenient)
        assert set(found) == {"Patient"}
        (item,) = manifest["error"]
        assert (item["type"], item["count"]) == ("OperationOutcome", 2)
        file = await source.http.get(item["url"], headers=await source.partner.bearer())
        outcomes = [json.loads(line) for line in file.text.splitlines()]
        assert {o["issue"][0]["severity"] for o in outcomes} == {"warning"}


async def test_scopes_decide_what_is_exported(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        _, found = await source.export("$export", scope="system/Patient.rs system/Coverage.rs system/Group.r")
        assert set(found) == {"Patient", "Coverage"}
        await source.kick_off("$export?_type=Observation", scope="system/Patient.rs", status=403)
        await source.kick_off("$export", scope="system/Patient.r", status=403)  # read alone is not enough
        await source.kick_off("Group/g/$export", scope="system/Patient.rs", status=403)

        started = await source.kick_off("$export?_type=Patient")
        source.executor.work()
        where = started.headers["content-location"]
        narrow = await source.partner.bearer("system/Coverage.rs")
        url = (await source.http.get(where, headers=narrow)).json()["output"][0]["url"]
        refused = await source.http.get(url, headers=narrow)
        assert refused.status_code == 403
        assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
        _is_outcome(refused)


async def test_without_a_token_there_is_nothing(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        started = await source.kick_off("$export")
        source.executor.work()
        where = started.headers["content-location"]
        url = (await source.http.get(where, headers=await source.partner.bearer())).json()["output"][0]["url"]
        paths = [where, url, "/fhir/$export", "/fhir/Patient", "/fhir/Patient/p1", "/fhir/Group/g/$export"]
        for path in paths:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                response = await source.http.get(path, headers=ASYNC | headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
                _is_outcome(response)
        theirs = await source.other.bearer()
        for path in (where, url):
            assert (await source.http.get(path, headers=theirs)).status_code == 404  # another client's export
        assert (await source.http.delete(where, headers=theirs)).status_code == 404


async def test_a_token_expires_while_the_export_runs(tmp_path: Path) -> None:
    with time_machine.travel("2026-06-01T09:00:00-07:00", tick=False) as clock:
        async with ehr(tmp_path, token_lifetime_seconds=60) as source:
            bearer = await source.partner.bearer()
            started = await source.http.get("/fhir/$export", headers=bearer | ASYNC)
            where = started.headers["content-location"]
            clock.shift(61)
            assert (await source.http.get(where, headers=bearer)).status_code == 401
            assert (await source.http.get(where, headers=await source.partner.bearer())).status_code == 202


async def test_files_expire(tmp_path: Path) -> None:
    with time_machine.travel("2026-06-01T09:00:00-07:00", tick=False) as clock:
        async with ehr(tmp_path, file_lifetime_seconds=600) as source:
            started = await source.kick_off("$export")
            source.executor.work()
            where = started.headers["content-location"]
            bearer = await source.partner.bearer()
            done = await source.http.get(where, headers=bearer)
            assert done.headers["expires"] == "Mon, 01 Jun 2026 16:10:00 GMT"
            assert done.json()["transactionTime"] == "2026-06-01T16:00:00.000Z"
            url = done.json()["output"][0]["url"]
            clock.shift(601)
            bearer = await source.partner.bearer()
            for path in (where, url):
                response = await source.http.get(path, headers=bearer)
                assert response.status_code == 410
                _is_outcome(response)
            assert (await source.http.delete(where, headers=bearer)).status_code == 202


async def test_a_deleted_export_stops_and_too_many_at_once_are_refused(tmp_path: Path) -> None:
    async with ehr(tmp_path) as source:
        started = [await source.kick_off("$export") for _ in range(4)]
        refused = await source.kick_off("$export", status=429)
        assert refused.headers["retry-after"] == "1"
        bearer = await source.partner.bearer()
        where = started[0].headers["content-location"]
        assert (await source.http.delete(where, headers=bearer)).status_code == 202
        await source.kick_off("$export")
        source.executor.work()
        assert (await source.http.get(where, headers=bearer)).status_code == 404


async def test_files_are_split(tmp_path: Path) -> None:
    async with ehr(tmp_path, rows_per_file=2) as source:
        manifest, found = await source.export("$export?_type=Observation")
        assert [item["count"] for item in manifest["output"]] == [2, 2, 1]
        assert len({row["id"] for row in found["Observation"]}) == 5


async def test_a_job_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ehr(tmp_path) as source:
        started = await source.kick_off("$export")

        def broken(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("fhir_gateway.sandbox.server.folder.ResourceFolder.write", broken)
        source.executor.work()
        response = await source.http.get(started.headers["content-location"], headers=await source.partner.bearer())
        assert response.status_code == 500
        _is_outcome(response)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False),
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*", True),
        ("identity", False),
    ],
)
def test_accept_encoding(header: str | None, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


async def test_real_threads_finish_the_job(tmp_path: Path) -> None:
    write_folder(tmp_path / "ndjson")
    app = create_app(tmp_path / "ndjson", base_url=BASE, clients={"partner": public_key_set(KEY)})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        partner = Partner(http, f"{BASE}/auth/token", KEY, "ES384")
        bearer = await partner.bearer()
        where = (await http.get("/fhir/$export", headers=bearer | ASYNC)).headers["content-location"]
        deadline = time.monotonic() + HANG
        while (response := await http.get(where, headers=bearer)).status_code == 202:
            assert time.monotonic() < deadline
            await anyio.sleep(0.01)
        assert len(response.json()["output"]) == 6
    app.state.close()
