"""Instances of elements inside a resource: stepping from one to its children along the R4 element table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_gateway.r4 import spec


@dataclass(frozen=True, slots=True)
class Item:
    """One instance of an element.

    ``type`` is its FHIR type, for backbone elements the path (``Group.member``); ``place`` where the element is
    defined (``Group.member``, ``Period.start``); ``sibling`` what stands beside a primitive (``_birthDate``).
    """

    value: Any
    type: str
    path: str
    place: str
    sibling: Any = None

    def fields(self) -> Mapping[str, Any]:
        """JSON members below it: those of its sibling when it is a primitive."""
        found = self.sibling if spec.is_primitive(self.type) else self.value
        return found if isinstance(found, dict) else {}

    @property
    def definition(self) -> spec.TypeDefinition:
        """Definition of its type; that of Element for primitives, which have only id and extension."""
        return spec.type_definition("Element" if spec.is_primitive(self.type) else self.type)

    @property
    def choice(self) -> str:
        """Its place as definitions name it: ``Observation.value[x]`` for ``Observation.valueQuantity``."""
        owner, _, name = self.place.rpartition(".")
        if owner in spec.type_names() and (element := spec.type_definition(owner).elements.get(name)) is not None:
            return f"{owner}.{element.choice}[x]" if element.choice else self.place
        return self.place

    def children(self, name: str) -> list[Item]:
        """Instances of one element below it; ``value[x]`` means all types of the choice."""
        definition = self.definition
        if name.endswith("[x]"):
            return [item for one in definition.choices.get(name[:-3], ()) for item in self._of(one)]
        element = definition.elements.get(name)
        return list(self._of(element)) if element else []

    def all(self) -> Iterator[Item]:
        """Everything directly below it."""
        given = self.fields()
        elements = self.definition.elements
        seen: set[str] = set()
        for key in given:
            name = key.removeprefix("_")
            if name in elements and name not in seen:
                seen.add(name)
                yield from self._of(elements[name])

    def _of(self, element: spec.Element) -> Iterator[Item]:
        given = self.fields()
        value, beside = given.get(element.name), given.get(f"_{element.name}")
        if value is None and beside is None:
            return
        place = f"{self.definition.name}.{element.name}"
        if not element.is_list:
            yield self._item(value, element, f"{self.path}.{element.name}", place, beside)
            return
        values = value if isinstance(value, list) else []
        siblings = beside if isinstance(beside, list) else []
        for index in range(max(len(values), len(siblings))):
            one = values[index] if index < len(values) else None
            other = siblings[index] if index < len(siblings) else None
            yield self._item(one, element, f"{self.path}.{element.name}[{index}]", place, other)

    def _item(self, value: Any, element: spec.Element, path: str, place: str, sibling: Any) -> Item:
        fhir_type = element.type
        if fhir_type == "Resource":
            named = value.get("resourceType") if isinstance(value, dict) else None
            fhir_type = named if named in spec.resource_types() else "Resource"
        return Item(value, fhir_type, path, place, sibling)


def listed(value: Any) -> list[Any]:
    """The value when it is a list; what should have been one and is not has nothing in it."""
    return value if isinstance(value, list) else []


def resource_item(resource: Mapping[str, Any], path: str | None = None) -> Item:
    """The item of a whole resource."""
    name = str(resource["resourceType"])
    return Item(resource, name, path or name, name)


class Scope:
    """Where references of a resource lead: what it contains, and the entries of the Bundle around it."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self._known: dict[str, Mapping[str, Any]] = {}
        for entry in listed(root.get("entry")) if root.get("resourceType") == "Bundle" else ():
            resource = entry.get("resource") if isinstance(entry, dict) else None
            if isinstance(resource, dict):
                self._keep(entry.get("fullUrl"), resource)
        for parameter in listed(root.get("parameter")) if root.get("resourceType") == "Parameters" else ():
            resource = parameter.get("resource") if isinstance(parameter, dict) else None
            if isinstance(resource, dict):
                self._known |= Scope(resource)._known
                self._keep(None, resource)

    def _keep(self, address: Any, resource: Mapping[str, Any]) -> None:
        if isinstance(address, str):
            self._known[address] = resource
        if isinstance(resource.get("id"), str):
            self._known.setdefault(f"{resource.get('resourceType')}/{resource['id']}", resource)

    def target(self, reference: str, holder: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The resource behind a reference made in ``holder``; None when it is not at hand."""
        if reference.startswith("#"):
            inside = (one for one in listed(holder.get("contained")) if isinstance(one, dict))
            return next((one for one in inside if one.get("id") == reference[1:]), None)
        return self._known.get(reference.partition("/_history/")[0])

    def target_type(self, reference: Mapping[str, Any], holder: Mapping[str, Any]) -> str | None:
        """Resource type of a Reference: from what is at hand, its text or its ``type``; None when nothing says it."""
        text = reference.get("reference")
        if isinstance(text, str):
            found = self.target(text, holder)
            if found is not None:
                return str(found.get("resourceType"))
            parts = text.partition("/_history/")[0].split("/")
            if len(parts) > 1 and parts[-2] in spec.resource_types():
                return parts[-2]
        named = reference.get("type")
        return named if isinstance(named, str) and named in spec.resource_types() else None
