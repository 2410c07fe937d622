"""Why a definition came out as it did for one member: the clauses that decided it.

From the definition downwards only what decided is followed: of a false conjunction the operands that are false, of a
false disjunction all of them, of an empty query its empty source or the condition that let nothing through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fhir_gateway.cql.clauses import Outcome, below, readings_of, worth
from fhir_gateway.cql.elm import Elm, Library
from fhir_gateway.cql.explain import Recorded, Recording, Truth, truth_of
from fhir_gateway.cql.forms.references import referenced_library
from fhir_gateway.cql.frame import Frame
from fhir_gateway.cql.highlight import clause_texts
from fhir_gateway.cql.places import Place, place
from fhir_gateway.cql.registry import OPERATORS
from fhir_gateway.cql.values import BoolArray

#: Operators that say of their operand what is wanted, or hand on its emptiness.
_TRANSPARENT = frozenset("Not IsNull IsTrue IsFalse Exists First Last SingletonFrom Flatten Distinct As Sort".split())


@dataclass(frozen=True)
class Criterion:
    """A clause that decided: where it stands, what it says, and what it was worth."""

    library: str
    definition: str
    local_id: str | None
    locator: str | None
    text: str
    outcome: Outcome
    value: Any = None


@dataclass(frozen=True)
class _At:
    """A place in a statement with its records."""

    library: Library
    statement: Elm
    place: Place
    records: tuple[Recorded, ...]

    def below(self, place: Place) -> _At:
        return _At(self.library, self.statement, place, tuple(below(self.records, place)))

    @property
    def outcome(self) -> Outcome:
        return worth(readings_of(self.records))[0]


def deciding(evaluation: Recording, library: Library, name: str) -> tuple[Criterion, ...]:
    """The clauses that decided the value of a definition, in the order of the text."""
    found: dict[tuple[str, str, str | None], Criterion] = {}
    start = _definition(evaluation, library, name)
    for at in _why(evaluation, start) if start else ():
        one = criterion(at.library, at.statement, at.place, at.records)
        found.setdefault((one.library, one.definition, one.local_id or one.locator), one)
    return tuple(found.values())


def criterion(library: Library, statement: Elm, at: Place, records: Sequence[Recorded]) -> Criterion:
    """The clause of a place as a criterion; a place without text of its own has that of what is in it."""
    outcome, value, _ = worth(readings_of(records))
    texts = _texts(library, statement)
    inner = next((p for p in at.walk() if p.local_id in texts), at)
    text = texts.get(inner.local_id or "", "")
    return Criterion(
        library.label,
        str(statement["name"]),
        inner.local_id,
        inner.elm.get("locator"),
        " ".join(text.split()),
        outcome,
        value,
    )


def _texts(library: Library, statement: Elm) -> Mapping[str, str]:
    """Texts of a statement's clauses, taken apart once."""
    key = ("texts", id(statement))
    if key not in library.known:
        library.known[key] = clause_texts(statement) if statement.get("expression") else {}
    found: Mapping[str, str] = library.known[key]
    return found


def conjuncts(at: Place, records: Sequence[Recorded]) -> Iterator[tuple[Place, list[Recorded]]]:
    """The operands of nested conjunctions; the expression itself when it is none."""
    if at.kind != "And":
        yield at, list(records)
        return
    for child in at.children:
        yield from conjuncts(child, below(records, child))


def rows_truth(records: Sequence[Recorded], frame: Frame) -> Truth | None:
    """Truth of an expression for the rows of ``frame``; None when it was not evaluated there."""
    for reading in readings_of(records):
        if reading.frame is frame:
            return truth_of(reading.vec)
        if not reading.free and len(reading.vec) == 1:
            one = truth_of(reading.vec)
            return Truth(np.repeat(one.true, frame.n), np.repeat(one.false, frame.n))
    return None


def _definition(evaluation: Recording, library: Library, name: str) -> _At | None:
    record, elm = evaluation.body(library, name), library.definitions[name]
    if record is None:
        return None
    return _At(library, elm, place(evaluation.compiled.compiler, library, elm["expression"]), (record,))


def _why(evaluation: Recording, at: _At) -> Iterator[_At]:
    """The places that decided the outcome at ``at``."""
    kind, outcome = at.place.kind, at.outcome
    inside = list(_inside(evaluation, at, kind, outcome))
    if not inside:
        yield at
    for inner in inside:
        if inner.place.kind in ("With", "Without") or inner.outcome == "uncovered":
            yield inner
        else:
            yield from _why(evaluation, inner)


def _inside(evaluation: Recording, at: _At, kind: str, outcome: Outcome) -> Iterator[_At]:
    children = [at.below(child) for child in at.place.children]
    if kind in ("And", "Or"):
        decided = [c for c in children if c.outcome == outcome]
        lasting = "true" if kind == "And" else "false"
        yield from children if outcome == lasting else decided
    elif kind == "ExpressionRef":
        library = referenced_library(evaluation.compiled.compiler, at.library, at.place.elm)
        target = _definition(evaluation, library, at.place.elm["name"])
        if target is not None:
            yield target
    elif kind in _TRANSPARENT and (kind == "Not" or any(c.outcome in ("false", "null") for c in children)):
        yield from (c for c in children if c.place.node is not None)
    elif kind in OPERATORS and OPERATORS[kind].nulls == "strict" and outcome == "null":
        yield from (c for c in children if c.place.node is not None and c.outcome == "null")
    elif kind == "Union" and outcome != "true":
        yield from (c for c in children if c.place.node is not None)
    elif kind == "Query" and outcome != "true":
        yield from _emptied(at)
    elif kind == "FunctionRef" and outcome != "true":
        yield from _called(evaluation, at, children)


def _emptied(at: _At) -> Iterator[_At]:
    """Of a query without a result: its empty source, else the first clause that let no row through."""
    elm = at.place.elm
    for source in elm.get("source", ()):
        part = at.place.child(source)
        inner = part.child(source["expression"]) if part else None
        if inner is not None and at.below(inner).outcome in ("false", "null"):
            yield at.below(inner)
            return
    where = at.place.child(elm.get("where"))
    here = at.below(where) if where is not None else None
    if here is None or here.outcome == "uncovered":  # no row got as far
        for relationship in elm.get("relationship") or ():
            part = at.place.child(relationship)
            if part is not None:
                yield _At(at.library, at.statement, part, at.records)
        return
    if here.outcome != "true":
        left: dict[int, BoolArray] = {}
        for part, records in conjuncts(here.place, here.records):
            for reading in readings_of(here.records):
                truth = rows_truth(records, reading.frame)
                if truth is not None:
                    before = left.get(id(reading.frame), np.ones(reading.frame.n, dtype=bool))
                    left[id(reading.frame)] = before & truth.true
            if left and not any(rows.any() for rows in left.values()):
                yield _At(at.library, at.statement, part, tuple(records))
                return
        yield here


def _called(evaluation: Recording, at: _At, operands: list[_At]) -> Iterator[_At]:
    """Of a function without a result: its empty operand, else what its body says."""
    empty = [o for o in operands if o.place.node is not None and o.outcome in ("false", "null")]
    if empty:
        yield empty[0]
        return
    compiler = evaluation.compiled.compiler
    library = referenced_library(compiler, at.library, at.place.elm)
    for elm in library.functions.get(at.place.elm["name"], ()):
        if "expression" not in elm:
            continue
        body = place(compiler, library, elm["expression"])
        records = below(at.records, body) if body.node is not None else []
        if records:
            yield _At(library, elm, body, tuple(records))
            return
