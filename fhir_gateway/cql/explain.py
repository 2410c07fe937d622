"""The engine as explainer: an evaluation that remembers what every expression was worth, place by place.

:class:`ExplainingEvaluation` is the real evaluation; it only keeps, beside each vector, the path of expressions that
asked for it. So the same node that stands in two queries is told apart by the query it was evaluated for. It is meant
for batches of one member (an explanation), not for populations: everything is kept until it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np

from fhir_gateway.cql.batch import Batch
from fhir_gateway.cql.compile import CompiledLibrary, Node
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Library
from fhir_gateway.cql.evaluation import Evaluation
from fhir_gateway.cql.forms.references import referenced_library
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.values import BoolArray, BoolVec, ChoiceVec, ElementVec, ListVec, TupleVec, Vec

DefinitionKey = tuple[str, str]  # label of the library, name of the definition


class Reading(NamedTuple):
    """One evaluation of an expression: the rows, the names in scope, and a value for each row."""

    frame: Frame
    env: Env
    vec: Vec
    free: bool  # whether the value depends on the row (names in scope), or only on the member


class Recorded(Protocol):
    """What was recorded of one expression on one path, or one member's share of it."""

    @property
    def node(self) -> Node | None:
        """The expression."""

    @property
    def readings(self) -> list[Reading]:
        """Its evaluations."""

    def child(self, node: Node) -> Recorded | None:
        """The record of ``node`` below this one."""


class Recording(Protocol):
    """A recorded evaluation of one member, alone or as a share of a batch (:mod:`fhir_gateway.cql.members`)."""

    @property
    def compiled(self) -> CompiledLibrary:
        """The library that was evaluated."""

    def body(self, library: Library, name: str) -> Recorded | None:
        """The record of a definition's expression; None when nothing needed the definition."""

    def referenced(self, node: Node) -> Recorded | None:
        """For the node of an ExpressionRef: the record of the expression it refers to."""

    def reached(self, root: Any) -> Iterable[Recorded]:
        """Records below one of this recording, through the definitions that are referred to; what is referred to
        comes first.
        """


class Record:
    """What was recorded of one expression on one path: its readings, and the expressions it asked for."""

    __slots__ = ("_children", "node", "readings", "runner")

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.readings: list[Reading] = []
        self.runner: Record | None = None  # who ran the node, when this path found its result already there
        self._children: dict[int, Record] = {}

    def enter(self, node: Node) -> Record:
        """The record of ``node`` below this one, made when absent."""
        return self._children.setdefault(id(node), Record(node))

    def child(self, node: Node) -> Record | None:
        """The record of ``node`` below this one, or below the one that ran this expression."""
        found = self._children.get(id(node))
        return found if found is not None or self.runner is None else self.runner.child(node)

    @property
    def children(self) -> Iterator[Record]:
        """All records below."""
        yield from self._children.values()
        if self.runner is not None:
            yield from self.runner.children

    def walk(self, seen: set[int] | None = None) -> Iterator[Record]:
        """This record and all below it, each once."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield self
        for child in self.children:
            yield from child.walk(seen)


class ExplainingEvaluation(Evaluation):
    """An evaluation that keeps a :class:`Record` tree for each definition it computed."""

    narrows = False  # one member's resources are few, and anything may be asked for
    skips_no_rows = False  # a clause of a query that found nothing is shown too

    def __init__(
        self, compiled: CompiledLibrary, batch: Batch, parameters: Mapping[str, object], now: datetime
    ) -> None:
        super().__init__(compiled, batch, parameters, now)
        self.roots: dict[DefinitionKey, Record] = {}
        self._current = Record(None)
        self._ran: dict[tuple[int, int], Record] = {}

    def value(self, node: Node, frame: Frame, env: Env) -> Vec:
        """As the engine's, recorded."""
        outer, self._current = self._current, self._current.enter(node)
        try:
            vec = super().value(node, frame, env)
            if node.constant and frame.n:  # said once, however many rows it was gathered into
                self._keep(node, Reading(self.unit, env, self._constants[id(node)], False))
            else:
                self._keep(node, Reading(frame, env, vec, bool(node.free)))
        finally:
            self._current = outer
        return vec

    def constant(self, node: Node) -> Vec:
        """As the engine's, recorded (``value``, which asks from within the node itself, records on its own)."""
        outer = self._current
        if outer.node is node:
            return super().constant(node)
        self._current = outer.enter(node)
        try:
            vec = super().constant(node)
            self._keep(node, Reading(self.unit, Env(), vec, False))
        finally:
            self._current = outer
        return vec

    def definition(self, library: Library, name: str) -> tuple[Frame, Vec]:
        """As the engine's; what a definition asks for is recorded under it, whoever needed it first."""
        key = (library.label, name)
        outer, self._current = self._current, self.roots.setdefault(key, Record(None))
        try:
            return super().definition(library, name)
        finally:
            self._current = outer

    def _keep(self, node: Node, reading: Reading) -> None:
        record = self._current
        if not any(reading.vec is known.vec and reading.frame is known.frame for known in record.readings):
            record.readings.append(reading)
        # the same vector for the same node was computed once, on the path that came first
        ran = self._ran.setdefault((id(node), id(reading.vec)), record)
        if ran is not record and record.runner is None:
            record.runner = ran

    def body(self, library: Library, name: str) -> Record | None:
        """The record of a definition's expression; None when nothing needed the definition."""
        root = self.roots.get((library.label, name))
        return None if root is None else next(root.children, None)

    def referenced(self, node: Node) -> Record | None:
        """For the node of an ExpressionRef: the record of the expression it refers to."""
        return self.body(referenced_library(self.compiled.compiler, node.library, node.elm), node.elm["name"])

    def reached(self, root: Record) -> Iterator[Record]:
        """Records below one, through the definitions that are referred to; what is referred to comes first."""
        return self._reached(root, set())

    def _reached(self, record: Record, seen: set[int]) -> Iterator[Record]:
        for one in list(record.walk(seen)):
            if one.node is not None and one.node.elm.get("type") == "ExpressionRef":
                target = self.referenced(one.node)
                if target is not None and id(target) not in seen:
                    yield from self._reached(target, seen)
            yield one


@dataclass(frozen=True)
class Truth:
    """For each row whether it is true (or has a value), or false (or an empty list); null when neither."""

    true: BoolArray
    false: BoolArray


def truth_of(vec: Vec) -> Truth:
    """Truth of each row: of Booleans themselves; a list is true when it has elements, anything else when not null."""
    vec = unwrap(vec)
    if isinstance(vec, BoolVec):
        return Truth(vec.valid & vec.values, vec.valid & ~vec.values)
    if isinstance(vec, ListVec):
        return Truth(vec.valid & (vec.lengths > 0), vec.valid & (vec.lengths == 0))
    if isinstance(vec, ChoiceVec):
        parts = [truth_of(option) for option in vec.options]
        true = np.logical_or.reduce([p.true for p in parts])
        return Truth(true, ~true & np.logical_or.reduce([p.false for p in parts]))
    return Truth(vec.valid, np.zeros(len(vec), dtype=bool))


def resources_of(record: Record) -> set[str]:
    """``Type/id`` of every resource that the expression and all it asked for looked at, definitions included."""
    found: set[str] = set()
    for one in record.walk():
        for reading in one.readings:
            found.update(references(reading.vec))
    return found


def references(vec: Vec) -> Iterator[str]:
    """``Type/id`` of the resources in a vector, in lists, tuples and choices too."""
    if isinstance(vec, ElementVec):
        if vec.source.is_resource:
            yield from (reference for reference in vec.pylist() if reference is not None)
    elif isinstance(vec, ListVec):
        yield from references(vec.flat)
    elif isinstance(vec, ChoiceVec):
        for option in vec.options:
            yield from references(option)
    elif isinstance(vec, TupleVec):
        for part in vec.fields.values():
            yield from references(part)
