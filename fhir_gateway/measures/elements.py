"""Reading elements of a Measure: extensions of both families, link ids, codes and CQL criteria."""

from __future__ import annotations

import re
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
#: Elements of R5 that R4 content carries as extensions, with their names where these differ.
_R5 = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Measure."
_R5_NAMES = {"populationBasis": "basis", "criteriaReference": "inputPopulationId"}
_IDENTIFIERS = ("text/cql-identifier", "text/cql.identifier")
#: Languages of whole expressions: a definition's name, quoted or not, is one.
_EXPRESSIONS = ("text/cql-expression", "text/cql.expression", "text/cql")
_QUOTED = re.compile(r'"([^"\\]+)"|`([^`\\]+)`')
_INLINE = re.compile(r'["`\[\]{}()=<>~+*/]')


def extension_nodes(node: Node, name: str) -> Iterator[Node]:
    """Every extension ``name`` of any family, in order of family; those that stand for elements of R5 come last."""
    for family in _FAMILIES:
        for candidate in node.get("extension", ()):
            if candidate.get("url") == family + name:
                yield candidate
    for candidate in node.get("extension", ()):
        url = str(candidate.get("url"))
        if url.startswith(_R5) and url.rpartition(".")[2] == _R5_NAMES.get(name, name):
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
        if candidate.get("url") == f"{_R5}{path}.linkId":
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

    Raises UnsupportedElm for a language that is not CQL and for CQL written into the Measure (packages carry libraries
    as ELM, and nothing here translates), MeasureError when there is no expression.
    """
    criteria = element.get("criteria", {})
    language = criteria.get("language")
    if language not in (*_IDENTIFIERS, *_EXPRESSIONS):
        raise UnsupportedElm(f"{where} has criteria in {language!r}, not a CQL identifier")
    expression = str(criteria.get("expression") or "").strip()
    if not expression:
        raise MeasureError(f"{where} has no criteria expression")
    quoted = _QUOTED.fullmatch(expression)
    if quoted:
        return quoted[1] or quoted[2]
    if language in _EXPRESSIONS and _INLINE.search(expression):
        raise UnsupportedElm(f"{where} has CQL of its own for criteria, not the name of a definition in its library")
    return expression
