"""FHIRHelpers conversions done by the engine itself, with the results that the library's own ELM gives.

Each entry takes the evaluated operands and returns a vector, or None where the library's own definition must decide.
Only conversions that are alike in every published FHIRHelpers version are here; ``ToInterval`` and ``ToQuantity``
differ between versions and always run as the ELM they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_gateway.cql.values import CodeVec, ConceptVec, ElementVec, Vec
from fhir_gateway.r4 import spec

Native = Callable[..., "Vec | None"]


def _primitive(evaluation: Any, frame: Any, node: Any, value: Vec) -> Vec | None:
    if isinstance(value, ElementVec) and spec.is_primitive(value.fhir_type):
        return value.primitive()
    return None


def _to_code(evaluation: Any, frame: Any, node: Any, value: Vec) -> Vec | None:
    return CodeVec.of(value) if isinstance(value, ElementVec) and value.fhir_type == "Coding" else None


def _to_concept(evaluation: Any, frame: Any, node: Any, value: Vec) -> Vec | None:
    return ConceptVec.of(value) if isinstance(value, ElementVec) and value.fhir_type == "CodeableConcept" else None


#: (library, function) -> native conversion
NATIVE: dict[tuple[str, str], Native] = {
    ("FHIRHelpers", "ToString"): _primitive,
    ("FHIRHelpers", "ToBoolean"): _primitive,
    ("FHIRHelpers", "ToInteger"): _primitive,
    ("FHIRHelpers", "ToDecimal"): _primitive,
    ("FHIRHelpers", "ToDate"): _primitive,
    ("FHIRHelpers", "ToDateTime"): _primitive,
    ("FHIRHelpers", "ToTime"): _primitive,
    ("FHIRHelpers", "ToCode"): _to_code,
    ("FHIRHelpers", "ToConcept"): _to_concept,
}
