"""Packages whose value sets are in the store; data in codes that no value set has, and what a concept map does."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.errors import MeasureError, TerminologyError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import terminology as job
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.supplement import supplemented

YEAR = (date(2025, 1, 1), date(2025, 12, 31))
ROOT = Path(__file__).parents[3]
NAME, DIABETES = "ed-visits-per-1000", "diabetes-hba1c-poor-control"
VALUE_SETS = "https://fhir-gateway.example/fhir/ValueSet"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
LOCAL = "urn:clinic:visits"
RUNNER = CliRunner()


def resources_of(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    return [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of a shipped measure, its value sets taken out and put aside, without its lock."""
    folder = tmp_path / "measure"
    shutil.copytree(ROOT / "measures" / NAME, folder)
    aside = tmp_path / "aside"
    aside.mkdir()
    for path, content in resources_of(folder):
        if content.get("resourceType") == "ValueSet":
            path.rename(aside / path.name)
        elif "packageHash" in content:
            path.unlink()
    assert any(aside.iterdir())
    return folder


def encounter(number: int, coding: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": f"e{number}",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "type": [{"coding": [coding]} if coding else {"text": "ED visit of a patient"}],
        "subject": {"reference": "Patient/1"},
        "period": {"start": f"2025-03-0{number}T08:00:00Z", "end": f"2025-03-0{number}T10:00:00Z"},
    }


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    made = Gateway(Settings(data_dir=tmp_path / "data"))
    local = {"system": LOCAL, "code": "EDV"}
    lines = [
        {"resourceType": "Patient", "id": "1", "birthDate": "1980-01-01"},
        encounter(1, local),
        encounter(2, local),
        encounter(3, {"system": LOCAL, "code": "John Smith visit"}),
        encounter(4, None),
    ]
    file = tmp_path / "clinic.ndjson"
    file.write_text("\n".join(map(json.dumps, lines)))
    pull_files(made, [file], "clinic")
    return made


def test_value_sets_come_from_the_store_where_the_package_has_none(gateway: Gateway, package: Path) -> None:
    alone = MeasurePackage.load(package)
    with pytest.raises(TerminologyError, match="is missing"):
        alone.preflight()
    shipped = MeasurePackage.load(ROOT / "measures" / NAME)
    missing = job.missing(gateway, [str(package)], YEAR[0])
    assert set(missing) <= shipped.references().value_sets
    assert missing
    job.import_files(gateway, [package.parent / "aside"])
    whole = supplemented(MeasurePackage.load(package), gateway.terminology, YEAR[0])
    whole.preflight()
    assert whole.terminology_hash != alone.terminology_hash
    assert whole.package_hash == alone.package_hash
    for reference in missing:
        assert whole.value_sets.resolve(reference).codes == shipped.value_sets.resolve(reference).codes
    assert job.missing(gateway, [str(package)], YEAR[0]) == []
    # a package that has all it needs takes nothing
    assert supplemented(shipped, gateway.terminology, YEAR[0]) is shipped


def test_a_terminology_lock_refuses_what_changed_in_the_store(gateway: Gateway, package: Path) -> None:
    job.import_files(gateway, [package.parent / "aside"])
    path, made = job.lock(gateway, str(package), YEAR[0])
    locked = json.loads(path.read_text())["resources"]
    assert len(locked) == len(made.entries) > 0
    assert all(one["from"].endswith(".json") and len(one["sha256"]) == 64 for one in locked.values())
    evaluate(gateway, [str(package)], YEAR)
    for path, content in resources_of(package.parent / "aside"):
        path.write_text(json.dumps({**content, "description": "changed"}))
    job.import_files(gateway, [package.parent / "aside"], replace=True)
    with pytest.raises(MeasureError, match="was changed"):
        evaluate(gateway, [str(package)], YEAR)


def test_content_that_is_not_in_force_is_not_used(gateway: Gateway, package: Path) -> None:
    job.import_files(gateway, [package.parent / "aside"], (date(2020, 1, 1), date(2020, 12, 31)))
    package_of_2025 = MeasurePackage.load(package)
    assert not any("|" in one for one in package_of_2025.references().value_sets)  # a pinned version is always found
    with pytest.raises(TerminologyError, match="in force on 2025-01-01"):
        supplemented(package_of_2025, gateway.terminology, YEAR[0])
    # the same content, in force in that year
    for reference in package_of_2025.references().value_sets:
        assert gateway.terminology.set_effective(reference, *YEAR)
    supplemented(package_of_2025, gateway.terminology, YEAR[0]).preflight()


def test_coverage_names_what_is_not_coded_and_concept_maps_cover_it(gateway: Gateway, tmp_path: Path) -> None:
    shipped = MeasurePackage.load(ROOT / "measures" / DIABETES)
    system, code = min(shipped.value_sets.resolve(f"{VALUE_SETS}/diabetes").codes)
    condition = {
        "resourceType": "Condition",
        "id": "c1",
        "clinicalStatus": {"coding": [{"system": f"{TERMINOLOGY}/condition-clinical", "code": "active"}]},
        "verificationStatus": {"coding": [{"system": f"{TERMINOLOGY}/condition-ver-status", "code": "confirmed"}]},
        "category": [{"coding": [{"system": f"{TERMINOLOGY}/condition-category", "code": "encounter-diagnosis"}]}],
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": "Patient/1"},
        "onsetDateTime": "2020-01-01",
    }
    (tmp_path / "more.ndjson").write_text(json.dumps(condition))
    pull_files(gateway, [tmp_path / "more.ndjson"], "clinic")

    def criteria() -> dict[str, job.Criterion]:
        found = job.criteria_coverage(gateway, [DIABETES], YEAR[0])
        return {f"{one.retrieve.resource_type} {one.retrieve.label.rsplit('/', 1)[-1]}": one for one in found}

    before = criteria()
    assert {name for name, one in before.items() if one.covered} == {"Condition diabetes"}
    assert before["Observation hba1c-laboratory-test"].coverage is None
    visit = before["Encounter outpatient-visit"].coverage
    assert visit is not None
    assert (visit.resources, visit.coded, visit.local, visit.uncoded) == (4, 3, 3, 1)
    assert visit.unmapped == (f"{LOCAL}|EDV (2)", f"{LOCAL}|(text) (1)")  # a text may hold a name
    done = RUNNER.invoke(
        app, ["--json", "--data-dir", str(gateway.settings.data_dir), "terminology", "coverage", DIABETES, "--lacking"]
    )
    assert done.exit_code == 0, done.output
    assert "John" not in done.output
    assert len(json.loads(done.stdout)) == len(before) - 1
    counted = denominator(gateway)

    system, code = min(shipped.value_sets.resolve(f"{VALUE_SETS}/outpatient-visit").codes)
    element = {"code": "EDV", "target": [{"code": code, "equivalence": "equivalent"}]}
    concept_map = {"resourceType": "ConceptMap", "url": "http://maps/visits", "version": "1"}
    group = [{"source": LOCAL, "target": system, "element": [element]}]
    gateway.terminology.put([("map.json", {**concept_map, "group": group})])
    mapped = criteria()["Encounter outpatient-visit"].coverage
    assert mapped is not None
    assert (mapped.member, mapped.local) == (2, 1)
    after = denominator(gateway)
    assert (counted[0], after[0]) == (0, 1)
    assert counted[1] != after[1]  # the terminology hash says that a map was applied
    (kept,) = gateway.lake.read("Encounter", ["type"])["type"].to_pylist()[0][0]["coding"]
    assert kept["code"] == "EDV"


def denominator(gateway: Gateway) -> tuple[int, str]:
    (report,) = evaluate(gateway, [DIABETES], YEAR)
    result = report.result
    return result.groups[0].count("denominator"), result.terminology_hash
