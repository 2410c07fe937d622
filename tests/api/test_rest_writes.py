"""Stories of clients that write: create, update, delete, conditional ones, batches and transactions."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from fhir_face import BASE, client_for, enter, new_gateway
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.db.audience import SYSTEM, label, labelled
from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import audit_events

pytestmark = pytest.mark.anyio

#: Clients: what they may see (None: everything), and their scopes.
CLIENTS: dict[str, tuple[list[str] | None, str]] = {
    "operator": (None, "system/*.cruds"),
    "practice": (["organization:111"], "system/*.cruds"),
    "rival": (["organization:222"], "system/*.cruds"),
    "reader": (None, "system/*.rs"),
    "blind": (None, "system/MeasureReport.cud"),
}


def report(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": "http://measures.example/Measure/one|1",
        "identifier": [{"system": "urn:reports", "value": str(number)}],
        "reporter": {"reference": "Organization/north"},
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
        **more,
    }


def group(name: str, tin: str, person: str) -> dict[str, Any]:
    member = [{"entity": {"reference": f"Patient/{person}"}, "inactive": False}]
    listed = {"resourceType": "Group", "id": name, "type": "person", "actual": True, "member": member}
    return labelled(listed, label("organization", tin))


class Face:
    """One face with clients of each kind."""

    def __init__(self, gateway: Gateway, http: httpx.AsyncClient, headers: dict[str, Mapping[str, str]]) -> None:
        self.gateway, self.http, self.headers = gateway, http, headers

    async def send(self, client: str, method: str, path: str, body: Any = None, **more: str) -> httpx.Response:
        """A request with FHIR JSON; ``more`` are headers with ``_`` for ``-``."""
        headers = {**self.headers[client], **{name.replace("_", "-"): value for name, value in more.items()}}
        if body is not None:
            headers.setdefault("Content-Type", "application/fhir+json")
        url = f"/fhir/{path}".rstrip("/")
        return await self.http.request(method, url, headers=headers, json=body)

    async def bundle(self, client: str, kind: str, *entries: dict[str, Any], **more: str) -> httpx.Response:
        """Send a batch or transaction."""
        body = {"resourceType": "Bundle", "type": kind, "entry": list(entries)}
        return await self.send(client, "POST", "", body, **more)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path / "data"}))
    gateway.resources.put_many(
        [
            {"resourceType": "Organization", "id": "north", "name": "North"},
            {"resourceType": "Organization", "id": "gateway", "name": "Us"},
            {"resourceType": "Patient", "id": "p1", "name": [{"family": "One"}]},
            {"resourceType": "Patient", "id": "p2", "name": [{"family": "Two"}]},
            group("list-111", "111", "p1"),
            group("list-222", "222", "p2"),
            {**report(7), "id": "ours"},
        ]
    )
    async with client_for(create_app(gateway)) as http:
        headers = {}
        for name, (grants, scopes) in CLIENTS.items():
            headers[name] = await enter(http, gateway, name, scopes, grants=grants)
        yield Face(gateway, http, headers)


def issue(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["issue"][0]
    return found


async def test_a_report_is_created_changed_and_deleted(face: Face) -> None:
    made = await face.send("practice", "POST", "MeasureReport", report())
    assert made.status_code == 201, made.text
    name = made.json()["id"]
    assert made.headers["location"] == f"{BASE}/MeasureReport/{name}/_history/1"
    assert (made.headers["etag"], made.json()["meta"]["versionId"]) == ('W/"1"', "1")
    assert (await face.send("practice", "GET", f"MeasureReport/{name}")).json() == made.json()

    changed = {**made.json(), "status": "error"}
    stale = await face.send("practice", "PUT", f"MeasureReport/{name}", changed, If_Match='W/"7"')
    assert (stale.status_code, issue(stale)["code"]) == (412, "conflict")
    assert (await face.send("practice", "PUT", f"MeasureReport/{name}", changed, If_Match="x")).status_code == 400
    minimal = {"If_Match": 'W/"1"', "Prefer": "return=minimal"}
    done = await face.send("practice", "PUT", f"MeasureReport/{name}", changed, **minimal)
    assert (done.status_code, done.headers["etag"], done.content) == (200, 'W/"2"', b"")
    same = await face.send("practice", "PUT", f"MeasureReport/{name}", changed)
    assert same.headers["etag"] == 'W/"2"', "what is equal makes no version"

    told = await face.send("practice", "DELETE", f"MeasureReport/{name}", Prefer="return=OperationOutcome")
    assert (told.status_code, issue(told)["severity"]) == (200, "information")
    assert (await face.send("practice", "DELETE", f"MeasureReport/{name}")).status_code == 204
    assert (await face.send("practice", "GET", f"MeasureReport/{name}")).status_code == 410
    history = (await face.send("practice", "GET", f"MeasureReport/{name}/_history")).json()
    assert [one["request"]["method"] for one in history["entry"]] == ["DELETE", "PUT", "POST"]
    assert "resource" not in history["entry"][0]
    assert (await face.send("practice", "PUT", f"MeasureReport/{name}", changed)).status_code == 405


async def test_clients_change_only_what_clients_wrote_each_its_own(face: Face) -> None:
    name = (await face.send("practice", "POST", "MeasureReport", report())).json()["id"]
    path = f"MeasureReport/{name}"
    body = {**report(), "id": name, "status": "error"}
    assert (await face.send("rival", "GET", path)).status_code == 404
    assert (await face.send("rival", "PUT", path, body)).status_code == 405, "as if it were not there"
    absent = await face.send("rival", "PUT", "MeasureReport/never-was", {**body, "id": "never-was"})
    hidden = await face.send("rival", "PUT", path, body)
    assert issue(absent) == issue(hidden)
    assert (await face.send("rival", "DELETE", path)).status_code == 204
    assert (await face.send("practice", "GET", path)).status_code == 200, "and nothing happened to it"
    assert (await face.send("operator", "PUT", path, body)).status_code == 200, "the operator's client may"
    kept = (await face.send("practice", "GET", path)).json()
    assert [one["code"] for one in kept["meta"]["security"]] == ["client:practice"], "it stays the author's"
    for method in ("PUT", "DELETE"):
        body = {**report(7), "id": "ours"} if method == "PUT" else None
        refused = await face.send("operator", method, "MeasureReport/ours", body)
        assert (refused.status_code, issue(refused)["code"]) == (403, "forbidden"), "what the gateway made is its own"


async def test_nobody_labels_for_others_or_writes_about_persons_it_does_not_see(face: Face) -> None:
    wanted = labelled(report(), label("organization", "222"), label("client", "rival"))
    made = (await face.send("practice", "POST", "MeasureReport", wanted)).json()
    assert [one["code"] for one in made["meta"]["security"] if one["system"] == SYSTEM] == ["client:practice"]
    about = report(type="individual", subject={"reference": "Patient/p2"})
    hidden = await face.send("practice", "POST", "MeasureReport", about)
    assert (hidden.status_code, issue(hidden)["code"]) == (422, "not-found")
    absent = await face.send("practice", "POST", "MeasureReport", {**about, "subject": {"reference": "Patient/no"}})
    assert hidden.json() == absent.json(), "nothing says that this person exists"
    inside = report(evaluatedResource=[{"reference": f"{BASE}/Patient/p2/_history/1"}])
    assert (await face.send("practice", "POST", "MeasureReport", inside)).status_code == 422
    mine = await face.send("practice", "POST", "MeasureReport", {**about, "subject": {"reference": "Patient/p1"}})
    assert mine.status_code == 201
    ours = await face.send("practice", "POST", "MeasureReport", report(reporter={"reference": "Organization/gateway"}))
    assert (ours.status_code, issue(ours)["code"]) == (422, "business-rule")


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"{", 400, None),
        (b"[]", 400, "resourceType"),
        (b'{"resourceType":"Patient"}', 400, "resourceType"),
        (b'{"resourceType":"MeasureReport","status":"complete","status":"complete"}', 400, None),
        (b'{"resourceType":"MeasureReport","id":5}', 400, "MeasureReport.status"),
        (b"\xff\xfe", 400, None),
        (b'{"resourceType":"MeasureReport"}' + b" " * 5_000_000, 413, None),
    ],
)
async def test_bodies_that_are_no_resource(face: Face, body: bytes, status: int, where: str | None) -> None:
    headers = {**face.headers["operator"], "Content-Type": "application/fhir+json"}
    answer = await face.http.post("/fhir/MeasureReport", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    if where:
        assert where in [path for one in answer.json()["issue"] for path in one.get("expression", [])]


async def test_broken_rules_are_named_all_together(face: Face) -> None:
    wrong = report(status="whatever", group=[{"count": 3}], period={})
    answer = await face.send("operator", "POST", "MeasureReport", wrong)
    assert answer.status_code == 400
    assert [one["expression"][0] for one in answer.json()["issue"]] == [
        "MeasureReport.status",
        "MeasureReport.period",
        "MeasureReport.group[0]",
    ]
    assert "whatever" not in answer.text
    for content_type in ("application/fhir+xml", "text/plain", "application/fhir+json; charset=latin-1"):
        answer = await face.send("operator", "POST", "MeasureReport", report(), Content_Type=content_type)
        assert answer.status_code == 415, content_type


async def test_who_may_not_write_is_refused(face: Face) -> None:
    assert (await face.send("reader", "POST", "MeasureReport", report())).status_code == 403
    bare = await face.http.post("/fhir/MeasureReport", json=report(), headers={"Content-Type": "application/fhir+json"})
    assert bare.status_code == 401
    for method, path in (
        ("POST", "Library"),
        ("PUT", "Library/m"),
        ("DELETE", "Provenance/p"),
        ("PATCH", "Library/x"),
        ("POST", "MeasureReport/x"),
    ):
        answer = await face.send("operator", method, path, {})
        assert (answer.status_code, issue(answer)["code"]) == (405, "not-supported"), path
        assert "GET" in answer.headers["allow"], path
    allowed = (await face.send("operator", "POST", "MeasureReport/x", {})).headers["allow"]
    assert set(allowed.split(", ")) == {"DELETE", "GET", "HEAD", "PATCH", "PUT"}


async def test_conditional_interactions(face: Face) -> None:
    async def send(method: str, query: str, body: Any = None, **more: str) -> httpx.Response:
        return await face.send("practice", method, f"MeasureReport{query}", body, **more)

    first = await send("POST", "", report(), If_None_Exist="identifier=urn:reports|1")
    again = await send("POST", "", report(status="error"), If_None_Exist="identifier=urn:reports|1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    theirs = await send("POST", "", report(7), If_None_Exist="identifier=urn:reports|7")
    assert theirs.status_code == 201, "what the client does not see does not exist for it"

    changed = await send("PUT", "?identifier=urn:reports|1", report(status="error"))
    assert (changed.status_code, changed.json()["id"]) == (200, first.json()["id"])
    new = await send("PUT", "?identifier=urn:reports|2", report(2))
    assert new.status_code == 201
    other = await send("PUT", "?identifier=urn:reports|1", {**report(), "id": "another"})
    assert other.status_code == 400
    given = await send("PUT", "?identifier=urn:reports|3", {**report(), "id": "mine"})
    assert given.status_code == 405
    for method, body in (("PUT", report()), ("DELETE", None)):
        assert (await send(method, "?status=complete,error", body)).status_code == 412
        for query in ("", "?shoe-size=43", "?_count=1", "?status=complete&_sort=date"):
            assert (await send(method, query, body)).status_code == 400, query
    many = await send("POST", "", report(), If_None_Exist="status=complete,error")
    assert (many.status_code, issue(many)["code"]) == (412, "multiple-matches")
    assert (await send("DELETE", "?identifier=urn:reports|2")).status_code == 204
    assert (await send("DELETE", "?identifier=urn:reports|2")).status_code == 204
    assert (await send("GET", "?identifier=urn:reports|2")).json()["total"] == 0
    unseen = await face.send("blind", "POST", "MeasureReport", report(), If_None_Exist="identifier=urn:reports|1")
    assert unseen.status_code == 403, "criteria tell what there is: they need the scope of a search"


async def test_gzip_both_ways(face: Face) -> None:
    headers = {**face.headers["operator"], "Content-Type": "application/fhir+json", "Content-Encoding": "gzip"}
    long = report(identifier=[{"value": f"{number}"} for number in range(500)])
    packed = gzip.compress(orjson.dumps(long))
    made = await face.http.post("/fhir/MeasureReport", content=packed, headers=headers)
    assert made.status_code == 201
    assert made.headers["content-encoding"] == "gzip"
    assert len(made.json()["identifier"]) == 500
    plain = await face.http.get(
        f"/fhir/MeasureReport/{made.json()['id']}", headers={**face.headers["operator"], "Accept-Encoding": "gzip;q=0"}
    )
    assert "content-encoding" not in plain.headers
    for broken in (packed[:-9], packed + b"more", b"nothing of the kind"):
        answer = await face.http.post("/fhir/MeasureReport", content=broken, headers=headers)
        assert answer.status_code == 400, answer.text
    bomb = await face.http.post("/fhir/MeasureReport", content=gzip.compress(b" " * 200_000_000), headers=headers)
    assert bomb.status_code == 413
    strange = await face.http.post("/fhir/MeasureReport", content=b"x", headers={**headers, "Content-Encoding": "br"})
    assert strange.status_code == 415


def entry(method: str, url: str, resource: Any = None, full_url: str | None = None, **more: str) -> dict[str, Any]:
    found: dict[str, Any] = {"request": {"method": method, "url": url, **more}}
    if resource is not None:
        found["resource"] = resource
    if full_url:
        found["fullUrl"] = full_url
    return found


def statuses(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["response"]["status"][:3] for one in answer.json()["entry"]]


async def test_the_entries_of_a_batch_are_requests_of_their_own(face: Face) -> None:
    answer = await face.bundle(
        "practice",
        "batch",
        entry("GET", "Patient/p1"),
        entry("GET", "Patient/p2"),
        entry("GET", "Patient?_summary=count"),
        entry("POST", "MeasureReport", report()),
        entry("POST", "MeasureReport", report(), ifNoneExist="identifier=urn:reports|1"),
        entry("GET", f"{BASE}/MeasureReport?identifier=urn:reports|1"),
        entry("POST", "MeasureReport", {"resourceType": "MeasureReport"}),
        entry("DELETE", "Provenance/p"),
        entry("GET", "Nonsense/1"),
        entry("GET", "Patient/p1", ifNoneMatch='W/"1"'),
        entry("GET", "metadata"),
    )
    assert statuses(answer) == ["200", "404", "200", "201", "200", "200", "400", "405", "404", "304", "200"]
    found = answer.json()["entry"]
    assert answer.json()["type"] == "batch-response"
    assert found[0]["resource"]["id"] == "p1"
    assert found[0]["response"]["etag"] == 'W/"1"'
    assert found[1]["response"]["outcome"]["issue"][0]["code"] == "not-found"
    assert found[2]["resource"]["total"] == 1, "a count says nothing of others"
    assert found[3]["response"]["location"].endswith(f"MeasureReport/{found[3]['resource']['id']}/_history/1")
    assert found[5]["resource"]["total"] == 1
    with snapshot(face.gateway.engine) as connection:
        mine = sa.select(audit_events).where(audit_events.c.client_id == "practice")
        rows = connection.execute(mine).mappings().all()
    rows = [row for row in rows if row["interaction"] != "token"]
    asked = [(row["interaction"], row["status"]) for row in rows]
    assert asked[0] == ("read", 200)
    assert asked[-1] == ("batch", 200)
    assert ("create", 201) in asked
    assert len({row["request_id"].partition(".")[0] for row in rows}) == 1


async def test_a_transaction_is_whole(face: Face) -> None:
    old = (await face.send("practice", "POST", "MeasureReport", report(1))).json()["id"]
    answer = await face.bundle(
        "practice",
        "transaction",
        entry("GET", "MeasureReport?identifier=urn:reports|2"),
        entry("PUT", "MeasureReport?identifier=urn:reports|4", report(4)),
        entry(
            "POST",
            "MeasureReport",
            report(2, evaluatedResource=[{"reference": "urn:uuid:a"}, {"reference": "Organization?name=North"}]),
            "urn:uuid:b",
        ),
        entry("POST", "MeasureReport", report(3, evaluatedResource=[{"reference": "urn:uuid:b"}]), "urn:uuid:a"),
        entry("DELETE", f"MeasureReport/{old}", ifMatch='W/"1"'),
    )
    assert statuses(answer) == ["200", "201", "201", "201", "204"]
    found = answer.json()["entry"]
    assert found[0]["resource"]["total"] == 1, "it reads what it wrote"
    two, three = (one["response"]["location"].split("/")[-3] for one in found[2:4])
    linked = (await face.send("practice", "GET", f"MeasureReport/{two}")).json()["evaluatedResource"]
    assert linked == [{"reference": f"MeasureReport/{three}"}, {"reference": "Organization/north"}]
    with snapshot(face.gateway.engine) as connection:
        rows = connection.execute(sa.select(audit_events.c.interaction, audit_events.c.resource_id)).all()
    assert ("delete", old) in [tuple(row) for row in rows]
    assert ("create", two) in [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        (entry("POST", "MeasureReport", {"resourceType": "MeasureReport"}), 400),
        (entry("POST", "Measure", {"resourceType": "Measure"}), 405),
        (entry("POST", "Patient", {"resourceType": "Patient"}), 400),  # goes into the lake: a transaction of its own
        (entry("POST", "Device", {"resourceType": "Device"}), 404),
        (entry("PUT", "MeasureReport/never-was", {**report(), "id": "never-was"}), 405),
        (entry("DELETE", "MeasureReport/ours"), 403),
        (entry("PUT", "MeasureReport?status=complete", report()), 403),
        (entry("POST", "MeasureReport", report(subject={"reference": "Patient?name=Nobody"})), 412),
        (entry("POST", "MeasureReport", report(subject={"reference": "Patient/no"})), 422),
        (entry("POST", "MeasureReport/x", report()), 400),
        (entry("DELETE", "MeasureReport"), 400),
        (entry("PATCH", "MeasureReport/x", {"resourceType": "Parameters"}), 404),
        (entry("PATCH", "Provenance/x", {"resourceType": "Parameters"}), 405),
        (entry("GET", "../auth/token"), 400),
        (entry("GET", "https://elsewhere.example/fhir/Patient"), 400),
        (entry("GET", ""), 400),
        (entry("NONE", "Patient"), 400),
        ({"resource": report()}, 400),
        (entry("DELETE", "MeasureReport/a", ifMatch="x\ny"), 400),
    ],
)
async def test_one_refused_entry_refuses_a_transaction(face: Face, failing: dict[str, Any], status: int) -> None:
    before = (await face.send("operator", "GET", "MeasureReport?_summary=count")).json()["total"]
    good = [entry("POST", "MeasureReport", report(number)) for number in (1, 2)]
    answer = await face.bundle("operator", "transaction", good[0], failing, good[1])
    assert answer.status_code == status, answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"
    if status == 400:
        assert "Bundle.entry[1]" in answer.text
    after = (await face.send("operator", "GET", "MeasureReport?_summary=count")).json()["total"]
    assert after == before


async def test_bundles_that_are_none(face: Face) -> None:
    assert (await face.bundle("operator", "collection")).status_code == 400
    assert (await face.bundle("reader", "transaction", entry("POST", "MeasureReport", report()))).status_code == 403
    assert (await face.bundle("operator", "batch", *[entry("GET", "metadata")] * 501)).status_code == 400
    assert (await face.bundle("operator", "batch")).json() == {"resourceType": "Bundle", "type": "batch-response"}
    twice = [entry("DELETE", "MeasureReport/a"), entry("DELETE", "MeasureReport/a")]
    assert (await face.bundle("operator", "transaction", *twice)).status_code == 400
    for nowhere in (
        "http://[",
        "https://[::1",
        "http://elsewhere.example/Patient/1",
        "../admin/clients",
        "Patient/%2e%2e/x",
    ):
        refused = await face.bundle("operator", "batch", entry("GET", nowhere))
        assert refused.status_code == 400, nowhere
        assert refused.json()["issue"][0]["expression"] == ["Bundle.entry[0].request.url"], refused.text
    odd = {"resourceType": "Bundle", "type": "batch", "entry": {"request": 1}}
    assert (await face.send("operator", "POST", "", odd)).status_code == 400
    bare = await face.http.post("/fhir/", json=odd, headers={"Content-Type": "application/fhir+json"})
    assert bare.status_code == 401


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = ["status", "type", "measure", "period", "identifier", "subject", "reporter", "group", "meta", "extension", "id"]


def entry_of(body: Any, method: Any, url: Any) -> dict[str, Any]:
    return {"resource": body, "request": {"method": method, "url": url}}


@settings(max_examples=80)
@given(
    odd=st.dictionaries(st.sampled_from([*PATHS, "resourceType", "contained", "x"]), JSON, max_size=3),
    method=st.sampled_from(["POST", "PUT", "DELETE", "GET", "PATCH", "TRACE", 5]),
    url=st.sampled_from(
        [
            "MeasureReport",
            "MeasureReport/x",
            "MeasureReport?status=complete",
            "?",
            "//",
            "Patient/$x",
            1,
            "http://[",
            "http:",
        ]
    )
    | st.text(max_size=12),
    kind=st.sampled_from(["batch", "transaction"]),
)
async def test_no_body_is_too_strange(face: Face, odd: dict[str, Any], method: Any, url: Any, kind: str) -> None:
    body = {**report(), **odd}
    answer = await face.send("operator", "POST", "MeasureReport", body)
    assert answer.status_code < 500, answer.text
    answer = await face.bundle("operator", kind, entry_of(body, method, url))
    assert answer.status_code < 500, answer.text
    assert '"status":"5' not in answer.text
    answer = await face.send("operator", "POST", "", odd)
    assert 400 <= answer.status_code < 500, answer.text
