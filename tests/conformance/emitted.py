"""What the server emits: one row for each interaction and operation, and the requests that make it answer.

A new operation of the registry needs a row in :data:`OPERATIONS` (a test says so). A row is the key of the operation,
``Type.code`` or ``.code`` for the whole system, and a function over the running gateway that yields answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from checks.deqm_us import submission
from checks.export import ASYNC
from face import MODEL, PERIOD, Face, parameters

from fhir_gateway.server.registry import SERVED, SYSTEM_OPERATIONS, TYPE_OPERATIONS

Answers = Iterator[Mapping[str, Any]]
Row = Callable[[Face], Answers]
OPERATIONS: dict[str, Row] = {}
#: Lines of each exported file that are looked at here (check D17 looks at all of them, by R4).
LINES = 30
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"


def expected() -> set[str]:
    """Keys of all operations of the registry."""
    of_types = {f"{name}.{one.code}" for name, served in SERVED.items() for one in served.operations}
    return of_types | {f".{one.code}" for one in (*SYSTEM_OPERATIONS, *TYPE_OPERATIONS)}


def row(*keys: str) -> Callable[[Row], Row]:
    """Register the requests of operations."""

    def register(function: Row) -> Row:
        OPERATIONS.update(dict.fromkeys(keys, function))
        return function

    return register


def interactions(face: Face) -> Answers:
    """Metadata, reads, searches, history, batches and refusals."""
    yield face.get("metadata", token=False).json()
    for name in SERVED:
        bundle = face.get(name, params={"_count": "20", "_total": "accurate"}).json()
        yield bundle
        for entry in bundle.get("entry", ())[:2]:
            yield face.get(f"{name}/{entry['resource']['id']}").json()
            yield face.get(f"{name}/{entry['resource']['id']}/_history").json()
    for kind in ("individual", "summary"):
        yield face.get("MeasureReport", params={"type": kind, "_count": "100"}).json()
    yield face.get("MeasureReport", params={"category": "vbp", "_include": "MeasureReport:evaluated-resource"}).json()
    entries = [
        {"request": {"method": "GET", "url": "Group?_count=1"}},
        {"request": {"method": "GET", "url": "Group/x"}},
    ]
    yield face.post("", {"resourceType": "Bundle", "type": "batch", "entry": entries}).json()
    for path in ("Patient/nobody", "Crowd", "Patient?nonsense=1&_sort=x", "Measure/x/$evaluate"):
        yield face.get(path).json()
    yield face.get("Patient", token=False).json()


def _asked(face: Face, *more: tuple[str, Any]) -> dict[str, Any]:
    return parameters(*PERIOD.items(), *more)


def _by_url(face: Face) -> tuple[str, str]:
    return "measureUrl", f"{face.measure['url']}|{face.measure['version']}"


@row("Measure.evaluate-measure")
def evaluate_measure(face: Face) -> Answers:
    path = f"Measure/{face.measure['id']}/$evaluate-measure"
    for more in (
        {"subject": f"Patient/{face.patients[0]}"},
        {"reportType": "subject-list"},
        {"subject": f"Group/{face.group}"},
        {},
    ):
        yield face.get(path, params=PERIOD | more).json()


@row("Measure.evaluate")
def evaluate(face: Face) -> Answers:
    subject = ("subject", f"Patient/{face.patients[0]}")
    provider = ("provider", "Organization/gateway")
    for more in (
        (("measureId", face.measure["id"]), subject),
        (("measureId", face.measure["id"]),),
        (("measureId", face.measure["id"]), ("reportType", "subject-list")),
        (_by_url(face), subject, provider),
        (_by_url(face), ("reportType", "summary"), provider),
        (_by_url(face), ("reportType", "subject-list"), provider),
    ):
        yield face.post("Measure/$evaluate", _asked(face, *more)).json()


@row("Measure.care-gaps")
def care_gaps(face: Face) -> Answers:
    statuses = [("status", one) for one in ("open-gap", "closed-gap", "prospective-gap", "not-applicable")]
    subject = ("subject", f"Group/{face.group}")
    for more in (
        (("measureId", face.measure["id"]), subject),
        (_by_url(face), subject, ("provider", "Organization/gateway")),
    ):
        body = _asked(face, *more, *statuses)
        yield face.post("Measure/$care-gaps", body).json()
        body["parameter"].append({"name": "isDocument", "valueBoolean": False})
        yield face.post("Measure/$care-gaps", body).json()


@row("Measure.collect-data")
def collect_data(face: Face) -> Answers:
    subject = ("subject", f"Patient/{face.patients[0]}")
    yield face.post("Measure/$collect-data", _asked(face, ("measureId", face.measure["id"]), subject)).json()
    more = (_by_url(face), subject, ("provider", "Organization/gateway"))
    yield face.post("Measure/$collect-data", _asked(face, *more)).json()


@row("Measure.submit-data")
def submit_data(face: Face) -> Answers:
    yield face.post("Measure/$submit-data", parameters(("bundle", submission(face, 11)))).json()
    report, person, encounter = (one["resource"] for one in submission(face, 12)["entry"])
    body = parameters(("measureReport", report), ("resource", person), ("resource", encounter))
    yield face.post(f"Measure/{face.measure['id']}/$submit-data", body).json()


@row("Measure.submit-remark-data")
def submit_remark_data(face: Face) -> Answers:
    for path in ("Measure/$submit-remark-data", f"Measure/{face.measure['id']}/$submit-remark-data"):
        yield face.post(path, parameters(("bundle", submission(face, 11)))).json()  # refused: no report of ours


@row("Measure.data-requirements")
def data_requirements(face: Face) -> Answers:
    for one in face.measures:
        yield face.post(f"Measure/{one['id']}/$data-requirements", _asked(face)).json()


@row("Group.member-add", "Group.member-remove", "Group.confirm-attribution-list", "Group.attribution-status")
def attribution(face: Face) -> Answers:
    member = face.members(face.group)[0]
    asked = {"patientReference": f"Patient/{member}"}
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": name, "valueReference": {"reference": one}} for name, one in asked.items()],
    }
    path = f"Group/{face.group}"
    yield face.post(f"{path}/$attribution-status", body).json()
    yield face.post(f"{path}/$member-add", body).json()
    yield face.post(f"{path}/$member-remove", body).json()
    yield face.post(f"{path}/$confirm-attribution-list").json()
    yield face.get(path).json()


@row("Group.reconcile")
def reconcile(face: Face) -> Answers:
    roster = face.get(f"Group/{face.group}").json()
    roster["member"] = roster["member"][1:]
    yield face.post(f"Group/{face.group}/$reconcile", parameters(("roster", roster))).json()


@row(".export", "Patient.export", "Group.export", "Group.davinci-data-export")
def export(face: Face) -> Answers:
    """The lines of the files; manifests are no resources."""
    group = f"Group/{face.group}"
    for path in ("$export", "Patient/$export", f"{group}/$export", f"{group}/$davinci-data-export"):
        started = face.get(path, headers=ASYNC)
        yield started.json() if started.content else {"resourceType": "OperationOutcome", "issue": [_FINE]}
        told = face.finished(started.headers["content-location"]).json()
        for entry in (*told["output"], *told["error"]):
            lines = face.get(entry["url"], headers={"Accept": "*/*"}).text.splitlines()
            yield from map(json.loads, lines[:LINES])


_FINE = {"severity": "information", "code": "informational"}


@row("Patient.everything")
def everything(face: Face) -> Answers:
    yield face.get(f"Patient/{face.patients[0]}/$everything").json()
    yield face.get("Patient/$everything", params={"_type": "Patient,Coverage"}).json()


@row(".import")
def import_(face: Face) -> Answers:
    lines = [
        {"resourceType": "Patient", "id": "kit-import", "gender": "male"},
        {"resourceType": "Patient", "gender": "x"},
    ]
    content = "\n".join(json.dumps(one) for one in lines).encode()
    yield face.request("POST", "$import", content=content, headers={"Content-Type": "application/fhir+ndjson"}).json()


@row("Measure.stratify")
def stratify(face: Face) -> Answers:
    for more in ({"dimension": "sex"}, {"subject": f"Group/{face.group}", "dimension": "age-band"}, {}):
        yield face.get(f"Measure/{face.measure['id']}/$stratify", params=PERIOD | more).json()


@row("MeasureReport.payment-rows")
def payment_rows(face: Face) -> Answers:
    """Rows are no resources; a report without any is refused as one."""
    for report in face.get("MeasureReport", params={"category": "vbp"}).json()["entry"]:
        answer = face.get(f"MeasureReport/{report['resource']['id']}/$payment-rows")
        if answer.status_code != 200:
            yield answer.json()
    yield face.get("MeasureReport/nothing/$payment-rows").json()


@row("Claim.check")
def check_claims(face: Face) -> Answers:
    claim = {"resourceType": "Claim", "status": "active", "use": "claim", "type": {"text": "professional"}}
    claim |= {"patient": {"reference": f"Patient/{face.patients[0]}"}, "provider": {"display": "somebody"}}
    claim |= {"created": "2025-03-01", "priority": {"text": "normal"}, "insurance": []}
    yield face.post("Claim/$check", claim).json()
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": claim}, {"resource": claim}]}
    yield face.post("Claim/$check", bundle).json()
    yield face.post("Claim/$check", {"resourceType": "Patient"}).json()


@row("ExplanationOfBenefit.denials")
def denials(face: Face) -> Answers:
    for by in ("reason", "provider", "nonsense"):
        yield face.get("ExplanationOfBenefit/$denials", params={"by": by}).json()


@row(".validate")
def validate(face: Face) -> Answers:
    yield face.get(f"Group/{face.group}/$validate").json()
    yield face.post("Group/$validate", {"resourceType": "Group", "type": "crowd"}).json()


@row("MeasureReport.report", "Measure.ra.evaluate-measure")
def coding_gaps(face: Face) -> Answers:
    for subject in (f"Patient/{face.patients[0]}", f"Group/{face.group}"):
        asked = PERIOD | {"subject": subject}
        yield face.get("MeasureReport/$report", params=asked).json()
        yield face.get(f"Measure/{MODEL.measure_id}/$ra.evaluate-measure", params=asked).json()


@row("Subscription.status", "Subscription.events")
def subscriptions(face: Face) -> Answers:
    wanted = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "conformance",
        "criteria": "http://hl7.org/fhir/us/davinci-atr/SubscriptionTopic/atr-list-change",
        "_criteria": {
            "extension": [{"url": f"{BACKPORT}backport-filter-criteria", "valueString": f"Group?_id={face.group}"}]
        },
        "channel": {
            "type": "rest-hook",
            "endpoint": "https://subscriber.example/hook",
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{BACKPORT}backport-payload-content", "valueCode": "id-only"}]},
        },
    }
    created = face.post("Subscription", wanted).json()
    yield created
    yield face.get(f"Subscription/{created['id']}/$status").json()
    yield face.get(f"Subscription/{created['id']}/$events").json()
    yield face.get("Subscription").json()
