"""One run of a compiled library over one batch of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from fhir_gateway.cql.batch import Batch, ResourceTable
from fhir_gateway.cql.frame import Env, Frame, zeros
from fhir_gateway.cql.isolation import DATA_ERRORS, isolate
from fhir_gateway.cql.sought import sought
from fhir_gateway.cql.values import (
    BoolArray,
    BoolVec,
    ElementVec,
    IntArray,
    IntervalVec,
    ListVec,
    NullVec,
    Vec,
    concat,
)
from fhir_gateway.cql.values.base import dense
from fhir_gateway.errors import InputError, MeasureError
from fhir_gateway.r4 import spec

if TYPE_CHECKING:
    from fhir_gateway.cql.compile import CompiledLibrary, Node
    from fhir_gateway.cql.elm import Library


@dataclass(frozen=True)
class Episodes:
    """The elements of a list-valued definition: distinct, without nulls, in member order."""

    member: IntArray  # position of the member of each element
    values: Vec  # the elements themselves
    identity: IntArray  # equal numbers are the same element

    def __len__(self) -> int:
        """Number of elements over all members."""
        return len(self.member)

    def references(self) -> list[str | None]:
        """``Type/id`` of resource-valued elements (edge only)."""
        return [str(v) if v is not None else None for v in self.values.pylist()]


@dataclass(frozen=True)
class Failure:
    """Why a member could not be evaluated: never silently zero."""

    definition: str
    locator: str
    reason: str


class Evaluation:
    """Definitions of a compiled library over one batch, each computed once."""

    #: Whether to read only resources that some retrieve can find.
    narrows = True
    #: Whether expressions are left alone where a query has no rows: most of what one member's record asks for.
    skips_no_rows = True

    def __init__(
        self, compiled: CompiledLibrary, batch: Batch, parameters: Mapping[str, object], now: datetime
    ) -> None:
        if now.tzinfo is None:
            raise InputError("the evaluation instant needs a time zone offset")
        self.compiled = compiled
        self.batch = batch
        self.now = now
        offset = now.utcoffset()
        self.offset_ms = int(offset.total_seconds() * 1000) if offset else 0
        self.parameters = dict(parameters)
        self.root = Frame(len(batch))
        self.unit = Frame(1)
        self.failures: dict[int, Failure] = {}
        self.definition_name = ""
        self.depth = 0  # of recursive functions
        self._constants: dict[int, Vec] = {}
        self._definitions: dict[tuple[str, str], tuple[Frame, Vec]] = {}
        self._tables: dict[str, ResourceTable] = {}
        self._retrieves_known = 0  # when the first table was read
        self.retrieves: dict[Any, ListVec] = {}

    # -- evaluation ------------------------------------------------------------------------------------------------

    def value(self, node: Node, frame: Frame, env: Env) -> Vec:
        """The value of ``node`` for each row of ``frame``."""
        if frame.n == 0 and frame.parent is not None and self.skips_no_rows:
            return NullVec(0)  # no rows have no type either: what they are put together with decides
        if node.constant:
            constant = self.constant(node)
            return constant if frame is self.unit else constant.take(zeros(frame.n))
        if node.cheap:
            return node.run(self, frame, env)
        bound = [env.names[name] for name in node.names]
        key = (id(node), *[(id(home), id(vec)) for home, vec in bound]) if bound else id(node)
        found = frame.cache.get(key)
        if found is None:
            try:
                value = node.run(self, frame, env)
            except DATA_ERRORS as error:
                value = isolate(self, node, frame, env, error)
            # frames that names are bound in are this one's ancestors: only the vectors have to be kept
            found = frame.cache[key] = (value, [vec for _, vec in bound])
        return found[0]

    def constant(self, node: Node) -> Vec:
        """The single value of a constant node."""
        found = self._constants.get(id(node))
        if found is None:
            found = node.run(self, self.unit, Env())
            self._constants[id(node)] = found
        return found

    def definition(self, library: Library, name: str) -> tuple[Frame, Vec]:
        """The value of an expression definition and the frame it is for (root, or the unit frame when constant)."""
        key = (library.label, name)
        found = self._definitions.get(key)
        if found is None:
            node = self.compiled.compiler.definition(library, name)
            self._keep_up()
            outer, self.definition_name = self.definition_name, f"{library.name}.{name}"
            try:
                if node.constant:
                    found = (self.unit, self.constant(node))
                else:
                    found = (self.root, self.value(node, self.root, Env()))
            finally:
                self.definition_name = outer
            self._definitions[key] = found
        return found

    def table(self, resource_type: str) -> ResourceTable:
        """The resources of one type, with the columns that any compiled expression may touch."""
        found = self._tables.get(resource_type)
        if found is None:
            compiler = self.compiled.compiler
            names = frozenset(compiler.property_names | compiler.elements_of.get(resource_type, set()))
            coded = sought([self.compiled], resource_type) if self.narrows and self.batch.narrows else None
            whole = compiler.whole_columns.setdefault(resource_type, set())
            found = self.batch.table(resource_type, names, self.offset_ms, coded, whole)
            self._retrieves_known = self._retrieves_known or compiler.retrieve_count
            found.source.zones |= compiler.zones
            self._tables[resource_type] = found
        return found

    def _keep_up(self) -> bool:
        """Begin anew when a definition compiled since may look for resources that were not read; says whether."""
        late = self.compiled.compiler.retrieve_count != self._retrieves_known
        if not late or all(table.coded is None for table in self._tables.values()):
            return False
        self.root = Frame(len(self.batch))
        self._retrieves_known = 0
        for known in (self._tables, self._definitions, self.retrieves):
            known.clear()
        return True

    def fail(self, frame: Frame, rows: BoolArray, node: Node, reason: str) -> None:
        """Record that the members behind ``rows`` cannot be evaluated."""
        if not rows.any():
            return
        if frame.root is self.unit:
            raise MeasureError(f"{node.library.label} at {node.locator}: {reason}")
        above = frame.rows_in(self.root)
        members = np.flatnonzero(rows) if above is None else np.unique(above[rows])
        failure = Failure(self.definition_name, f"{node.library.name} {node.locator}", reason)
        for member in members.tolist():  # failures are few
            self.failures.setdefault(member, failure)

    # -- results ---------------------------------------------------------------------------------------------------

    def vector(self, name: str) -> Vec:
        """The vector of a definition of the primary library, one row for each member."""
        frame, vec = self.definition(self.compiled.primary, name)
        return vec.take(zeros(len(self.batch))) if frame is self.unit else vec

    def booleans(self, name: str) -> BoolArray:
        """A Boolean definition as a mask over members; null is False. Raises MeasureError for another type."""
        vec = self.vector(name)
        if isinstance(vec, NullVec):
            return np.zeros(len(vec), dtype=bool)
        if isinstance(vec, ElementVec):
            vec = vec.primitive()
        if not isinstance(vec, BoolVec):
            raise MeasureError(f"definition {name!r} of {self.compiled.primary.label} is a {vec.kind}, not a Boolean")
        return vec.true

    def episodes(self, name: str) -> Episodes:
        """A list-valued definition as distinct elements. Raises MeasureError when it is not a list."""
        vec = self.vector(name)
        if isinstance(vec, NullVec):
            return Episodes(np.zeros(0, dtype=np.int64), NullVec(0), np.zeros(0, dtype=np.int64))
        if not isinstance(vec, ListVec):
            raise MeasureError(f"definition {name!r} of {self.compiled.primary.label} is a {vec.kind}, not a list")
        member, flat = vec.parents, vec.flat
        present = np.flatnonzero(flat.valid)
        member, flat = member[present], flat.take(present)
        identity = self.identity(flat)
        _, first = np.unique(np.stack([member, identity]), axis=1, return_index=True)
        first.sort()
        return Episodes(member[first], flat.take(first), identity[first])

    def identity(self, flat: Vec) -> IntArray:
        """Numbers that are equal when two elements of this evaluation are the same (resources: by type and row)."""
        if len(flat) == 0:
            return np.zeros(0, dtype=np.int64)
        options = flat.options if hasattr(flat, "options") else (flat,)
        result = np.full(len(flat), -1, dtype=np.int64)
        for option in options:
            ok = option.valid
            if isinstance(option, ElementVec) and option.source.is_resource:
                number = spec.resource_types().index(option.fhir_type)
                result[ok] = number * (1 << 40) + option.rows[ok]
            else:
                numbers = dense(*option.key_columns())
                result[ok] = -2 - numbers[ok]
        return result

    def values(self, name: str) -> list[Any]:
        """Python values of a definition, one for each member (edge only)."""
        return self.vector(name).pylist()

    def function_values(self, name: str, episodes: Episodes | None = None) -> Vec:
        """A function of the primary library for each episode, or (without episodes) for each member."""
        library = self.compiled.primary
        bodies = library.functions.get(name, ())
        arity = 0 if episodes is None else 1
        matching = [b for b in bodies if len(b.get("operand", [])) == arity]
        if episodes is None and not matching:
            return self.vector(name)
        if len(matching) != 1:
            raise MeasureError(f"library {library.label} has {len(matching)} functions {name!r} of {arity} operands")
        function = self.compiled.compiler.function(library, matching[0])
        assert function.body is not None  # noqa: S101 - narrows the type
        if self._keep_up() and episodes is not None:
            raise MeasureError(f"function {name!r} of {library.label} has to be compiled before there are episodes")
        if episodes is None:
            return self.value(function.body, self.root, Env())
        frame = self.root.child(episodes.member)
        env = Env().bind("operand:" + function.operands[0], frame, episodes.values)
        return self.value(function.body, frame, env)

    def parameter(self, library: Library, name: str) -> Vec:
        """One-row vector of a parameter: as given, else its default, else null."""
        if name in self.parameters:
            return self.parameter_vector(name, self.parameters[name])
        default = library.parameters.get(name, {}).get("default")
        if default is None:
            return NullVec(1)
        from fhir_gateway.cql.compile import Scope

        return self.constant(Scope(self.compiled.compiler, library, f"parameter {name}").compile(default))

    def parameter_vector(self, name: str, value: object) -> Vec:
        """A Python parameter value as a one-row vector."""
        from fhir_gateway.cql.literals import python_vector

        if isinstance(value, tuple) and len(value) == 2:
            low, high = (python_vector(v, self.offset_ms) for v in value)
            one = np.ones(1, dtype=bool)
            return IntervalVec(low, high, one, one, one)
        if not isinstance(value, str | int | bool | float | date | datetime) and value is not None:
            raise InputError(f"parameter {name!r} has an unsupported type {type(value).__name__}")
        return python_vector(value, self.offset_ms)


__all__ = ["Episodes", "Evaluation", "Failure", "concat"]
