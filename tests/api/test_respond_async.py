"""Asynchronous requests over HTTP: kick-off, polls, answers, errors, deletion, expiry, limits, and whose they are."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import Request
from fhir_face import BASE, PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from fhir_gateway.config import Settings
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import requests
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.requests import Answer, RequestLog, Task
from fhir_gateway.server import respond_async
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.app import create_app
from fhir_gateway.server.respond_async import RespondAsync
from tests.support.waiting import HANG

pytestmark = pytest.mark.anyio

BEGIN = threading.Event()
REPORT = {"resourceType": "MeasureReport", "id": "r", "status": "complete"}


def work(task: Task) -> Answer:
    """What the tests ask for: an answer, a mistake of the client, or one of ours; or to wait until it is let go on."""
    if task.payload["do"] == "wait":
        while not BEGIN.wait(0.05):
            task.tell("3 of 7 pieces")
    if task.payload["do"] == "fail":
        raise ContractError("the terms contradict each other")
    if task.payload["do"] == "break":
        raise RuntimeError("secret inside")
    return task.answer(REPORT, {"resourceType": "Patient", "id": "p"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Story:
    """The face with an operation of its own, two clients, and a worker."""

    def __init__(self, gateway: Gateway, http: httpx.AsyncClient, headers: dict[str, Mapping[str, str]]) -> None:
        self.gateway, self.http, self.headers = gateway, http, headers

    async def kick_off(self, do: str, client: str = "one", **more: str) -> httpx.Response:
        headers = {**self.headers[client], "Prefer": "respond-async", **more}
        return await self.http.get(f"/fhir/$test?do={do}", headers=headers)

    async def get(self, url: str, client: str = "one", **more: str) -> httpx.Response:
        return await self.http.get(url, headers={**self.headers[client], **more})

    async def finished(self, url: str, **more: str) -> httpx.Response:
        deadline = time.monotonic() + HANG
        while (answer := await self.get(url, **more)).status_code == 202:
            assert time.monotonic() < deadline
            assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(0.1)
        return answer


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A gateway with a worker beside it; a worker is not started on an event loop."""
    monkeypatch.setattr(requests, "KINDS", {"test": f"{__name__}:work", "export": f"{__name__}:work"})
    BEGIN.clear()
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(
        Settings(
            data_dir=tmp_path / "data",
            encryption_key=key,
            public_url=PUBLIC_URL,
            async_per_client=2,
            async_kept_per_client=3,
        )
    )
    with Worker(gateway, background=True):
        yield gateway
        BEGIN.set()


@pytest.fixture
async def story(gateway: Gateway) -> AsyncIterator[Story]:
    app = create_app(gateway)
    accepting = RespondAsync(gateway)

    @app.get("/fhir/$test")
    async def operation(request: Request, do: str) -> Response:
        header = request.headers.get("authorization")

        def accept() -> Response:
            token = admit(gateway.authorization, header, access_of(request), "MeasureReport", "r")
            return accepting.accept(request, token, "test", {"do": do})

        return await run_in_threadpool(accept)

    headers: dict[str, Mapping[str, str]] = {}
    async with client_for(app) as http:
        for name in ("one", "two"):
            headers[name] = await authorize(http, name, register(gateway, name, "system/*.rs"), "system/*.rs")
        yield Story(gateway, http, headers)
    accepting.close()


async def test_the_answer_is_a_manifest_with_files_or_a_bundle(story: Story) -> None:
    accepted = await story.kick_off("it")
    assert accepted.status_code == 202
    assert accepted.json()["resourceType"] == "OperationOutcome"
    url = accepted.headers["content-location"]
    assert url.startswith(f"{BASE}/$async/")
    answer = await story.finished(url, Accept="application/json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["expires"].endswith("GMT")
    manifest = answer.json()
    assert manifest["request"] == f"{BASE}/$test?do=it"
    assert (manifest["requiresAccessToken"], manifest["error"], manifest["deleted"]) == (True, [], [])
    assert [(one["type"], one["count"]) for one in manifest["output"]] == [("MeasureReport", 1), ("Patient", 1)]
    file = await story.get(manifest["output"][0]["url"])
    assert (file.headers["content-type"], file.headers["content-encoding"]) == ("application/fhir+ndjson", "gzip")
    assert file.json() == REPORT
    bundle = (await story.get(url, Accept="application/fhir+json")).json()
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "batch-response")
    assert bundle["entry"][0] == {"resource": REPORT, "response": {"status": "200 OK"}}


async def test_files_come_in_ranges_and_uncompressed_when_asked(story: Story) -> None:
    url = (await story.kick_off("it")).headers["content-location"]
    file = (await story.finished(url)).json()["output"][0]["url"]
    whole = await story.get(file, **{"Accept-Encoding": "identity"})
    assert "content-encoding" not in whole.headers
    part = await story.get(file, Range="bytes=5-9")
    assert (part.status_code, part.content) == (206, whole.content[5:10])
    assert part.headers["content-range"] == f"bytes 5-9/{len(whole.content)}"


@pytest.mark.parametrize(
    ("do", "status", "code", "says"),
    [
        ("fail", 422, "business-rule", "the terms contradict each other"),
        ("break", 500, "exception", "internal error"),
    ],
)
async def test_a_failure_is_told_as_an_outcome(story: Story, do: str, status: int, code: str, says: str) -> None:
    url = (await story.kick_off(do)).headers["content-location"]
    answer = await story.finished(url)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/fhir+json")
    issue = answer.json()["issue"][0]
    assert (issue["severity"], issue["code"], issue["diagnostics"]) == ("error", code, says)
    entry = (await story.get(url, Accept="application/fhir+json")).json()["entry"][0]
    assert entry["response"]["status"].startswith(str(status))
    assert entry["response"]["outcome"]["issue"] == [issue]


async def test_progress_then_deletion_while_it_runs(story: Story) -> None:
    url = (await story.kick_off("wait")).headers["content-location"]
    deadline = time.monotonic() + HANG
    while (answer := await story.get(url)).headers.get("x-progress") != "3 of 7 pieces":
        assert (answer.status_code, answer.content) == (202, b"")
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    gone = await story.http.delete(url, headers=story.headers["one"])
    assert gone.status_code == 202
    for method in ("GET", "DELETE"):
        after = await story.http.request(method, url, headers=story.headers["one"])
        assert (after.status_code, after.json()["issue"][0]["code"]) == (404, "not-found")
    log, id = RequestLog(story.gateway), url.rpartition("/")[2]
    while log.folder(id).exists():  # the worker notices by itself
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_it_exists_for_its_client_alone(story: Story) -> None:
    url = (await story.kick_off("it")).headers["content-location"]
    file = (await story.finished(url)).json()["output"][0]["url"]
    for address in (url, file):
        assert (await story.http.get(address)).status_code == 401
        assert (await story.get(address, "two")).status_code == 404
    assert (await story.http.delete(url, headers=story.headers["two"])).status_code == 404
    assert (await story.get(url)).status_code == 200
    for name in ("answer.json", "other.ndjson", "..%2f..%2fcontrol.db"):
        assert (await story.get(f"{url}/{name}")).status_code == 404


async def test_a_client_has_a_limit_of_its_own(story: Story) -> None:
    urls = [(await story.kick_off("wait")).headers["content-location"] for _ in range(2)]
    refused = await story.kick_off("wait")
    assert (refused.status_code, refused.json()["issue"][0]["code"]) == (429, "throttled")
    assert int(refused.headers["retry-after"]) > 0
    assert (await story.kick_off("it", "two")).status_code == 202
    await story.http.delete(urls[0], headers=story.headers["one"])
    assert (await story.kick_off("it")).status_code == 202
    BEGIN.set()


async def test_answers_kept_are_limited_and_expire(story: Story) -> None:
    urls = []
    for _ in range(3):
        urls.append((await story.kick_off("it")).headers["content-location"])
        await story.finished(urls[-1])
    assert (await story.kick_off("it")).status_code == 429
    log, id = RequestLog(story.gateway), urls[0].rpartition("/")[2]
    log.change(id, only=("done",), expires=time.time() - 1)
    assert (await story.get(urls[0])).status_code == 404
    assert log.folder(id).is_dir()
    (log.folders / "of-nobody").mkdir()
    assert log.sweep() == 1
    assert sorted(one.name for one in log.folders.iterdir()) == sorted(one.rpartition("/")[2] for one in urls[1:])
    assert (await story.kick_off("it")).status_code == 202


async def test_the_status_of_the_poll_may_be_apart_from_that_of_the_work(story: Story) -> None:
    accepted = await story.kick_off("fail", Prefer="respond-async, separate-export-status")
    assert accepted.headers["preference-applied"] == "respond-async, separate-export-status"
    url = accepted.headers["content-location"]
    deadline = time.monotonic() + HANG
    while (answer := await story.get(url)).headers["x-export-status"] == "202 Accepted":
        assert answer.status_code == 200
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert (answer.status_code, answer.headers["x-export-status"][:3]) == (200, "422")
    assert answer.json()["resourceType"] == "OperationOutcome"
    await story.http.delete(url, headers=story.headers["one"])
    assert (await story.get(url)).status_code == 404


async def test_what_nobody_will_carry_out_is_told(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(respond_async, "_LOST_SECONDS", 0.0)
    urls = [(await story.kick_off("wait", client)).headers["content-location"] for client in ("one", "two")]
    ids = [url.rpartition("/")[2] for url in urls]
    log = RequestLog(story.gateway)
    deadline = time.monotonic() + HANG
    while any(log.state(id) != "running" for id in ids):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    # both places of the worker are taken: this one waits until the operator cancels its job
    third = (await story.kick_off("it")).headers["content-location"]
    with closing(JobBook(story.gateway)) as book:
        await run_in_threadpool(book.cancel, third.rpartition("/")[2])
    assert (await story.get(third)).status_code == 202
    told = await story.get(third)
    assert (told.status_code, told.json()["issue"][0]["diagnostics"]) == (500, "the work was ended before it was done")
    # a request whose acceptor died before it was submitted is submitted by its poll
    lost = log.accept("two", "test", {"do": "it"}, "http://x/")
    BEGIN.set()
    url = f"{BASE}/$async/{lost.id}"
    while (answer := await story.get(url, "two")).status_code == 202:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert answer.status_code == 200


async def test_accesses_are_audited(story: Story) -> None:
    url = (await story.kick_off("it")).headers["content-location"]
    await story.get((await story.finished(url)).json()["output"][0]["url"])
    from fhir_gateway.db.engine import snapshot

    with snapshot(story.gateway.engine) as connection:
        rows: list[Any] = list(
            connection.exec_driver_sql("SELECT client_id, interaction, resource_type FROM audit_event ORDER BY id")
        )
    assert tuple(rows[-1]) == ("one", "async-file", "MeasureReport")
    assert ("one", "async-status", None) in [tuple(row) for row in rows]
