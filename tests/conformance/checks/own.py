"""J: what no public kit looks at."""

from __future__ import annotations

import json
import time
from typing import Any

import ra_rules
from face import MODEL, PERIOD, Face, parameters

from checks import check
from checks.deqm_us import bundles, evaluate, outcome
from checks.export import kick_off
from fhir_gateway.db.audience import label, labelled
from tests.contract.vbpr_rules import check_performance_report
from tests.measures.deqm_rules import problems

OURS = "our own"
ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"


@check("J1", OURS, "M", "attribution lists: found by identifier, exported by ATR's rules, nobody else's business")
def attribution_lists(face: Face) -> None:
    group = face.gateway.resources.read("Group", face.group).json()
    token = f"{group['identifier'][0]['system']}|{group['identifier'][0]['value']}"
    found = face.get("Group", params={"identifier": token, "_summary": "true"}).json()
    listed = next(one["resource"] for one in found["entry"] if one["resource"]["id"] == face.group)
    assert "member" not in listed
    assert any(tag["code"] == "SUBSETTED" for tag in listed["meta"]["tag"])
    path = f"Group/{face.group}/$davinci-data-export"
    outcome(face.get(path, params={"_type": "Patient"}, headers={"Prefer": "respond-async"}), 400)
    body = parameters(("patient", "Patient/no-such-member"), ("patient", f"Patient/{face.members(face.group)[0]}"))
    answered = face.post(path, body, headers={"Prefer": "respond-async"})
    assert answered.status_code == 202, answered.text[:200]
    told = face.finished(answered.headers["content-location"]).json()
    assert told["requiresAccessToken"] is True
    assert told["error"], "the patient who is not on the list is named nowhere"
    _statuses(face)
    stranger = face.register(grants=["contract:of-somebody-else"])
    headers = stranger.headers("system/*.rs")
    assert face.get(f"Group/{face.group}", token=False, headers=headers).status_code in (403, 404)
    refused = face.get(path, token=False, headers={**headers, "Prefer": "respond-async"})
    assert refused.status_code in (403, 404)


def _statuses(face: Face) -> None:
    """Adding and removing on a draft, an open and a final list."""
    store = face.gateway.resources
    given = store.read("Group", face.group).json()
    member = next(one for one in given["member"] if not one.get("inactive"))
    provider = next(one["valueReference"] for one in member["extension"] if one["url"].endswith("attributedProvider"))
    asked = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "patientReference", "valueReference": member["entity"]},
            {"name": "providerReference", "valueReference": provider},
        ],
    }
    for status in ("draft", "open", "final"):
        others = [one for one in given["extension"] if not one["url"].endswith("attributionListStatus")]
        name = f"kit-{status}"
        extension = [*others, {"url": f"{ATR}ext-attributionListStatus", "valueCode": status}]
        identifier = [{"system": "https://kit.example/contracts", "value": name}]
        alone = {**given, "id": name, "extension": extension, "identifier": identifier, "member": [member]}
        store.put(labelled(alone, label("contract", name)))
        for operation in ("$member-remove", "$member-add"):
            answered = face.post(f"Group/{name}/{operation}", asked)
            if status == "final":
                outcome(answered, 409)
                continue
            assert answered.status_code == 200, f"{status} {operation}: {answered.text[:200]}"
            entries = store.read("Group", name).json().get("member", [])
            active = [one for one in entries if one["entity"] == member["entity"] and not one.get("inactive")]
            assert bool(active) == (operation == "$member-add"), f"{status} {operation}"
        assert face.post(f"Group/{name}/$confirm-attribution-list").status_code == 201
        store.delete("Group", name)


@check("J2", OURS, "M", "gaps: document and collection; the status follows the report; a remark leaves it alone")
def gaps(face: Face) -> None:
    asked = [*PERIOD.items(), ("measureId", face.measure["id"]), ("subject", f"Group/{face.group}")]
    statuses = [("status", one) for one in ("open-gap", "closed-gap", "prospective-gap", "not-applicable")]
    answered = face.post("Measure/$care-gaps", parameters(*asked, *statuses))
    assert answered.status_code == 200, answered.text[:200]
    for one in answered.json().get("parameter", ()):
        bundle = one["resource"]
        assert bundle["type"] == "document"
        assert bundle["entry"][0]["resource"]["resourceType"] == "Composition"
        assert bundle["identifier"]["system"]
        assert bundle["timestamp"]
    plain = [(name, value) for name, value in (*asked, *statuses)]
    body = parameters(*plain)
    body["parameter"].append({"name": "isDocument", "valueBoolean": False})
    for one in face.post("Measure/$care-gaps", body).json().get("parameter", ()):
        kinds = [entry["resource"]["resourceType"] for entry in one["resource"]["entry"]]
        assert one["resource"]["type"] == "collection"
        assert "Composition" not in kinds
        assert "MeasureReport" in kinds


@check("J3", OURS, "M", "deqm-0 to deqm-9 hold for every report")
def invariants(face: Face) -> None:
    for kind in ("summary", "individual"):
        bundle = face.get("MeasureReport", params={"type": kind, "category:missing": "true", "_count": "200"})
        if bundle.status_code != 200:
            bundle = face.get("MeasureReport", params={"type": kind, "_count": "200"})
        for entry in bundle.json()["entry"]:
            report = entry["resource"]
            if any("davinci-vbpr" in one for one in report.get("meta", {}).get("profile", ())):
                continue
            assert not problems(report, "us"), f"{report['id']}: {problems(report, 'us')}"
    for reports in bundles(evaluate(face, ("measureId", face.measure["id"]), ("subject", face.patients[0]))):
        assert not problems(reports[0], "us")


@check("J4", OURS, "M", "performance reports keep the rules of VBPR, coding gap reports those of RA")
def performance(face: Face) -> None:
    bundle = face.get("MeasureReport", params={"category": "vbp", "_count": "50"}).json()
    checked = 0
    for entry in bundle["entry"]:
        report = entry["resource"]
        if not any(one.endswith("vbp-performance-measurereport") for one in report["meta"].get("profile", ())):
            continue
        url = report["measure"].split("|")[0]
        contract = face.get("Measure", params={"url": url}).json()["entry"][0]["resource"]
        linked = [one["reference"] for one in report.get("evaluatedResource", ())]
        quality = {one: face.get(one).json() for one in linked}
        broken = check_performance_report(report, contract, quality)
        assert not broken, broken[:3]
        checked += 1
    assert checked, "no performance report"
    asked = PERIOD | {"subject": f"Group/{face.group}"}
    answered = face.get("MeasureReport/$report", params=asked)
    assert answered.status_code == 200, answered.text[:200]
    bundles = [one["resource"] for one in answered.json()["parameter"]]
    reports = [entry["resource"] for bundle in bundles for entry in bundle["entry"]]
    reports = [one for one in reports if one["resourceType"] == "MeasureReport"]
    assert len(reports) == len(bundles) == len(face.members(face.group))
    for report in reports:
        broken = ra_rules.problems(report, MODEL.version)
        assert not broken, broken[:3]


@check("J5", OURS, "M", "tokens: keys from elsewhere, long lives, wrong kinds of key, narrowed scopes, challenges")
def tokens(face: Face) -> None:
    client = face.register("system/Patient.rs")
    once = client.assertion(jti="only-once-" + client.name)
    assert client.ask(client_assertion=once).status_code == 200
    assert client.ask(client_assertion=once).status_code in (400, 401)
    assert client.ask(client_assertion=client.assertion(exp=int(time.time()) + 400)).status_code in (400, 401)
    narrowed = client.ask("system/Patient.rs system/Group.rs")
    assert narrowed.status_code == 200
    assert "Group" not in narrowed.json()["scope"]
    refused = face.get("Group", token=False, headers=client.headers("system/Patient.rs"))
    assert refused.status_code == 403
    assert "insufficient_scope" in refused.headers["www-authenticate"]
    unknown = face.get("Patient", token=False)
    assert unknown.status_code == 401
    assert unknown.headers["www-authenticate"].startswith("Bearer")
    restricted = face.register("system/Patient.rs?gender=female")
    headers = restricted.headers("system/Patient.rs?gender=female")
    bundle = face.get("Patient?_count=200", token=False, headers=headers).json()
    assert {one["resource"]["gender"] for one in bundle["entry"]} == {"female"}
    other = face.get("Patient", params={"gender": "male", "_count": "1"}).json()["entry"][0]["resource"]["id"]
    assert face.get(f"Patient/{other}", token=False, headers=headers).status_code in (403, 404)


@check("J6", OURS, "M", "Bulk Data 3: _until, and too many exports are a 429 with Retry-After")
def third_version(face: Face) -> None:
    url = kick_off(face, "Patient/$export", params={"_until": "2020-01-01T00:00:00Z"})
    told: dict[str, Any] = face.finished(url).json()
    assert told["output"] == []
    client = face.register("system/*.rs")
    headers = {**client.headers("system/*.rs"), "Prefer": "respond-async"}
    answers = [face.get("$export", token=False, headers=headers) for _ in range(8)]
    late = [one for one in answers if one.status_code == 429]
    for one in answers:
        if one.status_code == 202:
            face.request("DELETE", one.headers["content-location"], token=False, headers=headers)
    assert late, json.dumps([one.status_code for one in answers])
    assert int(late[0].headers["retry-after"]) >= 1


@check("J8", OURS, "M", "data requirements lead to searches of one patient")
def requirements(face: Face) -> None:
    told = face.post(f"Measure/{face.measure['id']}/$data-requirements", parameters(*PERIOD.items())).json()
    for kind in dict.fromkeys(one["type"] for one in told["dataRequirement"]):
        criteria = {"_id": face.patients[0]} if kind == "Patient" else {"patient": face.patients[0]}
        answered = face.get(kind, params=criteria)
        assert answered.status_code == 200, f"{kind}: {answered.text[:200]}"
