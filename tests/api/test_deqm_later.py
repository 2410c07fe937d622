"""Operations on Measure that answer later: for who prefers it, and where there is much to do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fhir_face import BASE, authorize, client_for, register

from fhir_gateway.jobs.durable import Worker
from fhir_gateway.server.app import create_app
from tests.support.deqm import PRESSURE, YEAR, Filled
from tests.support.waiting import HANG

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    filled = Filled(tmp_path, [PRESSURE], operation_members=5, in_memory=False)
    with Worker(filled.gateway, background=True):
        yield filled


@pytest.fixture
async def http(filled: Filled) -> AsyncIterator[httpx.AsyncClient]:
    key = register(filled.gateway, "kit", "system/*.rs")
    async with client_for(create_app(filled.gateway)) as client:
        client.headers.update(await authorize(client, "kit", key, "system/*.rs"))
        yield client


async def finished(http: httpx.AsyncClient, location: str, accept: str = "application/json") -> httpx.Response:
    assert location.startswith(f"{BASE}/")
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        answer = await http.get(location, headers={"Accept": accept})
        if answer.status_code != 202:
            return answer
        await asyncio.sleep(0.2)
    raise AssertionError("not finished")


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("$evaluate", {"measureId": PRESSURE}),
        ("$evaluate-measure", {"measure": PRESSURE}),
        ("$collect-data", {"measureId": PRESSURE}),
        ("$care-gaps", {"measureId": PRESSURE, "organization": "clinic", "status": ["open-gap", "prospective-gap"]}),
    ],
)
async def test_who_prefers_it_polls(
    http: httpx.AsyncClient, filled: Filled, operation: str, more: dict[str, Any]
) -> None:
    members = [{"entity": {"reference": f"Patient/{one}"}} for one in filled.persons(PRESSURE)[:4]]
    clinic = {"resourceType": "Organization", "id": "clinic"}
    group = {
        "resourceType": "Group",
        "id": "g",
        "member": members,
        "managingEntity": {"reference": "Organization/clinic"},
    }
    filled.gateway.resources.put_many([clinic, group | {"type": "person", "actual": True}])
    if operation != "$care-gaps":
        more = more | {"subject": "Group/g"}
    url = f"/fhir/Measure/{operation}"
    now = await http.get(url, params=YEAR | more)
    assert now.status_code == 200, now.text
    later = await http.get(url, params=YEAR | more, headers={"Prefer": "respond-async"})
    assert later.status_code == 202, later.text
    poll = await finished(http, later.headers["content-location"])
    assert poll.status_code == 200, poll.text
    (file,) = poll.json()["output"]
    lines = (await http.get(file["url"])).text.splitlines()
    assert [shape(json.loads(line)) for line in lines] == [shape(now.json())]
    bundle = await finished(http, later.headers["content-location"], "application/fhir+json")
    (entry,) = bundle.json()["entry"]
    assert shape(entry["resource"]) == shape(now.json())


def shape(resource: dict[str, Any]) -> Any:
    """Types of an answer, Bundle by Bundle."""
    if resource["resourceType"] != "Parameters":
        return resource["resourceType"], resource["group"]
    return [
        [one["resource"]["resourceType"] for one in bundle["resource"]["entry"]] for bundle in resource["parameter"]
    ]


async def test_many_members_are_answered_later_unasked(http: httpx.AsyncClient) -> None:
    asked = YEAR | {"measureId": PRESSURE, "reportType": "population"}
    answer = await http.get("/fhir/Measure/$evaluate", params=asked)
    assert answer.status_code == 202, answer.text
    poll = await finished(http, answer.headers["content-location"])
    assert poll.json()["output"][0]["type"] == "Parameters"


async def test_what_is_wrong_is_said_at_once(http: httpx.AsyncClient) -> None:
    asked = YEAR | {"measureId": PRESSURE, "subject": "Group/nosuch"}
    answer = await http.get("/fhir/Measure/$evaluate", params=asked, headers={"Prefer": "respond-async"})
    assert answer.status_code == 404
