"""Reading elements of a Measure: extensions of both families, link ids, codes and CQL criteria."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhir_gateway.errors import MeasureError, UnsupportedElm

Node = Mapping[str, Any]

#: Universal realm, US realm, core: the same extension has one name and up to three urls.
_FAMILIES = (
    "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-",
    "http://hl7.org/fhir/us/cqfmeasures/StructureDefinition/cqfm-",
    "http://hl7.org/fhir/StructureDefinition/cqf-",
)
_LINK_ID = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Measure."
_IDENTIFIERS = ("text/cql-identifier", "text/cql-expression", "text/cql", "text/cql.identifier")


def extension_nodes(node: Node, name: str) -> Iterator[Node]:
    """Every extension ``name`` of any family, in order of family."""
    for family in _FAMILIES:
        for candidate in node.get("extension", ()):
            if candidate.get("url") == family + name:
                yield candidate


def extensions(node: Node, name: str) -> list[Any]:
    """Values of every extension ``name``."""
    return [
        next((value for key, value in found.items() if key.startswith("value")), None)
        for found in extension_nodes(node, name)
    ]


def extension(node: Node, name: str) -> Any:
    """Value of the first extension ``name`` in either family, None when absent."""
    return next(iter(extensions(node, name)), None)


def link_id(node: Node, path: str) -> str | None:
    """The linkId of an element at ``path`` (``group``, ``group.population`` ...), None when it has none."""
    for candidate in node.get("extension", ()):
        if candidate.get("url") == f"{_LINK_ID}{path}.linkId":
            return str(candidate["valueString"])
    return None


def code_of(concept: Any) -> str | None:
    """Code of a CodeableConcept's first coding, or the value itself when it is already a code or text."""
    if isinstance(concept, Mapping):
        for coding in concept.get("coding", ()):
            if coding.get("code"):
                return str(coding["code"])
        text = concept.get("text")
        return str(text) if text else None
    return str(concept) if concept is not None else None


def expression_of(element: Node, where: str) -> str:
    """Name of the definition that ``element.criteria`` names.

    Raises UnsupportedElm for a language that is no CQL identifier, MeasureError when there is no expression.
    """
    criteria = element.get("criteria", {})
    language = criteria.get("language")
    if language not in _IDENTIFIERS:
        raise UnsupportedElm(f"{where} has criteria in {language!r}, not a CQL identifier")
    expression = criteria.get("expression")
    if not expression:
        raise MeasureError(f"{where} has no criteria expression")
    return str(expression).removeprefix('"').removesuffix('"')
