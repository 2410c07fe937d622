"""Surveys of a contract's members, scored and weighed beside another metric: what they pay follows by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.settle import settle
from fhir_gateway.jobs.settlement_runs import recompute
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

AFTER = datetime(2026, 4, 1, tzinfo=UTC)
QUESTIONS = "1 2 3 4 5 6 7 8 9 10 12 15 18 19 20 21 22".split()
NURSES = {"id": "nurses", "metric": "hcahps.nurses", "name": "Nurses", "direction": "increase", "weight": 0.75}
VISITS = {
    "id": "visits",
    "metric": "office-visits-per-1000",
    "name": "Office visits per 1,000",
    "direction": "increase",
    "unit": "/(10*3.a)",
    "weight": 0.25,
    "scoring": {"kind": "threshold", "target": 1},
}


def response(patient: str, always: bool) -> dict[str, Any]:
    """Everybody says always of all that nurses did; how they explained only some."""
    given = dict.fromkeys(QUESTIONS, 4) | {"10": 2, "12": 2, "15": 1, "18": 9, "24": 2, "25": 2, "26": 3, "29": 1}
    given |= {"1": 4 if always else 3}
    return {
        "resourceType": "QuestionnaireResponse",
        "id": f"survey-{patient}",
        "questionnaire": "https://vendor.example/Questionnaire/hcahps",
        "status": "completed",
        "subject": {"reference": f"Patient/{patient}"},
        "authored": "2025-06-01",
        "item": [{"linkId": f"q{name}", "answer": [{"valueInteger": value}]} for name, value in given.items()],
    }


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=120, seed=5, year=2025)
    return folder


def terms(population: Path, target: str) -> dict[str, Any]:
    nurses = NURSES | {"scoring": {"kind": "threshold", "target": target}}
    return contract_terms("surveys-2025", tins_of(population), measures=[nurses, VISITS])


def surveyed(gateway: Gateway, contract: str, folder: Path) -> int:
    """Surveys of 40 of the contract's members, and of all others, who say never. How many of the 40 say always."""
    mine = set(attribute(gateway, contract, now=AFTER).members.to_pylist())
    rows = [one for one in gateway.lake.read("Patient", ["id"]).to_pylist() if one["_source"] == "ehr"]
    inside = sorted(one["id"] for one in rows if one["_member"] in mine)[:40]
    assert len(inside) == 40
    lines = [response(one, number < 20) for number, one in enumerate(inside)]
    for one in (row["id"] for row in rows if row["_member"] not in mine):
        other = response(one, always=False)
        other["item"][1]["answer"] = [{"valueInteger": 1}]
        lines.append(other)
    file = folder / "surveys.ndjson"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert pull_files(gateway, [file], "ehr").quarantined == 0
    return 20


@pytest.mark.parametrize(("target", "paid"), [("0.83", Decimal(10000)), ("0.84", Decimal(2500))])
def test_a_contract_pays_by_what_its_members_say(population: Path, tmp_path: Path, target: str, paid: Decimal) -> None:
    gateway = pull_population(population, tmp_path / "data", lake_buckets=2)
    contract = write_contract(tmp_path, terms(population, target))
    always = surveyed(gateway, contract, tmp_path)
    found = settle(gateway, contract, now=AFTER)
    lines = {line.id: line for line in found.settlement.lines}
    # the mean of the three questions about nurses: 20 of 40, 40 of 40, 40 of 40; nothing else differs between people
    score = lines["p4p.nurses.score"].value
    assert score == pytest.approx(Decimal((always / 40 + 1 + 1) / 3), abs=Decimal("0.000001"))
    assert found.settlement.total == paid  # weights 0.75 and 0.25: without the survey a quarter is left
    assert recompute(gateway, found.run.id).same
    gateway.engine.dispose()
