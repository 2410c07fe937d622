"""Composite measures: one score out of several measures (Quality Measure IG, composite measures).

The components are evaluated as they are; a composite only combines who was in which of their populations
(``all-or-nothing``, ``opportunity``, ``linear``) or their scores (``weighted``). Stratifiers of components do not
apply to a composite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

from fhir_gateway.errors import Location, MeasureError, UnsupportedElm
from fhir_gateway.measures.content import Resource, read_content
from fhir_gateway.measures.definition import GroupDefinition
from fhir_gateway.measures.elements import Node, code_of, extension, extensions, link_id
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import Population
from fhir_gateway.terminology.canonical import split_canonical

Method = Literal["all-or-nothing", "opportunity", "linear", "weighted"]
METHODS = ("all-or-nothing", "opportunity", "linear", "weighted")


@dataclass(frozen=True, slots=True)
class ComponentDefinition:
    """One component: the canonical of a Measure, its group when it has several, and its weight."""

    canonical: str
    group_id: str | None
    weight: Decimal


@dataclass(frozen=True, slots=True)
class CompositeGroup:
    """One composite rate."""

    id: str
    code: Node | None
    method: Method
    improvement_notation: str | None
    components: tuple[ComponentDefinition, ...]


@dataclass(frozen=True)
class CompositePackage:
    """A composite Measure and the packages of its components, by canonical url."""

    measure: Resource
    groups: tuple[CompositeGroup, ...]
    packages: Mapping[str, MeasurePackage]

    @classmethod
    def load(cls, path: str | Path, packages: Iterable[MeasurePackage]) -> CompositePackage:
        """Load the composite Measure of a folder or file, with its components among ``packages``."""
        found = [r for _, r in read_content(Path(path)) if r["resourceType"] == "Measure" and is_composite(r)]
        if len(found) != 1:
            raise MeasureError(f"{len(found)} composite Measures here, not one", location=Location(file=str(path)))
        return cls.of(found[0], packages)

    @classmethod
    def of(cls, measure: Resource, packages: Iterable[MeasurePackage]) -> CompositePackage:
        """Resolve the components of ``measure``; MeasureError names all that are missing or do not fit."""
        for element in ("url", "version"):
            if not measure.get(element):
                raise MeasureError("a Measure needs its url and version", location=Location(path=f"Measure.{element}"))
        given = tuple(packages)
        groups = read_composite(measure)
        wanted = dict.fromkeys(component.canonical for group in groups for component in group.components)
        resolved = {canonical: _resolve(canonical, given) for canonical in wanted}
        missing = [canonical for canonical, package in resolved.items() if package is None]
        if missing:
            raise MeasureError(f"composite {measure.get('name')} lacks its components {', '.join(missing)}")
        found = cls(measure, groups, {name: package for name, package in resolved.items() if package is not None})
        for group in groups:
            for component in group.components:
                _check(group, found.component_group(component))
        return found

    def component_group(self, component: ComponentDefinition) -> GroupDefinition:
        """The group of a component's Measure."""
        groups = self.packages[component.canonical].definition.groups
        if component.group_id is None:
            if len(groups) != 1:
                raise MeasureError(f"component {component.canonical} has {len(groups)} groups; groupId must name one")
            return groups[0]
        for group in groups:
            if component.group_id in (group.id, link_id(group.element, "group")):
                return group
        raise MeasureError(f"component {component.canonical} has no group {component.group_id!r}")

    def evaluate(self, population: Population, period: tuple[date, date], now: datetime) -> MeasureResult:
        """Evaluate every component over ``population`` and combine them; each package is evaluated once."""
        from fhir_gateway.measures.combine import combine

        results = {name: Evaluator(package).evaluate(population, period, now) for name, package in self._distinct()}
        return combine(self, {canonical: results[self._key(canonical)] for canonical in self.packages})

    def _distinct(self) -> Iterable[tuple[str, MeasurePackage]]:
        return {self._key(canonical): package for canonical, package in self.packages.items()}.items()

    def _key(self, canonical: str) -> str:
        package = self.packages[canonical]
        return f"{package.url}|{package.version}"


def is_composite(measure: Node) -> bool:
    """Whether the Measure, or one of its groups, is scored as a composite."""
    nodes = (measure, *measure.get("group", ()))
    return any(code_of(extension(n, "scoring") or n.get("scoring")) == "composite" for n in nodes)


def read_composite(measure: Node) -> tuple[CompositeGroup, ...]:
    """Composite groups of a Measure; a Measure without groups is one, made of its related artifacts."""
    return tuple(_group(measure, node, number) for number, node in enumerate(measure.get("group") or ({},), 1))


def _group(measure: Node, node: Node, number: int) -> CompositeGroup:
    where = f"composite {measure.get('name')}"
    scoring = extension(node, "compositeScoring") or extension(measure, "compositeScoring")
    method = code_of(scoring or measure.get("compositeScoring"))
    if method not in METHODS:
        raise MeasureError(f"{where}: composite scoring {method!r} is none of {', '.join(METHODS)}")
    if node.get("population"):
        raise MeasureError(f"{where}: a composite has no populations of its own")
    artifacts = [a for a in extensions(node, "component") if isinstance(a, Mapping)]
    artifacts = artifacts or [a for a in measure.get("relatedArtifact", ()) if a.get("type") == "composed-of"]
    if len(artifacts) < 2:
        raise MeasureError(f"{where} has {len(artifacts)} components; it needs at least two")
    notation = extension(node, "improvementNotation") or extension(measure, "improvementNotation")
    return CompositeGroup(
        id=str(node.get("id") or link_id(node, "group") or f"composite-{number}"),
        code=node.get("code"),
        method=cast(Method, method),
        improvement_notation=code_of(notation or measure.get("improvementNotation")),
        components=tuple(_component(artifact, where) for artifact in artifacts),
    )


def _component(artifact: Node, where: str) -> ComponentDefinition:
    if not artifact.get("resource"):
        raise MeasureError(f"{where}: a component names no Measure")
    group_id: Any = extension(artifact, "groupId")
    weight = extension(artifact, "weight")
    number = Decimal(1) if weight is None else Decimal(str(weight))
    if number < 0:
        raise MeasureError(f"{where}: component {artifact['resource']} has a negative weight")
    return ComponentDefinition(str(artifact["resource"]), None if group_id is None else str(group_id), number)


def _resolve(canonical: str, packages: tuple[MeasurePackage, ...]) -> MeasurePackage | None:
    url, version = split_canonical(canonical)
    found = [p for p in packages if p.url == url and version in (None, p.version)]
    if len(found) > 1:
        raise MeasureError(f"component {canonical} is here in {len(found)} versions")
    return next(iter(found), None)


def _check(group: CompositeGroup, component: GroupDefinition) -> None:
    """Methods that need populations or scores a component does not have are refused."""
    allowed = ("proportion", "ratio", "continuous-variable") if group.method == "weighted" else ("proportion", "ratio")
    if component.scoring not in allowed:
        raise UnsupportedElm(f"composite {group.id}: a {component.scoring} component has no place in {group.method}")
    if group.method == "weighted" and flipped(group, component) and component.scoring != "proportion":
        raise UnsupportedElm(f"composite {group.id}: the score of a {component.scoring} component cannot be inverted")


def flipped(group: CompositeGroup, component: GroupDefinition) -> bool:
    """Whether a component improves in the other direction than the composite."""
    notations = (group.improvement_notation, component.improvement_notation)
    return None not in notations and notations[0] != notations[1]
