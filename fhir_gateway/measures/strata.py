"""Strata of a group: which stratum each case is in, and the group restricted to one of them.

A stratifier with one expression of the group's basis type is a criterion: its strata are true and false, and null is
false as in every criterion. Any other is a value: one stratum for each distinct value or combination of values, and
``unknown`` for null; the codes of a value set that the Measure states for the values are strata even when nobody has
them. Cases outside the initial population are in no stratum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values import BoolVec, ElementVec, ListVec, Vec
from fhir_gateway.errors import MeasureError, TerminologyError
from fhir_gateway.measures.cases import CaseSpace, CriteriaEvaluation
from fhir_gateway.measures.definition import GroupDefinition
from fhir_gateway.measures.distinct import Numbers, Value, concept, distinct, value_key
from fhir_gateway.measures.model import Cases, GroupResult, Mask, Observations, PopulationResult, StratifierResult
from fhir_gateway.measures.stratifiers import StratifierDefinition
from fhir_gateway.terminology.value_sets import ValueSets

#: By canonical of a value set the values it stands for, by their code.
Expected = Mapping[str, Mapping[str, Value]]

#: Value of a stratum whose expression gave null.
UNKNOWN: Value = {
    "valueCodeableConcept": {
        "coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}]
    }
}
#: Strata of every criteria-based stratifier, whether or not somebody is in them.
CRITERIA: tuple[tuple[Value, ...], ...] = (({"valueBoolean": True},), ({"valueBoolean": False},))


def expected_values(groups: Iterable[GroupDefinition], value_sets: ValueSets) -> tuple[Expected, tuple[str, ...]]:
    """Values that the value sets of stratifiers stand for, and notes on value sets that are not here."""
    found: dict[str, Mapping[str, Value]] = {}
    notes: list[str] = []
    for group in groups:
        for stratifier in group.stratifiers:
            for name in sorted({c.value_set for c in stratifier.components if c.value_set}):
                try:
                    codes = value_sets.resolve(name).codes
                except TerminologyError as error:
                    notes.append(f"strata of {stratifier.id} that nobody is in are not listed: {error.message}")
                    continue
                values: dict[str, Value] = {}
                for system, code in sorted(codes):  # a code of two systems stands for the first where a text says it
                    value = concept([{"system": system, "code": code}])
                    if value is not None:
                        values[f"{system}|{code}" if code in values else code] = value
                found[name] = values
    return found, tuple(dict.fromkeys(notes))


def list_criteria(group: GroupDefinition, evaluation: CriteriaEvaluation, functions: frozenset[str]) -> tuple[str, ...]:
    """Expressions of stratifiers that list episodes; raises MeasureError for lists that can be no criterion."""
    found = []
    for stratifier in group.stratifiers:
        for component in stratifier.components:
            name = component.expression
            vector = None if name in functions else evaluation.vector(name)
            if isinstance(vector, ListVec):
                if not stratifier.single or group.basis == "boolean":
                    raise MeasureError(f"group {group.id}: stratifier {stratifier.id} gives a list, not a value")
                flat = vector.flat
                if isinstance(flat, ElementVec) and flat.source.is_resource and flat.fhir_type != group.basis:
                    raise MeasureError(
                        f"group {group.id}: stratifier {stratifier.id} lists {flat.fhir_type}, not {group.basis}"
                    )
                found.append(name)
    return tuple(dict.fromkeys(found))


def stratify(
    stratifier: StratifierDefinition,
    evaluation: CriteriaEvaluation,
    spaces: Mapping[str, CaseSpace],
    initial: Mapping[str, Mask],
    functions: frozenset[str],
    expected: Expected | None = None,
) -> StratifierResult:
    """Put each case of each basis into its stratum; ``initial`` says which cases are in an initial population.

    ``expected`` holds the values of each value set that a component may name.
    """
    stated = [(expected or {}).get(component.value_set or "", {}) for component in stratifier.components]
    criteria = True
    combinations: dict[tuple[str, ...], tuple[Value, ...]] = {}
    found: dict[str, tuple[Numbers, list[tuple[Value, ...]]]] = {}
    for basis, space in spaces.items():
        eligible = np.flatnonzero(initial[basis])
        mask = _criterion(stratifier, evaluation, space, functions)
        if mask is None:
            criteria = False
            found[basis] = _combined(stratifier, evaluation, space, eligible, functions, stated)
        else:
            found[basis] = np.where(mask[eligible], 0, 1).astype(np.int32), list(CRITERIA)
        combinations |= {tuple(map(value_key, values)): values for values in found[basis][1]}
    if not criteria:
        everything = product(*(values.values() for values in stated))
        combinations |= {tuple(map(value_key, values)): values for values in everything}
    order = list(combinations.values()) if criteria else sorted(combinations.values(), key=stratum_order)
    strata = {}
    for basis, space in spaces.items():
        numbers, values = found[basis]
        assigned = np.full(len(space.member), -1, np.int32)
        assigned[np.flatnonzero(initial[basis])] = places(values, order)[numbers]
        strata[basis] = assigned
    return StratifierResult(
        id=stratifier.id,
        code=stratifier.components[0].code,
        components=() if stratifier.single else tuple((c.id, c.code) for c in stratifier.components),
        applies_to=stratifier.applies_to,
        criteria=criteria,
        values=tuple(order),
        strata=strata,
        stated=all(stated),
    )


def stratum_order(values: Sequence[Value]) -> tuple[tuple[bool, str], ...]:
    """Strata are in the order of their values, unknown last."""
    return tuple((value == UNKNOWN, value_key(value)) for value in values)


def places(values: Sequence[tuple[Value, ...]], order: Sequence[tuple[Value, ...]]) -> Numbers:
    """Place in ``order`` of each of ``values``; the extra last one serves cases in no stratum (-1)."""
    by_key = {tuple(map(value_key, combination)): place for place, combination in enumerate(order)}
    return np.array([*(by_key[tuple(map(value_key, combination))] for combination in values), -1], np.int32)


def restrict(group: GroupResult, stratifier: StratifierResult, number: int) -> GroupResult:
    """The group with only the cases of one stratum; ``raw`` counts are effective ones there."""
    size = len(group.populations[0].counts)
    masks = {cases.basis: (cases, stratifier.strata[cases.basis] == number) for cases in group.cases}
    populations = []
    for population in group.populations:
        basis = population.basis or group.basis
        inside = stratifier.strata[basis] == number
        observations = population.observations
        if observations is not None:
            kept = inside[observations.case]
            observations = _kept(observations, kept)
            counts = np.bincount(observations.member, minlength=size).astype(np.int64)
        elif basis == "boolean":
            counts = np.where(inside, population.counts, 0)
        else:
            cases, here = masks[basis]
            mask = cases.populations[population.id] & here
            counts = np.bincount(cases.member[mask], minlength=size).astype(np.int64)
        populations.append(replace(population, counts=counts, raw=counts, observations=observations))
    return replace(group, populations=tuple(populations), stratifiers=())


def only(group: GroupResult, index: int) -> GroupResult:
    """The group with the member at ``index`` alone, at a cost that does not depend on the others."""
    one = slice(index, index + 1)
    spans = {"boolean": one} | {
        cases.basis: slice(*np.searchsorted(cases.member, [index, index + 1]).tolist()) for cases in group.cases
    }
    populations = tuple(
        _member(population, one, spans[population.basis or group.basis]) for population in group.populations
    )
    cases = tuple(
        Cases(
            c.basis,
            np.zeros_like(c.member[spans[c.basis]]),
            c.reference[spans[c.basis]],
            {name: mask[spans[c.basis]] for name, mask in c.populations.items()},
        )
        for c in group.cases
    )
    stratifiers = tuple(
        replace(s, strata={basis: numbers[spans[basis]] for basis, numbers in s.strata.items()})
        for s in group.stratifiers
    )
    composite = group.composite
    if composite is not None:
        parts = tuple(replace(part, group=only(part.group, index)) for part in composite.components)
        composite = replace(composite, components=parts)
    return replace(group, populations=populations, cases=cases, stratifiers=stratifiers, composite=composite)


def _member(population: PopulationResult, one: slice, span: slice) -> PopulationResult:
    observations = population.observations
    if observations is not None:
        first, last = np.searchsorted(observations.member, [one.start, one.stop])
        here = slice(int(first), int(last))
        observations = replace(
            observations,
            member=np.zeros_like(observations.member[here]),
            case=observations.case[here] - span.start,
            value=observations.value[here],
        )
    return replace(population, counts=population.counts[one], raw=population.raw[one], observations=observations)


def _kept(observations: Observations, kept: Mask) -> Observations:
    return replace(
        observations,
        member=observations.member[kept],
        case=observations.case[kept],
        value=observations.value.filter(pa.array(kept)),
    )


def _criterion(
    stratifier: StratifierDefinition, evaluation: CriteriaEvaluation, space: CaseSpace, functions: frozenset[str]
) -> Mask | None:
    """Cases that satisfy a criteria-based stratifier; None when it gives values."""
    name = stratifier.components[0].expression
    if not stratifier.single or name in functions:
        return None
    if name in space.criteria:
        return space.criteria[name]
    vector = evaluation.vector(name)
    if isinstance(vector, ElementVec):
        vector = _plain(vector)
    if isinstance(vector, BoolVec) and space.episodes is None:
        return vector.true
    if isinstance(vector, ListVec):  # a second basis of a ratio: true where the list has anything
        return (np.bincount(vector.parents, minlength=space.size) > 0)[space.member]
    return None


def _combined(
    stratifier: StratifierDefinition,
    evaluation: CriteriaEvaluation,
    space: CaseSpace,
    eligible: np.ndarray[tuple[int], np.dtype[np.intp]],
    functions: frozenset[str],
    stated: Sequence[Mapping[str, Value]],
) -> tuple[Numbers, list[tuple[Value, ...]]]:
    """For each eligible case the number of its combination of values, and the combinations."""
    columns, values = [], []
    for component, codes in zip(stratifier.components, stated, strict=True):
        name = component.expression
        if name in functions:
            mask = np.zeros(len(space.member), np.bool_)
            mask[eligible] = True
            vector = evaluation.function_values(name, space.select(mask))
            vector = vector.take(eligible) if space.episodes is None else vector
        else:
            vector = evaluation.vector(name).take(space.member[eligible].astype(np.int64))
        if isinstance(vector, ListVec):
            raise MeasureError(f"stratifier {stratifier.id} gives a list, not a value")
        numbers, labels = distinct(vector)
        columns.append(numbers)
        # values and codes may agree in the code alone (cqm-valueSet)
        labels = [codes.get(str(label.get("valueString")), label) for label in labels]
        values.append([*labels, UNKNOWN])  # -1 is the last
    if not len(eligible):
        return np.zeros(0, np.int32), []
    rows, number = np.unique(np.stack(columns), axis=1, return_inverse=True)
    combinations = [tuple(label[place] for label, place in zip(values, row, strict=True)) for row in rows.T.tolist()]
    return number.reshape(-1).astype(np.int32), combinations


def _plain(vector: ElementVec) -> Vec:
    return vector if vector.source.is_resource or not vector.fhir_type[:1].islower() else vector.primitive()
