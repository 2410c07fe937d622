"""Data requirements of a measure, found in its ELM: which resources its criteria retrieve, and what they look at.

Each expression that the criteria reach is followed with the retrieves its value comes from, through aliases, lets,
definitions and function calls. A property that is taken of such a value is an element that must be supported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fhir_gateway.measures.elm_references import Elm, LibraryId, identifier, section
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.r4 import spec

_FHIR = "{http://hl7.org/fhir}"
#: Nodes around the codes of a retrieve that change nothing about which they are.
_WRAPPERS = ("operand", "source", "element")
_DESCRIPTIVE = frozenset({"annotation", "resultTypeSpecifier", "signature", "operandTypeSpecifier", "asTypeSpecifier"})
#: Nodes whose value is (made of) that of their operands; the value of all others comes from no resource any more.
_HANDS_ON = frozenset(
    "As Case Coalesce Distinct Except First Flatten ForEach If Indexer Instance Intersect Interval Last List Repeat "
    "SingletonFrom Slice Sort Start End ToConcept ToList Tuple Union Filter Current PointFrom Element".split()
)
#: Libraries of conversions: what they take apart is what their operand is, not another element of the resource.
_CONVERSIONS = frozenset({"FHIRHelpers"})

#: A retrieve by number, and the path from its resource.
Origin = tuple[int, tuple[str, ...]]
Origins = frozenset[Origin]
_NOWHERE: Origins = frozenset()


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter by code: the element, and the value set's canonical or the codes (Codings)."""

    path: str
    value_set: str | None
    codes: tuple[tuple[tuple[str, str], ...], ...]

    def to_json(self) -> dict[str, Any]:
        """As ``DataRequirement.codeFilter``."""
        if self.value_set is not None:
            return {"path": self.path, "valueSet": self.value_set}
        return {"path": self.path} | ({"code": [dict(one) for one in self.codes]} if self.codes else {})


@dataclass(slots=True)
class Requirement:
    """Resources of a type that have a profile and meet a filter; ``must_support`` in the order they are met.

    ``date`` is the element whose date has to be in the measurement period, where the retrieve itself says so.
    """

    resource_type: str
    profile: str | None
    code_filter: Filter | None
    date: str | None
    must_support: dict[str, None] = field(default_factory=dict)


def requirements(
    package: MeasurePackage, expressions: Iterable[str], library: LibraryId | None = None
) -> list[Requirement]:
    """What these definitions of a library (default: the primary one) need, each requirement once."""
    walk = _Walk(package)
    for name in expressions:
        walk.definition(library or package.primary, name)
    return list(walk.found.values())


class _Walk:
    def __init__(self, package: MeasurePackage) -> None:
        self._libraries = {identifier(elm): elm for elm in package.libraries}
        self._statements = {
            key: _by_name([*section(elm, "statements"), *section(elm, "parameters")])
            for key, elm in self._libraries.items()
        }
        self.found: dict[tuple[Any, ...], Requirement] = {}
        self._definitions: dict[tuple[Any, str], Origins] = {}
        self._calls: dict[tuple[int, tuple[Origins, ...]], Origins] = {}

    def definition(self, library: Any, name: str) -> Origins:
        """Where the value of a definition comes from."""
        key = (library, name)
        if key not in self._definitions:
            self._definitions[key] = _NOWHERE  # while it is being looked at: a definition never needs itself
            bodies = [one.get("expression") for one in self._statements[library].get(name, ())]
            found = [self._expression(library, body, {}) for body in bodies if body]
            self._definitions[key] = frozenset().union(*found)
        return self._definitions[key]

    def _expression(self, library: Any, node: Any, env: Mapping[str, Origins]) -> Origins:
        if isinstance(node, list):
            return frozenset().union(*(self._expression(library, one, env) for one in node))
        if not isinstance(node, dict):
            return _NOWHERE
        kind = node.get("type")
        if kind == "Retrieve":
            return self._retrieve(library, node, env)
        if kind in ("ExpressionRef", "ParameterRef"):
            owner = self._owner(library, node.get("libraryName"))
            return self.definition(owner, node["name"]) if owner is not None else _NOWHERE
        if kind in ("AliasRef", "OperandRef", "QueryLetRef"):
            return env.get(node["name"], _NOWHERE)
        if kind == "Property":
            return self._property(library, node, env)
        if kind == "FunctionRef":
            return self._call(library, node, env)
        if kind == "Query":
            return self._query(library, node, env)
        inner = [
            self._expression(library, child, env)
            for name, child in node.items()
            if name not in _DESCRIPTIVE and isinstance(child, dict | list)
        ]
        handed_on = kind is None or kind in _HANDS_ON  # without type: a part, such as an item of a case
        return frozenset().union(*inner) if handed_on else _NOWHERE

    def _query(self, library: Any, node: Elm, env: Mapping[str, Origins]) -> Origins:
        scope = dict(env)
        for part in (*node.get("source", ()), *node.get("relationship", ())):
            scope[part["alias"]] = self._expression(library, part["expression"], scope)
            self._expression(library, part.get("suchThat"), scope)
        for let in node.get("let", ()):
            scope[let["identifier"]] = self._expression(library, let["expression"], scope)
        self._expression(library, node.get("where"), scope)
        sources = frozenset().union(*(scope[part["alias"]] for part in node.get("source", ())))
        shaped = node.get("return") or node.get("aggregate")
        result = sources
        if shaped:
            inner = scope | ({shaped["identifier"]: _NOWHERE} if "identifier" in shaped else {})
            result = self._expression(library, shaped.get("expression"), inner)
            self._expression(library, shaped.get("starting"), scope)
        for by in (node.get("sort") or {}).get("by", ()):
            if by.get("type") == "ByColumn":
                self._take(result, by["path"])
            self._expression(library, by.get("expression"), scope | {"$this": result})
        return result

    def _property(self, library: Any, node: Elm, env: Mapping[str, Origins]) -> Origins:
        base = env.get(node["scope"], _NOWHERE) if "scope" in node else self._expression(library, node["source"], env)
        return self._take(base, node["path"])

    def _take(self, base: Origins, path: str) -> Origins:
        """The element at ``path`` of values of ``base``; it is looked at from now on.

        What is no element of FHIR there is a part of a value that was made of it (a tuple, a boundary of an interval).
        """
        listed = list(self.found.values())
        taken = set()
        for number, before in base:
            here = before
            for name in path.split("."):
                if _types(listed[number].resource_type, (*here, name)):
                    here = (*here, name)
                    listed[number].must_support[".".join(here)] = None
            taken.add((number, here))
        return frozenset(taken)

    def _call(self, library: Any, node: Elm, env: Mapping[str, Origins]) -> Origins:
        operands = tuple(self._expression(library, one, env) for one in node.get("operand", ()))
        owner = self._owner(library, node.get("libraryName"))
        if owner is None or owner[0] in _CONVERSIONS:
            return frozenset().union(*operands)
        bodies = [
            one
            for one in self._statements[owner].get(node["name"], ())
            if one.get("type") == "FunctionDef" and len(one.get("operand", ())) == len(operands)
        ]
        found: list[Origins] = []
        for body in bodies:
            key = (id(body), operands)
            if key not in self._calls:
                self._calls[key] = _NOWHERE  # a call of itself adds nothing that the body does not
                names = [operand["name"] for operand in body.get("operand", ())]
                scope = dict(zip(names, operands, strict=True))
                self._calls[key] = self._expression(owner, body.get("expression"), scope)
            found.append(self._calls[key])
        return frozenset().union(*found)

    def _retrieve(self, library: Any, node: Elm, env: Mapping[str, Origins]) -> Origins:
        for name in ("id", "codes", "dateRange"):
            self._expression(library, node.get(name), env)
        path = node.get("codeProperty")
        value_set, codes = self._codes(library, node.get("codes"))
        code_filter = Filter(path, value_set, codes) if path and node.get("codes") else None
        period = node.get("dateRange") or {}
        date = node.get("dateProperty") if period.get("type") == "ParameterRef" else None
        kind = str(node["dataType"]).removeprefix(_FHIR)
        key = (kind, node.get("templateId"), code_filter, date)
        if key not in self.found:
            self.found[key] = Requirement(kind, node.get("templateId"), code_filter, date)
            if path:
                self.found[key].must_support[path] = None
        return frozenset({(list(self.found).index(key), ())})

    def _codes(self, library: Any, node: Any) -> tuple[str | None, tuple[tuple[tuple[str, str], ...], ...]]:
        """The value set's canonical, or the codes, that the codes of a retrieve name."""
        stack, codes = [node], []
        while stack:
            one = stack.pop()
            if isinstance(one, list):
                stack.extend(reversed(one))
            elif isinstance(one, dict):
                kind = one.get("type")
                owner = self._owner(library, one.get("libraryName")) or library
                if kind == "ValueSetRef":
                    term = self._term(owner, "valueSets", one["name"])
                    return (f"{term['id']}|{term['version']}" if term.get("version") else str(term["id"])), ()
                if kind == "CodeRef":
                    codes.append(self._coding(owner, one["name"]))
                elif kind == "ConceptRef":
                    concept = self._term(owner, "concepts", one["name"])
                    codes += [self._coding(owner, code["name"]) for code in concept["code"]]
                else:
                    stack.extend(one[name] for name in _WRAPPERS if name in one)
        return None, tuple(codes)

    def _coding(self, library: Any, name: str) -> tuple[tuple[str, str], ...]:
        code = self._term(library, "codes", name)
        system = code["codeSystem"]
        owner = self._owner(library, system.get("libraryName")) or library
        found = {"system": self._term(owner, "codeSystems", system["name"])["id"], "code": code["id"]}
        return tuple((found | ({"display": code["display"]} if code.get("display") else {})).items())

    def _term(self, library: Any, part: str, name: str) -> Elm:
        return next(one for one in section(self._libraries[library], part) if one["name"] == name)

    def _owner(self, library: Any, alias: str | None) -> Any:
        """The library that an alias stands for; None when it is not in the package (a system library)."""
        if alias is None:
            return library
        for include in section(self._libraries[library], "includes"):
            if include["localIdentifier"] == alias:
                name, version = include["path"].rsplit("/", 1)[-1], include.get("version")
                return next((key for key in self._libraries if key[0] == name and version in (None, key[1])), None)
        return None


@cache
def _types(resource_type: str, path: tuple[str, ...]) -> frozenset[str]:
    """FHIR types of the element at a path of a resource, several for a choice; none when there is no such element."""
    if not path:
        return frozenset({resource_type})
    found: set[str] = set()
    for above in _types(resource_type, path[:-1]):
        if spec.is_primitive(above):
            found |= {"value"} if path[-1] == "value" else set()
        elif above in spec.type_names():
            definition = spec.type_definition(above)
            element = definition.elements.get(path[-1])
            found |= {one.type for one in ([element] if element else definition.choices.get(path[-1], ()))}
    return frozenset(found)


def _by_name(statements: Iterable[Elm]) -> dict[str, list[Elm]]:
    found: dict[str, list[Elm]] = {}
    for statement in statements:
        found.setdefault(statement["name"], []).append(statement)
    return found


def expressions_of(package: MeasurePackage) -> Iterator[str]:
    """Definitions of the primary library that a measure uses: populations, strata, supplemental data."""
    yield from package.definition.expressions
    yield from (one.expression for one in package.definition.supplemental)
