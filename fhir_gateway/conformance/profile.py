"""A profile as a tree of rules: the differentials of a StructureDefinition and of what it is derived from, laid over
each other. What base R4 says of an element is not repeated in it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.models import Unchecked
from fhir_gateway.r4.rules import Invariant
from fhir_gateway.r4.spec import type_names

CORE = "http://hl7.org/fhir/StructureDefinition/"
UNBOUNDED = 10**9


@dataclass(frozen=True, slots=True)
class TypeRule:
    """One type an element may have, with the profiles of its value or of what it refers to."""

    code: str
    profiles: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Slicing:
    """How instances are told apart: (kind, path) discriminators, and whether others may stand beside the slices."""

    discriminators: tuple[tuple[str, str], ...]
    closed: bool


@dataclass(slots=True)
class Node:
    """The rules of one element, or of one slice of it. None means that no profile says anything."""

    name: str
    profile: str
    min: int | None = None
    max: int | None = None
    types: tuple[TypeRule, ...] | None = None
    fixed: Any = None
    pattern: Any = None
    binding: tuple[str, str] | None = None  # strength, value set
    invariants: dict[str, Invariant] = field(default_factory=dict)
    slicing: Slicing | None = None
    children: dict[str, Node] = field(default_factory=dict)
    slices: dict[str, Node] = field(default_factory=dict)

    def at(self, steps: list[tuple[str, list[str]]], profile: str) -> Node:
        """The node below it along (name, slice names), made where there is none."""
        node = self
        for name, slices in steps:
            node = node.children.setdefault(name, Node(name, profile))
            for one in slices:
                node = node.slices.setdefault(one, Node(name, profile))
        return node


@dataclass(slots=True)
class Profile:
    """A profile ready to check with: type, tree, and what of its ancestry is not at hand."""

    url: str
    type: str
    root: Node
    contexts: tuple[tuple[str, str], ...] = ()  # of an extension: kind, expression
    missing: tuple[Unchecked, ...] = ()


class Profiles:
    """Compiled profiles over some definitions; each is compiled once."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._compiled: dict[str, Profile] = {}

    def get(self, canonical: str) -> Profile | None:
        """The profile behind a canonical; None when it is not at hand."""
        if canonical not in self._compiled:
            resource = self.definitions.resource(canonical, "StructureDefinition")
            if resource is None:
                return None
            self._compiled[canonical] = self._compile(resource, ())
        return self._compiled[canonical]

    def type_of(self, canonical: str) -> str | None:
        """The type that a profile or core definition constrains; None when nothing at hand says it."""
        url = canonical.partition("|")[0]
        if url.startswith(CORE) and url[len(CORE) :] in type_names() | {"Resource", "DomainResource"}:
            return url[len(CORE) :]
        resource = self.definitions.resource(canonical, "StructureDefinition")
        return None if resource is None else str(resource.get("type"))

    def _compile(self, resource: Mapping[str, Any], above: tuple[str, ...]) -> Profile:
        url, fhir_type = str(resource["url"]), str(resource["type"])
        base = str(resource.get("baseDefinition", ""))
        elements = resource.get("differential", {}).get("element", [])
        missing: tuple[Unchecked, ...] = ()
        core = base.partition("|")[0].removeprefix(CORE)
        if core in type_names() | {"Resource", "DomainResource", "Element", "BackboneElement"}:
            root = Node(fhir_type, url)
        else:
            parent = None if base in above else self.definitions.resource(base, "StructureDefinition")
            if parent is not None:
                compiled = self._compile(parent, (*above, url))
                root, missing = copy.deepcopy(compiled.root), compiled.missing
            else:
                root = Node(fhir_type, url)
                elements = resource.get("snapshot", {}).get("element", elements)
                if "snapshot" not in resource:
                    missing = (
                        Unchecked(f"rules of {base}", "the definition it is derived from is not installed", url),
                    )
        for element in elements:
            _lay(root, element, url)
        contexts = tuple((one.get("type", ""), one.get("expression", "")) for one in resource.get("context", ()))
        return Profile(url, fhir_type, root, contexts, missing)


def _lay(root: Node, element: Mapping[str, Any], profile: str) -> None:
    """Lay one element of a differential over the tree."""
    names = str(element["path"]).split(".")[1:]
    parts = str(element.get("id", "")).split(".")[1:]
    # Published ids misspell names (value{x}) and leave them out: names are the path's, slices the id's.
    slices = [part.partition(":")[2] for part in parts] if len(parts) == len(names) else [""] * len(names)
    if names and not slices[-1]:
        slices[-1] = str(element.get("sliceName", ""))
    steps = [(name, one.split("/") if one else []) for name, one in zip(names, slices, strict=True)]
    node = root.at(steps, profile)
    if "min" in element:
        node.min = int(element["min"])
    if "max" in element:
        node.max = UNBOUNDED if element["max"] == "*" else int(element["max"])
    if "type" in element:
        node.types = tuple(_type_rule(one) for one in element["type"])
    for key, value in element.items():
        if key.startswith("fixed"):
            node.fixed = _value(key, value)
        elif key.startswith("pattern"):
            node.pattern = _value(key, value)
    bound = element.get("binding")
    if bound and "valueSet" in bound:
        node.binding = (str(bound.get("strength")), str(bound["valueSet"]))
    for one in element.get("constraint", ()):
        if "expression" in one and not one.get("source", profile).startswith(CORE):
            node.invariants[one["key"]] = Invariant(
                one["key"], one.get("severity", "error"), one.get("human", ""), one["expression"]
            )
    if "slicing" in element:
        told = element["slicing"]
        node.slicing = Slicing(
            tuple((one["type"], one["path"]) for one in told.get("discriminator", ())), told.get("rules") == "closed"
        )
    node.profile = profile


def _type_rule(told: Mapping[str, Any]) -> TypeRule:
    code = str(told["code"]).rsplit("/", 1)[-1]
    return TypeRule(code, tuple(told.get("profile", ())), tuple(told.get("targetProfile", ())))


def _value(key: str, value: Any) -> Any:
    """A fixed value or pattern; definitions that were converted from XML have booleans as text."""
    if key.endswith("Boolean") and value in ("true", "false"):
        return value == "true"
    return value
