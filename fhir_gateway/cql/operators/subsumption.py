"""Subsumes and SubsumedBy by the hierarchies of the package's code systems (CQL 1.5 appendix B, 23.16 and 23.17)."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.operators.terminology import code_lists
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import BoolVec, IntArray, Vec
from fhir_gateway.cql.values.base import ranges
from fhir_gateway.cql.values.clinical import distinct_pairs
from fhir_gateway.errors import TerminologyError

Pair = tuple[str, str] | None


def _paired(call: Call, left: Vec, right: Vec) -> tuple[IntArray, list[Pair], list[Pair]]:
    """Every code of the left with every code of the right of each row: the row, and the two codes."""
    (a_rows, a), (b_rows, b) = code_lists(left), code_lists(right)
    counts = np.bincount(b_rows, minlength=call.n).astype(np.int64)
    order = np.argsort(b_rows, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    a_at = np.repeat(np.arange(len(a_rows), dtype=np.int64), counts[a_rows])
    b_at = order[ranges(starts[a_rows], counts[a_rows])]
    (a_pairs, a_number), (b_pairs, b_number) = distinct_pairs(a), distinct_pairs(b)
    return (
        a_rows[a_at],
        [a_pairs[k] for k in a_number[a_at].tolist()],
        [b_pairs[k] for k in b_number[b_at].tolist()],
    )


@operator("Subsumes", "23.17")
def subsumes(call: Call, left: Vec, right: Vec) -> Vec:
    """Whether the first code is the second one or above it; of concepts, whether any pair of their codes is so."""
    rows, above, below = _paired(call, left, right)
    systems = call.evaluation.compiled.compiler.value_sets
    verdicts: dict[tuple[Pair, Pair], bool | None] = {}
    hit, unknown = np.zeros(call.n, dtype=bool), np.zeros(call.n, dtype=bool)
    for row, one, other in zip(rows.tolist(), above, below, strict=True):
        key = (one, other)
        if key not in verdicts:
            verdicts[key] = None
            if one is not None and other is not None:
                try:
                    verdicts[key] = one[0] == other[0] and systems.hierarchy(one[0]).subsumes(one[1], other[1])
                except TerminologyError:
                    verdicts[key] = None
        hit[row] |= bool(verdicts[key])
        unknown[row] |= verdicts[key] is None
    call.fail(unknown & ~hit, "codes whose code system is not in the package with its content")
    return BoolVec(hit)


@operator("SubsumedBy", "23.16")
def subsumed_by(call: Call, left: Vec, right: Vec) -> Vec:
    """Subsumes the other way round."""
    return subsumes(call, right, left)
