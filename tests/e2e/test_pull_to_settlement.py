"""From a synthetic population's files to a settled contract, through the jobs; doing it again changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.settle import settle
from fhir_gateway.sandbox.population import generate
from tests.support.sandbox_contracts import ED_VISITS, contract_terms, pull_population, tins_of, write_contract

NOW = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=150, seed=11, year=2025)
    return folder


@pytest.fixture(scope="module")
def gateway(population: Path, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return pull_population(population, tmp_path_factory.mktemp("gateway"), lake_buckets=2)


@pytest.fixture
def contract(population: Path, tmp_path: Path) -> str:
    return write_contract(tmp_path, contract_terms("p4p-2025", tins_of(population)))


def test_roster_names_what_we_serve(gateway: Gateway, contract: str) -> None:
    report = attribute(gateway, contract, now=NOW)
    assert len(report.members) > 50
    group = gateway.resources.read("Group", "p4p-2025")
    body = group.json()
    assert body["quantity"] == len(body["member"]) == len(report.members)
    for member in body["member"]:
        assert _served(gateway, member["entity"]["reference"])
        references = [one["valueReference"]["reference"] for one in member["extension"] if "valueReference" in one]
        assert len(references) == 2
        assert all(_served(gateway, reference) for reference in references)
    again = attribute(gateway, contract, now=NOW)
    assert again.attribution.table.equals(report.attribution.table)
    assert gateway.resources.read("Group", "p4p-2025") == group


def test_settlement_is_served_and_repeatable(gateway: Gateway, contract: str) -> None:
    report = settle(gateway, contract, now=NOW)
    assert report.settlement.total == Decimal(10_000)
    assert report.settlement.stamps["lake_version"] == "2"
    served = gateway.resources.read("MeasureReport", report.report)
    body = served.json()
    paid = [one for one in _money(body) if one["value"] == 10_000]
    assert paid
    (quality,) = body["evaluatedResource"]
    assert quality["reference"].split("/")[1] not in gateway.results.runs()  # also when everybody is a member
    score = gateway.resources.read("MeasureReport", quality["reference"].split("/")[1]).json()
    counted = {one["code"]["coding"][0]["code"]: one["count"] for one in score["group"][0]["population"]}
    assert counted["denominator"] <= len(report.attribution.members)
    assert gateway.resources.read("Measure", "p4p-2025").json()["url"].endswith("p4p-2025")
    again = settle(gateway, contract, now=NOW)
    assert again.report == report.report
    assert again.settlement == report.settlement
    assert gateway.resources.read("MeasureReport", report.report) == served
    kept = gateway.data_folder / "settlements" / "p4p-2025" / f"{report.report}.json"
    assert json.loads(kept.read_text())["total"] == str(report.settlement.total)


def test_a_measure_that_is_not_installed_is_refused(gateway: Gateway, population: Path, tmp_path: Path) -> None:
    unknown = [ED_VISITS | {"canonical": "https://nowhere.example/Measure/x"}]
    path = write_contract(tmp_path, contract_terms("x", tins_of(population), measures=unknown))
    with pytest.raises(ContractError, match=r"measures\.ed\.canonical: no such measure is installed"):
        settle(gateway, path, now=NOW)


def test_everybody_has_one_patient(gateway: Gateway) -> None:
    members = gateway.lake.members()
    assert gateway.resources.counts()["Patient"] == len(members)
    sources = gateway.lake.read("Patient")
    assert sources.num_rows > len(members) == len(pc.unique(sources["_member"]))


def _served(gateway: Gateway, reference: str) -> bool:
    kind, resource_id = reference.split("/")
    return bool(gateway.resources.read_many([(kind, resource_id)]))


def _money(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        own = [value["valueMoney"]] if "valueMoney" in value else []
        return own + [one for part in value.values() for one in _money(part)]
    if isinstance(value, list):
        return [one for part in value for one in _money(part)]
    return []
