"""Places: where in a library's CQL each compiled node stands.

Nodes are shared by content, so one node may stand in many places; an explanation asks the other way round. A place is
an ELM object of a statement, with its ``localId`` and the node that it became, if any: parts of a query such as
``with`` or ``return`` are places without a node of their own, and so is what nothing compiled needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fhir_gateway.cql.compile import IMPLIED, Compiler, Node
from fhir_gateway.cql.elm import Elm, Library

_DESCRIPTIVE = frozenset({"annotation", "resultTypeSpecifier", "signature", "operandTypeSpecifier"})


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """An ELM object in a statement, and those inside it in the order of the ELM."""

    elm: Elm
    node: Node | None
    children: tuple[Place, ...]

    @property
    def local_id(self) -> str | None:
        """Id that the annotation (the CQL text) refers to."""
        found = self.elm.get("localId")
        return None if found is None else str(found)

    @property
    def kind(self) -> str:
        """ELM type; empty for parts that need none."""
        return str(self.elm.get("type", ""))

    def child(self, elm: Elm | None) -> Place | None:
        """The place directly below that stands for this ELM object."""
        return next((place for place in self.children if place.elm is elm), None)

    def walk(self) -> Iterator[Place]:
        """This place and all below it, outermost first."""
        yield self
        for child in self.children:
            yield from child.walk()


def place(compiler: Compiler, library: Library, elm: Elm) -> Place:
    """The place of an ELM object of ``library``, with everything inside it; kept until more is compiled."""
    key = ("place", id(elm))
    count, of, found = library.known.get(key, (None, None, None))
    if found is None or count != compiler.node_count or of is not compiler:
        made = _place(compiler, library, elm, "")
        library.known[key] = (compiler.node_count, compiler, made)
        return made
    kept: Place = found
    return kept


def _place(compiler: Compiler, library: Library, elm: Elm, field: str) -> Place:
    children = tuple(_place(compiler, library, inner, name) for name, inner in _inside(elm))
    if field not in IMPLIED or "type" in elm:
        return Place(elm, compiler.find(library, elm) if "type" in elm else None, children)
    typed = {"type": IMPLIED[field], **elm}
    node = compiler.find(library, typed)
    library.digests.pop(id(typed), None)  # made here for the question alone, not to be kept by the library
    return Place(elm, node, children)


def _inside(elm: Elm) -> Iterator[tuple[str, Elm]]:
    value: Any
    for name, value in elm.items():
        if name not in _DESCRIPTIVE:
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, dict):
                    yield name, item
