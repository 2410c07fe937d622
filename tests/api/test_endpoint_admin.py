"""The story of an operator who registers an endpoint by API, rotates its key, and is in the audit trail."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest
import sqlalchemy as sa
from fhir_face import authorize, client_for, new_gateway, register

from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import audit_events

HERE = "/admin/endpoints"


@pytest.fixture
def gateway() -> Gateway:
    return new_gateway()


async def operator(gateway: Gateway, http: httpx.AsyncClient, name: str, scopes: str) -> dict[str, str]:
    return dict(await authorize(http, name, register(gateway, name, scopes), scopes))


def test_an_endpoint_is_registered_changed_rotated_and_forgotten(gateway: Gateway) -> None:
    async def story() -> None:
        async with client_for(create_app(gateway)) as http:
            http.headers.update(await operator(gateway, http, "admin", "system/Endpoint.cruds"))
            new = {"name": "ehr", "base_url": "https://ehr.example/fhir/", "vendor": "epic", "algorithm": "RS384"}
            made = await http.post(HERE, json=new)
            assert made.status_code == 201, made.text
            assert made.json()["base_url"] == "https://ehr.example/fhir"
            assert made.json()["client_id"] is None
            changed = await http.patch(f"{HERE}/ehr", json={"client_id": "us", "jku": True, "group": "g1"})
            assert changed.json()["client_id"] == "us"
            assert changed.json()["jku"] == "https://gateway.example/.well-known/jwks.json"
            old = changed.json()["keys"][0]["kid"]
            rotated = (await http.post(f"{HERE}/ehr/keys", json={"algorithm": "ES384"})).json()["keys"]
            assert [key["state"] for key in rotated] == ["active", "next"]
            hosted = (await http.get("/.well-known/jwks.json")).json()["keys"]
            assert {key["kid"] for key in hosted} == {key["kid"] for key in rotated}
            await http.post(f"{HERE}/ehr/keys", json={"step": "activate", "kid": rotated[1]["kid"]})
            left = (await http.post(f"{HERE}/ehr/keys", json={"step": "remove", "kid": old})).json()["keys"]
            assert [key["state"] for key in left] == ["active"]
            assert (await http.get("/endpoints/ehr/jwks.json")).json()["keys"][0]["kty"] == "EC"
            payer = {"name": "payer", "base_url": "https://payer.example/api/v2", "vendor": "bcda", "client_id": "us"}
            assert (await http.post(HERE, json=payer)).status_code == 400
            assert (await http.post(HERE, json={**payer, "client_secret": "s3cret"})).status_code == 201
            listed = await http.get(HERE)
            assert [one["name"] for one in listed.json()] == ["ehr", "payer"]
            assert "s3cret" not in listed.text
            assert (await http.post(HERE, json=new)).status_code == 409
            wrong = await http.post(
                HERE, json={"name": "x", "base_url": "https://a.example", "client_secret": 5, "q": 1}
            )
            assert wrong.status_code == 400
            assert "client_secret" in wrong.json()["issue"][0]["diagnostics"]
            assert (await http.delete(f"{HERE}/ehr")).status_code == 204
            assert (await http.get(f"{HERE}/ehr")).status_code == 404

    anyio.run(story)
    with snapshot(gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events)).mappings().all()
    seen = {(row["client_id"], row["interaction"], row["resource_id"], row["status"]) for row in rows}
    assert ("admin", "endpoint-create", "ehr", 201) in seen
    assert ("admin", "endpoint-delete", "ehr", 204) in seen


@pytest.mark.parametrize("scopes", ["system/*.cruds", "system/Patient.rs", "system/Endpoint.rs"])
def test_a_wildcard_does_not_make_an_operator(gateway: Gateway, scopes: str) -> None:
    async def story() -> list[int]:
        async with client_for(create_app(gateway)) as http:
            without = await http.get(HERE)
            http.headers.update(await operator(gateway, http, "other", scopes))
            tried: list[Any] = [await http.post(HERE, json={}), await http.get(HERE)]
            return [without.status_code, *(one.status_code for one in tried)]

    assert anyio.run(story) == [401, 403, 200 if "Endpoint" in scopes else 403]


def test_check_by_api_says_what_fails(gateway: Gateway) -> None:
    async def story() -> list[dict[str, str]]:
        async with client_for(create_app(gateway)) as http:
            http.headers.update(await operator(gateway, http, "admin", "system/Endpoint.cruds"))
            await http.post(HERE, json={"name": "gone", "base_url": "http://127.0.0.1:9/fhir", "client_id": "us"})
            found: list[dict[str, str]] = (await http.post(f"{HERE}/gone/check")).json()
            return found

    assert [(one["name"], one["result"]) for one in anyio.run(story)] == [("url", "failed")]
