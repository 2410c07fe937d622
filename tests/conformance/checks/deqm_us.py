"""F: DEQM 5.0.0 of the US realm: $evaluate, $data-requirements, $submit-data, $everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any
from urllib.parse import quote

import httpx
from face import PERIOD, Face, parameters

from checks import check
from fhir_gateway.server.everything import compartment

DEQM = "DEQM kit v5.0.0"


def outcome(answered: httpx.Response, status: int) -> None:
    """An error of the kind that the kit expects."""
    assert answered.status_code == status, f"{answered.status_code}: {answered.text[:200]}"
    told = answered.json()
    assert told["resourceType"] == "OperationOutcome"
    assert told["issue"][0]["severity"] == "error"


def evaluate(face: Face, *pairs: tuple[str, Any], on: str | None = None) -> httpx.Response:
    path = f"Measure/{on}/$evaluate" if on else "Measure/$evaluate"
    return face.post(path, parameters(*PERIOD.items(), *pairs))


def bundles(answered: httpx.Response) -> list[list[dict[str, Any]]]:
    """The reports in each Bundle of an answer."""
    assert answered.status_code == 200, answered.text[:200]
    told = answered.json()
    assert told["resourceType"] == "Parameters"
    assert told["parameter"]
    found = []
    for one in told["parameter"]:
        assert one["resource"]["resourceType"] == "Bundle"
        entries = (entry["resource"] for entry in one["resource"].get("entry", ()))
        found.append([entry for entry in entries if entry["resourceType"] == "MeasureReport"])
    return found


def right(report: Mapping[str, Any], kind: str, *measures: Mapping[str, Any]) -> None:
    """Status, type, measure and period of a report."""
    assert report["status"] == "complete"
    assert report["type"] == kind
    assert report["measure"].split("|")[0] in {one["url"] for one in measures}
    assert report["period"]["start"].startswith(PERIOD["periodStart"])
    assert report["period"]["end"].startswith(PERIOD["periodEnd"])


@check("F1", DEQM, "M", "metadata is a CapabilityStatement")
def metadata(face: Face) -> None:
    answered = face.get("metadata")
    assert answered.status_code == 200
    assert answered.json()["resourceType"] == "CapabilityStatement"


@check("F2", DEQM, "M", "measures by name and version; totals, also of none")
def search(face: Face) -> None:
    one = face.measure
    for criteria in ({"name": one["name"]}, {"name": one["name"], "version": one["version"]}):
        assert face.get("Measure", params=criteria).json()["total"] > 0
    none = face.get("Measure", params={"name": "NoSuchMeasureAnywhere"})
    assert none.status_code == 200
    assert none.json()["total"] == 0


@check("F3", DEQM, "M", "data requirements of a measure, as a Library")
def data_requirements(face: Face) -> None:
    assert face.get(f"Measure/{face.measure['id']}").status_code == 200
    answered = face.post(f"Measure/{face.measure['id']}/$data-requirements", parameters(*PERIOD.items()))
    assert answered.status_code == 200, answered.text[:200]
    told = answered.json()
    assert told["resourceType"] == "Library"
    assert told["dataRequirement"]
    assert all(one["type"] for one in told["dataRequirement"])


@check("F4", DEQM, "M", "their period; of an unknown measure 404")
def data_requirements_period(face: Face) -> None:
    path = "$data-requirements?periodStart=2025-01-01&periodEnd=2025-12-31"
    assert face.post(f"Measure/{face.measure['id']}/{path}").status_code == 200
    outcome(face.post(f"Measure/no-such-measure/{path}"), 404)


@check("F5", DEQM, "M", "searches that data requirements lead to")
def queries(face: Face) -> None:
    told = face.post(f"Measure/{face.measure['id']}/$data-requirements", parameters(*PERIOD.items())).json()
    asked: dict[tuple[str, str], None] = {}
    for one in told["dataRequirement"]:
        query = "_count=5"
        for narrow in one.get("codeFilter", ()):
            if "valueSet" in narrow and narrow.get("path") == "code":
                query += f"&code:in={quote(narrow['valueSet'])}"
        asked[one["type"], query] = None
    assert any(":in=" in query for _, query in asked)
    missing = [f"{kind}?{query}" for kind, query in asked if face.get(f"{kind}?{query}").status_code != 200]
    assert not missing, f"no search {', '.join(missing)}"


@check("F6", DEQM, "M", "$evaluate on a measure: complete reports of its period")
def on_instance(face: Face) -> None:
    for reports in bundles(evaluate(face, on=face.measure["id"])):
        assert reports
        for report in reports:
            right(report, "summary", face.measure)


@check("F7", DEQM, "M", "$evaluate on the type, by measureId")
def on_type(face: Face) -> None:
    (reports,) = bundles(evaluate(face, ("measureId", face.measure["id"])))
    right(reports[0], "summary", face.measure)


@check("F8", DEQM, "M", "reports of a subject, named with or without its type")
def of_subject(face: Face) -> None:
    for subject in (face.patients[0], f"Patient/{face.patients[0]}"):
        asked = (("measureId", face.measure["id"]), ("reportType", "subject"), ("subject", subject))
        (reports,) = bundles(evaluate(face, *asked))
        right(reports[0], "individual", face.measure)


@check("F9", DEQM, "M", "several measures at once")
def several(face: Face) -> None:
    two = face.measures[:2]
    named = [("measureId", one["id"]) for one in two]
    (reports,) = bundles(evaluate(face, *named))
    assert len(reports) == 2
    for report in reports:
        right(report, "summary", *two)
    common = _in_both(face, two)
    (reports,) = bundles(evaluate(face, *named, ("reportType", "subject"), ("subject", common)))
    assert len(reports) == 2


def _in_both(face: Face, two: list[dict[str, Any]]) -> str:
    """A patient with reports for both measures."""
    found = [set(_subjects(face, one)) for one in two]
    return min(found[0] & found[1])


def _subjects(face: Face, measure: Mapping[str, Any]) -> Iterator[str]:
    criteria = {"measure": measure["url"], "type": "individual", "_count": "1000"}
    for entry in face.get("MeasureReport", params=criteria).json().get("entry", ()):
        yield entry["resource"]["subject"]["reference"].removeprefix("Patient/")


@check("F10", DEQM, "M", "a group given in the request, of one and of two")
def given_group(face: Face) -> None:
    for number in (1, 2):
        members = [{"entity": {"reference": f"Patient/{one}"}} for one in face.patients[:number]]
        group = {"resourceType": "Group", "id": "given", "type": "person", "actual": True, "member": members}
        asked = (("measureId", face.measure["id"]), ("subjectGroup", group))
        (reports,) = bundles(evaluate(face, *asked, ("reportType", "population")))
        assert len(reports) == 1
        assert len(bundles(evaluate(face, *asked, ("reportType", "subject")))) == number


@check("F11", DEQM, "M", "a group that we have")
def stored_group(face: Face) -> None:
    asked = (("measureId", face.measure["id"]), ("subject", f"Group/{face.group}"))
    assert len(bundles(evaluate(face, *asked, ("reportType", "population")))) == 1
    found = bundles(evaluate(face, *asked, ("reportType", "subject")))
    members = set(face.members(face.group))
    assert len(found) == len(members & set(_subjects(face, face.measure)))


@check("F12", DEQM, "M", "unknown measures are 404")
def unknown_measure(face: Face) -> None:
    outcome(evaluate(face, on="no-such-measure"), 404)
    outcome(evaluate(face, ("measureId", "no-such-measure")), 404)


@check("F13", DEQM, "M", "unknown patients are 404")
def unknown_patient(face: Face) -> None:
    asked = (("reportType", "subject"), ("subject", "no-such-patient"))
    outcome(evaluate(face, *asked, on=face.measure["id"]), 404)
    outcome(evaluate(face, ("measureId", face.measure["id"]), *asked), 404)


@check("F14", DEQM, "M", "reports of a subject need one")
def without_subject(face: Face) -> None:
    outcome(evaluate(face, ("reportType", "subject"), on=face.measure["id"]), 400)


@check("F15", DEQM, "M", "unknown types of report are 400")
def unknown_report_type(face: Face) -> None:
    asked = ("reportType", "no-such-type")
    outcome(evaluate(face, asked, on=face.measure["id"]), 400)
    outcome(evaluate(face, ("measureId", face.measure["id"]), asked), 400)


@check("F16", DEQM, "M", "the end of the period is needed")
def without_end(face: Face) -> None:
    start = ("periodStart", PERIOD["periodStart"])
    outcome(face.post(f"Measure/{face.measure['id']}/$evaluate", parameters(start)), 400)
    outcome(face.post("Measure/$evaluate", parameters(start, ("measureId", face.measure["id"]))), 400)


@check("F17", DEQM, "M", "submitted data are stored, with Provenance")
def submit(face: Face) -> None:
    body = parameters(*(("bundle", submission(face, number)) for number in (1, 2)))
    answered = face.post("Measure/$submit-data", body, headers={"X-Provenance": _PROVENANCE})
    assert answered.status_code == 200, answered.text[:300]
    told = answered.json()["parameter"]
    assert len(told) == 2
    assert all(one["resource"]["type"] == "transaction-response" for one in told)


_PROVENANCE = '{"resourceType":"Provenance","recorded":"2025-06-01T00:00:00Z","agent":[{"who":{"display":"kit"}}]}'


def submission(face: Face, number: int) -> dict[str, Any]:
    """A transaction of one subject: its report, itself and a visit, each under an id of the client's."""
    patient, organization = f"kit-patient-{number}", {"resourceType": "Organization", "id": "reporter", "name": "Kit"}
    report = {
        "resourceType": "MeasureReport",
        "id": f"kit-report-{number}",
        "contained": [organization],
        "extension": [
            {
                "url": "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-submitDataUpdateType",
                "valueCode": "snapshot",
            }
        ],
        "status": "complete",
        "type": "data-collection",
        "measure": f"{face.measure['url']}|{face.measure['version']}",
        "subject": {"reference": f"Patient/{patient}"},
        "date": date(2025, 6, 1).isoformat(),
        "reporter": {"reference": "#reporter"},
        "period": {"start": PERIOD["periodStart"], "end": PERIOD["periodEnd"]},
        "evaluatedResource": [{"reference": f"Encounter/kit-encounter-{number}"}],
    }
    encounter = {
        "resourceType": "Encounter",
        "id": f"kit-encounter-{number}",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{patient}"},
    }
    person = {"resourceType": "Patient", "id": patient, "name": [{"family": f"Kit{number}"}], "gender": "female"}
    entries = [
        {
            "fullUrl": f"https://kit.example/fhir/{one['resourceType']}/{one['id']}",
            "resource": one,
            "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"},
        }
        for one in (report, person, encounter)
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


@check("F18", DEQM, "M", "everything of a patient")
def everything(face: Face) -> None:
    for patient in face.patients:
        answered = face.get(f"Patient/{patient}/$everything")
        assert answered.status_code == 200, answered.text[:200]
        told = answered.json()
        assert told["type"] == "searchset"
        counted = sum(_total(face, kind, patient) for kind in compartment())
        assert told["total"] == len(told["entry"]) == 1 + counted
    assert face.get("Patient/$everything", params={"_type": "Patient"}).json()["total"] >= len(face.patients)
    outcome(face.get("Patient/no-such-patient/$everything"), 404)


def _total(face: Face, kind: str, patient: str) -> int:
    found: int = face.get(kind, params={"patient": patient, "_count": "0", "_total": "accurate"}).json()["total"]
    return found
