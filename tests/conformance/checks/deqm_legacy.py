"""H: the operations of DEQM 3.0.0 and R4, kept for clients that know them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import httpx
from face import PERIOD, Face, parameters

from checks import check
from checks.deqm_us import outcome, submission

DEQM = "DEQM kit v3.0.0"


def call(face: Face, operation: str, query: Mapping[str, str] | str = "", on: str | None = None) -> httpx.Response:
    """As the kit does it: POST with everything in the URL and an empty body."""
    path = f"Measure/{on}/{operation}" if on else f"Measure/{operation}"
    text = query if isinstance(query, str) else urlencode(query)
    return face.post(f"{path}?{text}")


@check("H1", DEQM, "M", "$evaluate-measure: of a subject, a list of subjects, everyone, a group")
def evaluate_measure(face: Face) -> None:
    id, subject = face.measure["id"], f"Patient/{face.patients[0]}"
    for query, kind in (
        ({"subject": subject, "reportType": "subject"}, "individual"),
        ({"reportType": "subject-list"}, "subject-list"),
        ({"reportType": "population"}, "summary"),
        ({"reportType": "population", "subject": f"Group/{face.group}"}, "summary"),
    ):
        answered = call(face, "$evaluate-measure", PERIOD | query, id)
        assert answered.status_code == 200, answered.text[:200]
        assert answered.json()["resourceType"] == "MeasureReport"
        assert answered.json()["type"] == kind


@check("H2", DEQM, "M", "its errors")
def evaluate_measure_errors(face: Face) -> None:
    id = face.measure["id"]
    outcome(call(face, "$evaluate-measure", PERIOD, "no-such-measure"), 404)
    outcome(call(face, "$evaluate-measure", PERIOD | {"subject": "Patient/nobody"}, id), 404)
    outcome(call(face, "$evaluate-measure", {}, id), 400)
    outcome(call(face, "$evaluate-measure", {"periodStart": "2025-01-01"}, id), 400)
    for kind in ("subject", "individual", "no-such-type"):
        outcome(call(face, "$evaluate-measure", PERIOD | {"reportType": kind}, id), 400)
    outcome(call(face, "$evaluate-measure", "periodStart2025-01-01&subjectPatient/123", id), 400)


@check("H3", DEQM, "M", "$care-gaps: of a subject, a group, of all measures, a provider, a program")
def care_gaps(face: Face) -> None:
    of_patient = {"subject": f"Patient/{face.patients[0]}"}
    measure = {"measureId": face.measure["id"]}
    for query in (
        measure | of_patient,
        measure | {"subject": f"Group/{face.group}"},
        of_patient,
        measure | _provider(face),
        measure | of_patient | {"program": _program(face)},
    ):
        answered = call(face, "$care-gaps", PERIOD | {"status": "open-gap"} | query)
        assert answered.status_code == 200, f"{query}: {answered.text[:200]}"
        assert answered.json()["resourceType"] == "Parameters"


def _provider(face: Face) -> dict[str, str]:
    bundle = face.get("PractitionerRole", params={"_count": "1"}).json()
    role = bundle["entry"][0]["resource"]
    reference = {name: role[name]["reference"].split("/")[-1] for name in ("practitioner", "organization")}
    return {name: f"{name.capitalize()}/{id}" for name, id in reference.items()}


def _program(face: Face) -> str:
    """The identifier of a contract that we serve."""
    store = face.gateway.resources
    contracts = [
        one for one in (store.read("Measure", id).json() for id in store.ids("Measure")) if "library" not in one
    ]
    return str(contracts[0]["identifier"][0]["value"])


@check("H4", DEQM, "M", "its errors")
def care_gaps_errors(face: Face) -> None:
    status = {"status": "open-gap", "measureId": face.measure["id"]}
    subject = {"subject": f"Patient/{face.patients[0]}"}
    outcome(call(face, "$care-gaps", {"periodEnd": "2025-12-31"} | status | subject), 400)
    outcome(call(face, "$care-gaps", PERIOD | status | subject | _provider(face)), 400)
    outcome(call(face, "$care-gaps", PERIOD | status | {"subject": "Organization/x"}), 400)
    outcome(call(face, "$care-gaps", PERIOD | status | {"subject": "x"}), 400)
    outcome(call(face, "$care-gaps", PERIOD | subject | status | {"measureId": "no-such-measure"}), 404)


@check("H5", DEQM, "M", "$submit-data of one report and its resources")
def submit_data(face: Face) -> None:
    report, person, encounter = (one["resource"] for one in submission(face, 7)["entry"])
    pairs = [("measureReport", report), ("resource", person), ("resource", encounter)]
    path = f"Measure/{face.measure['id']}/$submit-data"
    answered = face.post(path, parameters(*pairs))
    assert answered.status_code == 200, answered.text[:300]
    found = face.get("Patient", params={"family": "Kit7"}).json()
    assert found["total"] >= 1, "what was submitted is not found"
    outcome(face.post(path, parameters(*pairs[1:])), 400)
    outcome(face.post(path, parameters(pairs[0], *pairs)), 400)


@check("H6", DEQM, "O", "$bulk-submit-data is accepted for later")
def bulk_submit(face: Face) -> None:
    report = submission(face, 8)["entry"][0]["resource"]
    body = parameters(("measureReport", report), ("exportUrl", "https://bulk-data.example/$export"))
    answered = face.post(f"Measure/{face.measure['id']}/$bulk-submit-data", body, headers={"Prefer": "respond-async"})
    assert answered.status_code == 202
