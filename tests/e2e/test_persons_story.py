"""Two sources with typos, twins and changed names: linked, reviewed, merged, parted; the lake and results follow."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.pull import pull_files
from tests.support.patients import patient

HOME: dict[str, Any] = {"phone": "602-555-0143", "street": "12 Elm Street"}
EHR = [
    patient("ehr", "margaret", "Margaret Okafor", **HOME),
    patient("ehr", "ava", "Ava Lindqvist", "2001-05-06", **HOME),
    patient("ehr", "rosa", "Rosa Begay", "1960-07-08", street="4 Oak Rd", code="85201"),
]
PAYER = [
    patient("payer", "m1", "MARGARET Okaffor", **HOME),
    patient("payer", "m2", "Eva Lindqvist", "2001-05-06", **HOME),  # a twin, or a typo
    patient("payer", "m3", "Rosa Tsosie", "1960-07-08", street="4 Oak Rd", code="85201"),  # changed her name
]
RUNNER = CliRunner()


def resource(row: dict[str, Any]) -> dict[str, Any]:
    elements = {name: value for name, value in row.items() if name not in ("_source",) and value}
    for name in elements.get("name", []):
        name.pop("suffix", None) if not name.get("suffix") else None
    return {"resourceType": "Patient", **elements}


def visit(source: str, subject: str, day: str) -> dict[str, Any]:
    emergency = {"system": "http://snomed.info/sct", "code": "4525004"}
    return {
        "resourceType": "Encounter",
        "id": f"{source}-{subject}-{day}",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"},
        "type": [{"coding": [emergency]}],
        "subject": {"reference": f"Patient/{subject}"},
        "period": {"start": f"{day}T08:00:00Z", "end": f"{day}T10:00:00Z"},
    }


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    made = Gateway(Settings(data_dir=tmp_path / "data"))
    for source, rows, visits in (
        ("ehr", EHR, [visit("ehr", "margaret", "2025-03-01")]),
        ("payer", PAYER, [visit("payer", "m1", "2025-04-01"), visit("payer", "m3", "2025-05-01")]),
    ):
        file = tmp_path / f"{source}.ndjson"
        file.write_text("\n".join(json.dumps(one) for one in [*map(resource, rows), *visits]))
        pull_files(made, [file], source)
    return made


def run(gateway: Gateway, *words: str) -> Any:
    done = RUNNER.invoke(app, ["--json", "--data-dir", str(gateway.settings.data_dir), "persons", *words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if done.stdout.strip() else None


def members(gateway: Gateway) -> dict[str, str]:
    rows = gateway.lake.read("Patient")
    return dict(zip(rows["id"].to_pylist(), rows["_member"].to_pylist(), strict=True))


def visits_of(gateway: Gateway, person: str) -> int:
    return gateway.lake.read("Encounter")["_member"].to_pylist().count(person)


def population(gateway: Gateway) -> int:
    (report,) = evaluate(gateway, ["ed-visits-per-1000"], (date(2025, 1, 1), date(2025, 12, 31)))
    return report.members


def test_persons_from_link_to_unmerge(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    assert len(set(members(gateway).values())) == 6
    before = members(gateway)

    linked = run(gateway, "link")
    assert (linked["linked"], linked["for_review"], linked["patients_moved"]) == (1, 2, 1)
    now = members(gateway)
    assert now["m1"] == now["margaret"] == before["margaret"]
    assert visits_of(gateway, now["margaret"]) == 2
    assert population(gateway) == 5
    assert gateway.resources.counts()["Patient"] == 5

    reviews = {one["second"]: one for one in run(gateway, "reviews")}
    assert reviews.keys() == {"payer/m2", "payer/m3"}
    assert "Okaf" not in str(reviews)
    shown = run(gateway, "reviews", reviews["payer/m3"]["review"])
    assert "Tsosie" in str(shown["patients"])

    run(gateway, "reject", reviews["payer/m2"]["review"], "--by", "ann", "--reason", "twins")
    run(gateway, "accept", reviews["payer/m3"]["review"], "--by", "ann", "--reason", "married")
    now = members(gateway)
    assert now["m2"] != now["ava"]
    assert now["m3"] == now["rosa"]
    assert visits_of(gateway, now["rosa"]) == 1
    assert population(gateway) == 4
    assert run(gateway, "link")["for_review"] == 0
    assert run(gateway, "reviews") == []

    told = run(gateway, "history", now["rosa"])
    assert [(one["change"], one["by"], one["reason"]) for one in told["changes"]] == [("merge", "ann", "married")]
    run(gateway, "unmerge", before["m3"], "--by", "bob", "--reason", "her sister")
    now = members(gateway)
    assert now["m3"] == before["m3"]
    assert now["rosa"] == before["rosa"]
    assert visits_of(gateway, before["m3"]) == 1
    assert visits_of(gateway, before["rosa"]) == 0
    assert population(gateway) == 5

    version = gateway.lake.version
    run(gateway, "merge", now["ava"], now["m2"], "--by", "bob", "--reason", "one after all", "--later")
    assert gateway.lake.version == version
    assert len(set(members(gateway).values())) == 5
    run(gateway, "apply")
    assert len(set(members(gateway).values())) == 4
    act = run(gateway, "history")["decisions"][-1]["decision"]
    run(gateway, "revoke", str(act), "--reason", "no", "--by", "ann")
    assert len(set(members(gateway).values())) == 5
    assert not any(name in caplog.text for name in ("Okafor", "Okaffor", "Lindqvist", "Tsosie"))
