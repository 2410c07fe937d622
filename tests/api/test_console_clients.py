"""Clients in the console: an IT manager registers one that then reads, lets another in, and is told what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pyotp
import pytest
import sqlalchemy as sa
from fhir_face import PUBLIC_URL, authorize, new_gateway
from joserfc.jwk import ECKey, RSAKey

from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.app import with_console
from fhir_gateway.console.frame import PATH
from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.audit import audit_events

PASSWORD = "a long enough password"
CLIENTS = f"{PATH}/operations/clients"
#: The fields of a form that is in order, apart from keys and whose data.
NEW = {"client_id": "plan", "scopes": "system/Group.rs", "purpose": "HPAYMT"}


@pytest.fixture
def gateway() -> Gateway:
    return new_gateway()


def new_key(name: str) -> ECKey:
    return ECKey.generate_key("P-384", {"kid": name, "use": "sig", "alg": "ES384"})


def jwks_of(*keys: ECKey | RSAKey, private: bool = False) -> str:
    return json.dumps({"keys": [one.as_dict(private=private) for one in keys]})


def signed_in(gateway: Gateway, tell: Callable[[httpx.AsyncClient], Awaitable[None]], *roles: str) -> None:
    """Tell a story of somebody with these roles, signed in; ``http`` also reaches the FHIR face."""

    async def told() -> None:
        transport = httpx.ASGITransport(with_console(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
            secret = Accounts(gateway.engine, gateway.secrets).add("ida", PASSWORD, list(roles), None)
            form = {"name": "ida", "password": PASSWORD, "code": pyotp.TOTP(str(secret)).now()}
            assert (await http.post(f"{PATH}/sign-in", data=form)).status_code == 303
            await tell(http)

    anyio.run(told)


async def page(http: httpx.AsyncClient, path: str) -> tuple[str, str]:
    """A page and the token of its form."""
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    token = re.search(r'name="form_token" value="([^"]+)"', answer.text)
    assert token is not None
    return answer.text, token[1]


def test_a_client_registered_by_form_reads_with_its_key_what_the_form_said(gateway: Gateway) -> None:
    key = new_key("k1")

    async def tell(http: httpx.AsyncClient) -> None:
        listed = await http.get(CLIENTS)
        assert "None is registered" in listed.text
        assert f'href="{CLIENTS}/new"' in listed.text
        _, token = await page(http, f"{CLIENTS}/new")
        form = {**NEW, "form_token": token, "name": "The plan", "jwks": jwks_of(key)}
        said = await http.post(CLIENTS, data={**form, "contract": "aco mssp", "organization": "123456789"})
        assert (said.status_code, said.headers["location"]) == (303, CLIENTS)
        one = gateway.authorization.client("plan")
        assert one.audience.labels == {"contract:aco", "contract:mssp", "organization:123456789"}
        assert (one.name, one.purpose, list(map(str, one.scopes))) == ("The plan", "HPAYMT", ["system/Group.rs"])
        assert "contract:aco contract:mssp organization:123456789" in (await http.get(CLIENTS)).text

        bearer = await authorize(http, "plan", key, "system/Group.rs")
        assert (await http.get("/fhir/Group", headers=bearer)).status_code == 200
        assert (await http.get("/fhir/Patient", headers=bearer)).status_code == 403
        again = await http.post(CLIENTS, data={**form, "group": "g1"})
        assert again.status_code == 409
        assert 'role="alert"' in again.text

        _, token = await page(http, CLIENTS)
        await http.post(f"{CLIENTS}/plan/disable", data={"form_token": token})
        assert gateway.authorization.client("plan").disabled

    signed_in(gateway, tell, "it")
    with snapshot(gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events).order_by(audit_events.c.id)).mappings().all()
    mine = [(row["resource_id"], row["status"]) for row in rows if row["interaction"] == "console-action"]
    assert mine == [("plan", 303), ("plan", 409), ("plan", 303)]


def test_keys_by_address_ids_that_are_addresses_and_everybodys_data(gateway: Gateway) -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        _, token = await page(http, f"{CLIENTS}/new")
        given = {**NEW, "client_id": "https://plan.example/app", "form_token": token}
        given |= {"jwks_url": "https://plan.example/jwks.json", "everything": "yes"}
        assert (await http.post(CLIENTS, data=given)).status_code == 303
        one = gateway.authorization.client("https://plan.example/app")
        assert (one.jwks_url, one.audience.labels) == ("https://plan.example/jwks.json", None)
        listed, token = await page(http, CLIENTS)
        (address,) = re.findall(rf'action="({CLIENTS}/[^"]+/disable)"', listed)
        assert (await http.post(address, data={"form_token": token})).status_code == 303
        assert gateway.authorization.client("https://plan.example/app").disabled

    signed_in(gateway, tell, "admin")


WRONG = [
    ({"client_id": ""}, "client id is missing"),
    ({"client_id": "two words"}, "without spaces"),
    ({"scopes": ""}, "scopes is missing"),
    ({"scopes": "openid"}, "openid is not a system scope"),
    ({"scopes": "system/Group.rs?name:nothing=x"}, "cannot be evaluated here"),
    ({"contract": ""}, "say whose data it sees"),
    ({"everything": "yes"}, "say whose data it sees"),
    ({"purpose": "for fun"}, "a code of PurposeOfUse"),
    ({"jwks": ""}, "register a JWK Set or a JWKS URL"),
    ({"jwks": "{"}, "cannot be read as JSON"),
    ({"jwks": "[]"}, "a JWK Set is a JSON object"),
    ({"jwks": '{"keys": []}'}, "at least one key"),
    ({"jwks_url": "https://plan.example/jwks.json"}, "either a JWK Set or a JWKS URL"),
    ({"jwks": "", "jwks_url": "http://plan.example/jwks.json"}, "https"),
]


@pytest.mark.parametrize(("change", "text"), WRONG, ids=[text for _, text in WRONG])
def test_what_is_wrong_is_said_on_the_form_which_keeps_the_rest(
    gateway: Gateway, change: dict[str, str], text: str
) -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        _, token = await page(http, f"{CLIENTS}/new")
        form = {**NEW, "contract": "aco", "jwks": jwks_of(new_key("k1")), "name": "The <plan>", **change}
        answer = await http.post(CLIENTS, data={**form, "form_token": token})
        assert answer.status_code == 400
        told = re.search(r'<p class="problem" role="alert">(.*)</p>', answer.text)
        assert told is not None
        assert text in told[1]
        assert 'value="The &lt;plan&gt;"' in answer.text
        assert ("&#34;k1&#34;" in answer.text) == ("jwks" not in change)  # keys that are in order
        assert gateway.authorization.clients() == []

    signed_in(gateway, tell, "it")


def test_a_private_key_is_refused_and_not_shown_again(gateway: Gateway) -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        key = new_key("k1")
        _, token = await page(http, f"{CLIENTS}/new")
        form = {**NEW, "contract": "aco", "jwks": jwks_of(key, private=True), "form_token": token}
        answer = await http.post(CLIENTS, data=form)
        assert answer.status_code == 400
        assert "public keys only" in answer.text
        assert key.as_dict(private=True)["d"] not in answer.text
        assert gateway.authorization.clients() == []

    signed_in(gateway, tell, "it")


def test_a_client_that_registered_itself_is_let_in() -> None:
    key = new_key("k1")
    gateway = Gateway(new_gateway().settings.model_copy(update={"registration": "open"}))
    metadata = {"jwks": json.loads(jwks_of(key)), "client_name": "A vendor", "scope": "system/Group.rs"}
    waiting = str(gateway.authorization.register(metadata, None).body["client_id"])

    async def tell(http: httpx.AsyncClient) -> None:
        assert "waits for approval" in (await http.get(CLIENTS)).text
        address = f"{CLIENTS}/{waiting}/approval"
        shown, token = await page(http, address)
        assert "A vendor" in shown
        assert 'value="system/Group.rs"' in shown
        refused = await http.post(address, data={"scopes": "system/Group.rs", "form_token": token})
        assert (refused.status_code, "say whose data" in refused.text) == (400, True)
        given = {"scopes": "system/Group.rs", "organization": "123456789", "form_token": token}
        assert (await http.post(address, data={**given, "form_token": "made-up"})).status_code == 403
        assert gateway.authorization.client(waiting).pending
        assert (await http.post(address, data=given)).status_code == 303
        assert gateway.authorization.client(waiting).audience.labels == {"organization:123456789"}
        bearer = await authorize(http, waiting, key, "system/Group.rs")
        assert (await http.get("/fhir/Group", headers=bearer)).status_code == 200
        assert (await http.post(address, data=given)).status_code == 409
        assert (await http.get(f"{CLIENTS}/nobody/approval")).status_code == 404

    signed_in(gateway, tell, "it")


@pytest.mark.parametrize("role", ["viewer", "quality", "contracts"])
def test_other_roles_register_nobody(gateway: Gateway, role: str) -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        listed = await http.get(CLIENTS)
        assert listed.status_code == (200 if role == "viewer" else 403)
        assert f"{CLIENTS}/new" not in listed.text
        assert (await http.get(f"{CLIENTS}/new")).status_code == 403
        home = await http.get(f"{PATH}/")
        token = re.search(r'"X-Form-Token": "([^"]+)"', home.text)
        assert token is not None
        form = {**NEW, "contract": "aco", "jwks": jwks_of(new_key("k1")), "form_token": token[1]}
        assert (await http.post(CLIENTS, data=form)).status_code == 403
        assert gateway.authorization.clients() == []

    signed_in(gateway, tell, role)


def test_a_form_of_another_page_registers_nobody(gateway: Gateway) -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        form = {**NEW, "contract": "aco", "jwks": jwks_of(new_key("k1"))}
        assert (await http.post(CLIENTS, data=form)).status_code == 403
        assert (await http.post(CLIENTS, data={**form, "form_token": "made-up"})).status_code == 403
        assert gateway.authorization.clients() == []

    signed_in(gateway, tell, "it")


def test_a_clients_keys_change_over_without_a_gap(gateway: Gateway) -> None:
    old, new = new_key("old"), new_key("new")

    async def tell(http: httpx.AsyncClient) -> None:
        _, token = await page(http, f"{CLIENTS}/new")
        form = {**NEW, "form_token": token, "jwks": jwks_of(old), "contract": "aco"}
        assert (await http.post(CLIENTS, data=form)).status_code == 303
        address = f"{CLIENTS}/plan/keys"
        assert f'href="{address}"' in (await http.get(CLIENTS)).text
        shown, token = await page(http, address)
        assert "<code>old</code>" in shown
        assert "<code>system/Group.rs</code>" in shown

        async def replaced(status: int, **fields: str) -> str:
            answer = await http.post(address, data={"form_token": token, **fields})
            assert answer.status_code == status
            return answer.text

        await replaced(303, jwks=jwks_of(old, new))
        for key in (old, new):  # both count while it changes over
            await authorize(http, "plan", key, "system/Group.rs")
        await replaced(303, jwks=jwks_of(new))
        assert "<code>old</code>" not in (await page(http, address))[0]
        await authorize(http, "plan", new, "system/Group.rs")
        with pytest.raises(AssertionError):
            await authorize(http, "plan", old, "system/Group.rs")
        refused = await replaced(400, jwks=jwks_of(new_key("third"), private=True))
        assert 'role="alert"' in refused
        assert '"d"' not in refused
        assert 'role="alert"' in await replaced(400)
        assert [one["kid"] for one in (gateway.authorization.client("plan").jwks or {})["keys"]] == ["new"]
        assert (await http.get(f"{CLIENTS}/nobody/keys")).status_code == 404

    signed_in(gateway, tell, "it")
