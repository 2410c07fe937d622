"""Bulk exports over HTTP: levels, parameters, manifests, files, deletions, rosters, and whose data they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from cryptography.fernet import Fernet
from fhir_face import BASE, PUBLIC_URL, authorize, client_for, register
from joserfc.jwk import ECKey
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.exports.sources import NOT_EXPORTED, SOURCES
from fhir_gateway.jobs.requests import RequestLog
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.reports import summary
from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import SERVED
from tests.support.measures import PERIOD
from tests.support.results import cohort
from tests.support.waiting import HANG

pytestmark = pytest.mark.anyio

MEMBERS = [f"p{number}" for number in range(1, 8)]
ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
#: Lists: active members, inactive ones, who sees it, and the provider of its entries.
LISTS = {
    "aco": (["p1", "p2", "p3"], ["p4"], [label("contract", "aco")], "Practitioner/dr"),
    "other": (["p5"], [], [label("contract", "other")], "PractitionerRole/role"),
}
CLIENTS: dict[str, tuple[str, list[str] | None]] = {
    "operator": ("system/*.read", None),
    "payer": ("system/*.rs", ["contract:aco"]),
    "narrow": ("system/Patient.rs system/Group.rs system/Coverage.r", ["contract:aco"]),
    "stranger": ("system/*.rs", ["contract:none"]),
    "women": ("system/Patient.rs?gender=female system/Group.rs system/MeasureReport.rs", None),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def a_result(url: str = "http://measures.example/Measure/One") -> MeasureResult:
    return cohort(MEMBERS, [1] * (len(MEMBERS) - 1) + [0], url=url, period=PERIOD)  # the last is in nobody's report


def a_list(name: str) -> dict[str, Any]:
    active, inactive, labels, provider = LISTS[name]
    extension = [{"url": f"{ATR}ext-attributedProvider", "valueReference": {"reference": provider}}]
    entries = [
        {"extension": extension, "entity": {"reference": f"Patient/{one}"}, "inactive": one in inactive}
        for one in [*active, *inactive]
    ]
    group = {"resourceType": "Group", "id": name, "type": "person", "actual": True, "member": entries}
    return labelled(group | {"managingEntity": {"reference": "Organization/payer"}}, *labels)


def fill(gateway: Gateway) -> None:
    """Persons with coverage and reports, lists, contracts and a directory."""
    resources: list[dict[str, Any]] = [a_list(name) for name in LISTS]
    organizations = ("gateway", "payer", "clinic", "elsewhere")
    resources += [{"resourceType": "Organization", "id": name, "name": name} for name in organizations]
    resources += [{"resourceType": "Practitioner", "id": name} for name in ("dr", "other")]
    role = {"practitioner": {"reference": "Practitioner/other"}, "organization": {"reference": "Organization/clinic"}}
    resources.append({"resourceType": "PractitionerRole", "id": "role", **role})
    for number, person in enumerate(MEMBERS):
        gender = "female" if number % 2 else "male"
        name = [{"family": f"Family{number}"}]
        resources.append({"resourceType": "Patient", "id": person, "gender": gender, "name": name})
        resources.append(
            {
                "resourceType": "Coverage",
                "id": f"cov-{person}",
                "status": "active",
                "beneficiary": {"reference": f"Patient/{person}"},
                "payor": [{"reference": "Organization/payer"}],
            }
        )
    for name, (_, _, labels, _) in LISTS.items():
        decision = {"resourceType": "Provenance", "id": f"why-{name}", "recorded": "2026-01-01T00:00:00Z"}
        agent = [{"who": {"display": "us"}}]
        decision |= {"target": [{"reference": f"Group/{name}"}], "agent": agent}
        resources.append(labelled(decision, *labels))
    measure = {"resourceType": "Measure", "id": "m", "url": "http://measures.example/Measure/One", "status": "active"}
    result = a_result()
    gateway.results.save(result)
    resources += [measure, summary(result, {"reference": "Organization/gateway"})]
    gateway.resources.put_many(resources)


class Face:
    """The HTTP face with its clients and a worker."""

    def __init__(self, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.gateway, self.http = gateway, http
        self.keys: dict[str, ECKey] = {}
        self.headers: dict[str, Mapping[str, str]] = {}

    async def authorize(self, client: str) -> None:
        self.headers[client] = await authorize(self.http, client, self.keys[client], CLIENTS[client][0])

    async def kick_off(
        self, path: str, client: str = "operator", body: dict[str, Any] | None = None, **more: str
    ) -> httpx.Response:
        headers = {"Accept": "application/fhir+json", "Prefer": "respond-async", **self.headers[client], **more}
        if body is None:
            return await self.http.get(f"/fhir/{path}", headers=headers)
        headers["Content-Type"] = "application/fhir+json"
        return await self.http.post(f"/fhir/{path}", headers=headers, content=orjson.dumps(body))

    async def manifest(self, path: str, client: str = "operator", *args: Any, **more: str) -> dict[str, Any]:
        accepted = await self.kick_off(path, client, *args, **more)
        assert accepted.status_code == 202, accepted.text
        headers = {**self.headers[client], "Accept": "application/json"}
        deadline = time.monotonic() + HANG
        while (poll := await self.http.get(accepted.headers["content-location"], headers=headers)).status_code == 202:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert poll.status_code == 200, poll.text
        found: dict[str, Any] = poll.json()
        await self.http.get(accepted.headers["content-location"], headers=headers)
        return found | {"poll": accepted.headers["content-location"]}

    async def lines(self, files: list[dict[str, Any]], client: str = "operator") -> list[dict[str, Any]]:
        """The resources of files; each is what the manifest says of it."""
        found = []
        for one in files:
            answer = await self.http.get(one["url"], headers=self.headers[client])
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/fhir+ndjson"
            text = answer.content
            assert text.endswith(b"}\n")
            assert b"\n\n" not in text
            rows = [orjson.loads(line) for line in text.splitlines()]
            assert len(rows) == one["count"]
            assert {row["resourceType"] for row in rows} == {one["type"]}
            found += rows
        return found

    async def export(self, path: str, client: str = "operator", *args: Any, **more: str) -> dict[str, set[str]]:
        """Ids by type; a person's report by whose it is."""
        manifest = await self.manifest(path, client, *args, **more)
        found: dict[str, set[str]] = {}
        for row in await self.lines(manifest["output"], client):
            ids = found.setdefault(row["resourceType"], set())
            id = row["id"].rpartition("-")[2] if "subject" in row else row["id"]
            assert id not in ids
            ids.add(id)
        await self.http.delete(manifest["poll"], headers=self.headers[client])
        return found


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    key = SecretStr(Fernet.generate_key().decode())
    made = Gateway(
        Settings(data_dir=tmp_path / "data", encryption_key=key, public_url=PUBLIC_URL, export_file_resources=2)
    )
    fill(made)
    with Worker(made, background=True):
        yield made


@pytest.fixture
async def face(gateway: Gateway) -> AsyncIterator[Face]:
    async with client_for(create_app(gateway)) as http:
        face = Face(gateway, http)
        for name, (scopes, grants) in CLIENTS.items():
            key = register(gateway, name, scopes, grants=grants)
            face.keys[name] = key
            await face.authorize(name)
        yield face


REPORTED = set(MEMBERS[:-1])


def test_every_served_type_is_exported_or_there_is_a_reason() -> None:
    assert {one.type for one in SOURCES} | set(NOT_EXPORTED) == set(SERVED)


async def test_the_system_with_everything_the_token_covers(face: Face) -> None:
    manifest = await face.manifest("$export")
    assert manifest["request"] == f"{BASE}/$export"
    assert manifest["requiresAccessToken"] is True
    assert (manifest["deleted"], manifest["error"]) == ([], [])
    assert all(one["count"] <= 2 for one in manifest["output"])
    rows = await face.lines(manifest["output"])
    ids = {kind: {row["id"] for row in rows if row["resourceType"] == kind} for kind in SERVED}
    (run,) = face.gateway.results.runs()
    assert ids["Patient"] == set(MEMBERS)
    assert ids["Coverage"] == {f"cov-{one}" for one in MEMBERS}
    assert ids["Group"] == set(LISTS)
    assert ids["Measure"] == {"m"}
    assert ids["MeasureReport"] == {run} | {f"{run}-{one}" for one in REPORTED}
    assert ids["Organization"] == {"gateway", "payer", "clinic", "elsewhere"}
    for row in rows:  # what is exported is what is read
        read = await face.http.get(f"/fhir/{row['resourceType']}/{row['id']}", headers=face.headers["operator"])
        assert read.json() == row


async def test_all_patients_without_what_is_nobodys(face: Face) -> None:
    found = await face.export("Patient/$export")
    assert found == {
        "Patient": set(MEMBERS),
        "Coverage": {f"cov-{one}" for one in MEMBERS},
        "Group": set(LISTS),
        "MeasureReport": REPORTED,
        "Organization": {"gateway", "payer", "clinic", "elsewhere"},
        "Practitioner": {"dr", "other"},
        "PractitionerRole": {"role"},
        "Provenance": {"why-aco", "why-other"},
    }


async def test_a_list_is_its_active_members_and_whom_it_leads_to(face: Face) -> None:
    assert await face.export("Group/aco/$export") == {
        "Patient": {"p1", "p2", "p3"},
        "Coverage": {"cov-p1", "cov-p2", "cov-p3"},
        "Group": {"aco"},
        "MeasureReport": {"p1", "p2", "p3"},
        "Organization": {"gateway", "payer"},
        "Practitioner": {"dr"},
        "Provenance": {"why-aco"},
    }
    path = "Group/aco/$export?_type=Group&includeAssociatedData=LatestProvenanceResources"
    assert await face.export(path) == {"Group": {"aco"}, "Provenance": {"why-aco"}}
    assert await face.export("Group/other/$export?_type=PractitionerRole,Practitioner,Organization") == {
        "PractitionerRole": {"role"},
        "Practitioner": {"other"},
        "Organization": {"gateway", "payer", "clinic"},
    }


PARAMETERS: list[tuple[str, dict[str, set[str]]]] = [
    ("_type=Patient,Group", {"Patient": set(MEMBERS), "Group": set(LISTS)}),
    ("_type=Patient&_type=Group", {"Patient": set(MEMBERS), "Group": set(LISTS)}),
    ("_type=Patient&_typeFilter=Patient%3Fgender%3Dfemale", {"Patient": {"p2", "p4", "p6"}}),
    (
        "_type=Patient&_typeFilter=Patient%3Fgender%3Dfemale&_typeFilter=Patient%3F_id%3Dp1%2Cp2",
        {"Patient": {"p1", "p2", "p4", "p6"}},
    ),
    (
        "_type=Patient,Coverage&_typeFilter=Patient%3F_id%3Dp1",
        {"Patient": {"p1"}, "Coverage": {f"cov-{one}" for one in MEMBERS}},
    ),
    ("_type=MeasureReport&_typeFilter=MeasureReport%3Fsubject%3DPatient%2Fp2", {"MeasureReport": {"p2"}}),
    (
        "_type=MeasureReport&_typeFilter=MeasureReport%3Fpatient%3Dp2%26type%3Dindividual"
        "&_typeFilter=MeasureReport%3Fsubject%3DPatient%2Fp3%26measure%3Dhttp%3A%2F%2Fmeasures.example%2FMeasure%2FOne",
        {"MeasureReport": {"p2", "p3"}},
    ),
    ("_type=MeasureReport&_typeFilter=MeasureReport%3Fmeasure%3Dhttp%3A%2F%2Fother", {}),
    ("_since=2999-01-01T00:00:00Z", {}),
    ("_until=2020-01-01T00:00:00%2B02:00", {}),
    ("_type=Patient&_since=2020-01-01T00:00:00Z&allowPartialManifests=true", {"Patient": set(MEMBERS)}),
]


async def test_parameters(face: Face) -> None:
    for query, expected in PARAMETERS:
        assert await face.export(f"Patient/$export?{query}") == expected, query


async def test_elements(face: Face) -> None:
    manifest = await face.manifest(
        "Patient/$export?_type=Patient,MeasureReport&_elements=Patient.id,MeasureReport.subject"
    )
    for row in await face.lines(manifest["output"]):
        expected = {"resourceType", "id", "meta"}
        if row["resourceType"] == "MeasureReport":
            expected |= {"status", "type", "measure", "period", "subject"}
        assert set(row) == expected
        assert row["meta"]["tag"][0]["code"] == "SUBSETTED"


async def test_output_by_patient(face: Face) -> None:
    manifest = await face.manifest("Group/aco/$export?organizeOutputBy=Patient")
    assert manifest["outputOrganizedBy"] == "Patient"
    assert all(set(one) == {"url"} for one in manifest["output"])
    blocks: dict[str, list[str]] = {}
    for one in manifest["output"]:
        text = (await face.http.get(one["url"], headers=face.headers["operator"])).text
        assert len(text.splitlines()) <= 4  # a block is not split: the limit of two lines is passed by one block only
        for row in map(orjson.loads, text.splitlines()):
            if row["resourceType"] == "Parameters":
                person = row["parameter"][0]["valueReference"]["reference"]
                assert person not in blocks
                blocks[person] = []
            else:
                blocks[person].append(row["resourceType"])
    assert blocks == {f"Patient/{one}": ["Patient", "Coverage", "MeasureReport"] for one in ("p1", "p2", "p3")}
    narrowed = await face.manifest("Patient/$export?organizeOutputBy=Patient&_type=MeasureReport&_elements=status")
    assert len(narrowed["output"]) == len(REPORTED) // 2
    assert (await face.manifest("$export?organizeOutputBy=Patient&_type=Measure"))["output"] == []


WRONG = [
    ("$export?_outputFormat=text/csv", 400, "_outputFormat"),
    ("$export?_since=yesterday", 400, "_since"),
    ("$export?_since=2026-01-01", 400, "_since"),
    ("$export?_until=2026-13-01T00:00:00Z", 400, "_until"),
    ("$export?_type=Patient,Nothing", 400, "_type"),
    ("$export?_type=CodeSystem", 400, "_type"),
    ("Patient/$export?_type=Measure", 400, "_type"),
    ("$export?_typeFilter=Patient", 400, "_typeFilter"),
    ("$export?_type=Group&_typeFilter=Patient%3Fgender%3Dmale", 400, "_typeFilter"),
    ("$export?_typeFilter=Patient%3Fno-such%3D1", 400, "_typeFilter"),
    ("$export?_typeFilter=Patient%3F_sort%3D_id", 400, "_typeFilter"),
    ("$export?_typeFilter=Coverage%3Fbeneficiary.gender%3Dmale", 400, "_typeFilter"),
    ("$export?_typeFilter=MeasureReport%3Ftype:not%3Dsummary", 400, "_typeFilter"),
    ("$export?_elements=Patient.name.family", 400, "_elements"),
    ("$export?includeAssociatedData=_everything", 400, "includeAssociatedData"),
    ("$export?organizeOutputBy=Group", 400, "organizeOutputBy"),
    ("$export?allowPartialManifests=perhaps", 400, "allowPartialManifests"),
    ("$export?nonsense=1", 400, "nonsense"),
    ("Patient/$export?patient=Patient/p1", 400, "patient"),
    ("Group/none/$export", 404, None),
    ("Group/none/$davinci-data-export", 404, None),
    ("Group/aco/$davinci-data-export?_type=Group,Patient", 400, "_type"),
    ("Group/aco/$davinci-data-export?_type=Group,Patient,Coverage,MeasureReport", 400, "_type"),
    ("Group/aco/$davinci-data-export?exportType=other", 400, None),
    ("Group/aco/$davinci-data-export?exportType=hl7.fhir.us.davinci-pdex%23provider-delta", 400, "_since"),
]


async def test_what_is_wrong_is_refused_at_the_kick_off(face: Face) -> None:
    for path, status, names in WRONG:
        answer = await face.kick_off(path)
        assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome"), path
        if names:
            assert answer.json()["issue"][0]["expression"] == [names], path


async def test_a_lenient_client_is_told_what_was_ignored(face: Face) -> None:
    path = "Patient/$export?_type=Patient,Nothing&nonsense=1&organizeOutputBy=Group&_typeFilter=Patient%3Fx%3D1"
    manifest = await face.manifest(path, Prefer="respond-async, handling=lenient")
    assert {row["id"] for row in await face.lines(manifest["output"])} == set(MEMBERS)
    issues = [row["issue"][0] for row in await face.lines(manifest["error"])]
    assert [one["severity"] for one in issues] == ["warning"] * 4
    assert all(one["diagnostics"].startswith("ignored: ") for one in issues)


def parameters(*pairs: tuple[str, str, Any]) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": name, kind: value} for name, kind, value in pairs]}


async def test_a_post_names_patients(face: Face) -> None:
    def of(*names: str) -> dict[str, Any]:
        some = [("patient", "valueReference", {"reference": f"Patient/{name}"}) for name in names]
        return parameters(("_type", "valueString", "Patient,MeasureReport"), *some)

    assert await face.export("Patient/$export", "operator", of("p2", "p5")) == {
        "Patient": {"p2", "p5"},
        "MeasureReport": {"p2", "p5"},
    }
    lists = parameters(("_type", "valueString", "Group"), ("patient", "valueReference", {"reference": "Patient/p5"}))
    assert await face.export("Patient/$export", "operator", lists) == {"Group": {"other"}}
    assert await face.export("Group/aco/$export", "operator", of("p2")) == {"Patient": {"p2"}, "MeasureReport": {"p2"}}
    for path, name in (("Group/aco/$export", "p5"), ("Group/aco/$export", "p4"), ("Patient/$export", "nobody")):
        refused = await face.kick_off(path, "operator", of("p1", name))
        assert (refused.status_code, refused.json()["issue"][0]["expression"]) == (400, ["patient"])
    lenient = {"Prefer": "respond-async, handling=lenient"}
    assert await face.export("Group/aco/$export", "operator", of("p1", "p5"), **lenient) == {
        "Patient": {"p1"},
        "MeasureReport": {"p1"},
    }
    assert (await face.kick_off("Patient/$export", "payer", of("p5"))).status_code == 400


async def test_an_attribution_list_as_atr_has_it(face: Face) -> None:
    assert await face.export("Group/aco/$davinci-data-export", "payer") == {
        "Group": {"aco"},
        "Patient": {"p1", "p2", "p3"},
        "Coverage": {"cov-p1", "cov-p2", "cov-p3"},
        "Organization": {"gateway", "payer"},
        "Practitioner": {"dr"},
    }
    path = "Group/aco/$davinci-data-export?resourceTypes=GRoup,patient,Coverage,Location"
    assert set(await face.export(path)) == {"Group", "Patient", "Coverage"}
    path = "Group/aco/$davinci-data-export?_typeFilter=Patient%3F_id%3Dp1%2Cp2%2CCoverage%3Fbeneficiary%3Dp1"
    found = await face.export(path)
    assert (found["Patient"], found["Coverage"]) == ({"p1", "p2"}, {"cov-p1"})
    path = "Group/aco/$davinci-data-export?exportType=hl7.fhir.us.davinci-pdex%23provider-download"
    assert (await face.export(path))["MeasureReport"] == {"p1", "p2", "p3"}


async def test_patients_who_are_not_on_the_list_are_named_in_the_error_file(face: Face) -> None:
    some = [("patient", "valueReference", {"reference": f"Patient/{name}"}) for name in ("p1", "p5")]
    manifest = await face.manifest("Group/aco/$davinci-data-export", "operator", parameters(*some))
    rows = await face.lines(manifest["output"])
    assert {row["id"] for row in rows if row["resourceType"] == "Patient"} == {"p1"}
    (group,) = [row for row in rows if row["resourceType"] == "Group"]
    assert [one["entity"]["reference"] for one in group["member"]] == ["Patient/p1"]
    assert group["meta"]["tag"][-1]["code"] == "SUBSETTED"
    (problem,) = await face.lines(manifest["error"])
    assert problem["issue"][0]["code"] == "not-found"
    assert "p5" not in str(problem)


async def test_what_changed_since_a_manifest_and_what_is_gone(face: Face) -> None:
    first = await face.manifest("$export")
    since = quote(first["transactionTime"])
    assert await face.export(f"$export?_since={since}") == {}
    store = face.gateway.resources
    store.put({"resourceType": "Patient", "id": "p1", "gender": "male", "name": [{"family": "Changed"}]})
    store.delete("Coverage", "cov-p2")
    store.delete("Coverage", "cov-p5")
    manifest = await face.manifest(f"$export?_since={since}")
    assert [row["id"] for row in await face.lines(manifest["output"])] == ["p1"]

    async def gone(path: str, client: str = "operator") -> set[str]:
        found = await face.manifest(path, client)
        bundles = await face.lines(found["deleted"], client)
        assert all((one["type"], one["entry"][0]["request"]["method"]) == ("transaction", "DELETE") for one in bundles)
        return {entry["request"]["url"] for one in bundles for entry in one["entry"]}

    both = {"Coverage/cov-p2", "Coverage/cov-p5"}
    assert await gone(f"$export?_since={since}") == both
    assert await gone(f"Patient/$export?_since={since}&_type=Patient") == set()
    assert await gone(f"Group/aco/$export?_since={since}") == {"Coverage/cov-p2"}
    assert await gone(f"Patient/$export?_since={since}", "payer") == {"Coverage/cov-p2"}
    assert await gone("Patient/$export", "payer") == set()


async def test_reports_with_remarks_are_exported_as_they_are_read(face: Face) -> None:
    first = await face.manifest("$export?_type=MeasureReport")
    since = quote(first["transactionTime"])
    (run,) = face.gateway.results.runs()
    key = register(face.gateway, "remarker", "system/MeasureReport.cruds", grants=["contract:aco"])
    headers = await authorize(face.http, "remarker", key, "system/MeasureReport.cruds")
    url = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-careGapRemark"
    inside = [{"url": "text", "valueString": "called twice"}, {"url": "author", "valueString": "Dr. North"}]
    added = [{"op": "add", "path": "/group/0/extension/-", "value": {"url": url, "extension": inside}}]
    patched = await face.http.patch(
        f"/fhir/MeasureReport/{run}-p2",
        content=orjson.dumps(added),
        headers={**headers, "Content-Type": "application/json-patch+json"},
    )
    assert patched.status_code == 200, patched.text
    for query, expected in (("", REPORTED), (f"&_since={since}", {"p2"}), (f"&_until={since}", REPORTED - {"p2"})):
        manifest = await face.manifest(f"$export?_type=MeasureReport{query}")
        rows = [row for row in await face.lines(manifest["output"]) if "subject" in row]
        assert {row["id"].rpartition("-")[2] for row in rows} == expected, query
        remarked = [row for row in rows if row["id"].endswith("-p2")]
        assert remarked == ([patched.json()] if "p2" in expected else [])
        for row in rows:
            read = await face.http.get(f"/fhir/MeasureReport/{row['id']}", headers=face.headers["operator"])
            assert read.json() == row
    assert await face.export(f"Group/other/$export?_type=MeasureReport&_since={since}") == {}
    some = await face.manifest("$export?_type=MeasureReport&_elements=MeasureReport.subject")
    assert all("group" not in row for row in await face.lines(some["output"]))


async def test_a_client_gets_what_it_would_see_and_nothing_else(face: Face) -> None:
    everybody = {"Organization", "Practitioner", "PractitionerRole"}
    mine = {
        "Patient": {"p1", "p2", "p3"},
        "Coverage": {"cov-p1", "cov-p2", "cov-p3"},
        "Group": {"aco"},
        "MeasureReport": {"p1", "p2", "p3"},
        "Provenance": {"why-aco"},
    }
    for path in ("$export", "Patient/$export", "$export?_typeFilter=MeasureReport%3Fsubject%3Dp1,p2,p3,p4,p5"):
        found = await face.export(path, "payer")
        assert {kind: ids for kind, ids in found.items() if kind not in everybody | {"Measure"}} == mine
    found = await face.export("$export?_type=Patient,Coverage,MeasureReport,Group", "stranger")
    assert found == {}
    for name in ("other", "none"):
        for operation in ("$export", "$davinci-data-export"):
            hidden = await face.kick_off(f"Group/{name}/{operation}", "payer")
            assert (hidden.status_code, hidden.json()["issue"][0]["diagnostics"]) == (404, "there is no such Group")
    patients = ",".join(f"Patient/{one}" for one in MEMBERS)
    path = f"$export?_type=MeasureReport&_typeFilter={quote(f'MeasureReport?subject={patients}')}"
    assert await face.export(path, "payer") == {"MeasureReport": {"p1", "p2", "p3"}}


async def test_scopes_say_which_types(face: Face) -> None:
    assert set(await face.export("$export", "narrow")) == {"Patient", "Group"}
    refused = await face.kick_off("$export?_type=Patient,Coverage", "narrow")
    assert refused.status_code == 403
    assert "system/Coverage.rs" in refused.json()["issue"][0]["diagnostics"]
    assert (await face.kick_off("Group/aco/$davinci-data-export", "narrow")).status_code == 403
    assert (await face.export("Group/aco/$export", "narrow"))["Patient"] == {"p1", "p2", "p3"}
    assert (await face.export("$export?_type=Patient", "women"))["Patient"] == {"p2", "p4", "p6"}
    none = await face.http.get("/fhir/$export", headers={"Prefer": "respond-async"})
    assert none.status_code == 401


async def test_one_export_too_many_is_told_when_to_come_back_and_others_are_served(tmp_path: Path) -> None:
    """Nobody works on these: as many are under way as were asked for."""
    made = Gateway(
        Settings(data_dir=tmp_path / "data", public_url=PUBLIC_URL, jobs_in_server=False, async_per_client=2)
    )
    fill(made)
    async with client_for(create_app(made)) as http:
        face = Face(made, http)
        for name in ("operator", "payer"):
            face.keys[name] = register(made, name, CLIENTS[name][0], grants=CLIENTS[name][1])
            await face.authorize(name)
        accepted = [await face.kick_off(path) for path in ("$export", "Patient/$export?_type=Patient")]
        assert [one.status_code for one in accepted] == [202, 202]
        for path in ("$export", "Patient/$export", "Group/aco/$export", "Group/aco/$davinci-data-export"):
            refused = await face.kick_off(path)
            assert (refused.status_code, refused.json()["issue"][0]["code"]) == (429, "throttled"), path
            assert int(refused.headers["retry-after"]) > 0
        assert (await face.kick_off("$export", "payer")).status_code == 202, "a limit of each client's own"
        gone = await http.delete(accepted[0].headers["content-location"], headers=face.headers["operator"])
        assert gone.status_code == 202
        assert (await face.kick_off("$export")).status_code == 202


async def test_files_leave_the_disk_when_they_are_deleted_and_when_their_time_is_over(face: Face) -> None:
    log = RequestLog(face.gateway)
    manifests = [await face.manifest("$export?_type=Patient") for _ in range(2)]
    names = [one["poll"].rpartition("/")[2] for one in manifests]
    assert all(list(log.folder(name).glob("*.ndjson")) for name in names)
    poll = await face.http.get(manifests[0]["poll"], headers=face.headers["operator"])
    assert parsedate_to_datetime(poll.headers["expires"]) > datetime.now(UTC)
    gone = await face.http.delete(manifests[0]["poll"], headers=face.headers["operator"])
    assert gone.status_code == 202
    log.change(names[1], only=("done",), expires=time.time() - 1)
    for one in manifests:
        for url in (one["poll"], *(file["url"] for file in one["output"])):
            assert (await face.http.get(url, headers=face.headers["operator"])).status_code == 404
    log.sweep()
    assert not any(log.folder(name).exists() for name in names)


async def test_three_kick_offs_in_a_row_are_each_ended(face: Face) -> None:
    for output in ("application/fhir%2Bndjson", "application/ndjson", "ndjson"):
        accepted = await face.kick_off(f"$export?_outputFormat={output}")
        assert accepted.status_code == 202
        gone = await face.http.delete(accepted.headers["content-location"], headers=face.headers["operator"])
        assert gone.status_code == 202
        after = await face.http.get(accepted.headers["content-location"], headers=face.headers["operator"])
        assert (after.status_code, after.json()["resourceType"]) == (404, "OperationOutcome")


async def test_files_are_their_clients(face: Face) -> None:
    manifest = await face.manifest("$export?_type=Patient", "payer")
    url = manifest["output"][0]["url"]
    assert (await face.http.get(url)).status_code == 401
    for client in ("operator", "stranger"):
        assert (await face.http.get(url, headers=face.headers[client])).status_code == 404
    # the registration changes: what was exported for more is no longer given out
    face.gateway.authorization.store.change_client("payer", {"grants": '["contract:other"]'})
    await face.authorize("payer")
    assert (await face.http.get(url, headers=face.headers["payer"])).status_code == 404
    assert (await face.http.get(manifest["poll"], headers=face.headers["payer"])).status_code == 404


async def test_the_operations_are_announced(face: Face) -> None:
    statement = (await face.http.get("/fhir/metadata")).json()
    assert "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data" in statement["instantiates"]
    rest = statement["rest"][0]
    bulk = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/"
    assert ("export", bulk + "export") in {(one["name"], one["definition"]) for one in rest["operation"]}
    for kind in ("Group", "Patient"):
        (resource,) = [one for one in rest["resource"] if one["type"] == kind]
        named = {(one["name"], one["definition"]) for one in resource["operation"]}
        assert ("export", f"{bulk}{kind.lower()}-export") in named
