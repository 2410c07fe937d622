"""The whole gateway at once: the tour over a small population, read back over HTTP with a client nobody here wrote."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fhirpy import SyncFHIRClient
from rich.console import Console

from fhir_gateway.demo import client
from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.summary import Summary
from fhir_gateway.demo.tour import Options, open_gateway, run
from fhir_gateway.factory import Gateway
from fhir_gateway.server.serve import GatewayServer
from tests.support.backend_client import lasting
from tests.support.serving import free_port
from tests.support.waiting import HANG, until

PATIENTS = 150


@dataclass(frozen=True)
class Demo:
    """A tour that was taken, served on loopback, and a token that its printed command gave."""

    options: Options
    gateway: Gateway
    summary: Summary
    base: str
    token: str

    @property
    def fhirpy(self) -> SyncFHIRClient:
        return SyncFHIRClient(self.base, authorization=f"Bearer {self.token}")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.base}/{path}", headers={"Authorization": f"Bearer {self.token}"}, timeout=HANG)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/fhir+json"}
        content = None if body is None else orjson.dumps(body)
        return httpx.post(f"{self.base}/{path}", headers=headers, content=content, timeout=HANG)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    port = free_port()
    options = Options(tmp_path_factory.mktemp("demo"), PATIENTS, port=port)
    (options.folder / "demo-folder").touch()
    gateway = open_gateway(options)
    summary = run(gateway, options, Steps(Console(quiet=True)))
    with GatewayServer(gateway, port=port):
        command = f"{client.token_command(gateway, options.key_file)}; echo $TOKEN"
        token = subprocess.run(  # noqa: S602 the printed command is what is tested
            command, shell=True, executable="/bin/bash", check=True, capture_output=True, text=True
        ).stdout.strip()
        lasting(gateway)
        yield Demo(options, gateway, summary, f"{gateway.settings.public_url}/fhir", token)
    gateway.engine.dispose()


def test_results_read_back_equal_the_summary(demo: Demo) -> None:
    reports = demo.fhirpy.resources("MeasureReport")
    assert demo.summary.measures
    for measure in demo.summary.measures:
        (report,) = reports.search(measure=measure.measure, type="summary", _id=measure.run).fetch_all()
        assert report["status"] == "complete"
        assert len(report["group"]) == len(measure.groups)
        for entry, group in zip(report["group"], measure.groups, strict=True):
            counts = {one["id"]: one["count"] for one in entry["population"]}
            assert counts == group.populations
            assert entry.get("measureScore", {}).get("value") == group.score
        individual = reports.search(measure=measure.measure, type="individual").fetch_all()
        assert len(individual) == measure.reports > 0
        assert len({one["id"] for one in individual}) == len(individual)
        for place, group in enumerate(measure.groups):
            for population, count in group.populations.items():
                counted = [
                    entry["count"]
                    for one in individual
                    for entry in one["group"][place]["population"]
                    if entry["id"] == population
                ]
                assert sum(counted) == count, f"{measure.name} {population}: individuals add up to the summary"


def test_rosters_and_settlements_read_back_equal_the_summary(demo: Demo) -> None:
    assert len(demo.summary.settlements) == 2
    served = {one["id"] for one in demo.fhirpy.resources("MeasureReport").search(category="vbp").fetch_all()}
    assert served == {one.report for one in demo.summary.settlements}
    persons = {one["id"] for one in demo.fhirpy.resources("Patient").fetch_all()}
    for settlement in demo.summary.settlements:
        group = demo.fhirpy.resources("Group").search(_id=settlement.group).get()
        members = [entry["entity"]["reference"].removeprefix("Patient/") for entry in group["member"]]
        assert len(set(members)) == settlement.members == group["quantity"] > 0
        assert set(members) <= persons
        coverage = [
            extension["valueReference"]["reference"]
            for entry in group["member"]
            for extension in entry["extension"]
            if extension["url"].endswith("ext-coverageReference")
        ]
        assert demo.get(coverage[0]).json()["beneficiary"]["reference"] == f"Patient/{members[0]}"

        report = demo.fhirpy.reference("MeasureReport", settlement.report).to_resource()
        paid = {}
        for entry in report["group"]:
            for extension in entry.get("measureScore", {}).get("extension", ()):
                if "valueMoney" in extension:
                    paid[entry["id"]] = extension["valueMoney"]
        assert settlement.payments
        total = Decimal(0)
        for payment in settlement.payments:
            assert paid[payment.line]["currency"] == settlement.currency
            assert Decimal(str(paid[payment.line]["value"])) == Decimal(payment.amount)
            total += Decimal(payment.amount)
        assert total == Decimal(settlement.total)
        contract = demo.fhirpy.resources("Measure").search(url=report["measure"].partition("|")[0]).get()
        assert contract["title"] == settlement.title
        (organization,) = [
            extension["valueReference"]["reference"]
            for extension in report["subject"]["extension"]
            if extension["url"].endswith("organization-subject") and "reference" in extension["valueReference"]
        ]
        question = f"category=vbp&subject-organization={organization}&_include=MeasureReport:evaluated-resource"
        bundle = demo.get(f"MeasureReport?{question}").json()
        assert bundle["total"] == 1
        assert len(bundle["entry"]) == 1 + len(report["evaluatedResource"])
        for evaluated in report["evaluatedResource"]:
            quality = demo.get(evaluated["reference"]).json()
            assert (quality["type"], quality["period"]) == ("summary", report["period"])


def test_a_person_is_served_once_with_all_results(demo: Demo) -> None:
    patients = demo.fhirpy.resources("Patient").fetch_all()
    assert len(patients) == demo.summary.persons
    reports = demo.fhirpy.resources("MeasureReport").search(type="individual").fetch_all()
    subject = reports[0]["subject"]["reference"]
    of_subject = demo.fhirpy.resources("MeasureReport").search(patient=subject).fetch_all()
    assert {one["id"] for one in of_subject} == {one["id"] for one in reports if one["subject"]["reference"] == subject}
    read = demo.get(f"MeasureReport/{reports[0]['id']}")
    assert read.json()["subject"]["reference"] == subject


def test_evaluating_on_request_gives_what_the_run_gave(demo: Demo) -> None:
    measure = demo.summary.measures[0]
    period = "periodStart=2025-01-01&periodEnd=2025-12-31"
    stored = demo.get(f"MeasureReport?type=individual&measure={measure.measure}&_count=1").json()["entry"][0][
        "resource"
    ]
    subject = stored["subject"]["reference"]

    report = demo.get(f"Measure/$evaluate-measure?measure={measure.measure}&{period}&subject={subject}")
    assert report.status_code == 200, report.text
    assert report.json()["type"] == "individual"
    assert report.json()["group"] == stored["group"]

    everyone = demo.post(f"Measure/$evaluate-measure?measure={measure.measure.partition('|')[0]}&{period}").json()
    assert everyone["type"] == "summary"
    counts = [{one["id"]: one["count"] for one in group["population"]} for group in everyone["group"]]
    assert counts == [group.populations for group in measure.groups]

    served = demo.get(f"Measure?url={measure.measure.partition('|')[0]}").json()["entry"][0]["resource"]
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "periodStart", "valueDate": "2025"},
            {"name": "periodEnd", "valueDate": "2025-12"},
            {"name": "reportType", "valueCode": "subject-list"},
        ],
    }
    listed = demo.post(f"Measure/{served['id']}/$evaluate-measure", body).json()
    assert listed["type"] == "subject-list"
    lists = {one["id"]: one for one in listed["contained"] if one["resourceType"] == "List"}
    for entry in listed["group"][0]["population"]:
        found = lists[entry["subjectResults"]["reference"].removeprefix("#")].get("entry", [])
        assert len(found) <= entry["count"]
        assert bool(found) == bool(entry["count"])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("measure={m}&periodStart=2025", 400),
        ("periodStart=2025&periodEnd=2025", 400),
        ("measure={m}&periodStart=2025&periodEnd=2024", 400),
        ("measure={m}&periodStart=2025-02-30&periodEnd=2025", 400),
        ("measure={m}&periodStart=2025&periodEnd=2025&reportType=nonsense", 400),
        ("measure={m}&periodStart=2025&periodEnd=2025&reportType=subject", 400),
        ("measure={m}&periodStart=2025&periodEnd=2025&shoe=43", 400),
        ("measure={m}&periodStart=2025&periodStart=2024&periodEnd=2025", 400),
        ("measure={m}&periodStart2025-01-01&subjectPatient/123", 400),
        ("measure={m}&periodStart=2025&periodEnd=2025&subject=Patient/unknown", 404),
        ("measure={m}&periodStart=2025&periodEnd=2025&subject=Group/unknown", 404),
        ("measure={m}&periodStart=2025&periodEnd=2025&practitioner=Practitioner/unknown", 404),
        ("measure=http://nobody.example/Measure/X&periodStart=2025&periodEnd=2025", 404),
        ("measure=unknown-id&periodStart=2025&periodEnd=2025", 404),
    ],
)
def test_a_wrong_request_to_evaluate_is_refused(demo: Demo, query: str, status: int) -> None:
    path = f"Measure/$evaluate-measure?{query.format(m=demo.summary.measures[0].measure)}"
    for response in (demo.get(path), demo.post(path)):
        assert response.status_code == status
        body = response.json()
        assert (body["resourceType"], body["issue"][0]["severity"]) == ("OperationOutcome", "error")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"resourceType":"Bundle"}', 400),
        (b'{"resourceType":"Parameters","parameter":[{}]}', 400),
    ],
)
def test_a_wrong_body_is_refused(demo: Demo, body: bytes, status: int) -> None:
    headers = {"Authorization": f"Bearer {demo.token}", "Content-Type": "application/fhir+json"}
    response = httpx.post(f"{demo.base}/Measure/$evaluate-measure", content=body, headers=headers, timeout=HANG)
    assert response.status_code == status
    headers["Content-Type"] = "application/fhir+xml"
    assert (
        httpx.post(f"{demo.base}/Measure/$evaluate-measure", content=b"<a/>", headers=headers, timeout=HANG).status_code
        == 415
    )


def test_a_second_run_changes_nothing(demo: Demo) -> None:
    versions = {one["id"]: one["meta"]["versionId"] for one in demo.fhirpy.resources("MeasureReport").fetch_all()}
    arguments = ["--once", "--folder", str(demo.options.folder), "--patients", str(PATIENTS)]
    again = subprocess.run(
        [sys.executable, "-m", "fhir_gateway.demo", *arguments, "--port", str(demo.options.port)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    written = orjson.loads((demo.options.folder / "summary.json").read_bytes())
    first = orjson.loads(orjson.dumps(demo.summary))
    assert written.pop("seconds") > 0
    first.pop("seconds")
    assert written == first
    after = {one["id"]: one["meta"]["versionId"] for one in demo.fhirpy.resources("MeasureReport").fetch_all()}
    assert after == versions


def test_who_reads_what_the_demo_prints_signs_in_at_its_console(demo: Demo) -> None:
    """The password is another one each time, and good as long as nobody starts the demo again."""
    port, passwords = free_port(), set()
    arguments = ["--folder", str(demo.options.folder), "--patients", str(PATIENTS), "--port", str(port)]
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-m", "fhir_gateway.demo", *arguments], stdout=subprocess.PIPE, text=True
        ) as served:
            assert served.stdout is not None
            try:
                printed = next(line for line in served.stdout if "password" in line)
                name, roles, password = re.findall(r"sign in as (\w+) \((\w+): .*\), password (\S+)", printed)[0]
                assert (name, roles) == ("demo", "viewer")
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG) as person:
                    until(lambda: _answers(person))
                    form = {"name": name, "password": password}
                    assert person.post("/console/sign-in", data=form).headers["location"] == "/console/"
                    assert demo.summary.settlements[0].report in person.get("/console/contracts").text
            finally:
                served.send_signal(signal.SIGINT)
            served.communicate(timeout=HANG)
        assert served.returncode == 0
        passwords.add(password)
    assert len(passwords) == 2


def _answers(person: httpx.Client) -> bool:
    try:
        return person.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep", encoding="utf-8")
    refused = subprocess.run(
        [sys.executable, "-m", "fhir_gateway.demo", "--once", "--fresh", "--folder", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "--folder" in refused.stderr
    assert (tmp_path / "precious.txt").exists()
