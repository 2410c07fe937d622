"""Outreach over HTTP: each client sees and marks what is of its own persons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fhir_face import client_for, enter

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.outreach import refresh
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio
NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Story:
    """Two persons who were never seen; a practice that has one of them on its list."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, headers: dict[str, Any], persons: list[str]) -> None:
        self.http, self.gateway, self.headers, self.persons = http, gateway, headers, persons

    async def listed(self, client: str) -> dict[str, str]:
        answer = await self.http.get("/outreach", headers=self.headers[client])
        assert answer.status_code == 200, answer.text
        return {one["member"]: one["reasons"][0]["item"] for one in answer.json()}


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    gateway = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=1, public_url="https://gateway.example"))
    file = tmp_path / "people.ndjson"
    people = [{"resourceType": "Patient", "id": str(one), "name": [{"family": f"=Family{one}"}]} for one in (1, 2)]
    file.write_bytes(b"\n".join(map(orjson.dumps, people)))
    pull_files(gateway, [file], "ehr")
    refresh(gateway, date(2025, 6, 30), now=NOW)
    persons = gateway.lake.members().to_pylist()
    mine = {"resourceType": "Group", "id": "mine", "type": "person", "actual": True}
    entries = [{"entity": {"reference": f"Patient/{persons[0]}"}}]
    gateway.resources.put(labelled({**mine, "member": entries}, label("contract", "mine")))
    app = create_app(gateway)
    async with app.router.lifespan_context(app), client_for(app) as http:
        scopes = "system/CommunicationRequest.rsu"
        headers = {
            "operator": await enter(http, gateway, "operator", scopes),
            "practice": await enter(http, gateway, "practice", scopes, grants=["contract:mine"]),
            "reader": await enter(http, gateway, "reader", "system/CommunicationRequest.rs", grants=["contract:mine"]),
            "other": await enter(http, gateway, "other", "system/Patient.rs"),
        }
        yield Story(http, gateway, headers, persons)
    gateway.engine.dispose()


async def test_each_client_has_the_list_of_its_own_persons(story: Story) -> None:
    assert set(await story.listed("operator")) == set(story.persons)
    assert set(await story.listed("practice")) == {story.persons[0]}
    assert (await story.http.get("/outreach", headers=story.headers["other"])).status_code == 403
    assert (await story.http.get("/outreach")).status_code == 401
    answer = await story.http.get("/outreach?x=1", headers=story.headers["practice"])
    assert answer.status_code == 400


async def test_the_list_as_csv_carries_nothing_out(story: Story) -> None:
    answer = await story.http.get("/outreach", headers={**story.headers["practice"], "Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert "'=Family" in answer.text
    assert story.persons[1] not in answer.text


async def test_only_items_of_own_persons_are_marked(story: Story) -> None:
    items = await story.listed("operator")
    mine, other = items[story.persons[0]], items[story.persons[1]]
    said = {"state": "contacted", "note": "left word"}
    for client, item, status in (("practice", mine, 200), ("practice", other, 404), ("reader", mine, 403)):
        answer = await story.http.post(f"/outreach/{item}", json=said, headers=story.headers[client])
        assert answer.status_code == status, answer.text
    answer = await story.http.post(f"/outreach/{mine}", json={"state": "done"}, headers=story.headers["practice"])
    assert answer.status_code == 400
    assert [(one.by, one.state) for one in story.gateway.outreach.history(mine)] == [
        ("data", "open"), ("client:practice", "contacted")
    ]  # fmt: skip


async def test_served_requests_are_those_of_own_persons(story: Story) -> None:
    found = await story.http.get("/fhir/CommunicationRequest", headers=story.headers["practice"])
    [entry] = found.json()["entry"]
    assert entry["resource"]["subject"] == {"reference": f"Patient/{story.persons[0]}"}
