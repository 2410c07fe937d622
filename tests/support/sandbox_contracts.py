"""Contracts over a sandbox population: the population pulled into a gateway, contracts with its practices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files

TIN_SYSTEM = "urn:oid:2.16.840.1.113883.4.4"
#: A measure that the checkout ships, and a scoring that everybody reaches.
ED_VISITS = {
    "id": "ed",
    "canonical": "https://fhir-gateway.example/fhir/Measure/EDVisitsPer1000",
    "name": "ED visits",
    "direction": "decrease",
    "unit": "/(10*3.a)",
    "weight": 1,
    "scoring": {"kind": "threshold", "target": 100000},
}
PAY_FOR_PERFORMANCE = {
    "kind": "pay_for_performance",
    "id": "p4p",
    "pool": "quality",
    "budget": {"kind": "fixed", "amount": 10000},
}


def pull_population(population: Path, data_dir: Path, **settings: Any) -> Gateway:
    """A gateway that has pulled what the sandbox generated into a folder, nothing refused."""
    gateway = Gateway(Settings(data_dir=data_dir, **settings))
    for source in ("ehr", "payer"):
        report = pull_files(gateway, [population / source], source)
        assert report.ledger.balanced
        assert report.quarantined == 0
    return gateway


def tins_of(population: Path) -> list[str]:
    """TINs of the practices of a population."""
    return [one["tin"] for one in json.loads((population / "roster.json").read_text())["practices"]]


def contract_terms(name: str, tins: list[str], **changes: Any) -> dict[str, Any]:
    """Terms of a year's contract with these practices, paying for performance unless ``changes`` say otherwise."""
    stated = {
        "id": name,
        "url": f"https://payer.example/contracts/{name}",
        "version": "1",
        "title": name,
        "identifier": {"system": "https://payer.example/contracts", "value": name},
        "line_of_business": "private",
        "hcp_lan": "2C",
        "payer": {"name": "Plan", "identifier": {"system": TIN_SYSTEM, "value": "000000000"}},
        "provider": {
            "name": "Clinics",
            "entity": "clinics",
            "tins": tins,
            "identifier": {"system": TIN_SYSTEM, "value": tins[0]},
        },
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
        "attribution": {"terms": "commercial-primary-care"},
        "claims": {"paid_through": "2026-03-31"},
        "measures": [ED_VISITS],
        "arrangements": [PAY_FOR_PERFORMANCE],
    } | changes
    if "arrangements" in changes and "measures" not in changes:
        stated["measures"] = []
    return stated


def write_contract(folder: Path, stated: dict[str, Any], name: str = "contract") -> str:
    """Write the terms as a document; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(stated), encoding="utf-8")
    return str(path)
