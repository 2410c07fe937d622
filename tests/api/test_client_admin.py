"""The story of an operator who registers clients by API, changes what they may, suspends and removes them."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest
import sqlalchemy as sa
from fhir_face import authorize, client_for, new_gateway, register
from joserfc.jwk import ECKey

from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import audit_events

HERE = "/admin/clients"


@pytest.fixture
def gateway() -> Gateway:
    return new_gateway()


async def operator(gateway: Gateway, http: httpx.AsyncClient, name: str, scopes: str) -> dict[str, str]:
    return dict(await authorize(http, name, register(gateway, name, scopes), scopes))


def _key(name: str) -> ECKey:
    return ECKey.generate_key("P-384", {"kid": name, "use": "sig", "alg": "ES384"})


def _public(key: ECKey) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False)]}


def test_a_client_is_registered_changed_suspended_and_removed(gateway: Gateway) -> None:
    key = _key("k1")
    jwks = _public(key)

    async def story() -> None:
        async with client_for(create_app(gateway)) as http:
            admin = await operator(gateway, http, "admin", "system/Client.cruds")
            http.headers.update(admin)
            new = {"client_id": "plan", "scopes": "system/*.rs", "grants": ["contract:aco"], "jwks": jwks}
            assert (await http.post(HERE, json={**new, "grants": ["everything"]})).status_code == 400
            assert (await http.post(HERE, json={**new, "scopes": "openid"})).status_code == 400
            assert (await http.post(HERE, json={**new, "scopes": "system/Client.rs?name=x"})).status_code == 400
            without = {name: value for name, value in new.items() if name != "grants"}
            refused = await http.post(HERE, json=without)
            assert (refused.status_code, "grants" in refused.text) == (400, True)
            made = await http.post(HERE, json={**new, "purpose": "HPAYMT"})
            assert made.status_code == 201, made.text
            assert made.json()["state"] == "active"
            assert (await http.post(HERE, json=new)).status_code == 409

            plan = await authorize(http, "plan", key, "system/Group.rs system/Client.rs")
            assert (await http.get("/fhir/Group", headers=plan)).status_code == 200
            assert (await http.get(HERE, headers=plan)).status_code == 403  # a wildcard does not mean it

            changed = await http.patch(f"{HERE}/plan", json={"scopes": "system/Group.r", "grants": None})
            assert changed.json()["scopes"] == "system/Group.r"
            assert changed.json()["grants"] is None
            assert changed.json()["purpose"] == "HPAYMT"
            assert (await http.get("/fhir/Group", headers=plan)).status_code == 401  # its tokens ended
            assert (await http.patch(f"{HERE}/plan", json={"jwks": None})).status_code == 400
            assert (await http.patch(f"{HERE}/plan", json={"scope": "x"})).status_code == 400
            assert (await http.patch(f"{HERE}/plan", json={"name": "x", "purpose": "?"})).status_code == 400
            assert (await http.get(f"{HERE}/plan")).json()["name"] == "plan"  # all of a change or nothing

            assert (await http.patch(f"{HERE}/plan", json={"disabled": True})).json()["state"] == "disabled"
            assert (await http.patch(f"{HERE}/plan", json={"disabled": False})).json()["state"] == "active"
            again = await authorize(http, "plan", key, "system/Group.r")
            assert (await http.get("/fhir/Group/x", headers=again)).status_code == 404
            assert (await http.delete(f"{HERE}/plan")).status_code == 204
            assert (await http.get("/fhir/Group/x", headers=again)).status_code == 401
            assert (await http.get(f"{HERE}/plan")).status_code == 404
            assert (await http.delete(f"{HERE}/plan")).status_code == 404

            url = {**new, "client_id": "https://app.example/client", "jwks": None}
            assert (await http.post(HERE, json=url)).status_code == 400  # no keys, and no issuer that is trusted
            assert (await http.post(HERE, json={**url, "jwks": jwks})).status_code == 201
            there = f"{HERE}/https%3A%2F%2Fapp.example%2Fclient"
            assert (await http.get(there)).json()["client_id"] == "https://app.example/client"
            assert [one["client_id"] for one in (await http.get(HERE)).json()] == ["admin", url["client_id"]]

            other = _key("k2")  # keys are rotated: the new one counts, the old one no longer
            rotated = {**new, "client_id": "rotating"}
            assert (await http.post(HERE, json=rotated)).status_code == 201
            assert (await http.patch(f"{HERE}/rotating", json={"jwks": _public(other)})).status_code == 200
            await authorize(http, "rotating", other, "system/Group.r")
            with pytest.raises(AssertionError, match="invalid_client"):
                await authorize(http, "rotating", key, "system/Group.r")
            assert (await http.delete(f"{HERE}/rotating")).status_code == 204

            invited = await http.post("/admin/invitations", json={"name": "partners", "uses": 2})
            assert (invited.status_code, invited.json()["uses"], invited.json()["days"]) == (201, 2, 7)
            assert len(invited.json()["token"]) > 20
            assert (await http.post("/admin/invitations", json={"name": "a b"})).status_code == 400
            assert (await http.post("/admin/invitations", json={"name": "x", "uses": 0})).status_code == 400

            assert (await http.patch(f"{HERE}/admin", json={"disabled": True})).status_code == 409
            assert (await http.delete(f"{HERE}/admin")).status_code == 409
            assert "PATCH" in (await http.put(f"{HERE}/admin", json={})).headers["Allow"]

    anyio.run(story)
    with snapshot(gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events)).mappings().all()
    seen = {(row["client_id"], row["interaction"], row["resource_id"], row["status"]) for row in rows}
    expected = {("client-create", 201), ("client-update", 200), ("client-read", 200), ("client-delete", 204)}
    assert {("admin", what, "plan", status) for what, status in expected} <= seen


@pytest.mark.parametrize(
    ("scopes", "grants", "status"),
    [
        ("system/*.cruds", None, 403),
        ("system/Endpoint.cruds", None, 403),
        ("system/Client.rs", None, 200),
        ("system/Client.rs", ["contract:aco"], 403),
    ],
)
def test_who_may_administer_clients(gateway: Gateway, scopes: str, grants: list[str] | None, status: int) -> None:
    key = _key("k")
    gateway.authorization.register_client("other", scopes=scopes, jwks=_public(key), grants=grants)
    body = {"client_id": "x", "scopes": "system/*.rs", "grants": None, "jwks": _public(key)}

    async def story() -> list[int]:
        async with client_for(create_app(gateway)) as http:
            without = await http.get(HERE)
            http.headers.update(await authorize(http, "other", key, scopes))
            tried = [await http.post(HERE, json=body), await http.get(HERE), await http.get(f"{HERE}/other")]
            return [without.status_code, *(one.status_code for one in tried)]

    assert anyio.run(story) == [401, 403, status, status]
    assert [one.client_id for one in gateway.authorization.clients()] == ["other"]


def test_a_client_that_registered_itself_waits_for_approval(gateway: Gateway) -> None:
    settings = gateway.settings.model_copy(update={"registration": "invited"})
    gateway = Gateway(settings)
    invitation = gateway.authorization.invite("partner")
    key = _key("own")
    metadata = {
        "client_name": "Partner",
        "jwks": _public(key),
        "token_endpoint_auth_method": "private_key_jwt",
        "grant_types": ["client_credentials"],
        "scope": "system/*.rs",
    }

    async def story() -> None:
        async with client_for(create_app(gateway)) as http:
            answered = await http.post(
                "/auth/register", json=metadata, headers={"Authorization": f"Bearer {invitation}"}
            )
            assert answered.status_code == 201, answered.text
            name = answered.json()["client_id"]
            http.headers.update(await operator(gateway, http, "admin", "system/Client.ru"))
            waiting = (await http.get(f"{HERE}/{name}")).json()
            assert (waiting["state"], waiting["requested"]) == ("pending", "system/*.rs")
            assert (await http.patch(f"{HERE}/{name}", json={"scopes": "system/*.rs"})).status_code == 409
            allowed = {"scopes": "system/Group.r", "grants": ["contract:aco"]}
            approved = await http.post(f"{HERE}/{name}/approval", json=allowed)
            assert approved.status_code == 200, approved.text
            assert approved.json()["state"] == "active"
            assert (await http.post(f"{HERE}/{name}/approval", json=allowed)).status_code == 409
            token = await authorize(http, name, key, "system/*.rs")
            assert (await http.get("/fhir/Group/x", headers=token)).status_code == 404

    anyio.run(story)
