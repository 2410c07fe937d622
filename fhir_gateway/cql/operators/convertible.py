"""Convert, CanConvert and the tests for conversions (CQL 1.5 appendix B, 22)."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.operators.conversion import to_quantity
from fhir_gateway.cql.operators.strings import texts
from fhir_gateway.cql.registry import OPERATORS, Call, Kernel, operator
from fhir_gateway.cql.typespec import local_name, specifier_of
from fhir_gateway.cql.units import common_scale
from fhir_gateway.cql.values import BoolVec, ListVec, NullVec, QuantityVec, RatioVec, StrVec, Vec
from fhir_gateway.cql.values.base import offsets_of
from fhir_gateway.errors import MeasureError

#: Types that have a conversion ``To<type>``.
TARGETS = ("Boolean", "Date", "DateTime", "Decimal", "Integer", "Long", "Quantity", "Ratio", "String", "Time")


def _converted(call: Call, target: str, operand: Vec) -> Vec:
    """The operand as the type; null where it is none."""
    try:
        return OPERATORS[f"To{target}"].kernel(call, operand)
    except MeasureError:  # no conversion from a type is an answer here, not a failure
        return NullVec(call.n)


def _converts_to(target: str) -> Kernel:
    def kernel(call: Call, operand: Vec) -> Vec:
        return BoolVec(_converted(call, target, operand).valid)

    kernel.__doc__ = f"Whether the operand converts to {target}."
    return kernel


for _target in TARGETS:
    operator(f"ConvertsTo{_target}", "22.8-22.15")(_converts_to(_target))


def _target_of(call: Call) -> str:
    name = local_name(specifier_of(call.node.elm, "to").get("name", ""))
    if name not in TARGETS:
        raise MeasureError(f"conversion to {name or 'a type without a name'}")
    return name


@operator("CanConvert", "22.4")
def can_convert(call: Call, operand: Vec) -> Vec:
    """Whether the operand converts to a type."""
    return BoolVec(_converted(call, _target_of(call), operand).valid)


@operator("Convert", "22.6")
def convert(call: Call, operand: Vec) -> Vec:
    """The operand as another type; a value that does not convert is a run-time error."""
    result = _converted(call, _target_of(call), operand)
    call.fail(operand.valid & ~result.valid, f"a value cannot be converted to {_target_of(call)}")
    return result


@operator("CanConvertQuantity", "22.5")
def can_convert_quantity(call: Call, operand: Vec, unit: Vec) -> Vec:
    """Whether a quantity converts to a unit."""
    if not isinstance(operand, QuantityVec) or not isinstance(unit, StrVec):
        raise MeasureError(f"a {operand.kind} where a quantity is needed")
    return BoolVec(common_scale(operand.unit, unit, where=operand.valid & unit.valid).comparable)


@operator("ToRatio", "22.31")
def to_ratio(call: Call, operand: Vec) -> Vec:
    """A ratio of a text such as ``1 'mg' : 2 'mL'``."""
    if isinstance(operand, RatioVec):
        return operand
    if not isinstance(operand, StrVec):
        raise MeasureError(f"a {operand.kind} cannot become a Ratio")
    sides = []
    for side in (1, 2):
        part = texts(call, lambda t, s=side: m[s] if (m := _RATIO.fullmatch(t)) else None, operand)
        sides.append(to_quantity(call, part))
    return RatioVec({"numerator": sides[0], "denominator": sides[1]}, sides[0].valid & sides[1].valid)


#: Two quantities with a colon between them that stands in no unit.
_RATIO = re.compile(r"\s*([^':]+(?:'[^']*')?)\s*:\s*([^':]+(?:'[^']*')?)\s*")


@operator("ToChars", "22.20")
def to_chars(call: Call, operand: Vec) -> Vec:
    """The characters of a text."""
    if not isinstance(operand, StrVec):
        raise MeasureError(f"the characters of a {operand.kind}")
    words = operand.dictionary.to_pylist()
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    letters = StrVec.of_arrow(pa.array([letter for word in words for letter in word], pa.string()))
    return ListVec(offsets_of(lengths), letters).take(operand.codes)


__all__ = ["TARGETS"]
