"""Functions that FHIRHelpers declares as external: FHIR's own FHIRPath functions, as far as the data can answer them.

https://hl7.org/fhir/R4/fhirpath.html#functions. Those that need definitions or other servers (``resolve``,
``conformsTo``, ``elementDefinition`` ...) are refused when a library that calls them is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fhir_gateway.cql.dispatch import mask, unwrap
from fhir_gateway.cql.operators.comparison import equal_masks
from fhir_gateway.cql.operators.subsumption import subsumed_by, subsumes
from fhir_gateway.cql.operators.terminology import coded_mask
from fhir_gateway.cql.registry import Call
from fhir_gateway.cql.values import BoolVec, ElementVec, ListVec, NullVec, StrVec, Vec
from fhir_gateway.errors import MeasureError
from fhir_gateway.r4 import spec


def _extensions(name: str) -> Callable[..., Vec]:
    def kernel(call: Call, element: Vec, url: Vec) -> Vec:
        if not isinstance(element, ElementVec):
            return NullVec(call.n)
        found = element.property(name)
        if not isinstance(found, ListVec) or not isinstance(found.flat, ElementVec):
            return found
        equal, known = equal_masks(call, unwrap(found.flat.property("url")), unwrap(url).take(found.parents))
        return found.keep(np.asarray(equal & known, dtype=bool))

    return kernel


def _has_value(call: Call, element: Vec) -> Vec:
    simple = isinstance(element, ElementVec) and spec.is_primitive(element.fhir_type)
    return BoolVec(element.valid if simple else np.zeros(call.n, dtype=bool))


def _get_value(call: Call, element: Vec) -> Vec:
    if isinstance(element, ElementVec) and spec.is_primitive(element.fhir_type):
        return element.primitive()
    return NullVec(call.n)


def _member_of(call: Call, code: Vec, value_set: Vec) -> Vec:
    url = unwrap(value_set)
    if not isinstance(url, StrVec):
        return NullVec(call.n)
    named = {str(text) for text in url.pylist() if text is not None}
    if len(named) > 1:
        raise MeasureError("memberOf value sets that depend on the data")
    hit = np.zeros(call.n, dtype=bool)
    for one in named:
        hit = coded_mask(code, call.evaluation.compiled.compiler.value_sets.resolve(one).codes)
    return mask(BoolVec(hit), code.valid & url.valid)


#: Name of the function -> kernel.
EXTERNAL: dict[str, Callable[..., Any]] = {
    "extension": _extensions("extension"),
    "modifierExtension": _extensions("modifierExtension"),
    "hasValue": _has_value,
    "getValue": _get_value,
    "memberOf": _member_of,
    "subsumes": lambda call, left, right: mask(subsumes(call, left, right), left.valid & right.valid),
    "subsumedBy": lambda call, left, right: mask(subsumed_by(call, left, right), left.valid & right.valid),
}
