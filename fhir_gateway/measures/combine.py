"""Combining the results of components into a composite's, and its score.

A composite group has populations like any other, so that reports and the store need not know the method:
``all-or-nothing`` those of a proportion; ``opportunity`` and ``linear`` count components per subject, net of
exclusions and exceptions; ``weighted`` has only the initial population.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.composite import CompositeGroup, CompositePackage, flipped
from fhir_gateway.measures.elements import Node, link_id
from fhir_gateway.measures.model import (
    Component,
    Composite,
    Counts,
    GroupResult,
    Mask,
    MeasureResult,
    PopulationResult,
    SupplementalResult,
)
from fhir_gateway.measures.populations import gated
from fhir_gateway.terminology.canonical import content_hash

if TYPE_CHECKING:
    from collections.abc import Callable


def combine(package: CompositePackage, results: Mapping[str, MeasureResult]) -> MeasureResult:
    """The composite's result out of those of its components (by canonical), evaluated over the same members."""
    parts = list(results.values())
    first = parts[0]
    if any(not part.members.equals(first.members) or part.period != first.period for part in parts):
        raise MeasureError("the components were evaluated over different members or periods")
    failed = {member: reason for part in parts for member, reason in part.failed.items()}
    alive = np.array([member not in failed for member in first.members.to_pylist()], np.bool_)
    measure = package.measure
    return replace(
        first,
        url=str(measure["url"]),
        version=str(measure["version"]),
        name=str(measure.get("name") or measure.get("id")),
        title=str(measure.get("title") or measure.get("name") or measure.get("id")),
        package_hash=_hash([content_hash([measure]), *(part.package_hash for part in parts)]),
        terminology_hash=_hash(part.terminology_hash for part in parts),
        groups=tuple(_group(package, group, results, alive) for group in package.groups),
        supplemental=_supplemental(parts),
        failed=dict(sorted(failed.items())),
        notes=tuple(dict.fromkeys([*(note for part in parts for note in part.notes), *_left_out(measure)])),
        seconds=sum(part.seconds for part in parts),
    )


def _left_out(measure: Node) -> Iterator[str]:
    """Notes on what a composite states itself and nothing here computes: it has no library of its own."""
    for element in measure.get("supplementalData", ()):
        name = element.get("id") or link_id(element, "supplementalData") or "without id"
        yield f"supplemental data {name} of the composite is not computed, only that of its components"
    for group in measure.get("group", ()):
        for stratifier in group.get("stratifier", ()):
            name = stratifier.get("id") or link_id(stratifier, "group.stratifier") or "without id"
            yield f"stratifier {name} of the composite is not computed"


def _group(
    package: CompositePackage, group: CompositeGroup, results: Mapping[str, MeasureResult], alive: Mask
) -> GroupResult:
    components = []
    for component in group.components:
        definition = package.component_group(component)
        result = _kept(results[component.canonical].group(definition.id), alive)
        components.append(Component(component.canonical, result, component.weight, flipped(group, definition)))
    return composite_group(group, components)


def composite_group(group: CompositeGroup, components: Sequence[Component]) -> GroupResult:
    """Populations of a composite out of the groups of its components."""
    if group.method == "all-or-nothing":
        populations = _all_or_nothing(components)
    else:
        populations = {"initial-population": _any(components, "initial-population").astype(np.int64)}
        if group.method != "weighted":
            sides = [_sides(component) for component in components]
            populations["denominator"] = np.sum([denominator for denominator, _ in sides], axis=0, dtype=np.int64)
            populations["numerator"] = np.sum([numerator for _, numerator in sides], axis=0, dtype=np.int64)
    return GroupResult(
        id=group.id,
        code=group.code,
        scoring="composite",
        improvement_notation=group.improvement_notation,
        basis="boolean",
        populations=tuple(PopulationResult(code, code, counts, counts) for code, counts in populations.items()),
        composite=Composite(group.method, tuple(components) if group.method == "weighted" else ()),
    )


def _all_or_nothing(components: Sequence[Component]) -> dict[str, Counts]:
    """Everybody in some component; in the numerator when in that of each component whose denominator they are in."""
    criteria = {
        code: _any(components, code)
        for code in ("initial-population", "denominator", "denominator-exclusion", "denominator-exception")
    }
    met = []
    for component in components:
        denominator, numerator = _in(component, "denominator"), _in(component, "numerator")
        if component.flipped:
            numerator = denominator & ~(_net(component, "numerator", "numerator-exclusion") > 0)
        met.append(~denominator | numerator)
    criteria["numerator"] = np.logical_and.reduce(met)
    excluded = [_in(component, "numerator-exclusion") for component in components if not component.flipped]
    criteria["numerator-exclusion"] = np.logical_or.reduce([np.zeros_like(criteria["numerator"]), *excluded])
    found = {"initial-population": criteria["initial-population"]}
    lookup: Callable[[str], Mask | None] = criteria.get
    found |= {code: mask for code, mask in gated(found["initial-population"], lookup).items() if mask is not None}
    order = ("initial-population", "denominator", "denominator-exclusion", "numerator", "numerator-exclusion")
    return {code: found[code].astype(np.int64) for code in (*order, "denominator-exception")}


def _sides(component: Component) -> tuple[Mask, Mask]:
    """Denominator and numerator membership of each subject, net of exclusions and exceptions."""
    denominator = _net(component, "denominator", "denominator-exclusion", "denominator-exception") > 0
    numerator = _net(component, "numerator", "numerator-exclusion") > 0
    return denominator, denominator & (~numerator if component.flipped else numerator)


def _net(component: Component, code: str, *less: str) -> Counts:
    net = _counts(component, code)
    for other in less:
        net = net - _counts(component, other)
    return net


def _counts(component: Component, code: str) -> Counts:
    population = component.group.population(code)
    if population is None:
        return np.zeros(len(component.group.populations[0].counts), np.int64)
    return population.counts.astype(np.int64)  # room for sums of components


def _in(component: Component, code: str) -> Mask:
    """Subject-level membership: of an episode-based component, any episode."""
    return _counts(component, code) > 0


def _any(components: Sequence[Component], code: str) -> Mask:
    found: Mask = np.logical_or.reduce([_in(component, code) for component in components])
    return found


def _kept(group: GroupResult, alive: Mask) -> GroupResult:
    """The group without members that another component could not evaluate; cases and strata play no part."""
    populations = []
    for population in group.populations:
        observations = population.observations
        if observations is not None:
            kept = alive[observations.member]
            observations = replace(
                observations,
                member=observations.member[kept],
                case=observations.case[kept],
                value=observations.value.filter(pa.array(kept)),
            )
        counts, raw = np.where(alive, population.counts, 0), np.where(alive, population.raw, 0)
        populations.append(replace(population, counts=counts, raw=raw, observations=observations))
    return replace(group, populations=tuple(populations), cases=(), stratifiers=())


def _supplemental(parts: Sequence[MeasureResult]) -> tuple[SupplementalResult, ...]:
    """Elements of all components, each once."""
    by_id: dict[str, list[SupplementalResult]] = {}
    for part in parts:
        for element in part.supplemental:
            by_id.setdefault(element.id, []).append(element)
    found = []
    for elements in by_id.values():
        table = pa.concat_tables(
            pa.table({"member": pa.array(element.member), "value": element.value}) for element in elements
        )
        table = table.group_by(["member", "value"]).aggregate([])
        table = table.sort_by([("member", "ascending"), ("value", "ascending")])
        value = pa.concat_arrays([pa.array([], pa.string()), *table["value"].chunks])
        found.append(replace(elements[0], member=table["member"].to_numpy().astype(np.int32), value=value))
    return tuple(found)


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
