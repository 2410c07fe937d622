"""Running a kernel: primitives unwrapped, choices lifted, nulls masked, as the operator's row in the table says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fhir_gateway.cql.registry import Call, Operator
from fhir_gateway.cql.values import (
    BoolVec,
    ChoiceVec,
    ElementVec,
    IntervalVec,
    ListVec,
    NullVec,
    TupleVec,
    UncertainVec,
    Vec,
    select,
)
from fhir_gateway.errors import MeasureError
from fhir_gateway.r4 import spec as r4

if TYPE_CHECKING:
    from fhir_gateway.cql.compile import Node
    from fhir_gateway.cql.evaluation import Evaluation
    from fhir_gateway.cql.frame import Frame


def unwrap(vec: Vec) -> Vec:
    """System values of a FHIR primitive; anything else as it is."""
    if isinstance(vec, ElementVec) and r4.is_primitive(vec.fhir_type):
        return vec.primitive()
    if isinstance(vec, ListVec) and isinstance(vec.flat, ElementVec) and r4.is_primitive(vec.flat.fhir_type):
        return ListVec(vec.offsets, vec.flat.primitive(), vec.valid)
    return vec


def apply(operator: Operator, evaluation: Evaluation, node: Node, frame: Frame, operands: list[Vec]) -> Vec:
    """Run ``operator`` over ``operands`` in ``frame``."""
    operands = [unwrap(o) for o in operands]
    if operator.lift:
        for position, operand in enumerate(operands):
            if isinstance(operand, ChoiceVec):
                return _lift(operator, evaluation, node, frame, operands, position, operand)
    if not operator.uncertain:
        operands = [o.certain() if isinstance(o, UncertainVec) else o for o in operands]
    call = Call(evaluation, node, frame)
    if operator.nulls == "strict" and any(isinstance(o, NullVec) for o in operands):
        return NullVec(frame.n)
    try:
        result = operator.kernel(call, *operands)
    except (AttributeError, TypeError, KeyError, IndexError, AssertionError) as error:
        # kernels take for granted what a translator checked: operands of a type that the operator has
        kinds = ", ".join(getattr(o, "type_name", o.kind) for o in operands)
        raise MeasureError(
            f"{node.library.label} at {node.locator}: {operator.node} is not computed for ({kinds})"
        ) from error
    if operator.nulls == "handled":
        return result
    ok = np.logical_and.reduce([o.valid for o in operands])
    return result if ok.all() else mask(result, ok)


def mask(vec: Vec, ok: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Vec:
    """``vec`` with null wherever ``ok`` is false."""
    if isinstance(vec, BoolVec):
        return BoolVec(vec.values, vec.valid & ok)
    if isinstance(vec, IntervalVec):
        return IntervalVec(vec.low, vec.high, vec.low_closed, vec.high_closed, vec.valid & ok)
    if isinstance(vec, ListVec) and not (vec.lengths[~ok] > 0).any():
        return ListVec(vec.offsets, vec.flat, vec.valid & ok)
    if isinstance(vec, TupleVec):
        return type(vec)(vec.fields, vec.valid & ok, vec.type_name)
    return vec.take(np.where(ok, np.arange(len(vec), dtype=np.int64), -1))


def _lift(
    operator: Operator,
    evaluation: Evaluation,
    node: Node,
    frame: Frame,
    operands: list[Vec],
    position: int,
    choice: ChoiceVec,
) -> Vec:
    """Evaluate each option of a choice operand over the rows that hold it; rows that hold none get a null operand."""
    branches = []
    rest = np.ones(frame.n, dtype=bool)
    for option in (*choice.options, None):
        rows = np.flatnonzero(option.valid & rest if option is not None else rest)
        if option is not None:
            rest[rows] = False
        if len(rows) == 0:
            continue
        taken = [o.take(rows) for o in operands]
        taken[position] = option.take(rows) if option is not None else NullVec(len(rows))
        branches.append((rows, apply(operator, evaluation, node, frame.child(rows), taken)))
    return select(frame.n, branches)
