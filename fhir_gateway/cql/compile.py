"""ELM to nodes: every name resolved, every operator found, every value set named, before any patient is looked at.

Nodes are shared by content: equal expressions of one library are one node, and a frame computes a node once. An ELM
node that the engine does not have raises :class:`UnsupportedElm` here, naming library, locator and node type.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fhir_gateway.cql import schema
from fhir_gateway.cql.elm import Elm, Library, LibrarySet, nodes_of
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.registry import FORMS, OPERATORS
from fhir_gateway.cql.values import ListVec, Vec
from fhir_gateway.errors import MeasureError, UnsupportedElm
from fhir_gateway.terminology import ValueSets

if TYPE_CHECKING:
    from datetime import datetime

    from fhir_gateway.cql.batch import Batch
    from fhir_gateway.cql.evaluation import Evaluation
    from fhir_gateway.cql.profiles import ProfilePolicy

Run = Callable[["Evaluation", Frame, Env], Vec]


@dataclass(eq=False, slots=True)
class Node:
    """A compiled expression.

    ``free`` are the names it needs from its scope; ``patient`` is true when it looks at a patient's data. A node with
    neither is constant: it is computed once for the whole evaluation.
    """

    library: Library
    elm: Elm
    run: Run
    free: frozenset[str] = frozenset()
    patient: bool = False
    cheap: bool = False

    names: tuple[str, ...] = field(init=False)  # ``free`` in a fixed order
    constant: bool = field(init=False)  # every row of every frame has the same value

    def __post_init__(self) -> None:
        """Derive what evaluation asks for at every step."""
        self.names = tuple(sorted(self.free))
        self.constant = not self.free and not self.patient

    @property
    def locator(self) -> str:
        """Where the expression stands in its library's CQL."""
        return str(self.elm.get("locator", "?"))


@dataclass(eq=False, slots=True)
class Function:
    """A compiled function body and the names of its operands."""

    library: Library
    elm: Elm
    operands: tuple[str, ...]
    body: Node | None


class Scope:
    """The library being compiled and the definition path, for error messages."""

    def __init__(self, compiler: Compiler, library: Library, definition: str) -> None:
        self.compiler, self.library, self.definition = compiler, library, definition

    def declared(self, elm: Elm, library: Library, section: Mapping[str, Elm], kind: str) -> Elm:
        """What ``library`` declares under the name that a reference of this library gives."""
        if elm["name"] not in section:
            raise self.error(elm, f"library {library.label} declares no {kind} {elm['name']!r}")
        return section[elm["name"]]

    def compile(self, elm: Elm) -> Node:
        """Compile one expression of this library."""
        return self.compiler.expression(self, elm)

    def error(self, elm: Elm, reason: str) -> UnsupportedElm:
        """An error that says where in which library."""
        described = elm if isinstance(elm, dict) else {}
        return UnsupportedElm(
            f"{self.library.label}, definition {self.definition!r}, at {described.get('locator', '?')}, "
            f"node {described.get('type', '?')}: {reason}"
        )


class Compiler:
    """Compiles libraries of one set; keeps what it compiled."""

    def __init__(self, libraries: LibrarySet, value_sets: ValueSets, profiles: ProfilePolicy = "declared") -> None:
        self.libraries = libraries
        self.profiles: ProfilePolicy = profiles
        self.value_sets = value_sets
        self.required_value_sets: set[tuple[str, str | None]] = set()
        self.property_names: set[str] = set()
        self.elements_of: dict[str, set[str]] = {}  # of one resource type only: what its retrieves look at
        #: columns by type that evaluations needed with all parts: no name in an expression says so
        self.whole_columns: dict[str, set[str]] = {}
        #: by type and what tells them apart: element and codes of each retrieve, None for one without constant codes
        self.retrieves: dict[str, dict[Hashable, tuple[str, Node] | None]] = {}
        self.codes_of_retrieves: dict[int, frozenset[tuple[str, str]] | None] = {}
        #: by the id of a retrieve's node: the resources of each member in an evaluation, before filters by row
        self.retrieved: dict[int, Callable[[Any], ListVec]] = {}
        self.zones = False  # some expression asks for the offset that a date-time was written with
        self._nodes: dict[tuple[str, str], Node] = {}
        self._definitions: dict[tuple[str, str], Node] = {}
        self._functions: dict[int, Function] = {}
        self._underway: set[Any] = set()

    @property
    def node_count(self) -> int:
        """How many different expressions are compiled so far."""
        return len(self._nodes)

    @property
    def retrieve_count(self) -> int:
        """How many different retrieves are compiled so far."""
        return sum(map(len, self.retrieves.values()))

    def definition(self, library: Library, name: str) -> Node:
        """The compiled expression definition ``name``."""
        key = (library.label, name)
        if key not in self._definitions:
            if name not in library.definitions:
                raise MeasureError(f"library {library.label} has no definition {name!r}")
            if key in self._underway:
                raise MeasureError(f"definition {name!r} of {library.label} refers to itself")
            elm = library.definitions[name]
            if "expression" not in elm:
                raise MeasureError(f"definition {name!r} of {library.label} has no expression")
            if elm.get("context", "Patient") not in ("Patient", "Unfiltered"):
                raise UnsupportedElm(f"{library.label}, definition {name!r}: context {elm['context']}")
            scope = Scope(self, library, name)
            if elm.get("context") == "Unfiltered":
                for node in nodes_of(elm["expression"], "Retrieve"):
                    raise scope.error(node, "retrieve in the context Unfiltered: a batch has not everybody's resources")
            self._underway.add(key)
            try:
                self._definitions[key] = closed(scope, elm["expression"], scope.compile(elm["expression"]))
            finally:  # also after an error: what names it next shall get the same error, not a cycle
                self._underway.discard(key)
        return self._definitions[key]

    def function(self, library: Library, elm: Elm) -> Function:
        """The compiled body of a function definition."""
        found = self._functions.get(id(elm))
        if found is None:
            operands = tuple(o["name"] for o in elm.get("operand", []))
            if elm.get("external") or "expression" not in elm:
                raise UnsupportedElm(f"{library.label}, function {elm['name']!r}: external function")
            scope = Scope(self, library, elm["name"])
            # a call inside of the body finds the function without its body: it is recursive
            found = self._functions[id(elm)] = Function(library, elm, operands, None)
            try:
                found.body = closed(scope, elm["expression"], scope.compile(elm["expression"]), operands)
            except MeasureError:
                del self._functions[id(elm)]
                raise
        return found

    def expression(self, scope: Scope, elm: Elm) -> Node:
        """Compile ``elm``, or return the node that an equal expression of the library became."""
        key = (scope.library.label, scope.library.digest(elm))
        node = self._nodes.get(key)
        if node is None:
            node = self._compile(scope, elm)
            self._nodes[key] = node
        return node

    def find(self, library: Library, elm: Elm) -> Node | None:
        """The node that an expression of ``library`` became; None when nothing compiled needed it."""
        return self._nodes.get((library.label, library.digest(elm)))

    def _compile(self, scope: Scope, elm: Elm) -> Node:
        kind = elm.get("type") if isinstance(elm, dict) else None
        known = isinstance(kind, str) and (kind in FORMS or kind in OPERATORS)
        if isinstance(kind, str) and not known:
            raise scope.error(elm, "the engine has no such operator")
        problem = schema.problem(elm) if not known or kind in schema.nodes() else None
        if problem:
            raise scope.error(elm, problem)
        if kind in _ASK_FOR_ZONES:
            self.zones = True
        if kind in FORMS:
            node: Node = FORMS[kind](scope, elm)
            return node
        return compile_operator(scope, elm)


_ASK_FOR_ZONES = frozenset({"TimezoneFrom", "TimezoneOffsetFrom", "ToString"})


def closed(scope: Scope, elm: Elm, node: Node, operands: Iterable[str] = ()) -> Node:
    """``node`` when all names it needs are there: a definition has none from outside, a function its operands."""
    unknown = node.free - {f"operand:{name}" for name in operands}
    if unknown:
        raise scope.error(elm, f"no {', no '.join(sorted(name.replace(':', ' ', 1) for name in unknown))} in scope")
    return node


def operand_nodes(scope: Scope, elm: Elm, fields: Iterable[str]) -> list[Node]:
    """Compile the operand fields of a node, in order."""
    nodes: list[Node] = []
    for name in fields:
        value = elm.get(name)
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        nodes.extend(scope.compile({"type": IMPLIED[name], **item} if name in IMPLIED else item) for item in items)
    return nodes


#: Fields whose nodes the ELM schema types by their place, so that translators leave ``type`` out.
IMPLIED = {"valueset": "ValueSetRef", "codesystem": "CodeSystemRef"}


def combine(nodes: Iterable[Node]) -> tuple[frozenset[str], bool]:
    """Free names and patient dependence of a node made of ``nodes``."""
    nodes = list(nodes)
    return frozenset().union(*(n.free for n in nodes)), any(n.patient for n in nodes)


#: Operators of any number of operands that the engine has for two.
_PAIRWISE = frozenset({"Union", "Intersect", "Except"})


def _one_by_one(elm: Elm) -> Elm:
    """A set operator of more than two operands as one of the first ones' result and the last."""
    operands = elm.get("operand", [])
    if elm["type"] not in _PAIRWISE or len(operands) <= 2:
        return elm
    return {**elm, "operand": [_one_by_one({**elm, "operand": operands[:-1]}), operands[-1]]}


def compile_operator(scope: Scope, elm: Elm) -> Node:
    """A plain operator: evaluate the operands in the same frame, then run the kernel."""
    from fhir_gateway.cql.dispatch import apply  # local: dispatch needs the Node type of this module

    elm = _one_by_one(elm)
    spec = OPERATORS[elm["type"]]
    if elm.get("path"):  # of an aggregate: over a property of its elements
        element = {"type": "Property", "path": elm["path"], "scope": "$this"}
        elm = {**elm, "source": {"type": "ForEach", "source": elm["source"], "element": element}, "path": None}
    if elm.get("orderBy"):  # of First and Last: of the list in that order
        by = {"type": "ByColumn", "path": elm["orderBy"], "direction": "asc"}
        elm = {**elm, "source": {"type": "Sort", "source": elm["source"], "by": [by]}, "orderBy": None}
    nodes = operand_nodes(scope, elm, spec.fields)
    free, patient = combine(nodes)
    node = Node(scope.library, elm, run=_unset, free=free, patient=patient)

    def run(evaluation: Evaluation, frame: Frame, env: Env) -> Vec:
        return apply(spec, evaluation, node, frame, [evaluation.value(n, frame, env) for n in nodes])

    node.run = run
    return node


def _unset(evaluation: Evaluation, frame: Frame, env: Env) -> Vec:
    raise AssertionError("node without a body")


@dataclass
class CompiledLibrary:
    """A primary library with everything it includes, ready to run over any number of batches."""

    compiler: Compiler
    primary: Library
    _required: dict[str, Node] = field(default_factory=dict)

    def require(self, names: Iterable[str]) -> None:
        """Compile these definitions now; raises UnsupportedElm, LibraryError, TerminologyError or MeasureError."""
        for name in names:
            self.compiler.definition(self.primary, name)
        self.compiler.value_sets.require(
            f"{url}|{version}" if version else url for url, version in self.compiler.required_value_sets
        )

    def has_definition(self, name: str) -> bool:
        """Whether the primary library defines the expression ``name``."""
        return name in self.primary.definitions

    def evaluate(self, batch: Batch, parameters: Mapping[str, object], now: datetime) -> Evaluation:
        """Start an evaluation over ``batch``; definitions are computed when asked for."""
        from fhir_gateway.cql.evaluation import Evaluation

        return Evaluation(self, batch, parameters, now)


def compile_library(
    libraries: Iterable[Elm],
    primary: tuple[str, str | None],
    value_sets: ValueSets,
    definitions: Iterable[str] | None = None,
    profiles: ProfilePolicy = "declared",
) -> CompiledLibrary:
    """Compile the library named ``primary`` (name, version) out of ELM ``libraries``.

    ``definitions`` are compiled at once (default: all of the primary library), so that whatever cannot run is
    refused now. Others are compiled when they are asked for. ``profiles`` says whether ``meta.profile`` is believed
    where a profile decides what a retrieve means (:mod:`fhir_gateway.cql.profiles`).
    """
    import fhir_gateway.cql.forms
    import fhir_gateway.cql.operators  # noqa: F401 - registers the operators

    found = LibrarySet(libraries)
    library = found.find(*primary)
    compiled = CompiledLibrary(Compiler(found, value_sets, profiles), library)
    compiled.require(library.definitions if definitions is None else definitions)
    return compiled
