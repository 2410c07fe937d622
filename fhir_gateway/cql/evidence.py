"""Evidence: the resources a definition's queries looked at, and the condition that each one failed.

Every query that the definition reached is asked which of its resources went through ``with``, ``without`` and
``where``, and which stopped at what. A resource that stopped anywhere carries the first condition it failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fhir_gateway.cql.clauses import plain, readings_of, related
from fhir_gateway.cql.elm import Elm, Library
from fhir_gateway.cql.explain import Reading, Recorded, Recording, truth_of
from fhir_gateway.cql.frame import Frame
from fhir_gateway.cql.places import place
from fhir_gateway.cql.reasons import Criterion, conjuncts, criterion, rows_truth
from fhir_gateway.cql.values import BoolArray, ChoiceVec, ElementVec, ListVec, Vec
from fhir_gateway.r4 import spec

#: Elements that say when something was true or done, the clinically closest first.
DATES = (
    "effective performed occurrence onset whenHandedOver whenPrepared period authoredOn started date recordedDate "
    "recorded created issued birthDate"
).split()
#: Elements that say what something is.
NAMES = ("code", "vaccineCode", "medication", "type", "category")


@dataclass(frozen=True)
class Evidence:
    """A resource that a query looked at; ``failed`` is None when it went through all of them.

    The outcome of ``failed`` is that of this resource, false or null.

    ``start`` and ``end`` are ISO text (the same for a moment, None where the resource does not say).
    """

    reference: str
    resource_type: str
    start: str | None
    end: str | None
    what: str | None
    value: Any
    failed: Criterion | None


def evidence(evaluation: Recording, library: Library, name: str) -> tuple[Evidence, ...]:
    """Resources that the queries and retrieves behind a definition looked at, each once (Patients left out)."""
    root = evaluation.body(library, name)
    elements: dict[str, ElementVec] = {}
    failures: dict[str, Criterion | None] = {}
    for record in evaluation.reached(root) if root is not None else ():
        if record.node is None:
            continue
        if record.node.elm.get("type") == "Retrieve":
            for reading in record.readings:
                for reference, element in _elements(reading.vec):
                    elements.setdefault(reference, element)
                    failures.setdefault(reference, None)
        elif record.node.elm.get("type") == "Query" and not _correlated(record):
            for reference, reason in _stopped(evaluation, record):
                if failures.get(reference) is None:
                    failures[reference] = reason
    found = (_evidence(reference, element, failures[reference]) for reference, element in elements.items())
    return tuple(one for one in found if one.resource_type != "Patient")


def _correlated(record: Recorded) -> bool:
    """A query about a row of another one: what it stops may be just what is wanted (``not exists``)."""
    return record.node is not None and any(name.startswith(("alias:", "let:")) for name in record.node.free)


def _elements(vec: Vec) -> Iterator[tuple[str, ElementVec]]:
    """Each resource of a vector by reference."""
    if isinstance(vec, ListVec):
        yield from _elements(vec.flat)
    elif isinstance(vec, ChoiceVec):
        for option in vec.options:
            yield from _elements(option)
    elif isinstance(vec, ElementVec) and vec.source.is_resource:
        for position, reference in enumerate(vec.pylist()):
            if reference is not None:
                yield reference, vec.take(np.array([position], dtype=np.int64))


def _stopped(evaluation: Recording, record: Recorded) -> Iterator[tuple[str, Criterion]]:
    """Resources of a query's sources that a clause stopped, and the clause."""
    assert record.node is not None  # noqa: S101 - narrows the type
    library, elm = record.node.library, record.node.elm
    compiler = evaluation.compiled.compiler
    statement = _statement(library, elm)
    aliases = [f"alias:{source['alias']}" for source in elm["source"]]
    at = place(compiler, library, elm)
    for relationship in elm.get("relationship") or ():
        part = at.child(relationship)
        such_that = part.child(relationship["suchThat"]) if part else None
        inner = record.child(such_that.node) if such_that and such_that.node else None
        if part is None or inner is None:
            continue
        for reading in readings_of([inner]):
            kept = related(reading, relationship["type"] == "Without")
            if reading.frame.parent is not None:
                reason = replace(criterion(library, statement, part, [record]), outcome="false", value=None)
                for reference in _references(reading, reading.frame.parent, aliases, ~kept):
                    yield reference, reason
    where = at.child(elm.get("where"))
    inner = record.child(where.node) if where and where.node else None
    if where is None or inner is None:
        return
    for reading in readings_of([inner]):
        stopped = ~truth_of(reading.vec).true
        for part, records in conjuncts(where, [inner]):
            truth = rows_truth(records, reading.frame)
            if truth is None:
                continue
            reason = replace(criterion(library, statement, part, records), value=None)
            for reference in _references(reading, reading.frame, aliases, stopped & truth.false):
                yield reference, replace(reason, outcome="false")
            for reference in _references(reading, reading.frame, aliases, stopped & ~truth.true & ~truth.false):
                yield reference, replace(reason, outcome="null")
            stopped = stopped & truth.true


def _references(reading: Reading, frame: Frame, aliases: list[str], rows: BoolArray) -> Iterator[str]:
    """Resources bound to the aliases in ``rows`` of ``frame``."""
    at = np.flatnonzero(rows)
    for alias in aliases:
        if len(at) and alias in reading.env.names:
            yield from (reference for reference, _ in _elements(reading.env.look_up(alias, frame).take(at)))


def _statement(library: Library, elm: Elm) -> Elm:
    """The statement an expression stands in, by its place in the text."""
    found: dict[int, Elm] | None = library.known.get("statements")
    if found is None:
        found = library.known["statements"] = {}
        for statement in library.elm.get("statements", {}).get("def", []):
            for inner in _nodes(statement.get("expression")):
                found.setdefault(id(inner), statement)
    return found.get(id(elm), {"name": ""})


def _nodes(tree: Any) -> Iterator[Elm]:
    if isinstance(tree, dict):
        yield tree
        for key, value in tree.items():
            if key != "annotation":
                yield from _nodes(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)


def _evidence(reference: str, element: ElementVec, failed: Criterion | None) -> Evidence:
    start, end = _when(_first(element, DATES))
    what = _readable(plain(_first(element, NAMES)))
    value = _readable(plain(_first(element, ("value",))))
    if value is None and "component" in spec.type_definition(element.fhir_type).elements:
        parts = plain(element.property("component").pylist()[0]) or ()
        value = "; ".join(f"{_readable(part.get('code'))} {_component(part)}" for part in parts) or None
    return Evidence(reference, element.fhir_type, start, end, None if what is None else str(what), value, failed)


def _component(part: dict[str, Any]) -> str:
    return str(next((_readable(value) for name, value in part.items() if name.startswith("value")), "without value"))


def _first(element: ElementVec, names: tuple[str, ...] | list[str]) -> Any:
    """The first of the elements that has a value."""
    definition = spec.type_definition(element.fhir_type)
    for name in names:
        if name in definition.elements or name in definition.choices:
            value = element.property(name).pylist()[0]
            if value not in (None, [], {}):
                return value[0] if isinstance(value, list) else value
    return None


def _when(value: Any) -> tuple[str | None, str | None]:
    if isinstance(value, dict):
        start, end = value.get("start"), value.get("end")
        return (None if start is None else str(start)), (None if end is None else str(end))
    return (None, None) if value is None else (str(value), str(value))


def _readable(value: Any) -> Any:
    """A quantity as ``8 %``, a concept as its text; other values as they are."""
    if isinstance(value, dict):
        if "value" in value:
            unit = value.get("unit") or value.get("code")
            return " ".join(str(part) for part in (value.get("comparator"), value["value"], unit) if part is not None)
        if value.get("text") or value.get("coding"):
            coding = (value.get("coding") or [{}])[0]
            return value.get("text") or coding.get("display") or coding.get("code")
    return value
