"""J: what no public kit looks at."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ra_rules
from face import MODEL, PERIOD, Face, parameters
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from checks import check
from checks.deqm_us import bundles, evaluate, outcome
from checks.export import kick_off
from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.db.audience import label, labelled
from tests.contract.vbpr_rules import check_performance_report
from tests.measures.deqm_rules import problems
from tests.support.waiting import HANG

OURS = "our own"
CARE_GAP_REMARK = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-careGapRemark"
RA_REMARK = "http://hl7.org/fhir/us/davinci-ra/StructureDefinition/ra-ccRemark"
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


@check("J2", OURS, "M", "gaps: document and collection, and each status follows from the counts of its report")
def gaps(face: Face) -> None:
    asked = [*PERIOD.items(), ("measureId", face.measure["id"]), ("subject", f"Group/{face.group}")]
    statuses = [("status", one) for one in ("open-gap", "closed-gap", "prospective-gap", "not-applicable")]
    answered = face.post("Measure/$care-gaps", parameters(*asked, *statuses))
    assert answered.status_code == 200, answered.text[:200]
    statuses_found = set()
    for one in answered.json()["parameter"]:
        bundle = one["resource"]
        statuses_found |= set(_gap_statuses(bundle))
        assert bundle["type"] == "document"
        assert bundle["entry"][0]["resource"]["resourceType"] == "Composition"
        assert bundle["identifier"]["system"]
        assert bundle["timestamp"]
    assert statuses_found <= {"open-gap", "closed-gap", "not-applicable"}, (
        "a period in the past has no prospective gaps"
    )
    assert statuses_found
    body = parameters(*asked, *statuses)
    body["parameter"].append({"name": "isDocument", "valueBoolean": False})
    for one in face.post("Measure/$care-gaps", body).json().get("parameter", ()):
        kinds = [entry["resource"]["resourceType"] for entry in one["resource"]["entry"]]
        assert one["resource"]["type"] == "collection"
        assert "Composition" not in kinds
        assert "MeasureReport" in kinds


def _gap_statuses(bundle: dict[str, Any]) -> Iterator[str]:
    """The statuses of a Bundle's gaps, each as the counts of its report have it (of one patient, one group)."""
    entries = {f"{one['resource']['resourceType']}/{one['resource']['id']}": one["resource"] for one in bundle["entry"]}
    for issue in (one for one in entries.values() if one["resourceType"] == "DetectedIssue"):
        told = issue["modifierExtension"][0]["valueCodeableConcept"]["coding"][0]["code"]
        report = _report_behind(issue, entries)
        (group,) = report.get("group", ({},))
        counts: Counter[str] = Counter()
        for population in group.get("population", ()):
            counts[population["code"]["coding"][0]["code"]] += population["count"]
        wanted = report["improvementNotation"]["coding"][0]["code"] if "improvementNotation" in report else "increase"
        if not counts["initial-population"]:
            expected = {"not-applicable"}
        elif not counts["denominator"] or counts["denominator-exclusion"] or counts["denominator-exception"]:
            expected = {"closed-gap", "not-applicable"}
        else:
            expected = {"closed-gap" if bool(counts["numerator"]) == (wanted == "increase") else "open-gap"}
        assert told in expected, f"{told}, of {dict(counts)}, {wanted}"
        yield told


def _report_behind(issue: dict[str, Any], entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The report of a gap: evidence itself, or of the patient in the same Bundle where that is a GuidanceResponse."""
    named = [detail["reference"] for one in issue["evidence"] for detail in one["detail"]]
    direct = [entries[one] for one in named if one in entries and one.startswith("MeasureReport/")]
    return direct[0] if direct else next(one for one in entries.values() if one["resourceType"] == "MeasureReport")


@check("J9", OURS, "M", "a remark on a gap by PATCH leaves its status alone")
def remarks(face: Face) -> None:
    for report, url in ((_coding_gaps(face), RA_REMARK), (_care_gaps(face), CARE_GAP_REMARK)):
        path = f"MeasureReport/{report['id']}"
        before = face.get(path).json()
        group = before["group"][0]
        inside = [{"name": "url", "valueUri": "text"}, {"name": "value", "valueString": "asked the patient"}]
        value = [{"name": "url", "valueUri": url}, {"name": "extension", "part": inside}]
        operation = [
            {"name": "type", "valueCode": "add"},
            {"name": "path", "valueString": f"MeasureReport.group.where(id='{group['id']}')"},
            {"name": "name", "valueString": "extension"},
            {"name": "value", "part": value},
        ]
        body = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": operation}]}
        answered = face.request("PATCH", path, json=body)
        assert answered.status_code == 200, answered.text[:200]
        after = face.get(path).json()
        *others, remark = after["group"][0]["extension"]
        assert remark["url"] == url
        assert any(one["url"].startswith("author") for one in remark["extension"]), (
            "ra-2, cgr-1: a remark has an author"
        )
        assert others == group.get("extension", [])
        assert {**after["group"][0], "extension": None} == {**group, "extension": None}
        assert after["group"][1:] == before["group"][1:]
        refused = face.request(
            "PATCH",
            path,
            content=b'[{"op": "replace", "path": "/status", "value": "error"}]',
            headers={"Content-Type": "application/json-patch+json"},
        )
        outcome(refused, 422)
        assert face.get(path).json() == after


def _coding_gaps(face: Face) -> dict[str, Any]:
    asked = [*PERIOD.items(), ("subject", f"Patient/{face.members(face.group)[0]}"), ("measureUrl", MODEL.canonical)]
    answered = face.post("MeasureReport/$report", parameters(*asked))
    assert answered.status_code == 200, answered.text[:200]
    entries = answered.json()["parameter"][0]["resource"]["entry"]
    found: dict[str, Any] = next(
        one["resource"] for one in entries if one["resource"]["resourceType"] == "MeasureReport"
    )
    return found


def _care_gaps(face: Face) -> dict[str, Any]:
    found = face.get("MeasureReport", params={"type": "individual", "category:missing": "true", "_count": "1"}).json()
    report: dict[str, Any] = found["entry"][0]["resource"]
    return report


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


@check(
    "J5",
    OURS,
    "M",
    "tokens: keys from elsewhere, of another kind, two of one name, new ones; long lives; narrowed scopes; challenges",
)
def tokens(face: Face) -> None:
    client = face.register("system/Patient.rs")
    once = client.assertion(jti="only-once-" + client.name)
    assert client.ask(client_assertion=once).status_code == 200
    assert client.ask(client_assertion=once).status_code in (400, 401)
    assert client.ask(client_assertion=client.assertion(exp=int(time.time()) + 400)).status_code in (400, 401)
    _keys(face)
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


def _keys(face: Face) -> None:
    """Which key an assertion may be signed with."""
    client = face.register("system/Patient.rs")
    claims = {
        "iss": client.name,
        "sub": client.name,
        "aud": face.token_url,
        "exp": int(time.time()) + 200,
    }

    def ask(header: dict[str, Any], key: Any, **more: Any) -> int:
        payload = claims | {"jti": uuid.uuid4().hex} | more
        assertion = jwt.encode({"typ": "JWT"} | header, payload, key, algorithms=[header["alg"]])
        return client.ask("system/Patient.rs", client_assertion=assertion).status_code

    own = ECKey.import_key(client.key)
    elsewhere = {"alg": "ES384", "kid": client.key["kid"], "jku": "https://keys.example/jwks.json"}
    assert ask(elsewhere, own) in (400, 401), "jku that is not registered"
    stranger = RSAKey.generate_key(2048)
    assert ask({"alg": "RS384", "kid": client.key["kid"]}, stranger) in (400, 401), "a key of another kind"
    assert ask({"alg": "ES384", "kid": "unknown"}, own) in (400, 401), "unknown kid"
    for alg in ("RS384", "ES384"):  # two keys of one name at an address are told apart by their kind
        twins = face.register("system/Patient.rs", alg, by_url=True)
        other = generate_key("RS384" if alg == "ES384" else "ES384", twins.key["kid"])
        face.jwks[f"/{twins.name}"] = public_key_set(other, twins.key)
        assert twins.ask("system/Patient.rs").status_code == 200, f"two keys, {alg}"
    same = face.register("system/Patient.rs", by_url=True)
    face.jwks[f"/{same.name}"] = public_key_set(same.key, generate_key("ES384", same.key["kid"]))
    assert same.ask("system/Patient.rs").status_code in (400, 401), "two keys of one name and kind"
    rotating = face.register("system/Patient.rs", by_url=True)
    assert rotating.ask("system/Patient.rs").status_code == 200
    rotating.key = generate_key("ES384", "new-key")
    face.jwks[f"/{rotating.name}"] = public_key_set(rotating.key)
    deadline = time.monotonic() + HANG
    while (status := rotating.ask("system/Patient.rs").status_code) != 200 and time.monotonic() < deadline:
        time.sleep(1)  # fetches are apart from each other, so that assertions cannot hammer the client's server
    assert status == 200, "a new key at the same address"


@check(
    "J6",
    OURS,
    "M",
    "Bulk Data 3: _until, files by patient, separate status; too many exports are a 429 with Retry-After",
)
def third_version(face: Face) -> None:
    url = kick_off(face, "Patient/$export", params={"_until": "2020-01-01T00:00:00Z"})
    told: dict[str, Any] = face.finished(url).json()
    assert told["output"] == []
    path = f"Group/{face.group}/$export"
    by_patient = face.finished(kick_off(face, path, params={"organizeOutputBy": "Patient"})).json()
    assert by_patient["outputOrganizedBy"] == "Patient"
    assert by_patient["output"]
    separate = face.get(path, headers={"Prefer": "respond-async, separate-export-status"})
    assert separate.status_code == 202
    assert "separate-export-status" in separate.headers["preference-applied"]
    face.request("DELETE", separate.headers["content-location"])
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
