"""What a measure's criteria look for: the retrieves they can reach, each with its type, element and codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fhir_gateway.measures.elm_references import Elm, section
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.terminology.value_sets import Code

_FHIR = "{http://hl7.org/fhir}"
#: Nodes around the codes of a retrieve that change nothing about which they are.
_WRAPPERS = frozenset({"ExpandValueSet", "ToList", "ToConcept", "As", "Property", "List"})


@dataclass(frozen=True, slots=True)
class CodedRetrieve:
    """Resources of ``resource_type`` whose ``path`` is in a value set (``value_set``) or is one of ``codes``.

    ``definitions`` are the names of the definitions that look so. Without value set and codes any resource will do.
    """

    resource_type: str
    path: str | None
    value_set: str | None
    codes: frozenset[Code]
    definitions: tuple[str, ...]

    @property
    def label(self) -> str:
        """What is looked for: a canonical, codes, or nothing in particular."""
        return self.value_set or ", ".join(f"{system}|{code}" for system, code in sorted(self.codes)) or "any"


def coded_retrieves(package: MeasurePackage) -> list[CodedRetrieve]:
    """The retrieves that population criteria reach; the same one in several definitions comes once."""
    libraries = {elm["identifier"]["id"]: elm for elm in package.libraries}
    found: dict[tuple[str, str | None, str | None, frozenset[Code]], set[str]] = {}
    for library, definition in sorted(package.references().definitions):
        elm = libraries[library]
        for statement in section(elm, "statements"):
            if statement["name"] == definition:
                for node in _retrieves(statement.get("expression")):
                    value_set, codes = _codes(node.get("codes"), elm, libraries)
                    kind = str(node["dataType"]).removeprefix(_FHIR)
                    found.setdefault((kind, node.get("codeProperty"), value_set, codes), set()).add(definition)
    return [CodedRetrieve(*key, tuple(sorted(names))) for key, names in sorted(found.items(), key=_order)]


def _order(item: tuple[tuple[str, str | None, str | None, frozenset[Code]], set[str]]) -> tuple[str, str, str, str]:
    (kind, path, value_set, codes), _ = item
    return kind, path or "", value_set or "", str(sorted(codes))


def _retrieves(node: Any) -> Iterator[Any]:
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
        elif isinstance(one, dict):
            if one.get("type") == "Retrieve":
                yield one
            stack.extend(child for name, child in one.items() if name != "annotation")


def _codes(node: Any, elm: Elm, libraries: dict[str, Elm]) -> tuple[str | None, frozenset[Code]]:
    """The value set's canonical, or the codes, that the ``codes`` of a retrieve name."""
    stack, codes = [node], set()
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
            continue
        if not isinstance(one, dict):
            continue
        kind = one.get("type")
        if kind in ("ValueSetRef", "CodeRef", "ConceptRef"):
            owner = _owner(one.get("libraryName"), elm, libraries)
            if kind == "ValueSetRef":
                term = _named(owner, "valueSets", one["name"])
                return (f"{term['id']}|{term['version']}" if term.get("version") else str(term["id"])), frozenset()
            named = (
                [_named(owner, "codes", one["name"])]
                if kind == "CodeRef"
                else [_named(owner, "codes", code["name"]) for code in _named(owner, "concepts", one["name"])["code"]]
            )
            codes |= {(_named(owner, "codeSystems", code["codeSystem"]["name"])["id"], code["id"]) for code in named}
        elif kind in _WRAPPERS:
            stack.extend(child for name, child in one.items() if name in ("operand", "source", "element"))
    return None, frozenset(codes)


def _owner(alias: str | None, elm: Elm, libraries: dict[str, Elm]) -> Elm:
    if alias is None:
        return elm
    return libraries[_named_by(elm, "includes", "localIdentifier", alias)["path"].rsplit("/", 1)[-1]]


def _named(elm: Elm, part: str, name: str) -> Any:
    return _named_by(elm, part, "name", name)


def _named_by(elm: Elm, part: str, key: str, name: str) -> Any:
    return next(one for one in section(elm, part) if one[key] == name)
