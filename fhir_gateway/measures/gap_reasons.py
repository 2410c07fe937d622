"""Why a gap is open, in the words of DEQM: a code for each criterion that is not met, and what data would meet it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fhir_gateway.cql.elm import Elm, Library
from fhir_gateway.cql.evidence import DATES, Evidence
from fhir_gateway.cql.reasons import Criterion
from fhir_gateway.measures.elm_references import LibraryId, references
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.gap import Gap
from fhir_gateway.measures.requirements import Requirement, requirements
from fhir_gateway.r4 import spec

Code = Literal[
    "NotFound", "Missing", "Present", "InvalidAttribute", "DateOutOfRange", "ValueOutOfRange", "CountOutOfRange"
]
_ORDERS = frozenset("Greater GreaterOrEqual Less LessOrEqual Between".split())
#: Operators that only dates and times have.
_TEMPORAL = frozenset(
    "DateFrom DateTimeComponentFrom IncludedIn ProperIncludedIn SameAs SameOrAfter SameOrBefore Before After Overlaps "
    "OverlapsAfter OverlapsBefore Starts Ends Meets DifferenceBetween DurationBetween Now Today CalculateAgeAt".split()
)
_DATES = frozenset(DATES)


@dataclass(frozen=True)
class Reason:
    """A criterion that is not met (of an inverse measure: that is).

    ``evidence`` is the nearest resource of those that the criterion looks at, ``path`` the element of it that failed;
    ``needs`` is the data that it looks for.
    """

    code: Code
    criterion: Criterion
    evidence: Evidence | None
    path: str | None
    needs: tuple[Requirement, ...]


def reasons(evaluator: Evaluator, gap: Gap) -> tuple[Reason, ...]:
    """The reasons of a gap that has some: one for each definition with a criterion that decided."""
    distinct: dict[tuple[str, str], Criterion] = {}
    for criterion in gap.failed:
        distinct.setdefault((criterion.library, criterion.definition), criterion)
    return tuple(_reason(evaluator, gap, criterion) for criterion in distinct.values())


def _reason(evaluator: Evaluator, gap: Gap, criterion: Criterion) -> Reason:
    needs, reached = _behind(evaluator, criterion.library, criterion.definition)
    types = {need.resource_type for need in needs}
    seen = next((one for one in gap.evidence if _concerns(one, reached, types)), None)
    if gap.improvement_notation == "decrease" and criterion.outcome == "true":
        return Reason("Present", criterion, seen, None, needs)
    if seen is None:
        return Reason("NotFound", criterion, None, None, needs)
    stopped = seen.failed or criterion
    node = _node(evaluator, stopped)
    code = _code(stopped, node)
    return Reason(code, criterion, seen, _path(code, node, seen.resource_type), needs)


def _concerns(one: Evidence, reached: frozenset[tuple[str, str]], types: set[str]) -> bool:
    """Whether a resource was looked at for a criterion: stopped by what is behind it, or of a type it looks for."""
    if one.failed is not None:
        return (one.failed.library.partition("|")[0], one.failed.definition) in reached
    return one.resource_type in types


def _code(stopped: Criterion, node: Elm) -> Code:
    kinds = {one.get("type") for one in _walk(node)}
    if stopped.outcome == "null":
        return "Missing"
    if "Count" in kinds:
        return "CountOutOfRange"
    if kinds & _TEMPORAL or any(path in _DATES for path in _paths(node)):
        return "DateOutOfRange"
    return "ValueOutOfRange" if kinds & _ORDERS else "InvalidAttribute"


def _path(code: Code, node: Elm, resource_type: str) -> str | None:
    """The element that failed: the one that the expression names, or the one of the type that it must mean."""
    definition = spec.type_definition(resource_type)
    means = {"DateOutOfRange": tuple(DATES), "ValueOutOfRange": ("value",)}.get(code, ())
    named = [path for path in _paths(node) if path in definition.elements or path in definition.choices]
    there = [path for path in means if path in definition.elements or path in definition.choices]
    return next((path for path in named if path in there or not there), next(iter(there), None))


@lru_cache(maxsize=4096)
def _behind(
    evaluator: Evaluator, library: str, definition: str
) -> tuple[tuple[Requirement, ...], frozenset[tuple[str, str]]]:
    """What a definition needs, and all definitions (library name, name) behind it."""
    package = evaluator.package
    name, _, version = library.partition("|")
    key: LibraryId = (name, version or None)
    reached = references(package.libraries, key, [definition]).definitions
    return tuple(requirements(package, [definition], key)), reached


def _node(evaluator: Evaluator, criterion: Criterion) -> Elm:
    """The expression that a criterion is; an empty one when the translator left no ids."""
    name, _, version = criterion.library.partition("|")
    library: Library = evaluator.compiled.compiler.libraries.find(name, version or None)
    if "criteria" not in library.known:
        statements = library.elm.get("statements", {}).get("def", [])
        library.known["criteria"] = {
            (statement["name"], str(inner["localId"])): inner
            for statement in statements
            for inner in _walk(statement.get("expression"))
            if "localId" in inner
        }
    found: Elm = library.known["criteria"].get((criterion.definition, criterion.local_id), {})
    return found


def _walk(node: Any) -> Iterator[Elm]:
    if isinstance(node, dict):
        yield node
        for name, child in node.items():
            if name != "annotation":
                yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


def _paths(node: Elm) -> Iterator[str]:
    """First elements of the paths that an expression takes of something."""
    return (str(one["path"]).partition(".")[0] for one in _walk(node) if one.get("type") == "Property")
