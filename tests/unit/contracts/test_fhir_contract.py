"""Contracts as FHIR Contract: valid R4, a term for each arrangement, whose kinds our code system names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from contract_parts import measure, shared_savings

from fhir_gateway.contracts import ARRANGEMENTS, Contract
from fhir_gateway.contracts.fhir_contract import fhir_contract
from fhir_gateway.r4 import models

CODES = Path(__file__).parents[3] / "profiles" / "CodeSystem-payment-arrangement.json"


def test_our_code_system_names_every_arrangement() -> None:
    stated = json.loads(CODES.read_text(encoding="utf-8"))["concept"]
    assert [one["code"] for one in stated] == sorted(kind.replace("_", "-") for kind in ARRANGEMENTS)


def test_a_contract_is_valid_and_has_a_term_for_each_arrangement(load: Callable[..., Contract]) -> None:
    second = {"kind": "pay_for_performance", "id": "p4p", "pool": "q", "budget": {"kind": "fixed", "amount": 5}}
    contract = load(measures=[measure("a", "1")], arrangements=[shared_savings(), second])
    made = fhir_contract(contract, {"100000001": "Organization/o1"})
    models.validate(made)
    codes = {one["code"] for one in json.loads(CODES.read_text(encoding="utf-8"))["concept"]}
    assert [term["identifier"]["value"] for term in made["term"]] == ["ss", "p4p"]
    assert {term["type"]["coding"][0]["code"] for term in made["term"]} <= codes
    assert "quality by a" in made["term"][1]["text"]
    assert "quality" not in made["term"][0]["text"]
    assert made["status"] == "executed"
    assert made["subject"][1]["reference"] == "Organization/o1"
    assert fhir_contract(load(status="retired"))["status"] == "terminated"
