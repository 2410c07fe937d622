"""The audit trail as AuditEvents: what an entry says, who may look, and that nothing changes or leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fhir_face import BASE, client_for, enter, new_gateway
from joserfc.jwk import ECKey
from sqlalchemy.exc import DBAPIError

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.db.engine import create_engine, transaction
from fhir_gateway.factory import Gateway
from fhir_gateway.r4 import models
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import MOST_PERSONS, Access, AuditTrail, audit_events
from fhir_gateway.server.disclosure import note
from tests.support.databases import KINDS, control_plane

pytestmark = pytest.mark.anyio
CLIENTS: dict[str, tuple[str, list[str] | None]] = {
    "operator": ("system/*.rs system/AuditEvent.rs", None),
    "analyst": ("system/*.rs", None),
    "payer": ("system/*.rs system/AuditEvent.rs", ["contract:aco"]),
    "narrow": ("system/AuditEvent.rs?type=110114", None),
}


@pytest.fixture(params=KINDS)
def audited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    with control_plane(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Face:
    def __init__(self, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.gateway, self.http = gateway, http
        self.keys: dict[str, ECKey] = {}
        self.headers: dict[str, Any] = {}

    async def get(self, client: str, path: str) -> httpx.Response:
        return await self.http.get(f"/fhir/{path}", headers=self.headers[client])

    async def events(self, client: str, query: str = "") -> list[dict[str, Any]]:
        answer = await self.get(client, f"AuditEvent?_count=1000{query}")
        assert answer.status_code == 200, answer.text
        return [one["resource"] for one in answer.json().get("entry", ())]


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    gateway = new_gateway()
    group = {"resourceType": "Group", "id": "aco", "type": "person", "actual": True}
    group["member"] = [{"entity": {"reference": f"Patient/{one}"}} for one in ("p1", "p2")]
    gateway.resources.put_many(
        [
            labelled(group, label("contract", "aco")),
            *({"resourceType": "Patient", "id": one} for one in ("p1", "p2", "p3")),
            {"resourceType": "Coverage", "id": "c1", "beneficiary": {"reference": "Patient/p1"}},
        ]
    )
    async with client_for(create_app(gateway)) as http:
        face = Face(gateway, http)
        for name, (scopes, grants) in CLIENTS.items():
            face.headers[name] = await enter(http, gateway, name, scopes, grants=grants, purpose="HPAYMT")
        yield face


def _patients(event: dict[str, Any]) -> set[str]:
    found = {one.get("what", {}).get("reference", "") for one in event["entity"]}
    return {one.removeprefix("Patient/") for one in found if one.startswith("Patient/") and "_history" not in one}


async def test_an_entry_says_who_what_why_whose_and_how_it_ended(face: Face) -> None:
    await face.get("payer", "Coverage?_include=Coverage:beneficiary&status:missing=true")
    (event,) = await face.events("operator", "&altid=payer&subtype=search-type")
    models.validate(event)
    assert event["agent"][0]["who"]["identifier"]["value"] == "payer"
    assert event["agent"][0]["network"]["address"]
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "HPAYMT"
    assert (event["action"], event["outcome"], event["type"]["code"]) == ("E", "0", "rest")
    assert [one["valueString"] for one in event["entity"][0]["detail"]] == ["Coverage", "_include", "status:missing"]
    assert _patients(event) == {"p1"}
    assert "beneficiary=" not in str(event)

    await face.get("payer", "Group/aco")
    (event,) = await face.events("operator", "&entity=Group/aco")
    assert event["entity"][0]["what"]["reference"] == "Group/aco/_history/1"  # which list it was that day
    assert (event["action"], _patients(event)) == ("R", {"p1", "p2"})
    same = await face.get("operator", f"AuditEvent/{event['id']}")
    assert same.json() == event
    assert (await face.get("operator", f"AuditEvent/{event['id']}/_history/1")).json() == event
    assert (await face.get("operator", f"AuditEvent/{event['id']}/_history/2")).status_code == 404
    for wrong in ("x", "0", "9" * 30):
        assert (await face.get("operator", f"AuditEvent/{wrong}")).status_code == 404


async def test_every_token_request_is_an_entry_and_a_refused_one_says_why(face: Face) -> None:
    form = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "secret.secret.secret",
    }
    assert (await face.http.post("/auth/token", data=form)).status_code == 400
    (refused,) = await face.events("operator", "&type=110114&outcome=4")
    models.validate(refused)
    assert refused["outcomeDesc"] == "HTTP 400: jwt: the assertion is no JWT"
    assert refused["agent"][0]["who"] == {"display": "nobody that could be authenticated"}
    assert "secret" not in str(refused)
    granted = await face.events("operator", "&type=110114&outcome=0")
    assert {one["agent"][0]["altId"] for one in granted} == set(CLIENTS)


async def test_a_refused_access_is_an_entry_that_discloses_nobody(face: Face) -> None:
    assert (await face.get("payer", "Patient/p3")).status_code == 404
    (event,) = await face.events("operator", "&altid=payer&outcome=4")
    assert event["entity"][0]["what"]["reference"] == "Patient/p3"
    assert (await face.http.get("/fhir/Patient/p1")).status_code == 401
    (nobody,) = [one for one in await face.events("operator", "&outcome=4") if "altId" not in one["agent"][0]]
    assert nobody["outcomeDesc"] == "HTTP 401"


async def test_who_may_look(face: Face) -> None:
    await face.get("payer", "Patient/p1")
    await face.get("analyst", "Patient/p2")
    assert (await face.get("analyst", "AuditEvent")).status_code == 403  # a wildcard does not mean it
    assert {one["agent"][0]["altId"] for one in await face.events("payer")} == {"payer"}
    assert {one["agent"][0]["altId"] for one in await face.events("operator", "&patient=p2")} == {"analyst"}
    assert await face.events("payer", "&patient=p2") == []
    (theirs,) = await face.events("operator", "&altid=analyst&subtype=read")
    assert (await face.get("payer", f"AuditEvent/{theirs['id']}")).status_code == 404
    assert {one["type"]["code"] for one in await face.events("narrow")} == {"110114"}
    assert (await face.get("narrow", f"AuditEvent/{theirs['id']}")).status_code == 404
    assert {one["type"]["code"] for one in await face.events("narrow", "&type=rest,110114")} == {"110114"}


async def test_accounting_for_one_patient_finds_reads_searches_and_lists(face: Face) -> None:
    await face.get("payer", "Patient/p1")
    await face.get("payer", "Patient?_count=1")
    await face.get("payer", "Patient?_summary=count")
    await face.get("payer", "Group/aco")
    await face.get("payer", "Patient/p2")
    found = await face.events("operator", "&patient=Patient/p1&altid=payer&_sort=-date")
    assert [one["subtype"][0]["code"] for one in found] == ["read", "search-type", "read"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("date=ge2020", True),
        ("date=lt2020", False),
        ("date=gt2020&date=lt2100", True),
        ("_lastUpdated=ne2020", True),
        ("agent:identifier=https://fhir-gateway.example/clients|payer", True),
        ("agent:identifier=elsewhere|payer", False),
        ("agent=Device/x", False),
        ("altid=|payer", True),
        ("altid=nobody,payer", True),
        ("action=R", True),
        ("action=http://hl7.org/fhir/audit-event-action|C,D,U", False),
        ("address=127.0", True),
        ("entity=Patient/p1", True),
        ("entity=p1", True),
        ("entity=Group/p1", False),
        ("patient=Group/p1", False),
        ("patient=%25", False),
        ("outcome=0", True),
        ("outcome=8,nonsense", False),
        ("subtype=http://hl7.org/fhir/restful-interaction|read", True),
        ("subtype=operation", False),
        ("type=rest", True),
        ("_id=99999999", False),
        ("_id=x", False),
        ("_total=none&_sort=date", True),
    ],
)
async def test_search_parameters(face: Face, query: str, found: bool) -> None:
    await face.get("payer", "Patient/p1")
    events = await face.events("operator", f"&altid=payer&subtype=read&{query}")
    assert [one["subtype"][0]["code"] for one in events] == (["read"] if found else [])


@pytest.mark.parametrize(
    "query", ["date=soon", "altid:not=x", "_sort=agent", "patient.name=x", "_has:Group:member:_id=x"]
)
async def test_what_is_not_supported_is_said(face: Face, query: str) -> None:
    assert (await face.get("operator", f"AuditEvent?{query}")).status_code == 400


async def test_pages_neither_repeat_nor_lose_an_entry(face: Face) -> None:
    for _ in range(7):
        await face.get("payer", "Patient/p1")
    for sort in ("", "&_sort=-date", "&_sort=date", "&_sort=-_id"):
        url, seen = f"{BASE}/AuditEvent?altid=payer&subtype=read&_count=3{sort}", []
        while url:
            bundle = (await face.http.get(url, headers=face.headers["operator"])).json()
            seen += [int(one["resource"]["id"]) for one in bundle["entry"]]
            url = next((one["url"] for one in bundle["link"] if one["relation"] == "next"), "")
        assert seen == sorted(seen, reverse="-" in sort)
        assert len(seen) == 7


async def test_who_looks_at_its_own_accesses_comes_to_their_end(face: Face) -> None:
    url, pages = f"{BASE}/AuditEvent?_count=1", 0
    while url:
        bundle = (await face.http.get(url, headers=face.headers["payer"])).json()
        url = next((one["url"] for one in bundle["link"] if one["relation"] == "next"), "")
        pages += 1
        assert pages < 10


async def test_nothing_can_be_changed_or_removed(face: Face) -> None:
    await face.get("payer", "Patient/p1")
    for method in ("PUT", "DELETE", "PATCH"):
        answer = await face.http.request(method, "/fhir/AuditEvent/1", headers=face.headers["operator"])
        assert answer.status_code in (404, 405), method
    assert (await face.http.post("/fhir/AuditEvent", headers=face.headers["operator"])).status_code in (404, 405)


def test_the_database_itself_keeps_entries_for_six_years(audited: sa.Engine) -> None:
    now = datetime.now(UTC)
    old, young = Access("old", now - timedelta(days=7 * 366)), Access("young", now - timedelta(days=5 * 365))
    with transaction(audited) as connection:
        connection.execute(sa.insert(audit_events), [old.row(), young.row()])
    first = sa.select(audit_events.c.id).where(audit_events.c.request_id == "young").scalar_subquery()
    for statement in (
        sa.update(audit_events).values(client_id="somebody else"),
        sa.delete(audit_events),
        sa.delete(audit_events).where(audit_events.c.id == first),
    ):
        with pytest.raises(DBAPIError, match="append-only"), transaction(audited) as connection:
            connection.execute(statement)
    replace = {
        "sqlite": "INSERT OR REPLACE INTO audit_event SELECT * FROM audit_event",
        "postgresql": "TRUNCATE audit_event",
    }
    with pytest.raises(DBAPIError, match="append-only"), transaction(audited) as connection:
        connection.execute(sa.text(replace[audited.dialect.name]))
    with transaction(audited) as connection:
        connection.execute(sa.delete(audit_events).where(audit_events.c.request_id == "old"))
        assert list(connection.scalars(sa.select(audit_events.c.request_id))) == ["young"]


async def test_entries_leave_when_the_setting_says_so(audited: sa.Engine) -> None:
    now = datetime.now(UTC)
    with transaction(audited) as connection:
        ages = {"nine": now - timedelta(days=9 * 366), "seven": now - timedelta(days=7 * 366)}
        connection.execute(sa.insert(audit_events), [Access(name, when).row() for name, when in ages.items()])
    for years, left in ((None, ["nine", "seven", "None"]), (8, ["seven", "None", "8"]), (6, ["None", "8", "6"])):
        trail = AuditTrail(audited, years)
        await trail.record(Access(str(years)))
        trail.close()
        with transaction(audited) as connection:
            chosen = sa.select(audit_events.c.request_id).order_by(audit_events.c.id)
            assert list(connection.scalars(chosen)) == left


ODD = "tab\t line\r\n back\\slash \\N {\"quoted\", 'single'} NULL \u2028 ü \U0001f600"


def _rows(engine: sa.Engine) -> list[tuple[Any, ...]]:
    with transaction(engine) as connection:
        chosen = sa.select(*(column for column in audit_events.c if column.name != "id")).order_by(audit_events.c.id)
        return [(row.recorded.replace(tzinfo=UTC), *row[1:]) for row in connection.execute(chosen)]


async def test_entries_are_kept_as_they_are_however_many_end_together(audited: sa.Engine) -> None:
    now = datetime(2026, 2, 3, 4, 5, 6, 123456, tzinfo=UTC)
    full: dict[str, Any] = {
        "client_id": ODD,
        "resource_type": "Patient",
        "resource_id": ODD,
        "parameters": ODD,
        "purpose": "HPAYMT",
    }
    full |= {"resource_version": 7, "persons": f",{'p' * 20_000},", "reason": ODD, "address": "::1"}
    entries = [Access("nothing", now), Access("null", now, reason="NULL", parameters=""), Access("full", now, **full)]
    entries += [Access(f"r{number}", now + timedelta(seconds=number), "c", status=200) for number in range(700)]
    trail = AuditTrail(audited)
    await asyncio.gather(*(trail.record(one) for one in entries))
    trail.close()
    assert _rows(audited) == [tuple(one.row().values()) for one in entries]


def test_of_a_commit_that_fails_nothing_is_kept_and_the_next_is_another(audited: sa.Engine) -> None:
    trail = AuditTrail(audited)
    good, bad = Access("good"), Access("bad", resource_version=object())  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"not supported|an integer"):
        trail._commit([good, bad])
    assert _rows(audited) == []
    trail._commit([good])
    assert [row[1] for row in _rows(audited)] == ["good"]


async def test_a_lost_connection_fails_those_who_wait_and_nobody_later(tmp_path: Path) -> None:
    with control_plane("postgresql", tmp_path) as engine:
        trail = AuditTrail(engine)
        await trail.record(Access("before"))
        other = create_engine(engine.url.render_as_string(hide_password=False))
        with transaction(other) as connection:
            ends = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            connection.execute(sa.text(ends + "AND datname = current_database()"))
        other.dispose()
        outcomes = [await asyncio.gather(trail.record(Access(name)), return_exceptions=True) for name in ("one", "two")]
        trail.close()
        kept = [row[1] for row in _rows(engine)]
    assert outcomes[1][0] is None
    assert kept == ["before", *(name for name, [ended] in zip(("one", "two"), outcomes, strict=True) if ended is None)]


def _noted(body: bytes, whole: bool = True, kind: bytes = b"application/fhir+json") -> str | None:
    access = Access("r")
    note(access, [(b"content-type", kind)], body, whole)
    return access.persons


def test_whose_data_an_answer_holds_is_read_off_its_bytes() -> None:
    assert _noted(b'{"resourceType":"Patient","id":"p1"}') == ",p1,"
    assert (
        _noted(b'{"subject":{"reference":"Patient/p1"},"x":{"reference":"https://g/fhir/Patient/p2/_history/3"}}')
        == ",p1,p2,"
    )
    assert (
        _noted(b'{"url":"http://hl7.org/fhir/StructureDefinition/Patient","x":"OutPatient/y","z":"Patient/_search"}')
        is None
    )
    assert _noted(b"{}") is None
    assert _noted(b"Patient/p1", kind=b"text/plain") is None
    many = b",".join(b'"Patient/p%d"' % n for n in range(MOST_PERSONS + 1))
    assert _noted(many) == "*"
    assert _noted(many.rpartition(b",")[0]).count(",") == MOST_PERSONS + 1  # type: ignore[union-attr]
    assert _noted(b'"Patient/p1"', whole=False) == "*"  # the rest of a stream is not known
