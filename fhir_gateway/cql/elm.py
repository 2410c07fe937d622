"""ELM libraries: reading, finding definitions, resolving includes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhir_gateway.cql import schema
from fhir_gateway.errors import LibraryError, MeasureError
from fhir_gateway.terminology.canonical import version_order

Elm = dict[str, Any]

#: Parts of a node that do not change its meaning.
_SILENT = frozenset({"annotation", "localId", "locator", "resultTypeName", "resultTypeSpecifier"})


@dataclass(frozen=True)
class Library:
    """One ELM library, its definitions by name and its includes by alias."""

    name: str
    version: str | None
    elm: Elm
    definitions: Mapping[str, Elm]
    functions: Mapping[str, tuple[Elm, ...]]
    parameters: Mapping[str, Elm]
    value_sets: Mapping[str, Elm]
    codes: Mapping[str, Elm]
    concepts: Mapping[str, Elm]
    code_systems: Mapping[str, Elm]
    includes: Mapping[str, tuple[str, str | None]]
    digests: dict[int, tuple[Any, str]] = field(default_factory=dict, repr=False)
    #: what explanations found out about it: texts, places, which statement an expression stands in
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        """``name|version``."""
        return f"{self.name}|{self.version}" if self.version else self.name

    def digest(self, node: Any) -> str:
        """Content hash of a node without locators and annotations: equal nodes compute equal values."""
        if isinstance(node, dict):
            known = self.digests.get(id(node))
            if known is None:
                text = ",".join(f"{k}:{self.digest(node[k])}" for k in sorted(node) if k not in _SILENT)
                # the node is kept beside its hash: an id says nothing once its object is gone
                known = (node, hashlib.blake2b(text.encode(), digest_size=12).hexdigest())
                self.digests[id(node)] = known
            return known[1]
        if isinstance(node, list):
            return "[" + ",".join(self.digest(item) for item in node) + "]"
        return repr(node)


#: Sections of a library and the type of their definitions.
_SECTIONS = {
    "usings": "UsingDef",
    "includes": "IncludeDef",
    "parameters": "ParameterDef",
    "codeSystems": "CodeSystemDef",
    "valueSets": "ValueSetDef",
    "codes": "CodeDef",
    "concepts": "ConceptDef",
    "contexts": "ContextDef",
    "statements": "ExpressionDef",
}


def _section(elm: Elm, label: str, name: str) -> list[Elm]:
    """The definitions of one section, each of the shape that the ELM schema gives it."""
    section = elm.get(name) or {}
    listed = section.get("def") or [] if isinstance(section, dict) else None
    if not isinstance(listed, list):
        raise MeasureError(f"ELM library {label}: {name} are not of the shape of the ELM schema")
    for position, one in enumerate(listed):
        wrong = schema.problem(one, _SECTIONS[name])
        if wrong:
            raise MeasureError(f"ELM library {label}, {name}[{position}]: {wrong}")
    return listed


def _without_nulls(node: Any) -> Any:
    """``node`` without fields that are null (in JSON as good as absent); the very same object when it has none."""
    if isinstance(node, list):
        items = [_without_nulls(item) for item in node]
        return items if any(a is not b for a, b in zip(items, node, strict=True)) else node
    if not isinstance(node, dict):
        return node
    kept = {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return kept if len(kept) < len(node) or any(kept[key] is not node[key] for key in kept) else node


def _by_name(elm: Elm, label: str, section: str) -> dict[str, Elm]:
    return {d["name"]: d for d in _section(elm, label, section)}


def read_library(document: Elm) -> Library:
    """Read an ELM JSON document (with or without the outer ``library``)."""
    elm = _without_nulls(document.get("library", document))
    identifier = elm.get("identifier") if isinstance(elm, dict) else None
    wrong = schema.problem(identifier, "VersionedIdentifier")
    if wrong or identifier is None or not identifier.get("id"):
        raise MeasureError(f"ELM library without identifier: {wrong or 'no id'}")
    version = identifier.get("version")
    label = f"{identifier['id']}|{version}" if version else identifier["id"]
    definitions: dict[str, Elm] = {}
    functions: dict[str, list[Elm]] = {}
    for statement in _section(elm, label, "statements"):
        if statement.get("type") == "FunctionDef":
            functions.setdefault(statement["name"], []).append(statement)
        else:
            definitions[statement["name"]] = statement
    return Library(
        identifier["id"],
        version,
        elm,
        definitions,
        {name: tuple(bodies) for name, bodies in functions.items()},
        _by_name(elm, label, "parameters"),
        _by_name(elm, label, "valueSets"),
        _by_name(elm, label, "codes"),
        _by_name(elm, label, "concepts"),
        _by_name(elm, label, "codeSystems"),
        {
            d["localIdentifier"]: (d["path"].rsplit("/", 1)[-1].rsplit(".", 1)[-1], d.get("version"))
            for d in _section(elm, label, "includes")
        },
    )


def nodes_of(elm: Any, kind: str) -> Iterator[Elm]:
    """All nodes of one type in an expression, itself included."""
    if isinstance(elm, list):
        for item in elm:
            yield from nodes_of(item, kind)
    elif isinstance(elm, dict):
        if elm.get("type") == kind:
            yield elm
        for name, part in elm.items():
            if name not in _SILENT:
                yield from nodes_of(part, kind)


class LibrarySet:
    """All libraries of a package, found by name and version."""

    def __init__(self, documents: Iterable[Elm]) -> None:
        self._libraries: dict[tuple[str, str | None], Library] = {}
        for document in documents:
            library = read_library(document)
            self._libraries[library.name, library.version] = library

    def find(self, name: str, version: str | None, wanted_by: str = "the measure") -> Library:
        """The library of that name and version (the newest, if none is asked for)."""
        found = self._libraries.get((name, version))
        if found is not None:
            return found
        present = [library for (n, _), library in self._libraries.items() if n == name]
        if version is None and present:
            return max(present, key=lambda library: version_order(library.version))
        versions = ", ".join(sorted(str(library.version) for library in present)) or "none"
        wanted = f"{name}|{version}" if version else name
        everything = ", ".join(sorted(library.label for library in self._libraries.values()))
        raise LibraryError(
            f"library {wanted}, needed by {wanted_by}, is not in the package; versions found: {versions}; "
            f"libraries found: {everything}"
        )

    def included(self, library: Library, alias: str) -> Library:
        """The library that ``library`` includes under ``alias``."""
        if alias not in library.includes:
            raise MeasureError(f"{library.label} refers to the include {alias!r}, which it does not declare")
        name, version = library.includes[alias]
        return self.find(name, version, library.label)
