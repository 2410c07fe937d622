"""The tables that the walk over JSON follows, learned from the element definitions as keys turn up.

A *node* is a kind of object at a place: each place that is a column has its own, all others share one per type. A
*transition* is a key that may stand in a node. Only keys and codes that occur are entered, so the tables stay small
enough for the processor's cache, and whatever R4 defines is taken up at its first occurrence.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.growing import GrowingTables
from fhir_gateway.lake.kernel import tables
from fhir_gateway.lake.kernel.tables import Tables
from fhir_gateway.lake.primitives import INTEGER_BOUNDS
from fhir_gateway.r4 import spec

_FORMATS = {
    "id": tables.ID,
    "code": tables.CODE,
    "uri": tables.URI,
    "url": tables.URI,
    "canonical": tables.URI,
    "oid": tables.OID,
    "uuid": tables.UUID,
    "date": tables.DATE,
    "dateTime": tables.DATETIME,
    "instant": tables.INSTANT,
    "time": tables.TIME,
    "base64Binary": tables.BASE64,
}
_MOST_KEYS = 62  # of one node: a bit each
_FIRST_SPACE = 1 << 24  # spaces of required bindings; below are nodes
#: More than R4 has places; the walk notes used columns and counts rows of levels in arrays of this size.
MOST_COLUMNS = 1 << 17


@dataclass
class Place:
    """A value that is a column: a leaf, an object with fields, or a list of either.

    ``column`` are the leaf's values or the object's occurrences, ``level`` the rows they lie in; a list has its lengths
    in ``list_column``, at level ``outer``.
    """

    column: int
    level: int
    list_column: int
    outer: int
    fields: dict[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class _Node:
    """What a node stands for; ``structure`` and ``fields`` are None where nothing is a column."""

    definition: spec.TypeDefinition
    structure: Mapping[str, Any] | None
    fields: dict[str, Place] | None
    level: int
    root: bool
    groups: tuple[frozenset[str], ...]


class Grammar:
    """What is known so far; :meth:`lent` gives the tables to a walk. Threads may walk while another learns."""

    def __init__(self) -> None:
        """Begin knowing nothing."""
        self._nodes: list[_Node] = []
        self._keys: list[dict[str, int]] = []  # transitions by key, per node
        self._by_type: dict[str, int] = {}
        self.roots: dict[str, int] = {}
        self._lock = Lock()
        self._bindings: dict[frozenset[str], int] = {}
        self._bound: dict[int, frozenset[str]] = {}
        self.levels = 1
        self.columns = 0
        self.lists: list[int] = []  # columns of lists' lengths
        self._paths: dict[int, tuple[str, ...]] = {}
        self._transitions = 0
        self._groups = 0
        self._tables = GrowingTables(self._lock)

    def lent(self) -> AbstractContextManager[Tables]:
        """What is known, for one walk: meanwhile nothing is entered into these tables."""
        return self._tables.lent()

    def fields(self, resource_type: str) -> dict[str, Place]:
        """The columns of a type met so far."""
        node = self.roots.get(resource_type)
        return {} if node is None else self._nodes[node].fields or {}

    def level(self, resource_type: str) -> int:
        """The level of a type's resources."""
        return self._nodes[self.root(resource_type)].level

    def type_of(self, root: int) -> str:
        """Resource type of a node that :meth:`root` gave."""
        return self._nodes[root].definition.name

    def learn(self, asked: int, number: int, word: bytes) -> bool:
        """Enter what the walk asks for (``NEED_*``, of node or transition ``number``); False when R4 has no such."""
        text = word.decode("utf-8", "replace")
        if asked == tables.NEED_KEY:
            with self._lock:
                return text in self._keys[number] or self._key(number, text)
        if asked == tables.NEED_CODE:
            with self._lock:
                return self._code(number, text)
        return self.root(text) >= 0 if asked == tables.NEED_TYPE else self._nested(text)

    def root(self, resource_type: str) -> int:
        """Node of stored resources of a type; -1 when R4 has no such type."""
        if resource_type not in spec.resource_types():
            return -1
        with self._lock:
            return self._root(resource_type)

    def _root(self, resource_type: str) -> int:
        if resource_type not in self.roots:
            fields: dict[str, Place] = {}
            node = self._add_node(
                _node(resource_type, spec.column_structure(resource_type), fields, self._new_level(), root=True)
            )
            self.roots[resource_type] = node
            self._tables.enter(tables.ROOT_SPACE, resource_type.encode(), node)
        return self.roots[resource_type]

    def _nested(self, resource_type: str) -> bool:
        """Learn a type that another resource contains."""
        if resource_type not in spec.resource_types():
            return False
        with self._lock:
            self._tables.enter(tables.NESTED_SPACE, resource_type.encode(), self._shared(resource_type))
        return True

    def _code(self, transition: int, text: str) -> bool:
        """Learn a code of a required binding."""
        if text not in self._bound[transition]:
            return False
        space = int(self._tables.now.keys[transition, tables.TARGET])
        self._tables.enter(space, text.encode(), self._tables.words)  # a code means where its text is
        return True

    def _key(self, number: int, key: str) -> bool:
        """Learn what a key of a node is."""
        node = self._nodes[number]
        keys = self._keys[number]
        if len(keys) == _MOST_KEYS:
            return False
        if node.definition.kind == "resource" and key == "resourceType":
            self._add_transition(number, key, tables.NAME)
            return True
        element = node.definition.elements.get(key)
        if element is None:
            element = node.definition.elements.get(key[1:]) if key.startswith("_") else None
            if element is None or not spec.is_primitive(element.type):
                return False
            self._add_transition(
                number, key, tables.SIBLING, element=element, target=self._shared("Element"), repeats=element.is_list
            )
            return True
        if node.definition.kind == "resource" and key == "id":
            element = replace(element, type="id")  # the published definitions call it a string
        self._learn_element(number, node, element)
        return True

    def _learn_element(self, number: int, node: _Node, element: spec.Element) -> None:
        part = node.structure.get(element.name) if node.structure is not None else None
        place = self._place(number, node, element, part)
        inner = part[0] if isinstance(part, list) else part
        if spec.is_primitive(element.type):
            kind, form, target = self._primitive(node, element)
            if element.codes:
                self._bound[self._transitions] = element.codes
            self._add_transition(
                number,
                element.name,
                kind,
                element=element,
                target=target,
                place=place,
                repeats=element.is_list,
                form=form,
                slot=self._slot(number, element),
            )
            return
        if element.type == "Resource":
            kind, target = tables.RESOURCE, -1
        else:
            kind = tables.OBJECT
            if place is None:
                target = self._shared(element.type)
            else:
                target = self._add_node(_node(element.type, inner, place.fields, place.level, root=False))
                self._paths[target] = (*self._paths.get(number, ()), element.name)
        self._add_transition(
            number, element.name, kind, element=element, target=target, place=place, repeats=element.is_list
        )

    def _place(self, number: int, node: _Node, element: spec.Element, part: Any) -> Place | None:
        if part is None or node.fields is None or (node.root and element.name == "id"):
            return None
        if element.is_list:
            place = Place(self._new_column(), self._new_level(), self._new_column(), node.level)
            self.lists.append(place.list_column)
        else:
            place = Place(self._new_column(), node.level, -1, -1)
        node.fields[element.name] = place
        return place

    def _primitive(self, node: _Node, element: spec.Element) -> tuple[int, int, int]:
        """Kind, format and space of codes."""
        if element.type == "boolean":
            return tables.BOOLEAN, tables.TEXT, -1
        if element.type == "decimal":
            return tables.DECIMAL, tables.TEXT, -1
        if element.type in INTEGER_BOUNDS:
            return tables.INTEGER, tables.TEXT, -1
        if element.codes:
            space = self._bindings.setdefault(element.codes, _FIRST_SPACE + len(self._bindings))
            return tables.STRING, tables.BOUND, space
        if (node.definition.name, element.name) == ("Reference", "reference"):
            return tables.STRING, tables.URI, -1
        return tables.STRING, _FORMATS.get(element.type, tables.TEXT), -1

    def _slot(self, number: int, element: spec.Element) -> int:
        node = self._nodes[number]
        if node.root:
            return tables.ID_SLOT if element.name == "id" else tables.NO_SLOT
        path = self._paths.get(number)
        if path == ("meta",):
            return {"lastUpdated": tables.UPDATED_SLOT, "versionId": tables.VERSION_SLOT}.get(
                element.name, tables.NO_SLOT
            )
        if path is not None and len(path) == 1 and element.name == "reference":
            resource_type = self._type_of(number)
            if resource_type is not None and path[0] == spec.patient_element(resource_type):
                repeats = spec.type_definition(resource_type).elements[path[0]].is_list
                return tables.ANY_PATIENT_SLOT if repeats else tables.PATIENT_SLOT
        return tables.NO_SLOT

    def _type_of(self, number: int) -> str | None:
        """Resource type whose element a node is, right below the root."""
        for resource_type, root in self.roots.items():
            for transition in self._keys[root].values():
                row = self._tables.now.keys[transition]
                if row[tables.TARGET] == number and row[tables.KIND] == tables.OBJECT:
                    return resource_type
        return None

    # entries

    def _shared(self, fhir_type: str) -> int:
        if fhir_type not in self._by_type:
            self._by_type[fhir_type] = self._add_node(_node(fhir_type, None, None, 0, root=False))
        return self._by_type[fhir_type]

    def _new_column(self) -> int:
        self.columns += 1
        if self.columns > MOST_COLUMNS:
            raise GatewayError("the definitions have more elements than the check can count")
        return self.columns - 1

    def _new_level(self) -> int:
        self.levels += 1
        return self.levels - 1

    def _add_node(self, node: _Node) -> int:
        number = len(self._nodes)
        self._nodes.append(node)
        self._keys.append({})
        end = self._groups + len(node.groups)
        self._tables.reserve("nodes", number + 1)
        self._tables.reserve("groups", end)
        self._tables.own().nodes[number] = (-1, self._groups, end, node.level)
        self._groups = end
        return number

    def _add_transition(
        self,
        number: int,
        key: str,
        kind: int,
        *,
        element: spec.Element | None = None,
        target: int = -1,
        place: Place | None = None,
        repeats: bool = False,
        form: int = tables.TEXT,
        slot: int = tables.NO_SLOT,
    ) -> None:
        node, keys = self._nodes[number], self._keys[number]
        transition = self._transitions
        self._transitions += 1
        self._tables.reserve("keys", self._transitions)
        t = self._tables.own()
        text = key.encode()
        bit = 1 << len(keys)
        row = t.keys[transition]
        row[tables.KEY_START], row[tables.KEY_LENGTH] = self._tables.words, len(text)
        row[tables.KIND], row[tables.REPEATS], row[tables.TARGET] = kind, repeats, target
        row[tables.BIT] = bit
        row[tables.FORMAT], row[tables.SLOT] = form, slot
        row[tables.LOW], row[tables.HIGH] = INTEGER_BOUNDS.get(element.type, (0, 0)) if element else (0, 0)
        row[tables.NEXT] = row[tables.COLUMN] = row[tables.LIST_COLUMN] = -1
        if place is not None:
            row[tables.COLUMN], row[tables.LIST_COLUMN] = place.column, place.list_column
        if element is not None and element.choice:
            for other_key, other in keys.items():
                variant = node.definition.elements.get(other_key.removeprefix("_"))
                if variant is not None and variant.choice == element.choice and variant.name != element.name:
                    row[tables.EXCLUDED] |= t.keys[other, tables.BIT]
                    t.keys[other, tables.EXCLUDED] |= bit
        for group, names in enumerate(node.groups, int(t.nodes[number, tables.GROUPS])):
            if key in names:
                t.groups[group] |= bit
        keys[key] = transition
        self._tables.enter(number, text, transition)


def _node(
    fhir_type: str,
    structure: Mapping[str, Any] | None,
    fields: dict[str, Place] | None,
    level: int,
    *,
    root: bool,
) -> _Node:
    definition = spec.type_definition(fhir_type)
    groups = [
        frozenset((e.name, f"_{e.name}") if spec.is_primitive(e.type) else (e.name,))
        for e in definition.elements.values()
        if e.required and not e.choice
    ]
    groups += [
        frozenset(name for e in variants for name in (e.name, f"_{e.name}"))
        for variants in definition.choices.values()
        if variants[0].required
    ]
    if definition.kind == "resource":
        groups.append(frozenset({"resourceType"}))
    # an object must not be empty, which the walk sees; one with a group needs no other check
    return _Node(definition, structure, fields, level, root, tuple(groups))
