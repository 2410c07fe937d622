"""A Bundle that a sender pushes: its resources as lines, its deletions, and the ids that entries without one get.

FHIR R4, 3.1.0.11 (batch/transaction), as far as a store of what others say can follow it: creates, updates and
deletions by id. What asks for more (conditional interactions and references, reads, patches) is refused with the
entry's index, before anything is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from fhir_gateway.errors import InputError, Location
from fhir_gateway.sources.bundles import elements, is_outcome, is_set, members, one_line, resources

CONDITIONS = ("ifNoneExist", "ifMatch", "ifNoneMatch", "ifModifiedSince")
_ID = r"[A-Za-z0-9\-.]{1,64}"
_URL = re.compile(rf"(?:^|/)(?P<type>[A-Z][A-Za-z]+)(?:/(?P<id>{_ID}))?$")
_LAST = re.compile(rf"[/:]({_ID})$")
#: A key of a JSON object: within a string its quotes would be escaped.
_REFERENCE = re.compile(r'"reference"(\s*:\s*)"((?:[^"\\]|\\.)*)"')
_CONDITIONAL = re.compile(r"^[A-Z][A-Za-z]+\?")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PLACEHOLDER = ("urn:uuid:", "urn:oid:")


@dataclass(frozen=True, slots=True)
class Push:
    """What a body holds. ``places`` are the entries' indexes, one for each line; none when it was no Bundle.

    ``assigned`` are references to the entries that came without an id, by index.
    """

    atomic: bool
    lines: tuple[str, ...]
    places: tuple[int, ...] = ()
    assigned: Mapping[int, str] = field(default_factory=dict)
    deletions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_push(body: bytes) -> Push:
    """Understand a resource or Bundle; InputError names the entry, path and rule of what an import does not do.

    An id that is given depends on the whole body and the entry's place: the same body gives the same ids. References
    to entries' ``fullUrl`` become references to what they are stored as; other text stays as it was.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        bundle = orjson.loads(body)
        text = body.decode()
        if not is_set(bundle):
            return Push(False, tuple(resources(text)))
        return _Entries(bundle["type"], hashlib.sha256(body).hexdigest()).read(list(_entries(text)))
    except orjson.JSONDecodeError:
        raise InputError("the body is not JSON", location=Location(rule="json")) from None
    except RecursionError:
        raise InputError("the Bundle is nested too deep", location=Location(rule="depth")) from None


def _entries(text: str) -> Iterator[str]:
    for key, start, _ in members(text, 0):
        if key == "entry":
            yield from (text[position:end] for position, end in elements(text, start))


class _Entries:
    """The entries of one Bundle, read one after the other and resolved at the end."""

    def __init__(self, kind: str, digest: str) -> None:
        self._ordered = kind in ("transaction", "batch")
        self._atomic = kind == "transaction"
        self._digest = digest
        self._lines: list[tuple[int, str]] = []
        self._names: dict[str, str] = {}
        self._assigned: dict[int, str] = {}
        self._written: dict[str, int] = {}
        self._deleted: dict[str, int] = {}

    def read(self, entries: list[str]) -> Push:
        for index, text in enumerate(entries):
            self._entry(index, text)
        for reference in self._written.keys() & self._deleted.keys():
            raise _refused(self._deleted[reference], "", "duplicate", "the Bundle writes what it deletes")
        deletions: dict[str, list[str]] = {}
        for reference in self._deleted:
            kind, _, identity = reference.partition("/")
            deletions.setdefault(kind, []).append(identity)
        return Push(
            self._atomic,
            tuple(self._resolved(index, line) for index, line in self._lines),
            tuple(index for index, _ in self._lines),
            self._assigned,
            {kind: tuple(ids) for kind, ids in deletions.items()},
        )

    def _entry(self, index: int, text: str) -> None:
        if not text.startswith("{"):
            self._lines.append((index, text))  # validation says what is wrong with it
            return
        parts = {name: text[start:end] for name, start, end in members(text, 0)}
        if is_outcome(parts.get("search")):
            return
        asked = orjson.loads(parts.get("request", "null")) if self._ordered else None
        resource = orjson.loads(parts.get("resource", "null"))
        method = _method(index, asked, resource)
        target = _target(index, asked)
        if method == "DELETE":
            if target is None or target["id"] is None:
                raise _refused(index, "request.url", "url", "a deletion names a resource by type and id")
            self._deleted.setdefault(f"{target['type']}/{target['id']}", index)
            return
        if resource is None:
            if self._ordered:
                raise _refused(index, "resource", "required", "a create or update needs a resource")
            return
        line = one_line(parts["resource"])
        kind = resource.get("resourceType") if isinstance(resource, dict) else None
        if not isinstance(kind, str):
            self._lines.append((index, line))
            return
        identity = resource.get("id")
        if asked is not None:
            _agree(index, method, target, kind, identity)
        full_url = orjson.loads(parts.get("fullUrl", "null"))
        if "id" not in resource:
            identity = self._new_id(index, full_url, created=asked is not None)
            line = f'{{"id":"{identity}",{line[1:].lstrip()}'
            self._assigned[index] = f"{kind}/{identity}"
        self._lines.append((index, line))
        if isinstance(identity, str):
            self._name(index, full_url, f"{kind}/{identity}")

    def _new_id(self, index: int, full_url: object, *, created: bool) -> str:
        """In a set of resources the ``fullUrl`` says who the entry is; in a create it is a placeholder."""
        known = None if created or not isinstance(full_url, str) else _LAST.search(full_url)
        return known[1] if known else hashlib.sha256(f"{self._digest}:{index}".encode()).hexdigest()[:32]

    def _name(self, index: int, full_url: object, reference: str) -> None:
        if self._atomic and reference in self._written:
            raise _refused(index, "resource.id", "duplicate", "a transaction names a resource once")
        self._written[reference] = index
        if not isinstance(full_url, str):
            return
        if self._atomic and full_url in self._names:
            raise _refused(index, "fullUrl", "duplicate", "a transaction names a fullUrl once")
        self._names[full_url] = reference
        relative = _URL.search(full_url)
        if relative and relative["id"]:  # what refers to the sender's own server by type and id
            self._names.setdefault(f"{relative['type']}/{relative['id']}", reference)

    def _resolved(self, index: int, line: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            value = orjson.loads(f'"{match[2]}"') if "\\" in match[2] else match[2]
            if found := self._names.get(value):
                return f'"reference"{match[1]}"{found}"'
            if self._ordered and _CONDITIONAL.match(value):
                raise _refused(index, "resource", "conditional", "conditional references are not resolved here")
            if self._atomic and value.startswith(_PLACEHOLDER):
                raise _refused(index, "resource", "reference", "a reference to an entry that the transaction lacks")
            return match[0]

        return _REFERENCE.sub(replaced, line)


def _method(index: int, asked: Any, resource: Any) -> str:
    """What an entry asks for; one that does not say updates what has an id and creates what has none."""
    if asked is None:
        return "PUT" if isinstance(resource, dict) and "id" in resource else "POST"
    method = asked.get("method") if isinstance(asked, dict) else None
    if method not in ("POST", "PUT", "DELETE"):
        raise _refused(index, "request.method", "method", "an import creates, updates and deletes; nothing else")
    for condition in CONDITIONS:
        if condition in asked:
            raise _refused(index, f"request.{condition}", "conditional", "conditional interactions are not done here")
    return str(method)


def _target(index: int, asked: Any) -> re.Match[str] | None:
    url = asked.get("url") if isinstance(asked, dict) else None
    if not isinstance(url, str):
        return None
    if "?" in url:
        raise _refused(index, "request.url", "conditional", "conditional interactions are not done here")
    return _URL.search(url)


def _agree(index: int, method: str, target: re.Match[str] | None, kind: str, identity: object) -> None:
    """An update's URL names the resource that comes with it; a create's names its type."""
    if target is None or target["type"] != kind or (method == "POST") != (target["id"] is None):
        expected = "[type]" if method == "POST" else "[type]/[id]"
        raise _refused(index, "request.url", "url", f"the URL of a {method} is {expected} of its resource")
    if method == "PUT" and target["id"] != identity:
        raise _refused(index, "resource.id", "id", "the resource's id is not that of the URL")


def _refused(index: int, path: str, rule: str, message: str) -> InputError:
    where = f"Bundle.entry[{index}]" + (f".{path}" if path else "")
    return InputError(message, location=Location(path=where, rule=rule))
