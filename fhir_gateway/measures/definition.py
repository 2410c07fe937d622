"""What a Measure resource says, read from both families of extensions.

Universal realm: ``http://hl7.org/fhir/uv/cqm`` (``cqm-*``); US realm: ``http://hl7.org/fhir/us/cqfmeasures``
(``cqfm-*``). Scoring, basis and improvement notation may stand on the root, where they apply to every group, or on
the group, which wins (Quality Measure IG, computable measure invariants comp-1 to comp-9).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from fhir_gateway.errors import Location, MeasureError, UnsupportedElm

Node = Mapping[str, Any]
Scoring = Literal["proportion", "ratio", "continuous-variable", "cohort"]

SCORING_SYSTEM = "http://terminology.hl7.org/CodeSystem/measure-scoring"
POPULATION_SYSTEM = "http://terminology.hl7.org/CodeSystem/measure-population"
AGGREGATE_METHODS = frozenset({"sum", "average", "median", "minimum", "maximum", "count"})

_FAMILIES = (
    "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-",
    "http://hl7.org/fhir/us/cqfmeasures/StructureDefinition/cqfm-",
    "http://hl7.org/fhir/StructureDefinition/cqf-",
)
_LINK_ID = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Measure."

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
    """All groups of a Measure, and notes on what it asks for that is not computed."""

    groups: tuple[GroupDefinition, ...]
    notes: tuple[str, ...]

    @property
    def expressions(self) -> tuple[str, ...]:
        """Names of all definitions the populations use, without repetition."""
        return tuple(dict.fromkeys(p.expression for group in self.groups for p in group.populations))


def extension(node: Node, name: str) -> Any:
    """Value of the extension ``name`` in either family, None when absent."""
    for family in _FAMILIES:
        for candidate in node.get("extension", ()):
            if candidate.get("url") == family + name:
                return next((value for key, value in candidate.items() if key.startswith("value")), None)
    return None


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
    return MeasureDefinition(groups, tuple(_notes(measure)))


def _notes(measure: Node) -> Iterable[str]:
    stratified = [str(g.get("id", n)) for n, g in enumerate(measure.get("group", ()), 1) if g.get("stratifier")]
    if stratified:
        yield f"stratifiers are not computed: group {', '.join(stratified)}"
    if measure.get("supplementalData"):
        yield f"supplemental data is not computed: {len(measure['supplementalData'])} elements"


def _group(measure: Node, group: Node, number: int, name: str) -> GroupDefinition:
    group_id = str(group.get("id") or _link_id(group, "group") or f"group-{number}")
    where = f"measure {name} group {group_id}"
    scoring = _code(extension(group, "scoring") or extension(measure, "scoring") or measure.get("scoring"))
    if scoring == "composite":
        raise UnsupportedElm(f"{where} is a composite measure; composites are not supported yet")
    if scoring not in _REQUIRED:
        raise MeasureError(f"{where}: scoring {scoring!r} is none of {', '.join(_REQUIRED)}")
    notation = extension(group, "improvementNotation") or measure.get("improvementNotation")
    unit = extension(group, "scoringUnit") or extension(measure, "scoringUnit")
    precision = extension(group, "scoringPrecision") or extension(measure, "scoringPrecision")
    definition = GroupDefinition(
        id=group_id,
        scoring=cast(Scoring, scoring),
        basis=str(extension(group, "populationBasis") or extension(measure, "populationBasis") or "boolean"),
        improvement_notation=_code(notation),
        scoring_unit=unit if isinstance(unit, Mapping) or unit is None else {"text": str(unit)},
        scoring_precision=int(precision) if precision is not None else None,
        populations=tuple(_population(p, n, where) for n, p in enumerate(group.get("population", ()), 1)),
        element=group,
    )
    _check(definition, where)
    return definition


def _population(population: Node, number: int, where: str) -> PopulationDefinition:
    code = _code(population.get("code"))
    if code is None:
        raise MeasureError(f"{where}: population {number} has no code of {POPULATION_SYSTEM}")
    criteria = population.get("criteria", {})
    language = criteria.get("language")
    if language not in ("text/cql-identifier", "text/cql-expression", "text/cql", "text/cql.identifier"):
        raise UnsupportedElm(f"{where}: population {code} has criteria in {language!r}, not a CQL identifier")
    expression = criteria.get("expression")
    if not expression:
        raise MeasureError(f"{where}: population {code} has no criteria expression")
    aggregate = extension(population, "aggregateMethod")
    link_id = _link_id(population, "group.population")
    return PopulationDefinition(
        id=str(population.get("id") or link_id or f"{code}-{number}"),
        link_id=link_id,
        code=code,
        expression=str(expression).removeprefix('"').removesuffix('"'),
        criteria_reference=extension(population, "criteriaReference"),
        aggregate_method=str(aggregate).lower() if aggregate is not None else None,  # published ones say "Sum"
        basis=extension(population, "populationBasis"),
        element=population,
    )


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


def _link_id(node: Node, path: str) -> str | None:
    for candidate in node.get("extension", ()):
        if candidate.get("url") == f"{_LINK_ID}{path}.linkId":
            return str(candidate["valueString"])
    return None


def _code(concept: Any) -> str | None:
    """Code of a CodeableConcept's first coding, or the value itself when it is already a code or text."""
    if isinstance(concept, Mapping):
        for coding in concept.get("coding", ()):
            if coding.get("code"):
                return str(coding["code"])
        text = concept.get("text")
        return str(text) if text else None
    return str(concept) if concept is not None else None
