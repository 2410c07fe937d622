"""The files of a population: same bytes, no nulls, references that resolve, valid resources and identifiers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.lake.lines import read_blocks
from fhir_gateway.lake.scan import Scanner
from fhir_gateway.r4 import models
from fhir_gateway.sandbox.population import generate
from fhir_gateway.sandbox.population.sources import MBI, NPI, TIN
from fhir_gateway.sources.models import StagedFile
from tests.support.population import Population, Resources


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_arguments_give_the_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    threads = pa.cpu_count()
    try:
        for name, count in (("one", 1), ("two", 4)):
            pa.set_cpu_count(count)
            generate(tmp_path / name, patients=50, seed=3, year=2024)
    finally:
        pa.set_cpu_count(threads)
    generate(tmp_path / "other", patients=50, seed=4, year=2024)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "other")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="patients"):
        generate(tmp_path / "none", patients=0, seed=1, year=2025)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigurationError, match="empty"):
        generate(tmp_path / "full", patients=1, seed=1, year=2025)


@pytest.mark.parametrize("patients", [1, 2, 50])
def test_tiny_populations_can_be_written(tmp_path: Path, patients: int) -> None:
    summary = generate(tmp_path / "tiny", patients=patients, seed=1, year=2025)
    assert summary.truth.persons == patients


def test_counts_of_the_summary_are_those_of_the_files(population: Population) -> None:
    for source, resources in (("ehr", population.ehr), ("payer", population.payer)):
        assert population.summary.counts[source] == {name: len(found) for name, found in sorted(resources.items())}
        for resource_type, found in resources.items():
            assert {resource["resourceType"] for resource in found} == {resource_type}
            ids = [resource["id"] for resource in found]
            assert len(set(ids)) == len(ids), resource_type


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(node, list) and node:
        for value in node:
            yield from leaves(value, path)
    else:
        yield path, node


@pytest.mark.parametrize("source", ["ehr", "payer"])
def test_nothing_is_null_or_empty_and_every_reference_resolves(population: Population, source: str) -> None:
    resources: Resources = getattr(population, source)
    known = {f"{name}/{resource['id']}" for name, found in resources.items() for resource in found}
    for name, found in resources.items():
        for resource in found:
            for path, value in leaves(resource, name):
                assert value not in (None, "", {}, []), path
                if path.endswith(".reference") and isinstance(value, str):
                    assert value in known, path


@pytest.mark.parametrize("source", ["ehr", "payer"])
def test_every_resource_passes_the_lakes_validation(population: Population, source: str) -> None:
    for path in sorted((population.folder / source).glob("*.ndjson")):
        for block in read_blocks(StagedFile(path, path.name)):
            refused = Scanner().scan(block, path.name.split(".")[0], path.name, 0).refused
            assert not refused, refused[:3]


@pytest.mark.parametrize("source", ["ehr", "payer"])
def test_a_sample_of_each_type_passes_the_pydantic_models(population: Population, source: str) -> None:
    resources: Resources = getattr(population, source)
    for found in resources.values():
        for resource in found[:: max(1, len(found) // 20)]:
            models.validate(resource)


def is_luhn(npi: str) -> bool:
    digits = [int(digit) for digit in "80840" + npi]
    total = 0
    for position, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if position % 2 else digit
        total += doubled // 10 + doubled % 10
    return total % 10 == 0


def identifiers(resources: list[dict[str, Any]], system: str) -> list[str]:
    return [i["value"] for r in resources for i in r.get("identifier", []) if i.get("system") == system]


def test_identifiers_are_well_formed_and_not_real(population: Population) -> None:
    providers = [*population.payer["Practitioner"], *population.payer["Organization"]]
    npis = identifiers(providers, NPI)
    assert len(set(npis)) == len(npis) == len(providers)
    assert all(len(npi) == 10 and npi.startswith("2") and is_luhn(npi) for npi in npis)
    tins = identifiers(population.payer["Organization"], TIN)
    assert len(set(tins)) == len(population.payer["Organization"])
    assert all(len(tin) == 9 and tin.startswith("00") for tin in tins)
    numbers = identifiers(population.payer["Patient"], MBI)
    assert len(set(numbers)) == len(numbers) > 100
    assert all(len(number) == 11 and number.startswith("1S") for number in numbers)


def test_the_same_provider_has_one_number_and_two_ids(population: Population) -> None:
    by_npi = {
        source: {identifiers([p], NPI)[0]: p["id"] for p in getattr(population, source)["Practitioner"]}
        for source in ("ehr", "payer")
    }
    shared = by_npi["ehr"].keys() & by_npi["payer"].keys()
    assert shared == by_npi["ehr"].keys()
    assert all(by_npi["ehr"][npi] != by_npi["payer"][npi] for npi in shared)


def test_the_roster_names_resources_of_both_sources(population: Population) -> None:
    roster = json.loads((population.folder / "roster.json").read_text())
    practices = roster["practices"]
    assert len([p for p in practices if p["on_ehr"]]) >= 3
    known = {
        source: {f"{t}/{r['id']}" for t, found in getattr(population, source).items() for r in found}
        for source in ("ehr", "payer")
    }
    for organization in (*practices, *roster["settlement_organizations"], *roster["others"]):
        for entry in (organization, *organization["providers"]):
            for source, reference in entry["references"].items():
                assert reference in known[source]
    settling = {p["settlement_organization"] for p in practices}
    assert {o["name"] for o in roster["settlement_organizations"]} < settling
