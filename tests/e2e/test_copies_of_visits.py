"""A clinic and a payer send the same visits: measures count them once, say so, and do not lose what only one knows."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.evaluate import EvaluationReport, evaluate
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.measures import Evaluator, LakePopulation, MeasurePackage
from tests.support.patients import patient

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
NOTE = "set aside as copies of the same visits by other sources"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
EMERGENCY = {"system": "http://snomed.info/sct", "code": "4525004"}
MBI = {"system": "http://hl7.org/fhir/sid/us-mbi", "value": "1EG4TE5MK73"}


def person(source: str, name: str) -> dict[str, Any]:
    row = {key: value for key, value in patient(source, name, "Ava Lindqvist", "1950-05-06").items() if value}
    return {"resourceType": "Patient", "id": name, "birthDate": row["birthDate"], "identifier": [MBI]}


def visit(name: str, subject: str, start: str, end: str, **elements: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": name,
        "status": "finished",
        "class": {"system": ACT, "code": elements.pop("kind", "EMER")},
        "subject": {"reference": f"Patient/{subject}"},
        "period": {"start": start, "end": end},
        **elements,
    }


def organization(name: str, npi: str) -> dict[str, Any]:
    identifier = {"system": "http://hl7.org/fhir/sid/us-npi", "value": npi}
    return {"resourceType": "Organization", "id": name, "identifier": [identifier]}


CLINIC = [
    person("clinic", "a"),
    organization("o1", "1000000001"),
    visit("v1", "a", "2025-03-01T08:00:00Z", "2025-03-01T10:00:00Z", serviceProvider={"reference": "Organization/o1"}),
    visit("v2", "a", "2025-06-01T08:00:00Z", "2025-06-01T10:00:00Z"),
    visit("s1", "a", "2025-08-01T08:00:00Z", "2025-08-05T10:00:00Z", kind="IMP"),
    {
        "resourceType": "Observation",
        "id": "of-visit",
        "status": "final",
        "code": {"text": "of the visit"},
        "subject": {"reference": "Patient/a"},
        "encounter": {"reference": "Encounter/v1"},
    },
]
DISCHARGE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/discharge-disposition", "code": "home"}]}
PAYER = [
    person("payer", "m"),
    organization("x", "1000000001"),
    organization("y", "1000000002"),
    visit(
        "c1",
        "m",
        "2025-03-01",
        "2025-03-01",
        type=[{"coding": [EMERGENCY]}],
        serviceProvider={"reference": "Organization/x"},
    ),
    visit("c3", "m", "2025-07-01", "2025-07-01", serviceProvider={"reference": "Organization/y"}),
    visit("t1", "m", "2025-08-01", "2025-08-05", kind="IMP", hospitalization={"dischargeDisposition": DISCHARGE}),
    {
        "resourceType": "Observation",
        "id": "of-claim",
        "status": "final",
        "code": {"text": "of the claim"},
        "subject": {"reference": "Patient/m"},
        "encounter": {"reference": "https://payer.example/fhir/Encounter/c1"},
    },
]


def gateway_with(tmp_path: Path, *sources: tuple[str, list[dict[str, Any]]], **settings: Any) -> Gateway:
    made = Gateway(Settings(data_dir=tmp_path, **settings))
    for source, rows in sources:
        file = tmp_path / f"{source}.ndjson"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(map(json.dumps, rows)))
        pull_files(made, [file], source)
    return made


def visits(gateway: Gateway) -> tuple[int, EvaluationReport]:
    (report,) = evaluate(gateway, ["ed-visits-per-1000"], PERIOD, now=NOW)
    (rate,) = report.rates
    return rate.numerator, report


def notes(report: EvaluationReport) -> list[str]:
    return [note for note in report.result.notes if NOTE in note]


def test_visits_of_two_sources_count_once(tmp_path: Path) -> None:
    both = (("clinic", CLINIC), ("payer", PAYER))
    once = gateway_with(tmp_path / "once", *both)
    assert len(once.lake.members()) == 1
    every = gateway_with(tmp_path / "all", *both, encounter_copies="all")
    # three visits, one of them sent by both; a stay that both sent is no visit
    counted, report = visits(once)
    assert counted == 3
    assert notes(report) == [f"2 Encounters were {NOTE}"]
    counted_all, report_of_all = visits(every)
    assert counted_all == 4
    assert notes(report_of_all) == []
    # the setting is part of what a run is; the same inputs give the same run
    assert report.run != report_of_all.run
    assert visits(once)[1].run == report.run


@pytest.mark.parametrize("rows", [CLINIC, PAYER])
def test_one_source_counts_as_ever(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    once = visits(gateway_with(tmp_path / "once", ("one", rows)))
    every = visits(gateway_with(tmp_path / "all", ("one", rows), encounter_copies="all"))
    assert once[0] == every[0] == 2
    assert notes(once[1]) == []


def test_what_stays_has_what_the_copies_know(tmp_path: Path) -> None:
    gateway = gateway_with(tmp_path / "data", ("clinic", CLINIC), ("payer", PAYER))
    population = LakePopulation(gateway.lake)
    (batch,) = population.batches()
    columns = ["type", "hospitalization.dischargeDisposition.coding.code"]
    rows = {row["id"]: row for row in batch.read("Encounter", columns).to_pylist()}
    assert rows.keys() == {"v1", "v2", "s1", "c3"}
    assert [coding["code"] for one in rows["v1"]["type"] for coding in one["coding"]] == ["4525004"]
    assert rows["v2"]["type"] is None
    assert rows["s1"]["hospitalization"]["dischargeDisposition"]["coding"] == [{"code": "home"}]
    pointing = {
        row["id"]: row["encounter"]["reference"] for row in batch.read("Observation", ["encounter"]).to_pylist()
    }
    assert pointing == {"of-visit": "Encounter/v1", "of-claim": "Encounter/v1"}
    # the lake has what was sent
    assert gateway.lake.read("Encounter").num_rows == 6
    assert LakePopulation(gateway.lake, copies="all").copies == "all"


def test_results_do_not_depend_on_how_a_population_is_cut(tmp_path: Path) -> None:
    gateway = gateway_with(tmp_path / "data", ("clinic", CLINIC), ("payer", PAYER))
    package = MeasurePackage.load(gateway.measure_package("ed-visits-per-1000"))
    evaluator = Evaluator(package)
    (member,) = gateway.lake.members().to_pylist()
    whole = evaluator.evaluate(LakePopulation(gateway.lake), PERIOD, NOW)
    alone = evaluator.evaluate(LakePopulation(gateway.lake, members=[member], batch_members=1), PERIOD, NOW)
    assert (whole.run, whole.notes) == (alone.run, alone.notes)
    assert whole.groups[0].count("numerator") == alone.groups[0].count("numerator") == 3
