"""Stories of a client at the FHIR face: authorize, discover, read, search, page, be refused."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fhir_face import BASE, authorize, client_for, new_gateway, register
from joserfc.jwk import ECKey
from starlette.types import Message

from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import audit_events

EVALUATE = "/fhir/Measure/$evaluate-measure?measure=x"

Story = Callable[[httpx.AsyncClient, "Reader"], Awaitable[None]]


@dataclass(frozen=True)
class Reader:
    """A client that may be granted everything."""

    http: httpx.AsyncClient
    key: ECKey

    async def token(self, scope: str) -> Mapping[str, str]:
        """Headers with a token of that scope."""
        return await authorize(self.http, "reader", self.key, scope)


def patient(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"p{number:03d}",
        "identifier": [{"system": "http://payer.example/member", "value": f"M{number}"}],
        "name": [{"family": "Muster", "given": [f"Given{number}"]}],
        "gender": "female" if number % 2 else "male",
        "birthDate": f"19{40 + number % 50}-03-01",
    }


def roster() -> dict[str, Any]:
    return {
        "resourceType": "Group",
        "id": "contract-1",
        "extension": [
            {
                "url": "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/ext-attributionListStatus",
                "valueCode": "final",
            }
        ],
        "identifier": [{"system": "http://payer.example/contract", "value": "C1"}],
        "type": "person",
        "actual": True,
        "managingEntity": {"reference": "Organization/payer"},
        "quantity": 2,
        "member": [{"entity": {"reference": "Patient/p001"}}, {"entity": {"reference": "Patient/p002"}}],
    }


def run(story: Story, gateway: Gateway | None = None) -> None:
    """Tell a story to a face with a client that may read everything."""
    gateway = gateway or new_gateway()
    key = register(gateway, "reader", "system/*.rs")

    async def told() -> None:
        async with client_for(create_app(gateway)) as http:
            await story(http, Reader(http, key))

    asyncio.run(told())


def outcome_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/fhir+json"
    body = response.json()
    assert body["resourceType"] == "OperationOutcome"
    issue: dict[str, Any] = body["issue"][0]
    assert issue["severity"] in ("error", "fatal")
    return issue


def test_a_client_reads_searches_and_pages() -> None:
    gateway = new_gateway()
    gateway.resources.put_many([patient(number) for number in range(25)])

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        http.headers.update(await reader.token("system/Patient.rs"))
        read = await http.get("/fhir/Patient/p007")
        assert (read.status_code, read.headers["etag"]) == (200, 'W/"1"')
        assert read.content == gateway.resources.read("Patient", "p007").body, "stored bytes are sent as they are"
        again = await http.get("/fhir/Patient/p007", headers={"If-None-Match": read.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        since = await http.get("/fhir/Patient/p007", headers={"If-Modified-Since": read.headers["last-modified"]})
        assert since.status_code == 304

        seen: list[str] = []
        page = (await http.get("/fhir/Patient", params={"family": "muster", "_count": "10"})).json()
        while True:
            assert page["total"] == 25
            seen += [entry["resource"]["id"] for entry in page["entry"]]
            following = [link["url"] for link in page["link"] if link["relation"] == "next"]
            if not following:
                break
            assert following[0].startswith(f"{BASE}/Patient?_page=")
            assert "uster" not in following[0], "next links say nothing about the search"
            page = (await http.get(following[0])).json()
        assert seen == [f"p{number:03d}" for number in range(25)]

    run(story, gateway)


def test_a_form_search_equals_a_get_search_and_keeps_values_out_of_links() -> None:
    gateway = new_gateway()
    gateway.resources.put_many([patient(number) for number in range(6)])

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        http.headers.update(await reader.token("system/Patient.rs"))
        identifier = "http://payer.example/member|M3"
        got = (await http.get("/fhir/Patient", params={"identifier": identifier})).json()
        posted = (await http.post("/fhir/Patient/_search", data={"identifier": identifier})).json()
        assert got["entry"] == posted["entry"]
        assert [entry["resource"]["id"] for entry in posted["entry"]] == ["p003"]
        assert "M3" not in json.dumps(posted["link"])
        wrong = await http.post("/fhir/Patient/_search", content=b"{}", headers={"Content-Type": "application/json"})
        assert wrong.status_code == 415
        assert outcome_of(wrong)["code"] == "not-supported"
        large = await http.post("/fhir/Patient/_search", data={"name": "x" * 70_000})
        assert (large.status_code, outcome_of(large)["code"]) == (413, "too-long")

    run(story, gateway)


def test_an_updated_resource_has_versions() -> None:
    gateway = new_gateway()
    gateway.resources.put(patient(1))
    gateway.resources.put(patient(1) | {"active": True})

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        http.headers.update(await reader.token("system/Patient.r"))
        now = await http.get("/fhir/Patient/p001")
        before = await http.get("/fhir/Patient/p001/_history/1")
        assert (now.headers["etag"], before.headers["etag"]) == ('W/"2"', 'W/"1"')
        assert (now.json()["active"], "active" in before.json()) == (True, False)
        for version in ("3", "x", "0"):
            assert (await http.get(f"/fhir/Patient/p001/_history/{version}")).status_code == 404
        gateway.resources.delete("Patient", "p001")
        assert (await http.get("/fhir/Patient/p001")).status_code == 410
        assert (await http.get("/fhir/Patient/p001/_history/3")).status_code == 410

    run(story, gateway)


def test_subsets_and_totals() -> None:
    gateway = new_gateway()
    gateway.resources.put(roster())
    gateway.resources.put_many([patient(number) for number in range(3)])

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        http.headers.update(await reader.token("system/*.rs"))
        found = await http.get("/fhir/Group", params={"identifier": "C1", "_summary": "true"})
        (entry,) = found.json()["entry"]
        group = entry["resource"]
        assert "member" not in group
        assert group["extension"], "ATR needs the list's status"
        assert group["meta"]["tag"][0]["code"] == "SUBSETTED"
        count = (await http.get("/fhir/Patient", params={"_summary": "count"})).json()
        assert (count["total"], "entry" in count) == (3, False)
        none = (await http.get("/fhir/Patient", params={"name": "nobody"})).json()
        assert (none["total"], "entry" in none) == (0, False)
        without = (await http.get("/fhir/Patient", params={"_total": "none"})).json()
        assert "total" not in without
        part = (await http.get("/fhir/Patient/p001", params={"_elements": "gender"})).json()
        assert set(part) == {"resourceType", "id", "meta", "gender"}
        both = await http.get("/fhir/Patient/p001", params={"_elements": "gender", "_summary": "true"})
        assert both.status_code == 400

    run(story, gateway)


def test_includes_respect_scopes() -> None:
    gateway = new_gateway()
    gateway.resources.put(roster())
    gateway.resources.put_many([patient(number) for number in range(3)])

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        question = {"_id": "contract-1", "_include": "Group:member"}
        wide = await reader.token("system/*.rs")
        modes = [
            (entry["resource"]["resourceType"], entry["search"]["mode"])
            for entry in (await http.get("/fhir/Group", params=question, headers=wide)).json()["entry"]
        ]
        assert modes == [("Group", "match"), ("Patient", "include"), ("Patient", "include")]
        narrow = await reader.token("system/Group.rs")
        bundle = (await http.get("/fhir/Group", params=question, headers=narrow)).json()
        assert [entry["resource"]["resourceType"] for entry in bundle["entry"]] == ["Group"]
        unknown = await http.get("/fhir/Group", params={"_include": "Group:nothing"}, headers=wide)
        assert unknown.status_code == 400

    run(story, gateway)


def test_unknown_parameters_are_ignored_visibly_or_refused() -> None:
    gateway = new_gateway()
    gateway.resources.put(patient(1))

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        http.headers.update(await reader.token("system/Patient.rs"))
        lenient = (await http.get("/fhir/Patient", params={"shoe-size": "43"})).json()
        assert lenient["total"] == 1
        assert lenient["entry"][-1]["search"]["mode"] == "outcome"
        assert "shoe-size" in lenient["entry"][-1]["resource"]["issue"][0]["diagnostics"]
        assert "shoe-size" not in lenient["link"][0]["url"], "the self link says what was understood"
        strict = await http.get("/fhir/Patient", params={"shoe-size": "43"}, headers={"Prefer": "handling=strict"})
        assert (strict.status_code, outcome_of(strict)["expression"]) == (400, ["shoe-size"])
        for name, value in (("gender:above", "x"), ("birthdate", "yesterday"), ("_count", "-1"), ("_page", "x")):
            assert (await http.get("/fhir/Patient", params={name: value})).status_code == 400, name

    run(story, gateway)


def test_refusals_without_and_with_too_small_a_token() -> None:
    gateway = new_gateway()
    gateway.resources.put(patient(1))

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        bare = await http.get("/fhir/Patient/p001")
        assert (bare.status_code, outcome_of(bare)["code"]) == (401, "login")
        assert bare.headers["www-authenticate"] == 'Bearer realm="fhir"'
        forged = await http.get("/fhir/Patient/p001", headers={"Authorization": "Bearer forged"})
        assert forged.status_code == 401
        assert 'error="invalid_token"' in forged.headers["www-authenticate"]
        reading = await reader.token("system/Patient.r")
        assert (await http.get("/fhir/Patient/p001", headers=reading)).status_code == 200
        for path in ("/fhir/Patient", "/fhir/Group/contract-1", "/fhir/Group"):
            refused = await http.get(path, headers=reading)
            assert (refused.status_code, outcome_of(refused)["code"]) == (403, "forbidden"), path
            assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]

    run(story, gateway)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/fhir/Device/1", {}, 404, "not-supported"),
        ("GET", "/fhir/Nonsense", {}, 404, "not-supported"),
        ("GET", "/elsewhere", {}, 404, "not-found"),
        ("GET", "/fhir/Patient/unknown", {}, 404, "not-found"),
        ("DELETE", "/fhir/Library/l001", {}, 405, "not-supported"),
        ("GET", "/fhir/Patient/p001?_format=xml", {}, 406, "not-supported"),
        ("GET", "/fhir/Patient/p001", {"Accept": "application/fhir+xml"}, 406, "not-supported"),
        ("GET", "/fhir/metadata", {"Accept": "application/fhir+json; fhirVersion=5.0"}, 406, "not-supported"),
        ("GET", "/fhir/Patient?_sort=%00secret", {}, 400, "invalid"),
        ("GET", f"{EVALUATE}&periodStart=2025&periodEnd=2025-12-31Tnoon", {}, 400, "invalid"),
        ("GET", f"{EVALUATE}&periodStart=2025&periodEnd=2023-02-30", {}, 400, "invalid"),
        ("GET", f"{EVALUATE}&periodStart=2026&periodEnd=2025", {}, 400, "invalid"),
    ],
)
def test_every_refusal_is_an_operation_outcome(
    method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    gateway = new_gateway()
    gateway.resources.put(patient(1))

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        token = await reader.token("system/*.rs")
        response = await http.request(method, path, headers={**token, **headers})
        assert (response.status_code, outcome_of(response)["code"]) == (status, code)
        assert "secret" not in response.text

    run(story, gateway)


@pytest.mark.parametrize("accept", ["application/fhir+json", "application/json", "*/*", "text/html, */*;q=0.1", ""])
def test_json_is_what_clients_of_all_kinds_get(accept: str) -> None:
    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        response = await http.get("/fhir/metadata", headers={"Accept": accept})
        assert response.status_code == 200
        formatted = await http.get("/fhir/metadata?_format=application/fhir%2Bjson", headers={"Accept": "text/html"})
        assert formatted.status_code == 200

    run(story)


def test_the_unexpected_is_logged_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = new_gateway()

    def broken(*_: object) -> None:
        raise RuntimeError("the inside of the machine")

    monkeypatch.setattr(gateway.resources, "read", broken)

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        token = await reader.token("system/*.rs")
        response = await http.get("/fhir/Patient/p001", headers={**token, "X-Request-Id": "story-1"})
        assert response.status_code == 500
        assert "inside" not in response.text
        assert "story-1" in outcome_of(response)["diagnostics"]
        assert response.headers["x-request-id"] == "story-1"

    with caplog.at_level(logging.ERROR, "fhir_gateway.server"):
        run(story, gateway)
    assert "story-1" in caplog.text


def test_a_client_that_goes_away_is_no_failure_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """It announced a form and hung up before the end of it."""
    form = b"application/x-www-form-urlencoded"
    scope = {"type": "http", "method": "POST", "path": "/auth/token", "raw_path": b"/auth/token", "query_string": b""}
    scope |= {"headers": [(b"content-type", form), (b"content-length", b"99")], "http_version": "1.1", "scheme": "http"}
    sent: list[Message] = []

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    with caplog.at_level(logging.INFO, "fhir_gateway.server"):
        asyncio.run(create_app(new_gateway())(scope, gone, send))
    assert sent == []
    assert "-> 499" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_the_audit_trail_knows_who_did_what_and_no_values(caplog: pytest.LogCaptureFixture) -> None:
    gateway = new_gateway()
    gateway.resources.put(patient(1))

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        token = await reader.token("system/*.rs")
        await http.get("/fhir/Patient/p001", headers={**token, "X-Request-Id": "one"})
        await http.get("/fhir/Patient", params={"family": "Secretname"}, headers={**token, "X-Request-Id": "two"})
        await http.post(
            "/fhir/Patient/_search", data={"birthdate": "1941-03-01"}, headers={**token, "X-Request-Id": "three"}
        )
        await http.get("/fhir/Patient/p001", headers={"X-Request-Id": "four"})

    with caplog.at_level(logging.DEBUG):
        run(story, gateway)
    with snapshot(gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events).order_by(audit_events.c.id)).mappings().all()
    told = {row["request_id"]: dict(row) for row in rows}
    assert told["one"]["client_id"] == "reader"
    assert (told["one"]["interaction"], told["one"]["resource_id"], told["one"]["status"]) == ("read", "p001", 200)
    assert (told["two"]["interaction"], told["two"]["parameters"]) == ("search-type", "family")
    assert told["three"]["parameters"] == "birthdate"
    assert (told["four"]["client_id"], told["four"]["status"]) == (None, 401)
    from_gateway = "".join(record.getMessage() for record in caplog.records if record.name.startswith("fhir_gateway"))
    for secret in ("Secretname", "1941-03-01"):
        assert secret not in str(told) + from_gateway


def test_nothing_is_served_when_the_audit_trail_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = new_gateway()
    gateway.resources.put(patient(1))

    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        token = await reader.token("system/*.rs")
        with gateway.engine.begin() as connection:
            audit_events.drop(connection)
        response = await http.get("/fhir/Patient/p001", headers=token)
        assert response.status_code == 500
        assert "Muster" not in response.text

    run(story, gateway)


def test_every_answer_carries_security_headers() -> None:
    async def story(http: httpx.AsyncClient, reader: Reader) -> None:
        for path in ("/fhir/metadata", "/fhir/Patient/p001", "/nowhere", "/health"):
            response = await http.get(path, headers={"Host": "evil.example", "Origin": "https://app.example"})
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["strict-transport-security"]
            assert "evil.example" not in response.text, "addresses come from the settings"
        assert (await http.get("/fhir/metadata")).headers["access-control-allow-origin"] == "*"
        assert (await http.get("/.well-known/jwks.json")).json() == {"keys": []}

    run(story)
