"""What the definitions of an ELM library refer to, transitively and across its includes.

Only what the measure's criteria can reach has to be there: a value set that is used by nothing but an unused helper
definition does not stop a measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_gateway.errors import LibraryError, MeasureError
from fhir_gateway.terminology.canonical import version_order

Elm = dict[str, Any]
LibraryId = tuple[str, str | None]

#: Parts of an ELM node that describe it and refer to nothing.
_DESCRIPTIVE = frozenset({"annotation", "resultTypeSpecifier", "signature", "locator"})
#: Attributes that hold a reference whose ``type`` may be left out, and the kind of reference it is.
_UNTYPED = {"valueset": "ValueSetRef", "codesystem": "CodeSystemRef"}


@dataclass(frozen=True, slots=True)
class References:
    """What a set of definitions needs: canonical references, and the definitions themselves."""

    value_sets: frozenset[str]
    code_systems: frozenset[str]
    definitions: frozenset[tuple[str, str]]  # (library name, definition name)


def identifier(elm: Elm) -> LibraryId:
    """(id, version) of an ELM library."""
    return elm["identifier"]["id"], elm["identifier"].get("version")


def section(elm: Elm, name: str) -> list[Any]:
    """The definitions of one section of a library (``statements``, ``includes``, ``valueSets`` ...)."""
    definitions: list[Any] = elm.get(name, {}).get("def", [])
    return definitions


def include_closure(libraries: Mapping[LibraryId, tuple[str, Elm]], primary: LibraryId) -> list[Elm]:
    """The primary library and all it includes; LibraryError lists what was found where when one is missing.

    Parts of a package may include different versions of a library: each gets the one it names.
    """
    ordered: dict[LibraryId, Elm] = {}
    wanted: list[tuple[LibraryId, str]] = [(primary, "the measure")]
    while wanted:
        asked, asker = wanted.pop()
        library_id = asked if asked in libraries else _any_version(libraries, asked)
        if library_id in ordered:
            continue
        if library_id is None:
            raise LibraryError(f"{asker} needs library {_label(asked)}; {_inventory(libraries, asked[0])}")
        elm = libraries[library_id][1]
        ordered[library_id] = elm
        wanted.extend(
            ((_local_name(include["path"]), include.get("version")), f"library {_label(library_id)}")
            for include in section(elm, "includes")
        )
    return list(ordered.values())


def _any_version(libraries: Iterable[LibraryId], asked: LibraryId) -> LibraryId | None:
    """For an include that names no version: the newest of that name, None when a version was named."""
    if asked[1] is not None:
        return None
    same = [library_id for library_id in libraries if library_id[0] == asked[0]]
    return max(same, key=lambda library_id: version_order(library_id[1]), default=None)


def references(libraries: Iterable[Elm], primary: LibraryId, definitions: Iterable[str]) -> References:
    """Everything reachable from ``definitions`` of the library ``primary``.

    Raises MeasureError when one of ``definitions`` does not exist there.
    """
    indexes = {identifier(elm): _Index(elm) for elm in libraries}
    pending = [(primary, name) for name in definitions]
    for _, name in pending:
        if name not in indexes[primary].statements:
            raise MeasureError(f"library {primary[0]} has no definition named {name!r}")
    seen: set[tuple[LibraryId, str]] = set()
    terms: dict[str, set[str]] = {"ValueSetRef": set(), "CodeSystemRef": set()}
    while pending:
        library, name = pending.pop()
        if (library, name) in seen:
            continue
        seen.add((library, name))
        index = indexes[library]
        for kind, local, target in _references_in(index.statements.get(name, [])):
            owner = library
            if local:
                asked = index.includes.get(local, ("", ""))
                owner = asked if asked in indexes else _any_version(indexes, asked) or asked
            if owner not in indexes:
                raise LibraryError(f"library {_label(library)} refers to {local!r}, which it does not include")
            if kind in terms:
                terms[kind].add(indexes[owner].canonical(kind, target))
            else:
                pending.append((owner, target))
    reached = frozenset((library[0], name) for library, name in seen)
    return References(frozenset(terms["ValueSetRef"]), frozenset(terms["CodeSystemRef"]), reached)


class _Index:
    """Names of one library: statements by name (all overloads), includes by alias, terminology by name."""

    def __init__(self, elm: Elm) -> None:
        self.name = elm["identifier"]["id"]
        self.statements: dict[str, list[Any]] = {}
        for definition in (*section(elm, "statements"), *section(elm, "parameters")):
            body = [definition.get("expression"), definition.get("default")]
            self.statements.setdefault(definition["name"], []).extend(body)
        self.includes = {
            include["localIdentifier"]: (_local_name(include["path"]), include.get("version"))
            for include in section(elm, "includes")
        }
        self._terms = {
            "ValueSetRef": {term["name"]: term for term in section(elm, "valueSets")},
            "CodeSystemRef": {term["name"]: term for term in section(elm, "codeSystems")},
        }

    def canonical(self, kind: str, name: str) -> str:
        term = self._terms[kind].get(name)
        if term is None:
            raise MeasureError(f"library {self.name} has no {kind.removesuffix('Ref')} named {name!r}")
        return f"{term['id']}|{term['version']}" if term.get("version") else term["id"]


def _references_in(bodies: list[Any]) -> Iterator[tuple[str, str | None, str]]:
    """(kind, include alias or None, name) of every reference below ``bodies``; kind is the node type."""
    stack: list[Any] = list(bodies)
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            kind = node.get("type")
            if kind in ("ExpressionRef", "FunctionRef", "ParameterRef", "ValueSetRef", "CodeSystemRef"):
                yield kind, node.get("libraryName"), node["name"]
            for key, child in node.items():
                if key in _UNTYPED and isinstance(child, dict) and "type" not in child:
                    yield _UNTYPED[key], child.get("libraryName"), child["name"]
                elif key not in _DESCRIPTIVE and isinstance(child, dict | list):
                    stack.append(child)


def _local_name(path: str) -> str:
    """Name of an included library without its namespace (``hl7.fhir.us.cql/FHIRHelpers`` or a canonical url)."""
    return path.rsplit("/", 1)[-1]


def _label(library_id: LibraryId) -> str:
    name, version = library_id
    return f"{name} version {version!r}" if version else name


def _inventory(libraries: Mapping[LibraryId, tuple[str, Elm]], name: str) -> str:
    same = [f"version {version!r} in {file}" for (other, version), (file, _) in libraries.items() if other == name]
    if same:
        return f"found {', '.join(sorted(same))}"
    everything = [f"{_label(library_id)} in {file}" for library_id, (file, _) in libraries.items()]
    return f"found {', '.join(sorted(everything))}" if everything else "the package has no library with ELM"
