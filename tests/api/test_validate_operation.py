"""``$validate`` and definitions at the endpoint: stories over the whole face."""

from __future__ import annotations

import asyncio
import json
import uuid
from functools import cache
from typing import Any

import httpx
import pytest
from fhir_face import authorize, client_for, new_gateway, register

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.definitions import publish_definitions
from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import DEFINITIONS

OURS = "https://fhir-gateway.example/fhir/"
GROUP: dict[str, Any] = {"resourceType": "Group", "id": "list", "type": "person", "actual": True}


@cache
def with_list() -> Gateway:
    """A gateway that serves one list; nothing here changes it."""
    gateway = new_gateway()
    gateway.resources.put(GROUP)
    return gateway


def ask(gateway: Gateway, method: str, path: str, scope: str = "system/*.rs", **request: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        name = f"client-{uuid.uuid4().hex}"
        key = register(gateway, name, scope)
        async with client_for(create_app(gateway)) as http:
            headers = await authorize(http, name, key, scope) | request.pop("headers", {})
            return await http.request(method, f"/fhir/{path}", headers=headers, **request)

    return asyncio.run(asked())


def post(path: str, body: Any, scope: str = "system/*.rs") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(with_list(), "POST", path, scope, content=content, headers={"Content-Type": "application/fhir+json"})


def parameters(**named: Any) -> dict[str, Any]:
    entries = [
        {"name": name, "resource" if isinstance(value, dict) else "valueString": value} for name, value in named.items()
    ]
    return {"resourceType": "Parameters", "parameter": entries}


def rules(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [issue["details"]["coding"][0]["code"] for issue in response.json()["issue"] if issue["severity"] == "error"]


def test_a_resource_is_judged_as_body_or_as_parameter() -> None:
    assert rules(post("Group/$validate", GROUP)) == []
    assert rules(post("Group/$validate", parameters(resource=GROUP, mode="create"), "system/*.cruds")) == []
    broken = {**GROUP, "actual": False, "member": [{"entity": {"reference": "Patient/1"}}]}
    assert rules(post("Group/$validate", broken)) == ["grp-1"]
    assert rules(post("Group/$validate", {**GROUP, "type": "crowd"})) == ["binding"]


def test_a_profile_is_asked_for_in_url_or_body() -> None:
    named = f"{OURS}StructureDefinition/recomputable-measurereport"
    report = {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": "https://measure.example/m|1",
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
    }
    assert rules(post("MeasureReport/$validate", report)) == []
    for response in (
        post(f"MeasureReport/$validate?profile={named}", report),
        post("MeasureReport/$validate", parameters(resource=report, profile=named)),
    ):
        assert set(rules(response)) == {"gw-1", "cardinality"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("Group/$validate", b"{", 400),
        ("Group/$validate", b'{"resourceType": "Group", "resourceType": "Group"}', 400),
        ("Group/$validate", {"resourceType": "Patient"}, 400),
        ("Group/$validate", parameters(mode="create"), 400),
        ("Group/$validate", parameters(resource=GROUP, mode="invent"), 400),
        ("Group/$validate", parameters(resource=GROUP, mode="update"), 400),
        ("Group/list/$validate", parameters(resource=GROUP, mode="create"), 400),
        ("Group/$validate", parameters(resource=GROUP, other="x"), 400),
        ("Group/$validate", {"resourceType": "Parameters", "parameter": [{"name": "resource"}]}, 400),
        ("Group/$validate?profile=https://nowhere.example/p", GROUP, 404),
        ("Crowd/$validate", GROUP, 404),
        ("Group/none/$validate", b"", 404),
        ("Group/~/$validate", b"", 404),
    ],
)
def test_what_is_wrong_with_the_request_is_a_4xx(path: str, body: Any, status: int) -> None:
    response = post(path, body)
    assert response.status_code == status, response.text
    assert response.json()["issue"][0]["severity"] == "error"


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"x"', b"{}", b'{"resourceType": 5}'])
def test_no_body_is_a_failure_of_ours(body: bytes) -> None:
    assert post("Group/$validate", body).status_code in (200, 400)


def test_what_we_have_is_judged_for_those_who_may_read_it() -> None:
    assert rules(ask(with_list(), "GET", "Group/list/$validate")) == []
    assert ask(with_list(), "GET", "Group/list/$validate", "system/Group.s").status_code == 403
    assert ask(with_list(), "GET", "Group/list/$validate", "system/Patient.rs").status_code == 403


def test_what_a_client_does_not_see_is_not_judged_for_it() -> None:
    gateway = with_list()

    async def asked() -> int:
        name = f"limited-{uuid.uuid4().hex}"
        key = register(gateway, name, "system/*.rs", grants=["organization:999"])
        async with client_for(create_app(gateway)) as http:
            headers = await authorize(http, name, key, "system/*.rs")
            return (await http.get("/fhir/Group/list/$validate", headers=headers)).status_code

    assert asyncio.run(asked()) == 404


def test_modes_tell_whether_the_interaction_would_be_allowed() -> None:
    def judged(body: Any, scope: str) -> list[str]:
        headers = {"Content-Type": "application/fhir+json"}
        return rules(ask(with_list(), "POST", "Group/list/$validate", scope, content=json.dumps(body), headers=headers))

    assert judged(parameters(mode="delete"), "system/Group.rd") == []
    assert judged(parameters(mode="delete"), "system/Group.r") == ["mode"]
    assert judged(parameters(mode="update", resource=GROUP), "system/Group.ru") == []
    assert judged(parameters(mode="update", resource={**GROUP, "id": "other"}), "system/Group.ru") == ["mode"]


def test_a_token_is_needed() -> None:
    async def asked() -> int:
        async with client_for(create_app(new_gateway())) as http:
            return (await http.post("/fhir/Group/$validate", json=GROUP)).status_code

    assert asyncio.run(asked()) == 401


def test_what_we_define_is_read_and_searched() -> None:
    gateway = new_gateway()
    statement = {"resourceType": "CapabilityStatement", "id": "fhir-gateway", "url": "https://gateway.example/metadata"}
    assert publish_definitions(gateway, [statement]) > len(DEFINITIONS)
    assert publish_definitions(gateway, [statement]) == 0
    for kind, query, expected in (
        ("StructureDefinition", f"url={OURS}StructureDefinition/cql-sha256", "cql-sha256"),
        ("SearchParameter", "name=GroupName&version=0.1.0", "group-name"),
        ("OperationDefinition", "code=import", "import"),
        ("CodeSystem", "name=Audience", "audience"),
        ("ValueSet", f"reference={OURS}CodeSystem/validation-rule", "validation-rule"),
        ("CapabilityStatement", "url=https://gateway.example/metadata", "fhir-gateway"),
    ):
        bundle = ask(gateway, "GET", f"{kind}?{query}").json()
        assert [entry["resource"]["id"] for entry in bundle["entry"]] == [expected], kind
        assert ask(gateway, "GET", f"{kind}/{expected}").json()["id"] == expected
