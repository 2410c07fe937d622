"""One patient's data must not stop the others: finding the rows that make an expression fail.

A kernel that meets data it cannot work with raises for the whole frame. The frame is then halved until single rows
are left that fail on their own; their patients are reported as not evaluated, everybody else has an answer. An error
that a frame without rows raises as well is not the data's: it goes on to whoever asked for the evaluation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from fhir_gateway.cql.values import NullVec, Vec, select
from fhir_gateway.errors import LibraryError, MeasureError, TerminologyError, UnsupportedElm

if TYPE_CHECKING:
    from fhir_gateway.cql.compile import Node
    from fhir_gateway.cql.evaluation import Evaluation
    from fhir_gateway.cql.frame import Env, Frame

#: What data can make a kernel raise: its own refusals, overflows, texts that are no pattern or number.
DATA_ERRORS = (MeasureError, ArithmeticError, ValueError, re.error)
_OF_THE_LIBRARY = (UnsupportedElm, LibraryError, TerminologyError)


def isolate(evaluation: Evaluation, node: Node, frame: Frame, env: Env, error: Exception) -> Vec:
    """The value of ``node`` where it can be computed; null, and a failed patient, where it raises.

    Raises ``error`` when it does not depend on the data.
    """
    if isinstance(error, _OF_THE_LIBRARY) or frame.n == 0 or frame.root is evaluation.unit:
        raise error
    if frame.n == 1:
        evaluation.fail(frame, np.ones(1, dtype=bool), node, reason_of(error))
        return NullVec(1)
    skips, evaluation.skips_no_rows = evaluation.skips_no_rows, False
    try:
        node.run(evaluation, frame.child(np.zeros(0, dtype=np.int64)), env)  # raises when no data is needed for it
    finally:
        evaluation.skips_no_rows = skips
    rows = np.arange(frame.n, dtype=np.int64)
    halves = (rows[: frame.n // 2], rows[frame.n // 2 :])
    return select(frame.n, [(half, evaluation.value(node, frame.child(half), env)) for half in halves])


def reason_of(error: Exception) -> str:
    """Why a patient cannot be evaluated: never with a value of the data."""
    if isinstance(error, MeasureError):
        return error.message
    return f"the expression cannot be computed ({type(error).__name__})"
