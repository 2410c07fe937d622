"""Utilization and cost: stays and visits out of claims, and metrics of them with definition, numerator, denominator."""

from fhir_gateway.risk.utilization.lines import LINE_COLUMNS
from fhir_gateway.risk.utilization.metrics import Metric, metric, metrics
from fhir_gateway.risk.utilization.readmissions import ReadmissionTerms
from fhir_gateway.risk.utilization.rules import Rules
from fhir_gateway.risk.utilization.service import (
    NETWORK_SCHEMA,
    PEOPLE_SCHEMA,
    STRATA_SCHEMA,
    Options,
    Population,
    Utilization,
    utilization,
    utilization_of,
)
from fhir_gateway.risk.utilization.stays import STAY_SCHEMA, stays
from fhir_gateway.risk.utilization.sums import RENDERING, RESULT_SCHEMA
from fhir_gateway.risk.utilization.tables import Tables
from fhir_gateway.risk.utilization.visits import VISIT_SCHEMA, visits

__all__ = [
    "LINE_COLUMNS",
    "NETWORK_SCHEMA",
    "PEOPLE_SCHEMA",
    "RENDERING",
    "RESULT_SCHEMA",
    "STAY_SCHEMA",
    "STRATA_SCHEMA",
    "VISIT_SCHEMA",
    "Metric",
    "Options",
    "Population",
    "ReadmissionTerms",
    "Rules",
    "Tables",
    "Utilization",
    "metric",
    "metrics",
    "stays",
    "utilization",
    "utilization_of",
    "visits",
]
