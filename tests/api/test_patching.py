"""Stories of clients that patch: their own resources by JSON Patch and FHIRPath Patch, and remarks on our reports."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from fhir_face import client_for, enter, new_gateway

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.db.engine import snapshot
from fhir_gateway.db.remarks import RemarkRow
from fhir_gateway.factory import Gateway
from fhir_gateway.measures.reports import summary
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import audit_events
from tests.support.results import cohort

pytestmark = pytest.mark.anyio

JSON_PATCH = "application/json-patch+json"
US = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-careGapRemark"
RA = "http://hl7.org/fhir/us/davinci-ra/StructureDefinition/"
CLIENTS: dict[str, tuple[list[str] | None, str]] = {
    "operator": (None, "system/*.cruds"),
    "practice": (["organization:111"], "system/*.cruds"),
    "rival": (["organization:222"], "system/*.cruds"),
    "reader": (["organization:111"], "system/*.rs"),
}


def coding_gap(person: str = "p1", **more: Any) -> dict[str, Any]:
    category = {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/measurereport-category", "code": "ra"}]}
    extension = {
        "url": "http://hl7.org/fhir/StructureDefinition/measurereport-category",
        "valueCodeableConcept": category,
    }
    kind = {"url": f"{RA}ra-ccType", "valueCodeableConcept": {"coding": [{"code": "suspected"}]}}
    return {
        "resourceType": "MeasureReport",
        "id": f"ra-{person}",
        "extension": [extension],
        "status": "complete",
        "type": "individual",
        "measure": "http://models.example/Measure/cms-hcc|28",
        "subject": {"reference": f"Patient/{person}"},
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
        "group": [{"id": "group-001", "extension": [kind]}, {"id": "group-002", "extension": [kind]}],
        **more,
    }


def a_list(name: str, tin: str, *persons: str) -> dict[str, Any]:
    members = [{"entity": {"reference": f"Patient/{one}"}, "inactive": False} for one in persons]
    listed = {"resourceType": "Group", "id": name, "type": "person", "actual": True, "member": members}
    return labelled(listed, label("organization", tin))


def remark(url: str = f"{RA}ra-ccRemark", **parts: Any) -> dict[str, Any]:
    given = parts or {"text": {"valueString": "seen in the clinic"}, "author": {"valueString": "Dr. North"}}
    return {"url": url, "extension": [{"url": name, **value} for name, value in given.items()]}


def adding(extension: Mapping[str, Any], group: str = "group-001") -> dict[str, Any]:
    """A FHIRPath Patch as RA and DEQM have it, of a remark with simple parts."""
    inside = []
    for one in extension["extension"]:
        ((key, value),) = [item for item in one.items() if item[0] != "url"]
        inside.append(
            {"name": "extension", "part": [{"name": "url", "valueUri": one["url"]}, {"name": "value", key: value}]}
        )
    parts = [
        {"name": "type", "valueCode": "add"},
        {"name": "path", "valueString": f"MeasureReport.group.where(id='{group}')"},
        {"name": "name", "valueString": "extension"},
        {"name": "value", "part": [{"name": "url", "valueUri": extension["url"]}, *inside]},
    ]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}


class Face:
    def __init__(self, gateway: Gateway, http: httpx.AsyncClient, headers: dict[str, dict[str, str]], run: str) -> None:
        self.gateway, self.http, self.headers, self.run = gateway, http, headers, run

    async def send(self, client: str, method: str, path: str, body: Any = None, **more: str) -> httpx.Response:
        headers = {**self.headers[client], **{name.replace("_", "-"): value for name, value in more.items()}}
        if body is not None:
            kind = JSON_PATCH if method == "PATCH" and isinstance(body, list) else "application/fhir+json"
            headers.setdefault("Content-Type", kind)
        return await self.http.request(method, f"/fhir/{path}", headers=headers, json=body)

    async def get(self, path: str, client: str = "practice") -> Any:
        answered = await self.send(client, "GET", path)
        assert answered.status_code == 200, answered.text
        return answered.json()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path / "data"}))
    result = cohort(["p1", "p2"])
    run = gateway.results.save(result)
    gateway.resources.put_many(
        [
            *({"resourceType": "Patient", "id": one} for one in ("p1", "p2")),
            a_list("list-111", "111", "p1"),
            a_list("list-222", "222", "p2"),
            summary(result, {"reference": "Organization/gateway"}),
            coding_gap(),
        ]
    )
    async with client_for(create_app(gateway)) as http:
        headers = {
            name: await enter(http, gateway, name, scopes, grants=grants) for name, (grants, scopes) in CLIENTS.items()
        }
        yield Face(gateway, http, headers, run)


def remarks_of(report: Mapping[str, Any], group: int = 0) -> list[dict[str, Any]]:
    return [one for one in report["group"][group].get("extension", ()) if "emark" in one["url"]]


def problem(answer: httpx.Response) -> tuple[int, list[str], str]:
    issue = answer.json()["issue"][0]
    return answer.status_code, issue.get("expression", []), issue["diagnostics"]


async def test_a_report_of_the_clients_own_is_patched(face: Face) -> None:
    own = coding_gap(group=[{"id": "a"}, {"id": "b"}])
    del own["id"]
    made = (await face.send("practice", "POST", "MeasureReport", own)).json()
    path = f"MeasureReport/{made['id']}"
    operations = [
        {"op": "test", "path": "/status", "value": "complete"},
        {"op": "replace", "path": "/status", "value": "pending"},
        {"op": "remove", "path": "/group/0"},
    ]
    patched = await face.send("practice", "PATCH", path, operations, If_Match='W/"1"')
    assert patched.status_code == 200, patched.text
    assert patched.headers["etag"] == 'W/"2"'
    assert (patched.json()["status"], patched.json()["group"]) == ("pending", [{"id": "b"}])
    assert await face.get(path) == patched.json()
    stale = await face.send("practice", "PATCH", path, operations[1:2], If_Match='W/"1"')
    assert stale.status_code == 412
    failed = await face.send("practice", "PATCH", path, operations[:1])
    assert problem(failed)[:2] == (422, ["[0]"])
    broken = await face.send("practice", "PATCH", path, [{"op": "replace", "path": "/status", "value": "so-so"}])
    assert broken.status_code == 400, "what it makes is judged as an update is"
    other = await face.send("practice", "PATCH", path, [{"op": "replace", "path": "/id", "value": "other"}])
    assert other.status_code == 400
    assert (await face.send("rival", "PATCH", path, operations)).status_code == 404
    assert (await face.send("reader", "PATCH", path, operations)).status_code == 403
    assert (await face.send("practice", "DELETE", path)).status_code == 204
    assert (await face.send("practice", "PATCH", path, operations)).status_code == 410


async def test_fhirpath_patch_adds_inserts_replaces_moves_and_deletes(face: Face) -> None:
    made = (await face.send("practice", "POST", "MeasureReport", {**coding_gap(), "id": None} | {"id": "x"})).json()
    path = f"MeasureReport/{made['id']}"

    def operation(kind: str, where: str, *parts: dict[str, Any]) -> dict[str, Any]:
        head = [{"name": "type", "valueCode": kind}, {"name": "path", "valueString": where}]
        return {"name": "operation", "part": [*head, *parts]}

    asked = [
        operation(
            "add",
            "MeasureReport",
            {"name": "name", "valueString": "identifier"},
            {"name": "value", "part": [{"name": "value", "valueString": "one"}]},
        ),
        operation("replace", "MeasureReport.identifier[0].value", {"name": "value", "valueString": "two"}),
        operation(
            "move",
            "MeasureReport.group",
            {"name": "source", "valueInteger": 1},
            {"name": "destination", "valueInteger": 0},
        ),
        operation(
            "insert",
            "MeasureReport.group",
            {"name": "index", "valueInteger": 1},
            {"name": "value", "part": [{"name": "id", "valueString": "between"}]},
        ),
        operation("delete", "MeasureReport.group.where(id='group-001').extension"),
        operation("delete", "MeasureReport.improvementNotation"),
    ]
    patched = await face.send("practice", "PATCH", path, {"resourceType": "Parameters", "parameter": asked})
    assert patched.status_code == 200, patched.text
    assert patched.json()["identifier"] == [{"value": "two"}]
    assert [one["id"] for one in patched.json()["group"]] == ["group-002", "between", "group-001"]
    assert "extension" not in patched.json()["group"][2]
    for refused in (
        operation("replace", "MeasureReport.group", {"name": "value", "valueString": "x"}),
        operation("delete", "MeasureReport"),
        operation("delete", "Patient.name"),
        operation("delete", "MeasureReport.group.repeat(x)"),
        operation(
            "add", "MeasureReport", {"name": "name", "valueString": "nothing"}, {"name": "value", "valueString": "x"}
        ),
        operation(
            "insert",
            "MeasureReport.group",
            {"name": "index", "valueInteger": 9},
            {"name": "value", "part": [{"name": "id", "valueString": "y"}]},
        ),
    ):
        answered = await face.send("practice", "PATCH", path, {"resourceType": "Parameters", "parameter": [refused]})
        assert problem(answered)[:2] == (422, ["Parameters.parameter[0]"]), answered.text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("[", JSON_PATCH, 400),
        ("{}", JSON_PATCH, 400),
        ('[{"op":"explode","path":"/status"}]', JSON_PATCH, 400),
        ('[{"op":"add","path":"status","value":1}]', JSON_PATCH, 400),
        ("[" * 400 + "]" * 400, JSON_PATCH, 400),
        (orjson.dumps([{"op": "test", "path": "/status", "value": "complete"}] * 201).decode(), JSON_PATCH, 400),
        ('{"resourceType":"MeasureReport"}', "application/fhir+json", 400),
        ('{"resourceType":"Parameters","parameter":[{"name":"operation","part":[]}]}', "application/fhir+json", 400),
        ("<patch/>", "application/xml-patch+xml", 415),
        ('[{"op":"move","from":"/group","path":"/group/0"}]', JSON_PATCH, 422),
        ('[{"op":"remove","path":""}]', JSON_PATCH, 422),
        (orjson.dumps([{"op": "copy", "from": "/group", "path": "/group/0/x"}] * 100).decode(), JSON_PATCH, 422),
    ],
)
async def test_what_is_no_patch_is_refused(face: Face, body: str, kind: str, status: int) -> None:
    headers = {**face.headers["practice"], "Content-Type": kind}
    answered = await face.http.patch("/fhir/MeasureReport/ra-p1", content=body, headers=headers)
    assert answered.status_code == status, answered.text
    assert answered.json()["resourceType"] == "OperationOutcome"


async def test_a_remark_on_a_coding_gap_report_makes_a_version_and_leaves_the_gap_alone(face: Face) -> None:
    before = await face.get("MeasureReport/ra-p1")
    patched = await face.send("practice", "PATCH", "MeasureReport/ra-p1", adding(remark()), If_Match='W/"1"')
    assert patched.status_code == 200, patched.text
    (kept,) = remarks_of(patched.json())
    names = [one["url"] for one in kept["extension"]]
    assert names == ["text", "author", "authorDatetime"], "when is added where it is missing"
    assert patched.headers["etag"] == 'W/"2"'
    after = await face.get("MeasureReport/ra-p1")
    assert after == patched.json()
    assert after["group"][0]["extension"][:1] == before["group"][0]["extension"]
    assert after["group"][1] == before["group"][1]
    pointed = [
        {
            "op": "add",
            "path": "/group/1/extension/-",
            "value": remark(code={"valueCodeableConcept": {"coding": [{"code": "deferred"}]}}),
        }
    ]
    second = await face.send("practice", "PATCH", "MeasureReport/ra-p1", pointed)
    assert second.status_code == 200, second.text
    software = next(one for one in remarks_of(second.json(), 1)[0]["extension"] if one["url"] == "authorSoftware")
    assert software["valueString"] == "practice", "who remarked, as ra-2 wants"
    assert (await face.send("practice", "PATCH", "MeasureReport/ra-p1", pointed, If_Match='W/"2"')).status_code == 412
    history = await face.get("MeasureReport/ra-p1/_history")
    assert [len(remarks_of(one["resource"])) + len(remarks_of(one["resource"], 1)) for one in history["entry"]] == [
        2,
        1,
        0,
    ]
    assert (await face.get("MeasureReport/ra-p1/_history/1")) == before
    found = await face.get("MeasureReport?subject=Patient/p1&_id=ra-p1")
    assert found["entry"][0]["resource"] == second.json()
    with snapshot(face.gateway.engine) as connection:
        rows = connection.execute(sa.select(RemarkRow)).all()
        patches = connection.execute(
            sa.select(audit_events.c.client_id, audit_events.c.status).where(audit_events.c.interaction == "patch")
        ).all()
    assert [(row.report, row.act, row.group_id, row.client_id) for row in rows] == [
        ("ra-p1", 1, "group-001", "practice"),
        ("ra-p1", 2, "group-002", "practice"),
    ]
    assert [tuple(row) for row in patches] == [("practice", 200), ("practice", 200), ("practice", 412)]


async def test_a_remark_on_a_rendered_report_is_read_searched_and_in_its_history(face: Face) -> None:
    path = f"MeasureReport/{face.run}-p1"
    before = await face.get(path)
    assert remarks_of(before) == []
    asked = adding(remark(US), "g")
    assert (await face.send("rival", "PATCH", path, asked)).status_code == 404, "of somebody else's patient"
    assert (await face.send("reader", "PATCH", path, asked)).status_code == 403
    assert (await face.send("practice", "PATCH", path, asked, If_Match='W/"2"')).status_code == 412
    patched = await face.send("practice", "PATCH", path, asked, If_Match='W/"1"')
    assert patched.status_code == 200, patched.text
    after = patched.json()
    assert (patched.headers["etag"], after["meta"]["versionId"]) == ('W/"2"', "2")
    assert len(remarks_of(after)) == 1
    assert {**after, "group": None, "meta": None} == {**before, "group": None, "meta": None}
    assert after["group"][0]["population"] == before["group"][0]["population"]
    assert await face.get(path) == after
    found = await face.get(
        "MeasureReport?type=individual&subject=Patient/p1&measure=http://measures.example/Measure/One"
    )
    assert [one["resource"] for one in found["entry"]] == [after]
    history = await face.get(f"{path}/_history?_count=1")
    assert [one["resource"] for one in history["entry"]] == [after]
    following = next(one["url"] for one in history["link"] if one["relation"] == "next")
    rest = (await face.http.get(following, headers=face.headers["practice"])).json()
    assert [one["resource"] for one in rest["entry"]] == [before]
    assert await face.get(f"{path}/_history/1") == before
    assert await face.get(f"{path}/_history/2") == after
    assert (await face.send("practice", "GET", f"{path}/_history/3")).status_code == 404
    for query, number in ((f"gt{before['meta']['lastUpdated']}", 1), (f"lt{after['meta']['lastUpdated']}", 1)):
        some = await face.get(f"MeasureReport?type=individual&_lastUpdated={query}&_total=accurate", "operator")
        mine = [one["resource"]["id"] for one in some.get("entry", ()) if one["resource"]["id"].startswith(face.run)]
        assert len(mine) == number, query
        assert (mine[0] == path.rpartition("/")[2]) == query.startswith("gt")


async def test_a_whole_report_with_a_remark_is_put(face: Face) -> None:
    report = await face.get("MeasureReport/ra-p1")
    report["group"][0]["extension"].append(remark())
    put = await face.send("practice", "PUT", "MeasureReport/ra-p1", report)
    assert put.status_code == 200, put.text
    assert len(remarks_of(put.json())) == 1
    again = await face.send("practice", "PUT", "MeasureReport/ra-p1", put.json())
    assert again.headers["etag"] == 'W/"2"', "nothing new makes no version"
    changed = await face.send("practice", "PUT", "MeasureReport/ra-p1", {**put.json(), "status": "error"})
    assert problem(changed)[:2] == (422, ["MeasureReport.status"])


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ({"op": "replace", "path": "/status", "value": "error"}, "MeasureReport.status"),
        ({"op": "remove", "path": "/group/0"}, "MeasureReport.group"),
        ({"op": "remove", "path": "/group/0/extension/0"}, "MeasureReport.group[0].extension"),
        ({"op": "add", "path": "/group/0/measureScore", "value": {"value": 1}}, "MeasureReport.group[0].measureScore"),
        (
            {"op": "replace", "path": "/group/0/extension/0/valueCodeableConcept", "value": {"text": "x"}},
            "MeasureReport.group[0].extension",
        ),
        ({"op": "add", "path": "/extension/-", "value": remark()}, "MeasureReport.extension"),
        ({"op": "add", "path": "/group/0/extension/-", "value": remark(US)}, "MeasureReport.group[0].extension[1]"),
        (
            {"op": "add", "path": "/group/0/extension/-", "value": {"url": f"{RA}ra-evidenceStatus"}},
            "MeasureReport.group[0].extension[1]",
        ),
        (
            {"op": "add", "path": "/group/0/extension/-", "value": remark(text={"valueCode": "x"})},
            "MeasureReport.group[0].extension[1].extension[0]",
        ),
        (
            {"op": "add", "path": "/group/0/extension/-", "value": remark(status={"valueCode": "x"})},
            "MeasureReport.group[0].extension[1].extension[0]",
        ),
        ({"op": "add", "path": "/group/0/extension/-", "value": "x"}, "MeasureReport.group[0].extension[1]"),
        ({"op": "replace", "path": "/group", "value": 7}, "MeasureReport.group"),
    ],
)
async def test_nothing_but_remarks_is_taken(face: Face, operation: dict[str, Any], path: str) -> None:
    answered = await face.send("practice", "PATCH", "MeasureReport/ra-p1", [operation])
    status, expression, text = problem(answered)
    assert (status, expression) == (422, [path]), answered.text
    assert text
    assert (await face.get("MeasureReport/ra-p1"))["meta"]["versionId"] == "1"


async def test_a_remark_names_no_person_whom_the_client_does_not_see(face: Face) -> None:
    about = remark(relatedData={"valueReference": {"reference": "Patient/p2"}})
    answered = await face.send("practice", "PATCH", "MeasureReport/ra-p1", adding(about))
    assert answered.status_code == 422, answered.text
    assert remarks_of(await face.get("MeasureReport/ra-p1")) == []


async def test_a_summary_takes_no_remarks(face: Face) -> None:
    answered = await face.send("operator", "PATCH", f"MeasureReport/{face.run}", adding(remark(US), "g"))
    assert answered.status_code == 403, answered.text


def in_binary(patch: Any, media: str = JSON_PATCH) -> dict[str, Any]:
    """A patch as an entry of a Bundle holds one that is no FHIR resource."""
    return {"resourceType": "Binary", "contentType": media, "data": base64.b64encode(orjson.dumps(patch)).decode()}


def patching(url: str, patch: Any, **more: str) -> dict[str, Any]:
    return {"resource": patch, "request": {"method": "PATCH", "url": url, **more}}


async def bundle(face: Face, kind: str, *entries: Any, client: str = "practice") -> httpx.Response:
    return await face.send(client, "POST", "", {"resourceType": "Bundle", "type": kind, "entry": list(entries)})


def statuses(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["response"]["status"][:3] for one in answer.json()["entry"]]


async def own_report(face: Face, number: str, client: str = "practice") -> str:
    person = "p2" if client == "rival" else "p1"
    body = coding_gap(person, identifier=[{"system": "urn:reports", "value": number}])
    del body["id"]
    made = await face.send(client, "POST", "MeasureReport", body)
    assert made.status_code == 201, made.text
    return f"MeasureReport/{made.json()['id']}"


PENDING = [{"op": "replace", "path": "/status", "value": "pending"}]
#: The same as a FHIRPath Patch.
PENDING_BY_PATH = {
    "resourceType": "Parameters",
    "parameter": [
        {
            "name": "operation",
            "part": [
                {"name": "type", "valueCode": "replace"},
                {"name": "path", "valueString": "MeasureReport.status"},
                {"name": "value", "valueCode": "pending"},
            ],
        }
    ],
}


async def test_a_conditional_patch_is_of_the_one_that_meets_the_criteria(face: Face) -> None:
    path = await own_report(face, "1")
    by_criteria = "MeasureReport?identifier=urn:reports|1"
    assert (await face.send("practice", "PATCH", by_criteria, PENDING, If_Match='W/"2"')).status_code == 412
    patched = await face.send("practice", "PATCH", by_criteria, PENDING, If_Match='W/"1"')
    assert patched.status_code == 200, patched.text
    assert f"MeasureReport/{patched.json()['id']}" == path
    assert (await face.get(path))["status"] == "pending"
    by_path = await face.send("practice", "PATCH", by_criteria, PENDING_BY_PATH)
    assert by_path.status_code == 200, by_path.text
    nothing = await face.send("practice", "PATCH", "MeasureReport?identifier=urn:reports|2", PENDING)
    assert nothing.status_code == 404
    assert (await face.send("rival", "PATCH", by_criteria, PENDING)).status_code == 404, "not theirs to see"
    assert (await face.send("reader", "PATCH", by_criteria, PENDING)).status_code == 403
    await own_report(face, "1")
    several = await face.send("practice", "PATCH", by_criteria, PENDING)
    assert (several.status_code, several.json()["issue"][0]["code"]) == (412, "multiple-matches")
    for wrong in ("MeasureReport", "MeasureReport?nonsense=1", "MeasureReport?_sort=date"):
        assert (await face.send("practice", "PATCH", wrong, PENDING)).status_code == 400, wrong
    remarked = await face.send("practice", "PATCH", "MeasureReport?_id=ra-p1", adding(remark()))
    assert remarked.status_code == 200, remarked.text
    assert len(remarks_of(await face.get("MeasureReport/ra-p1"))) == 1
    with snapshot(face.gateway.engine) as connection:
        asked = sa.select(audit_events.c.parameters, audit_events.c.resource_id)
        rows = connection.execute(asked.where(audit_events.c.interaction == "patch")).all()
    assert rows[1] == ("identifier", path.rpartition("/")[2]), "who was patched, by which parameters"


async def test_patches_are_entries_of_a_batch(face: Face) -> None:
    path = await own_report(face, "1")
    other = await own_report(face, "2", "rival")
    answer = await bundle(
        face,
        "batch",
        patching(path, in_binary(PENDING), ifMatch='W/"1"'),
        patching(path, PENDING_BY_PATH),
        patching("MeasureReport?identifier=urn:reports|1", in_binary(PENDING_BY_PATH, "application/fhir+json")),
        patching(path, in_binary(PENDING), ifMatch='W/"9"'),
        patching(other, in_binary(PENDING)),
        patching(path, {**in_binary(PENDING), "data": "no base64"}),
        patching(path, in_binary(PENDING, "application/xml-patch+xml")),
        patching(path, coding_gap()),
        patching("MeasureReport/ra-p1", adding(remark())),
    )
    assert statuses(answer) == ["200", "200", "200", "412", "404", "400", "415", "400", "200"]
    assert (await face.get(path))["status"] == "pending"
    assert (await face.get(other, "rival"))["status"] == "complete"
    assert len(remarks_of(await face.get("MeasureReport/ra-p1"))) == 1


async def test_patches_are_part_of_a_transaction(face: Face) -> None:
    path, other = await own_report(face, "1"), await own_report(face, "2")
    whole = await face.get("MeasureReport/ra-p1")
    whole["group"][1]["extension"].append(remark())
    answer = await bundle(
        face,
        "transaction",
        {"request": {"method": "GET", "url": path}},
        patching(path, in_binary(PENDING), ifMatch='W/"1"'),
        patching("MeasureReport?identifier=urn:reports|2", PENDING_BY_PATH),
        patching(f"MeasureReport/{face.run}-p1", adding(remark(US), "g")),
        {"resource": whole, "request": {"method": "PUT", "url": "MeasureReport/ra-p1"}},
    )
    assert statuses(answer) == ["200"] * 5
    assert answer.json()["entry"][0]["resource"]["status"] == "pending", "what is read is read after the writes"
    assert [(await face.get(one))["status"] for one in (path, other)] == ["pending", "pending"]
    assert len(remarks_of(await face.get(f"MeasureReport/{face.run}-p1"))) == 1
    assert len(remarks_of(await face.get("MeasureReport/ra-p1"), 1)) == 1
    with snapshot(face.gateway.engine) as connection:
        asked = sa.select(audit_events.c.interaction, audit_events.c.status).order_by(audit_events.c.id)
        rows = [tuple(row) for row in connection.execute(asked.where(audit_events.c.status == 200))]
    assert rows.count(("patch", 200)) == 3


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        (patching("MeasureReport/ra-p1", adding(remark()), ifMatch='W/"7"'), 412),
        (patching("MeasureReport?identifier=urn:reports|9", PENDING_BY_PATH), 404),
        (patching("MeasureReport/ra-p2", PENDING_BY_PATH), 404),
        (patching("MeasureReport/ra-p1", PENDING_BY_PATH), 422),
        (patching("MeasureReport/ra-p1?status=final", PENDING_BY_PATH), 400),
        (patching("MeasureReport", PENDING_BY_PATH), 400),
        (patching("MeasureReport/ra-p1", {**in_binary(PENDING), "data": "?"}), 400),
        (patching("MeasureReport/ra-p1", in_binary(PENDING, "text/plain")), 415),
        (patching("MeasureReport/ra-p1", in_binary([{"op": "none"}])), 400),
        (patching("Group/list-111", in_binary([{"op": "add", "path": "/name", "value": "mine"}])), 403),
        (patching("Provenance/x", in_binary(PENDING)), 405),
    ],
)
async def test_one_patch_that_fails_undoes_a_transaction(face: Face, failing: dict[str, Any], status: int) -> None:
    path = await own_report(face, "1")
    mine = patching(path, in_binary(PENDING))
    also = patching(f"MeasureReport/{face.run}-p1", adding(remark(US), "g"))
    answer = await bundle(face, "transaction", mine, also, failing)
    assert answer.status_code == status, answer.text
    assert (await face.get(path))["status"] == "complete"
    assert remarks_of(await face.get(f"MeasureReport/{face.run}-p1")) == []
    with snapshot(face.gateway.engine) as connection:
        assert connection.execute(sa.select(RemarkRow)).all() == []


async def test_a_report_is_patched_once_in_a_transaction(face: Face) -> None:
    twice = patching("MeasureReport/ra-p1", adding(remark()))
    answer = await bundle(face, "transaction", twice, twice)
    assert (answer.status_code, "the same resource" in answer.text) == (400, True)


def submission(*bundles: list[dict[str, Any]]) -> dict[str, Any]:
    found = [
        {
            "resourceType": "Bundle",
            "identifier": {"value": "1"},
            "type": "collection",
            "entry": [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one} for one in entries],
        }
        for entries in bundles
    ]
    return {"resourceType": "Parameters", "parameter": [{"name": "bundle", "resource": one} for one in found]}


async def test_remarks_are_submitted_with_what_they_refer_to(face: Face) -> None:
    author = {
        "resourceType": "Practitioner",
        "id": "6f9619ff-8b86-4d01-b42d-00c04fc964ff",
        "name": [{"family": "North"}],
    }
    whole, rendered = await face.get("MeasureReport/ra-p1"), await face.get(f"MeasureReport/{face.run}-p1")
    before = orjson.loads(orjson.dumps(whole))
    named = {"valueReference": {"reference": f"Practitioner/{author['id']}"}}
    by_url = {"valueReference": {"reference": f"urn:uuid:{author['id']}"}}
    software = {"valueString": "EHR 7"}
    whole["group"][0]["extension"].append(remark(authorSoftware=software, relatedData=named))
    rendered["group"][0]["extension"] = [
        *rendered["group"][0].get("extension", ()),
        remark(US, authorSoftware=software, relatedData=by_url),
    ]
    sent = submission([whole, author], [rendered, author])
    for client, status in (("reader", 403), ("rival", 422)):
        refused = await face.send(client, "POST", "Measure/$submit-remark-data", sent)
        assert refused.status_code == status, refused.text
    taken = await face.send("practice", "POST", "Measure/$submit-remark-data", sent)
    assert taken.status_code == 200, taken.text
    assert "2 remarks on 2 reports" in taken.json()["issue"][0]["diagnostics"]
    face.gateway.resources.put({"resourceType": "Patient", "id": "p1"})  # served without a lake, which has now come
    for path in ("MeasureReport/ra-p1", f"MeasureReport/{face.run}-p1"):
        (kept,) = remarks_of(await face.get(path))
        (target,) = [one["valueReference"]["reference"] for one in kept["extension"] if one["url"] == "relatedData"]
        assert (await face.get(target))["name"] == author["name"], "the remark leads to what was sent with it"
    after = await face.get("MeasureReport/ra-p1")
    assert after["group"][1] == before["group"][1]

    again = await face.send("practice", "POST", "Measure/$submit-remark-data", submission([before]))
    assert again.status_code == 422, "what was remarked is not taken back"
    changed = {**after, "status": "pending"}
    wrong = await face.send("practice", "POST", "Measure/$submit-remark-data", submission([changed]))
    assert problem(wrong)[:2] == (422, ["MeasureReport.status"])
    for body in (submission(), submission([author]), {"resourceType": "Parameters"}, coding_gap()):
        assert (await face.send("practice", "POST", "Measure/$submit-remark-data", body)).status_code == 400
    twice = await face.send("practice", "POST", "Measure/$submit-remark-data", submission([after], [after]))
    assert (twice.status_code, "occurs twice" in twice.text) == (400, True)
    assert (await face.send("practice", "POST", "Measure/none/$submit-remark-data", sent)).status_code == 404
    with snapshot(face.gateway.engine) as connection:
        asked = sa.select(audit_events.c.client_id, audit_events.c.status)
        rows = connection.execute(asked.where(audit_events.c.interaction == "$submit-remark-data")).all()
    assert [tuple(row) for row in rows[:3]] == [("reader", 403), ("rival", 422), ("practice", 200)]


async def test_a_submission_with_wrong_evidence_keeps_no_remark(face: Face) -> None:
    whole = await face.get("MeasureReport/ra-p1")
    whole["group"][0]["extension"].append(remark())
    broken = {"resourceType": "Practitioner", "id": "a", "gender": "so-so"}
    refused = await face.send("practice", "POST", "Measure/$submit-remark-data", submission([whole, broken]))
    assert refused.status_code == 422, refused.text
    assert remarks_of(await face.get("MeasureReport/ra-p1")) == []


def nested(depth: int) -> Any:
    found: Any = "x"
    for _ in range(depth):
        found = {"extension": [found]}
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"group": 7},
        {"group": [7]},
        {"group": [{"id": "group-001", "extension": 7}]},
        {"group": [{"id": "group-001", "extension": [7, None, "x"]}]},
        {"group": [{"id": "group-001", "extension": [nested(300)]}]},
        {"group": [{"id": "group-001", "extension": [{"url": f"{RA}ra-ccRemark", "extension": [nested(200)]}]}]},
        {"id": 7},
        {"id": None},
        {"id": "../x"},
        {"resourceType": 7},
        {"subject": None},
        {"extension": "x"},
    ],
)
async def test_no_submission_is_too_strange(face: Face, change: dict[str, Any]) -> None:
    odd = {**coding_gap(), **change}
    for body in (
        {"resourceType": "Parameters", "parameter": [{"name": "bundle", "resource": bundle_of(odd)}]},
        {"resourceType": "Parameters", "parameter": [{"name": "bundle", "resource": bundle_of(odd, None, 7)}]},
    ):
        answer = await face.send("practice", "POST", "Measure/$submit-remark-data", body)
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["resourceType"] == "OperationOutcome"
    for entry in (patching("MeasureReport/ra-p1", odd), {"resource": odd, "request": {"method": "PUT", "url": "x"}}):
        answer = await bundle(face, "transaction", entry)
        assert 400 <= answer.status_code < 500, answer.text
    assert (await face.get("MeasureReport/ra-p1"))["meta"]["versionId"] == "1"


def bundle_of(*resources: Any) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}
