"""Patches as clients send them, applied to a resource in memory (R4 http.html 3.1.0.9).

JSON Patch (RFC 6902) is a library's work. FHIRPath Patch (R4 fhirpatch.html: a Parameters resource) is done here for
paths that lead down from the resource by elements, ``[n]`` and ``.where(element='text')``: those that the guides use.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonpatch
import orjson
from jsonpointer import JsonPointerException

from fhir_gateway.errors import InputError, Location
from fhir_gateway.r4 import exact
from fhir_gateway.r4.spec import Element, TypeDefinition, type_definition
from fhir_gateway.server.problems import FHIR_JSON, UnsupportedMediaType

JSON_PATCH = "application/json-patch+json"
MOST_OPERATIONS = 200
#: Nested deeper than any resource is (``lake.judge``); what is deeper would exhaust the stack.
_DEEPEST = 250
_LARGEST = 4 * 1024 * 1024
_STEP = re.compile(
    r"\.([a-z][A-Za-z]*)(?![A-Za-z(])|\[(\d{1,6})\]|\.where\(([a-z][A-Za-z]*)\s*=\s*'([^'\\]*)'\)", re.ASCII
)

Json = dict[str, Any]


class PatchFailed(InputError):
    """The patch cannot be applied to the resource as it is."""

    code, status, issue_type = "patch-failed", 422, "processing"


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch document: its operations, and whether they are FHIRPath Patch."""

    operations: tuple[Mapping[str, Any], ...]
    by_path: bool

    @classmethod
    def of_json(cls, body: bytes) -> Patch:
        """A JSON Patch; raises InputError for what is none."""
        try:
            found = exact.loads(body)
        except orjson.JSONDecodeError:
            raise InputError("the body is not JSON", location=Location(rule="json")) from None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise InputError("a JSON Patch is a list of operations", location=Location(rule="RFC 6902 section 3"))
        _refuse_deep(found)
        try:
            jsonpatch.JsonPatch(found)
        except (jsonpatch.JsonPatchException, JsonPointerException):
            raise InputError("not a JSON Patch", location=Location(rule="RFC 6902 section 4")) from None
        return cls(_few(found), by_path=False)

    @classmethod
    def of_parameters(cls, body: bytes) -> Patch:
        """A FHIRPath Patch; raises InputError for what is none."""
        try:
            found = exact.loads(body)
        except orjson.JSONDecodeError:
            raise InputError("the body is not JSON", location=Location(rule="json")) from None
        _refuse_deep(found)
        if not isinstance(found, dict) or found.get("resourceType") != "Parameters":
            raise InputError("a FHIRPath Patch is a Parameters resource", location=Location(path="resourceType"))
        entries = found.get("parameter", [])
        if not isinstance(entries, list):
            raise InputError("not a list", location=Location(path="Parameters.parameter"))
        operations = []
        for number, entry in enumerate(entries):
            where = Location(path=f"Parameters.parameter[{number}]", rule="fhirpatch")
            if not isinstance(entry, dict) or entry.get("name") != "operation":
                raise InputError("a FHIRPath Patch has parameters named operation", location=where)
            operations.append(_parts(entry.get("part"), where))
        return cls(_few(operations), by_path=True)

    @classmethod
    def of_entry(cls, resource: Any, place: str) -> Patch:
        """The patch that an entry of a Bundle holds: Parameters, or either kind in a Binary; raises InputError."""
        try:
            body, media = unwrapped(resource)
            if media == JSON_PATCH:
                return cls.of_json(body)
            if media != FHIR_JSON:
                raise UnsupportedMediaType(f"a patch is {JSON_PATCH}, or Parameters in {FHIR_JSON}")
            return cls.of_parameters(body)
        except InputError as error:
            where = ": ".join(part for part in (f"{place}.resource", error.location.path) if part)
            raise type(error)(error.message, location=Location(path=where, rule=error.location.rule)) from None

    def apply(self, resource: Mapping[str, Any]) -> Json:
        """The resource as the patch makes it; raises PatchFailed naming the operation."""
        patched: Any = exact.loads(exact.dumps(resource))
        operations: Any = exact.loads(exact.dumps(self.operations))  # what is put in may be changed by what follows
        for number, operation in enumerate(operations):
            if self.by_path:
                where = Location(path=f"Parameters.parameter[{number}]", rule="fhirpatch")
                _apply_by_path(patched, operation, where)
                continue
            where = Location(path=f"[{number}]", rule="RFC 6902 section 4")
            try:
                patched = jsonpatch.apply_patch(patched, [operation], in_place=True)
                if operation["op"] == "copy" and len(exact.dumps(patched)) > _LARGEST:
                    raise PatchFailed("the resource becomes too large", location=where)
            except jsonpatch.JsonPatchTestFailed:
                raise PatchFailed("the test does not hold", location=where) from None
            except (jsonpatch.JsonPatchException, JsonPointerException, orjson.JSONEncodeError, RecursionError):
                raise PatchFailed("this operation cannot be applied to the resource", location=where) from None
        if not isinstance(patched, dict):
            raise PatchFailed("nothing is left of the resource", location=Location(rule="RFC 6902 section 4"))
        _refuse_deep(patched)
        if len(exact.dumps(patched)) > _LARGEST:
            raise PatchFailed("the resource becomes too large")
        return patched


def unwrapped(resource: Any) -> tuple[bytes, str]:
    """The body that an entry of a Bundle stands for, and its media type: what a Binary holds, else the resource."""
    if not isinstance(resource, dict) or resource.get("resourceType") != "Binary":
        return exact.dumps(resource), FHIR_JSON
    media = str(resource.get("contentType", "")).partition(";")[0].strip().lower()
    try:
        return base64.b64decode(str(resource.get("data", "")), validate=True), media
    except (binascii.Error, ValueError):
        raise InputError("not base64", location=Location(path="Binary.data", rule="base64")) from None


def _few(operations: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    if len(operations) > MOST_OPERATIONS:
        raise InputError(f"a patch has at most {MOST_OPERATIONS} operations")
    return tuple(operations)


def _refuse_deep(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise InputError("nested too deeply", location=Location(rule="depth"))
        inside = [one for one in level if isinstance(one, dict | list)]
        level = [one for node in inside for one in (node.values() if isinstance(node, dict) else node)]


# -- FHIRPath Patch --------------------------------------------------------------------------------------------------


def _parts(parts: Any, where: Location) -> Json:
    """The parts of an operation by name: texts and numbers as such, ``value`` as the part itself."""
    if not isinstance(parts, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in parts
    ):
        raise InputError("an operation has named parts", location=where)
    found: Json = {}
    for one in parts:
        if one["name"] in found:
            raise InputError("a part occurs twice", location=where)
        found[one["name"]] = one if one["name"] == "value" else _value(one, where)
    kinds = {"type": str, "path": str, "name": str, "index": int, "source": int, "destination": int}
    if any(name in found and not isinstance(found[name], kind) for name, kind in kinds.items()):
        raise InputError("a part of an operation has a value of another type", location=where)
    wanted = _WANTED.get(found.get("type", ""))
    if wanted is None:
        raise InputError("the type of an operation is add, insert, delete, replace or move", location=where)
    if missing := sorted({"path", *wanted} - set(found)):
        raise InputError(f"the operation needs {' and '.join(missing)}", location=where)
    return found


_WANTED = {
    "add": ("name", "value"),
    "insert": ("index", "value"),
    "delete": (),
    "replace": ("value",),
    "move": ("source", "destination"),
}


def _value(part: Mapping[str, Any], where: Location) -> Any:
    values = [value for name, value in part.items() if name.startswith("value")]
    if len(values) != 1:
        raise InputError("a part has exactly one value", location=where)
    return values[0]


@dataclass(slots=True)
class _Place:
    """Where a path has come to: the node, its type or element, and where it hangs."""

    node: Any
    fhir_type: str
    element: Element | None = None
    holder: Any = None
    key: str | int | None = None


def _apply_by_path(resource: Json, operation: Mapping[str, Any], where: Location) -> None:
    kind = operation["type"]
    if kind == "add":
        (target,) = _exactly_one(_places(resource, operation["path"], where), where)
        if not isinstance(target.node, dict):
            raise PatchFailed("the path does not lead to an element with elements", location=where)
        _add(target, operation["name"], operation["value"], where)
    elif kind in ("insert", "move"):
        listed = _list_at(resource, operation["path"], where)
        if kind == "insert":
            _check_index(operation["index"], len(listed.node) + 1, where)
            listed.node.insert(operation["index"], _built(operation["value"], listed.fhir_type, where))
        else:
            for name in ("source", "destination"):
                _check_index(operation[name], len(listed.node), where)
            listed.node.insert(operation["destination"], listed.node.pop(operation["source"]))
    else:
        found = _places(resource, operation["path"], where)
        if kind == "delete" and not found:
            return
        (target,) = _exactly_one(found, where)
        if target.holder is None:
            raise PatchFailed("the resource itself is not replaced or deleted by a patch", location=where)
        if kind == "delete":
            del target.holder[target.key]
            _forget_empty(resource)
        else:
            target.holder[target.key] = _built(operation["value"], target.fhir_type, where)


def _forget_empty(resource: Json) -> None:
    """FHIR JSON has no empty lists: one that lost its last entry goes with it (one level, where deletions happen)."""
    level: list[Any] = [resource]
    while level:
        node = level.pop()
        if isinstance(node, dict):
            for name in [name for name, value in node.items() if value == []]:
                del node[name]
        level += [one for one in (node.values() if isinstance(node, dict) else node) if isinstance(one, dict | list)]


def _exactly_one(found: list[_Place], where: Location) -> list[_Place]:
    if len(found) != 1:
        raise PatchFailed("the path does not lead to exactly one element", location=where)
    return found


def _check_index(index: int, size: int, where: Location) -> None:
    if not 0 <= index < size:
        raise PatchFailed("the index is outside of the list", location=where)


def _list_at(resource: Json, path: str, where: Location) -> _Place:
    head, dot, name = path.rpartition(".")
    if not dot or not re.fullmatch("[a-z][A-Za-z]*", name):
        raise PatchFailed("the path does not lead to a list", location=where)
    (parent,) = _exactly_one(_places(resource, head, where), where)
    element = _element(parent, name)
    if element is None or not element.is_list or not isinstance(parent.node, dict):
        raise PatchFailed("the path does not lead to a list", location=where)
    listed = parent.node.get(name)
    if not isinstance(listed, list):
        raise PatchFailed("the path leads to nothing", location=where)
    return _Place(listed, element.type)


def _places(resource: Json, path: str, where: Location) -> list[_Place]:
    """What a path leads to; raises PatchFailed for paths of other kinds."""
    kind = str(resource.get("resourceType"))
    if path != kind and not path.startswith((f"{kind}.", f"{kind}[")):
        raise PatchFailed("the path does not begin with the type of the resource", location=where)
    found, at = [_Place(resource, kind)], len(kind)
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise PatchFailed("only elements, [n] and where(element='text') are supported in paths", location=where)
        name, index, condition, text = step.groups()
        if name is not None:
            found = [child for one in found for child in _children(one, name)]
        elif index is not None:
            found = found[int(index) : int(index) + 1]
        else:
            found = [one for one in found if isinstance(one.node, dict) and one.node.get(condition) == text]
        at = step.end()
    return found


def _children(place: _Place, name: str) -> list[_Place]:
    if not isinstance(place.node, dict):
        return []
    element = _element(place, name)
    if element is None:
        return []
    value = place.node.get(element.name)
    if isinstance(value, list):
        return [_Place(one, _type(element, one), element, value, number) for number, one in enumerate(value)]
    return [] if value is None else [_Place(value, _type(element, value), element, place.node, element.name)]


def _element(place: _Place, name: str) -> Element | None:
    """The element of that name; of a choice the one that is there."""
    definition = _definition(place.fhir_type)
    if definition is None:
        return None
    if name in definition.elements and definition.elements[name].choice is None:
        return definition.elements[name]
    return next((one for one in definition.choices.get(name, ()) if one.name in place.node), None)


def _definition(fhir_type: str) -> TypeDefinition | None:
    try:
        return type_definition(fhir_type)
    except KeyError:
        return None


def _type(element: Element, node: Any) -> str:
    if element.type == "Resource" and isinstance(node, dict):
        return str(node.get("resourceType"))
    return element.type


def _add(target: _Place, name: str, part: Mapping[str, Any], where: Location) -> None:
    """Add one part under a name: appended to a list, set where there is none yet."""
    node, definition = target.node, _definition(target.fhir_type)
    if definition is None:
        raise PatchFailed("the element has no type of R4", location=where)
    if name in definition.choices:
        typed = [key for key in part if key.startswith("value")]
        key = name + typed[0].removeprefix("value") if typed else ""
        if key not in definition.elements or any(one.name in node for one in definition.choices[name]):
            raise PatchFailed("a choice has one value, of one of its types", location=where)
        node[key] = part[typed[0]]
        return
    element = definition.elements.get(name)
    if element is None:
        raise PatchFailed("there is no such element", location=where)
    value = _built(part, element.type, where)
    if element.is_list:
        node.setdefault(name, []).append(value)
    elif name in node:
        raise PatchFailed("the element is there already: replace it", location=where)
    else:
        node[name] = value


def _built(part: Mapping[str, Any], fhir_type: str, where: Location) -> Any:
    """The value of a part: as it stands, or built of the parts in it."""
    if "part" not in part:
        return part["resource"] if "resource" in part else _value(part, where)
    made = _Place({}, fhir_type)
    inside = part["part"]
    if not isinstance(inside, list) or not inside:
        raise InputError("a part has a value or parts", location=where)
    for one in inside:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise InputError("a part has a name", location=where)
        _add(made, one["name"], one, where)
    return made.node
