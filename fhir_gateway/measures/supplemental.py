"""Supplemental data and risk adjustment variables: what is told beside the counts (Quality Measure IG).

They are evaluated for members of an initial population only, and never change a population. What cannot be computed
is noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql import Evaluation
from fhir_gateway.cql.values import ChoiceVec, ElementVec, ListVec, StrVec, Vec
from fhir_gateway.errors import GatewayError
from fhir_gateway.measures.distinct import distinct, value_key
from fhir_gateway.measures.elements import Node, code_of, expression_of, extensions, link_id
from fhir_gateway.measures.model import Mask, SupplementalResult

RISK_ADJUSTMENT = "risk-adjustment-factor"
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SupplementalDefinition:
    """One ``Measure.supplementalData``; ``report_types`` is empty when it belongs in every report."""

    id: str
    usage: str
    code: Node
    expression: str
    report_types: tuple[str, ...]


def read_supplemental(measure: Node) -> Iterator[SupplementalDefinition]:
    """Supplemental data of a Measure in its order; raises UnsupportedElm for criteria that name no definition."""
    for number, element in enumerate(measure.get("supplementalData", ()), 1):
        name = str(element.get("id") or link_id(element, "supplementalData") or f"supplemental-{number}")
        expression = expression_of(element, f"measure {measure.get('name')}: supplemental data {name}")
        usage = [code_of(concept) for concept in element.get("usage", ())]
        yield SupplementalDefinition(
            id=name,
            usage=RISK_ADJUSTMENT if RISK_ADJUSTMENT in usage else "supplemental-data",
            code=element.get("code") or {"text": expression},
            expression=expression,
            report_types=tuple(c for c in map(code_of, extensions(element, "includeInReportType")) if c),
        )


def supplemental_result(definition: SupplementalDefinition, vector: Vec, members: Mask) -> SupplementalResult:
    """Distinct values of each member in ``members``; lists are taken apart, nulls are left out."""
    index = np.flatnonzero(members)
    parts = list(_flattened(vector.take(index), index))
    member = np.concatenate([np.zeros(0, np.int64), *(member for member, _ in parts)])
    value = pa.concat_arrays([pa.array([], pa.string()), *(value for _, value in parts)])
    by = [("member", "ascending"), ("value", "ascending")]
    order = pc.sort_indices(pa.table({"member": member, "value": value}), by)
    member, value = member[np.asarray(order)], value.take(order)
    new = np.ones(len(member), np.bool_)
    new[1:] = (member[1:] != member[:-1]) | np.asarray(pc.not_equal(value[1:], value[:-1]))
    return SupplementalResult(
        definition.id,
        definition.usage,
        definition.code,
        definition.report_types,
        member[new].astype(np.int32),
        value.filter(pa.array(new)),
    )


def _flattened(vector: Vec, member: _Rows) -> Iterator[tuple[_Rows, pa.Array]]:
    """Members and values (as JSON) of all elements that are not null."""
    if isinstance(vector, ListVec):
        yield from _flattened(vector.flat, member[vector.parents])
        return
    if isinstance(vector, ChoiceVec):
        for option in vector.options:
            yield from _flattened(option, member)
        return
    known = np.flatnonzero(vector.valid)
    vector, member = vector.take(known), member[known]
    if isinstance(vector, ElementVec) and vector.source.is_resource:
        references = _references(vector)
        has_id = pc.is_valid(references)
        yield member[has_id.to_numpy(zero_copy_only=False)], references.filter(has_id)
        return
    numbers, values = distinct(vector)
    filled = numbers >= 0
    texts = pa.array([value_key(value) for value in values], pa.string())
    yield member[filled], texts.take(pa.array(numbers[filled]))


def _references(vector: ElementVec) -> pa.Array:
    """``{"valueReference":{"reference":"Type/id"}}`` of each resource; ids of FHIR need no escaping."""
    ids = vector.property("id") if len(vector) else None
    if isinstance(ids, ElementVec):
        ids = ids.primitive()
    if not isinstance(ids, StrVec):
        return pa.nulls(len(vector), pa.string())
    before, after = f'{{"valueReference":{{"reference":"{vector.fhir_type}/', '"}}'
    return pc.binary_join_element_wise(pa.scalar(before), ids.arrow().cast(pa.string()), pa.scalar(after), "")


def evaluate_supplemental(
    definitions: Iterable[SupplementalDefinition], evaluation: Evaluation, members: Mask
) -> tuple[tuple[SupplementalResult, ...], tuple[str, ...], dict[str, int]]:
    """Values for ``members``, notes on what could not be evaluated, and by element for how many members it failed.

    A member whose data makes one element fail has no values from that element on; its counts stay as they are.
    """
    results, notes = [], []
    known = set(evaluation.failures)
    failing: dict[str, int] = {}
    for definition in definitions:
        try:
            vector = evaluation.vector(definition.expression)
            new = set(evaluation.failures) - known
            members = members.copy()
            members[sorted(new)] = False
            if new:
                failing[definition.id] = len(new)
            known |= new
            results.append(supplemental_result(definition, vector, members))
        except GatewayError as error:
            notes.append(f"supplemental data {definition.id} is not computed: {error}")
    return tuple(results), tuple(notes), failing


def unsupplied_notes(parts: Iterable[Mapping[str, int]]) -> tuple[str, ...]:
    """A note on the elements that failed, with the members of all parts of a run, in the order of their names."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    where = ", ".join(f"{name} ({count} subjects)" for name, count in sorted(total.items()))
    return (f"supplemental data could not be evaluated for all subjects: {where}",) if where else ()
