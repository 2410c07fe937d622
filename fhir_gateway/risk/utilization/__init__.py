"""Utilization and cost: stays and visits out of claims, and metrics of them with definition, numerator, denominator."""

from fhir_gateway.risk.utilization.lines import LINE_COLUMNS
from fhir_gateway.risk.utilization.rules import Rules
from fhir_gateway.risk.utilization.stays import STAY_SCHEMA, stays
from fhir_gateway.risk.utilization.visits import VISIT_SCHEMA, visits

__all__ = ["LINE_COLUMNS", "STAY_SCHEMA", "VISIT_SCHEMA", "Rules", "stays", "visits"]
