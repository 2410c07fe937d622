"""What a Measure resource says, read from both families of extensions.

Universal realm: ``http://hl7.org/fhir/uv/cqm`` (``cqm-*``); US realm: ``http://hl7.org/fhir/us/cqfmeasures``
(``cqfm-*``). Scoring, basis and improvement notation may stand on the root, where they apply to every group, or on
the group, which wins (Quality Measure IG, computable measure invariants comp-1 to comp-9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from fhir_gateway.errors import Location, MeasureError, UnsupportedElm
from fhir_gateway.measures.elements import Node, code_of, expression_of, extension, link_id
from fhir_gateway.measures.stratifiers import StratifierDefinition, read_stratifiers
from fhir_gateway.measures.supplemental import SupplementalDefinition, read_supplemental

Scoring = Literal["proportion", "ratio", "continuous-variable", "cohort"]

SCORING_SYSTEM = "http://terminology.hl7.org/CodeSystem/measure-scoring"
POPULATION_SYSTEM = "http://terminology.hl7.org/CodeSystem/measure-population"
AGGREGATE_METHODS = frozenset({"sum", "average", "median", "minimum", "maximum", "count"})

#: Populations each scoring must and may have (Quality Measure IG, the profile of each scoring).
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "proportion": ("initial-population", "denominator", "numerator"),
    "ratio": ("initial-population", "denominator", "numerator"),
    "continuous-variable": ("initial-population", "measure-population", "measure-observation"),
    "cohort": ("initial-population",),
}
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "proportion": ("denominator-exclusion", "numerator-exclusion", "denominator-exception"),
    "ratio": ("denominator-exclusion", "numerator-exclusion", "measure-observation"),
    "continuous-variable": ("measure-population-exclusion",),
    "cohort": (),
}


@dataclass(frozen=True, slots=True)
class PopulationDefinition:
    """One population of a group; ``expression`` names a definition of the primary library."""

    id: str
    link_id: str | None
    code: str
    expression: str
    criteria_reference: str | None
    aggregate_method: str | None
    basis: str | None  # only where a population (of a ratio's second branch) overrides its group
    element: Node


@dataclass(frozen=True, slots=True)
class GroupDefinition:
    """One group: its own rate, scoring and basis. ``element`` is the group as published, for reports."""

    id: str
    scoring: Scoring
    basis: str
    improvement_notation: str | None
    scoring_unit: Node | None
    scoring_precision: int | None
    populations: tuple[PopulationDefinition, ...]
    element: Node
    stratifiers: tuple[StratifierDefinition, ...] = ()

    @property
    def expressions(self) -> tuple[str, ...]:
        """Names of the definitions that populations and strata use."""
        strata = (component.expression for stratifier in self.stratifiers for component in stratifier.components)
        return (*(population.expression for population in self.populations), *strata)

    def of(self, code: str) -> tuple[PopulationDefinition, ...]:
        """Populations of that code in Measure order."""
        return tuple(population for population in self.populations if population.code == code)

    def initial_population(self, branch: str = "denominator") -> PopulationDefinition:
        """The initial population; of a ratio that has two, the one of the ``numerator`` or ``denominator`` branch."""
        heads = self.of(branch)
        named = self.named(heads[0].criteria_reference) if heads and heads[0].criteria_reference else None
        return named if named is not None and named.code == "initial-population" else self.of("initial-population")[0]

    def basis_of(self, population: PopulationDefinition) -> str:
        """Basis of a population: its own, else that of its ratio branch's initial population, else the group's."""
        if population.basis or population.code == "initial-population" or self.scoring != "ratio":
            return population.basis or self.basis
        if population.code == "measure-observation":
            observed = self.named(population.criteria_reference or "")
            return self.basis_of(observed) if observed else self.basis
        return self.basis_of(self.initial_population(population.code.removesuffix("-exclusion")))

    def named(self, reference: str) -> PopulationDefinition | None:
        """The population a criteriaReference names: by linkId, then id, then code when unique."""
        for key in ("link_id", "id"):
            for population in self.populations:
                if getattr(population, key) == reference:
                    return population
        by_code = self.of(reference)
        return by_code[0] if len(by_code) == 1 else None


@dataclass(frozen=True, slots=True)
class MeasureDefinition:
    """All groups of a Measure, and its supplemental data."""

    groups: tuple[GroupDefinition, ...]
    supplemental: tuple[SupplementalDefinition, ...] = ()

    @property
    def expressions(self) -> tuple[str, ...]:
        """Names of all definitions that populations and strata use, without repetition."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.expressions))


def read_measure(measure: Node) -> MeasureDefinition:
    """Read the groups of ``measure``.

    Raises UnsupportedElm for composites and criteria languages the engine does not have, and MeasureError for a group
    that lacks what its scoring needs: nothing that is asked for is silently counted as zero.
    """
    name = str(measure.get("name") or measure.get("id"))
    groups = tuple(_group(measure, group, number, name) for number, group in enumerate(measure.get("group", ()), 1))
    if not groups:
        raise MeasureError(f"measure {name} has no group", location=Location(path="Measure.group"))
    repeated = {g.id for g in groups if sum(other.id == g.id for other in groups) > 1}
    if repeated:
        raise MeasureError(f"measure {name} has groups with the same id: {', '.join(sorted(repeated))}")
    return MeasureDefinition(groups, tuple(read_supplemental(measure)))


def _group(measure: Node, group: Node, number: int, name: str) -> GroupDefinition:
    group_id = str(group.get("id") or link_id(group, "group") or f"group-{number}")
    where = f"measure {name} group {group_id}"
    scoring = code_of(extension(group, "scoring") or extension(measure, "scoring") or measure.get("scoring"))
    if scoring == "composite":
        raise UnsupportedElm(f"{where} is a composite: load it as a CompositePackage, with its components")
    if scoring not in _REQUIRED:
        raise MeasureError(f"{where}: scoring {scoring!r} is none of {', '.join(_REQUIRED)}")
    notation = extension(group, "improvementNotation") or extension(measure, "improvementNotation")
    notation = notation or measure.get("improvementNotation")
    unit = extension(group, "scoringUnit") or extension(measure, "scoringUnit")
    precision = extension(group, "scoringPrecision") or extension(measure, "scoringPrecision")
    populations = tuple(_population(p, n, where) for n, p in enumerate(group.get("population", ()), 1))
    definition = GroupDefinition(
        id=group_id,
        scoring=cast(Scoring, scoring),
        basis=_basis(group) or _basis(measure) or "boolean",
        improvement_notation=code_of(notation),
        scoring_unit=unit if isinstance(unit, Mapping) or unit is None else {"text": str(unit)},
        scoring_precision=int(precision) if precision is not None else None,
        populations=populations,
        element=group,
        stratifiers=tuple(read_stratifiers(group, tuple(p.code for p in populations), where)),
    )
    _check(definition, where)
    return definition


def _population(population: Node, number: int, where: str) -> PopulationDefinition:
    code = code_of(population.get("code"))
    if code is None:
        raise MeasureError(f"{where}: population {number} has no code of {POPULATION_SYSTEM}")
    aggregate = code_of(extension(population, "aggregateMethod"))
    named = link_id(population, "group.population")
    return PopulationDefinition(
        id=str(population.get("id") or named or f"{code}-{number}"),
        link_id=named,
        code=code,
        expression=expression_of(population, f"{where}: population {code}"),
        criteria_reference=extension(population, "criteriaReference"),
        aggregate_method=aggregate.lower() if aggregate is not None else None,  # published ones say "Sum"
        basis=_basis(population),
        element=population,
    )


def _basis(node: Node) -> str | None:
    """The basis an element states: a code, or a DataRequirement of that type."""
    value = extension(node, "populationBasis")
    if isinstance(value, Mapping):
        value = value.get("type")
    return str(value) if value else None


def _check(group: GroupDefinition, where: str) -> None:
    """Enforce cardinalities and references of the scoring's profile."""
    counts = {code: len(group.of(code)) for code in {population.code for population in group.populations}}
    allowed = (*_REQUIRED[group.scoring], *_OPTIONAL[group.scoring])
    for code in counts:
        if code not in allowed:
            raise MeasureError(f"{where}: population {code} has no place in a {group.scoring} measure")
    for code in _REQUIRED[group.scoring]:
        if not counts.get(code):
            raise MeasureError(f"{where}: a {group.scoring} measure needs the population {code}")
    for code, count in counts.items():
        most = 2 if group.scoring == "ratio" and code in ("initial-population", "measure-observation") else 1
        if count > most:
            raise MeasureError(f"{where}: {count} populations {code}, at most {most} allowed")
    for population in group.populations:
        reference = population.criteria_reference
        if reference is not None and group.named(reference) is None:
            raise MeasureError(f"{where}: population {population.code} refers to {reference!r}, which does not exist")
    for observation in group.of("measure-observation"):
        if observation.aggregate_method not in AGGREGATE_METHODS:
            raise MeasureError(f"{where}: aggregate method {observation.aggregate_method!r} is not one of the six")
        if group.scoring == "ratio" and observation.criteria_reference is None:
            raise MeasureError(f"{where}: observation {observation.id} does not say which population it observes")
    for population in group.populations:
        branch = population.code.removesuffix("-exclusion") if group.scoring == "ratio" else "denominator"
        if population.code not in ("initial-population", "measure-observation") and (
            group.basis_of(population) != group.basis_of(group.initial_population(branch))
        ):
            raise MeasureError(f"{where}: {population.code} has another basis than its initial population")
    if counts["initial-population"] == 2:
        for code in ("denominator", "numerator"):
            target = group.named(group.of(code)[0].criteria_reference or "")
            if target is None or target.code != "initial-population":
                raise MeasureError(f"{where}: {code} does not say which of the two initial populations it belongs to")
