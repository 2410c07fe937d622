"""What a Measure says about strata (Quality Measure IG, stratification)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.elements import Node, code_of, expression_of, extension, extensions, link_id


@dataclass(frozen=True, slots=True)
class StratifierComponent:
    """One expression whose values make strata; ``code`` is the CodeableConcept reports name it by.

    ``value_set`` is the canonical of the values it can have: those that nobody has are strata as well.
    """

    id: str
    code: Node
    expression: str
    value_set: str | None = None


@dataclass(frozen=True, slots=True)
class StratifierDefinition:
    """One stratifier of a group.

    ``components`` has one entry for a stratifier with criteria of its own (``single``), else one per component.
    ``applies_to`` holds population codes, all of the group's when the Measure does not say.
    """

    id: str
    single: bool
    components: tuple[StratifierComponent, ...]
    applies_to: tuple[str, ...]


def read_stratifiers(group: Node, populations: tuple[str, ...], where: str) -> Iterator[StratifierDefinition]:
    """Stratifiers of a group whose population codes are ``populations``."""
    for number, element in enumerate(group.get("stratifier", ()), 1):
        found_id = str(element.get("id") or link_id(element, "group.stratifier") or f"stratifier-{number}")
        place = f"{where} stratifier {found_id}"
        single = not element.get("component")
        if not single and element.get("criteria"):
            raise MeasureError(f"{place} has criteria and components; it may have only one of them")
        parts = (element,) if single else element["component"]
        applies_to = tuple(code for code in map(code_of, extensions(element, "appliesTo")) if code)
        unknown = sorted(set(applies_to) - set(populations))
        if unknown:
            raise MeasureError(f"{place} applies to {', '.join(unknown)}, which the group does not have")
        yield StratifierDefinition(
            id=found_id,
            single=single,
            components=tuple(
                _component(part, found_id if single else f"{found_id}-{place_in}", place)
                for place_in, part in enumerate(parts, 1)
            ),
            applies_to=applies_to or tuple(dict.fromkeys(populations)),
        )


def _component(element: Node, fallback: str, where: str) -> StratifierComponent:
    expression = expression_of(element, where)
    name = element.get("id") or link_id(element, "group.stratifier.component") or fallback
    value_set = extension(element, "valueSet")
    code = element.get("code") or {"text": str(name)}
    return StratifierComponent(str(name), code, expression, None if value_set is None else str(value_set))
