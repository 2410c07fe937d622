"""FHIRHelpers conversions done by the engine itself, with the results that the library's own ELM gives.

Each entry takes the evaluated operands and returns a vector, or None where the library's own definition must decide.
Only conversions that are alike in every published FHIRHelpers version are here; ``ToInterval`` and ``ToQuantity``
differ between versions and always run as the ELM they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fhir_gateway.cql.values import (
    CodeVec,
    ConceptVec,
    ElementVec,
    ListVec,
    NullVec,
    StrVec,
    Vec,
)
from fhir_gateway.r4 import spec

Native = Callable[..., "Vec | None"]


def _primitive(evaluation: Any, frame: Any, node: Any, value: Vec) -> Vec | None:
    if isinstance(value, ElementVec) and spec.is_primitive(value.fhir_type):
        return value.primitive()
    return None


def _text(vec: Vec) -> StrVec:
    return vec.primitive() if isinstance(vec, ElementVec) else vec  # type: ignore[return-value]


def to_code(coding: ElementVec) -> CodeVec:
    """FHIR Coding to System.Code."""
    names = {"code": "code", "system": "system", "version": "version", "display": "display"}
    return CodeVec({k: _text(coding.property(v)) for k, v in names.items()}, coding.valid)


def _to_code(evaluation: Any, frame: Any, node: Any, value: Vec) -> Vec | None:
    return to_code(value) if isinstance(value, ElementVec) and value.fhir_type == "Coding" else None


def _to_concept(evaluation: Any, frame: Any, node: Any, value: Vec) -> Vec | None:
    if not isinstance(value, ElementVec) or value.fhir_type != "CodeableConcept":
        return None
    coding = value.property("coding")
    if isinstance(coding, ListVec) and isinstance(coding.flat, ElementVec):
        codes = ListVec(coding.offsets, to_code(coding.flat), coding.valid)
    else:
        codes = ListVec(np.zeros(len(value) + 1, dtype=np.int64), NullVec(0), np.zeros(len(value), dtype=bool))
    return ConceptVec({"codes": codes, "display": _text(value.property("text"))}, value.valid)


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
