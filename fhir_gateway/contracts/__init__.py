"""Contracts: terms, payment arrangements, settlement, and VBPR resources about them."""

from fhir_gateway.contracts.arrangements import ARRANGEMENTS, Exposure, SettlementInputs
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.inputs import COST_COLUMNS, MeasureScore, collect, measure_scores
from fhir_gateway.contracts.service import settle
from fhir_gateway.contracts.settlement import Settlement, SettlementLine

__all__ = [
    "ARRANGEMENTS",
    "COST_COLUMNS",
    "Contract",
    "Exposure",
    "MeasureScore",
    "Settlement",
    "SettlementInputs",
    "SettlementLine",
    "collect",
    "measure_scores",
    "settle",
]
