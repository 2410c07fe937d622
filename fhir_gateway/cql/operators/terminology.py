"""Codes, concepts and value sets: membership and equivalence (CQL 1.5 appendix B, 23 clinical operators)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import (
    BoolArray,
    BoolVec,
    ChoiceVec,
    CodeVec,
    ConceptVec,
    ElementVec,
    ListVec,
    NullVec,
    StrVec,
    ValueSetVec,
    Vec,
)
from fhir_gateway.cql.values.base import IntArray, gather_valid, is_single, offsets_of, ranges
from fhir_gateway.cql.values.clinical import CodeSystemVec, code_vec, concept_of, distinct_pairs, member_of
from fhir_gateway.cql.values.scalars import shared_codes
from fhir_gateway.errors import MeasureError
from fhir_gateway.r4 import spec

Pairs = frozenset[tuple[str, str]]


def is_coded(vec: Vec) -> bool:
    """Whether the vector holds codes or concepts, of System or FHIR."""
    return isinstance(vec, CodeVec | ConceptVec) or (
        isinstance(vec, ElementVec) and vec.fhir_type in ("Coding", "CodeableConcept")
    )


def code_lists(vec: Vec) -> tuple[IntArray, CodeVec]:
    """All codes of each row: the row of each code, and the codes."""
    if isinstance(vec, CodeVec):
        at = np.flatnonzero(vec.valid)
        return at, vec if len(at) == len(vec) else vec.take(at)
    if isinstance(vec, ConceptVec):
        codes = vec.codes
        flat = codes.flat if isinstance(codes.flat, CodeVec) else code_vec(None, None, len(codes.flat))
        return codes.parents, flat
    if isinstance(vec, ElementVec) and vec.fhir_type == "Coding":
        return code_lists(CodeVec.of(vec))
    if isinstance(vec, ElementVec) and vec.fhir_type == "CodeableConcept":
        coding = vec.property("coding")
        if not isinstance(coding, ListVec) or not isinstance(coding.flat, ElementVec):
            return np.zeros(0, dtype=np.int64), code_vec(None, None, 0)
        return coding.parents, CodeVec.of(coding.flat)
    if isinstance(vec, ElementVec) and spec.is_primitive(vec.fhir_type):
        return code_lists(vec.primitive())
    if isinstance(vec, StrVec):
        at = np.flatnonzero(vec.valid)
        return at, code_vec(vec.take(at), None, len(at))
    if isinstance(vec, ListVec):
        inner, codes_vec = code_lists(vec.flat)
        return vec.parents[inner], codes_vec
    if isinstance(vec, NullVec):
        return np.zeros(0, dtype=np.int64), code_vec(None, None, 0)
    raise MeasureError(f"a {getattr(vec, 'type_name', vec.kind)} where a code is needed")


def coded_mask(vec: Vec, wanted: Pairs) -> BoolArray:
    """True in each row that has at least one code of ``wanted`` (a code without a system matches by code alone)."""
    hit = np.zeros(len(vec), dtype=bool)
    if isinstance(vec, ChoiceVec):
        for option in vec.options:
            if is_coded(option) or isinstance(option, ListVec | StrVec):
                hit |= coded_mask(option, wanted)
        return hit
    if isinstance(vec, ElementVec) and not is_coded(vec) and not spec.is_primitive(vec.fhir_type):
        return hit  # for example medicationReference: the code is in another resource
    element = vec.element if isinstance(vec, CodeVec | ConceptVec) else vec
    if is_coded(vec) and isinstance(element, ElementVec):
        return _catalogued(element, wanted)
    rows, codes = code_lists(vec)
    if isinstance(vec, StrVec) or (isinstance(vec, ElementVec) and spec.is_primitive(vec.fhir_type)):
        bare = frozenset(code for _, code in wanted)
        texts = codes.code
        found = np.array([text in bare for text in texts.dictionary.to_pylist()], dtype=bool)
        hit[rows[found[texts.codes]]] = True
        return hit
    hit[rows[member_of(codes, wanted)]] = True
    return hit


def _catalogued(vec: ElementVec, wanted: Pairs) -> BoolArray:
    """As :func:`coded_mask`; what codes a column holds is found out once for all rows and value sets."""
    source = vec.source
    if source.catalogue is None:
        source.catalogue = (*_numbered(ElementVec(source, np.arange(source.size, dtype=np.int64))), {})
    rows, pairs, number, known = source.catalogue
    hit = known.get(wanted)
    if hit is None:
        hit = np.zeros(source.size, dtype=bool)
        found = np.array([pair in wanted for pair in pairs], dtype=bool)
        if found.any():
            hit[rows[found[number]]] = True
        known[wanted] = hit
    return gather_valid(hit, vec.rows)


def _numbered(vec: ElementVec) -> tuple[IntArray, list[tuple[str, str] | None], IntArray]:
    """The row of each code, the distinct codes, and the number of each row's code."""
    rows, codes = code_lists(vec)
    return rows, *distinct_pairs(codes)


def codes_of(vec: Vec) -> Pairs:
    """The (system, code) pairs of a one-row vector of a code, a concept, or a list of either."""
    _, codes = code_lists(vec)
    return frozenset(
        (str(s), str(c)) for s, c in zip(codes.system.pylist(), codes.code.pylist(), strict=True) if c is not None
    )


def codes_equivalent(left: Vec, right: Vec) -> BoolArray:
    """True in each row where some code of one side has the system and code of some code of the other side."""
    n = len(left)
    for one, other in ((left, right), (right, left)):
        wanted = _constant_codes(one)
        if wanted is not None:
            return coded_mask(other, wanted)
    (a_rows, a), (b_rows, b) = code_lists(left), code_lists(right)
    counts = np.bincount(b_rows, minlength=n).astype(np.int64)
    order = np.argsort(b_rows, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    a_at = np.repeat(np.arange(len(a_rows), dtype=np.int64), counts[a_rows])
    b_at = order[ranges(starts[a_rows], counts[a_rows])] if len(order) else np.zeros(0, dtype=np.int64)
    a_code, b_code = shared_codes(a.code, b.code)
    a_system, b_system = shared_codes(a.system, b.system)
    same = (a_code[a_at] == b_code[b_at]) & (a_system[a_at] == b_system[b_at]) & (a_code[a_at] >= 0)
    hit = np.zeros(n, dtype=bool)
    hit[a_rows[a_at[same]]] = True
    return hit


def _constant_codes(vec: Vec) -> Pairs | None:
    """The codes of a code or concept that is the same in every row, if all have a system and a code."""
    if isinstance(vec, CodeVec) and is_single(vec.valid) and vec.valid[0]:
        codes = vec.take(np.zeros(1, dtype=np.int64))
    elif isinstance(vec, ConceptVec) and is_single(vec.valid) and vec.valid[0]:
        flat = vec.take(np.zeros(1, dtype=np.int64)).codes.flat
        if not isinstance(flat, CodeVec):
            return None
        codes = flat
    else:
        return None
    if not (codes.valid.all() and codes.code.valid.all() and codes.system.valid.all()):
        return None
    return codes_of(codes)


def expansion(call: Call, value_set: Vec) -> Pairs:
    """Codes of a value set operand."""
    if isinstance(value_set, CodeSystemVec):
        known: Pairs = call.evaluation.compiled.compiler.value_sets.code_system(value_set.url, value_set.version).codes
        return known
    if isinstance(value_set, ValueSetVec):
        codes: Pairs = call.evaluation.compiled.compiler.value_sets.resolve(value_set.url, value_set.version).codes
        return codes
    raise MeasureError(f"a {value_set.kind} where a value set is needed")


def _in_value_set(call: Call, code: Vec, value_set: Vec) -> Vec:
    hit = coded_mask(code, expansion(call, value_set))
    return BoolVec(hit)


@operator("InValueSet", "23.9", nulls="handled", fields=("code", "valueset", "valuesetExpression"))
def in_value_set(call: Call, code: Vec, value_set: Vec) -> Vec:
    """Whether a code or concept is in a value set; null is not."""
    return _in_value_set(call, code, value_set)


@operator("AnyInValueSet", "23.2", nulls="handled", fields=("codes", "valueset", "valuesetExpression"))
def any_in_value_set(call: Call, codes: Vec, value_set: Vec) -> Vec:
    """Whether any code of a list is in a value set; null is not."""
    return _in_value_set(call, codes, value_set)


@operator("InCodeSystem", "23.8", nulls="handled", fields=("code", "codesystem", "codesystemExpression"))
def in_code_system(call: Call, code: Vec, code_system: Vec) -> Vec:
    """Whether a code or concept is in a code system; null is not."""
    return _in_value_set(call, code, code_system)


@operator("AnyInCodeSystem", "23.1", nulls="handled", fields=("codes", "codesystem", "codesystemExpression"))
def any_in_code_system(call: Call, codes: Vec, code_system: Vec) -> Vec:
    """Whether any code of a list is in a code system; null is not."""
    return _in_value_set(call, codes, code_system)


@operator("ExpandValueSet", "23.6")
def expand_value_set(call: Call, operand: Vec) -> Vec:
    """The codes of a value set, in order of system and code."""
    pairs = sorted(expansion(call, operand))
    systems, codes = (StrVec.of_arrow(pa.array(column, pa.string())) for column in zip(*pairs, strict=True))
    one = ListVec(offsets_of(np.array([len(pairs)], dtype=np.int64)), code_vec(codes, systems, len(pairs)))
    return one.take(np.zeros(call.n, dtype=np.int64))


@operator("ToConcept", "22.21")
def to_concept(call: Call, operand: Vec) -> Vec:
    """A concept of one code, or of a list of codes."""
    if isinstance(operand, CodeVec):
        return concept_of(operand)
    if isinstance(operand, ConceptVec):
        return operand
    if isinstance(operand, ListVec):
        return ConceptVec({"codes": operand}, operand.valid)
    raise MeasureError(f"a {operand.kind} cannot become a Concept")


__all__ = ["code_lists", "coded_mask", "codes_equivalent", "codes_of", "expansion", "is_coded"]
