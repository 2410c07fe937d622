"""Three-valued (Kleene) logic (CQL 1.5 appendix B, 13)."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import BoolVec, NullVec, Vec
from fhir_gateway.errors import MeasureError


def boolean(vec: Vec) -> BoolVec:
    """The operand as a Boolean vector."""
    if isinstance(vec, BoolVec):
        return vec
    if isinstance(vec, NullVec):
        return BoolVec(np.zeros(len(vec), dtype=bool), np.zeros(len(vec), dtype=bool))
    raise MeasureError(f"a {vec.kind} where a Boolean is needed")


def kleene(
    true: np.ndarray[tuple[int], np.dtype[np.bool_]], false: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> BoolVec:
    """True, false, and null where neither."""
    return BoolVec(true, true | false)


def all_of(*vecs: BoolVec) -> BoolVec:
    """Kleene conjunction."""
    true = np.logical_and.reduce([v.true for v in vecs])
    false = np.logical_or.reduce([v.valid & ~v.values for v in vecs])
    return kleene(true, false)


def any_of(*vecs: BoolVec) -> BoolVec:
    """Kleene disjunction."""
    true = np.logical_or.reduce([v.true for v in vecs])
    false = np.logical_and.reduce([v.valid & ~v.values for v in vecs])
    return kleene(true, false)


def negate(vec: BoolVec) -> BoolVec:
    """Kleene negation."""
    return BoolVec(~vec.values, vec.valid)


@operator("And", "13.1", nulls="handled")
def and_(call: Call, left: Vec, right: Vec) -> Vec:
    """Logical and."""
    return all_of(boolean(left), boolean(right))


@operator("Or", "13.4", nulls="handled")
def or_(call: Call, left: Vec, right: Vec) -> Vec:
    """Logical or."""
    return any_of(boolean(left), boolean(right))


@operator("Implies", "13.2", nulls="handled")
def implies(call: Call, left: Vec, right: Vec) -> Vec:
    """Logical implication."""
    return any_of(negate(boolean(left)), boolean(right))


@operator("Xor", "13.5", nulls="handled")
def xor(call: Call, left: Vec, right: Vec) -> Vec:
    """Exclusive or: null when either is null."""
    a, b = boolean(left), boolean(right)
    return BoolVec(a.values ^ b.values, a.valid & b.valid)


@operator("Not", "13.3", nulls="handled")
def not_(call: Call, operand: Vec) -> Vec:
    """Logical not."""
    return negate(boolean(operand))
