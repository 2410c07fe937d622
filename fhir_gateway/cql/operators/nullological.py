"""IsNull, IsTrue, IsFalse, Coalesce (CQL 1.5 appendix B, 14)."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.operators.logical import boolean
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import BoolVec, ListVec, NullVec, Vec, select


@operator("IsNull", "14.2", nulls="handled", lift=False)
def is_null(call: Call, operand: Vec) -> Vec:
    """True where the operand is null."""
    return BoolVec(~operand.valid)


@operator("IsTrue", "14.4", nulls="handled")
def is_true(call: Call, operand: Vec) -> Vec:
    """True where the operand is true; never null."""
    return BoolVec(boolean(operand).true)


@operator("IsFalse", "14.3", nulls="handled")
def is_false(call: Call, operand: Vec) -> Vec:
    """True where the operand is false; never null."""
    vec = boolean(operand)
    return BoolVec(vec.valid & ~vec.values)


@operator("Coalesce", "14.1", nulls="handled", lift=False)
def coalesce(call: Call, *operands: Vec) -> Vec:
    """First operand that is not null; of a single list, its first element that is not null."""
    if len(operands) == 1 and isinstance(operands[0], ListVec):
        items = operands[0]
        kept = items.keep(items.flat.valid)
        at = np.where(kept.lengths > 0, kept.offsets[:-1], -1)
        return kept.flat.take(at)
    rest = np.ones(call.n, dtype=bool)
    branches = []
    for operand in operands:
        rows = np.flatnonzero(rest & operand.valid)
        rest[rows] = False
        if len(rows):
            branches.append((rows, operand.take(rows)))
    if branches:
        return select(call.n, branches)
    typed = [o for o in operands if not isinstance(o, NullVec)]
    return typed[0] if typed else NullVec(call.n)
