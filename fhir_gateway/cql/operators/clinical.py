"""Ages (CQL 1.5 appendix B, 23)."""

from __future__ import annotations

from fhir_gateway.cql.operators.temporal import age, today
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import Vec
from fhir_gateway.cql.values.temporal import PRECISIONS


@operator("CalculateAgeAt", "23.5")
def calculate_age_at(call: Call, birth: Vec, at: Vec) -> Vec:
    """Age at a date."""
    return age(birth, at, PRECISIONS[call.precision or "Year"])


@operator("CalculateAge", "23.4")
def calculate_age(call: Call, birth: Vec) -> Vec:
    """Age at the evaluation instant."""
    return age(birth, today(call), PRECISIONS[call.precision or "Year"])
