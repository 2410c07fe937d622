"""A Bundle that a sender pushes: its resources as lines, its deletions, and the ids that entries without one get.

FHIR R4, 3.1.0.11 (batch/transaction), as far as a store of what others say can follow it: creates, updates and
deletions by id, conditional creates and updates, conditional references (:mod:`fhir_gateway.sources.conditions`). What
asks for more (conditional deletions, versions, reads, patches) is refused with the entry's index, before anything is
stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from fhir_gateway.errors import AmbiguousError, InputError, Location
from fhir_gateway.sources.bundles import entries, is_deletion, is_outcome, is_set, members, one_line, parsed
from fhir_gateway.sources.conditions import Criteria, Stored, read_criteria

CONDITIONS = ("ifMatch", "ifNoneMatch", "ifModifiedSince")
_ID = r"[A-Za-z0-9\-.]{1,64}"
_URL = re.compile(rf"(?:^|/)(?P<type>[A-Z][A-Za-z]+)(?:/(?P<id>{_ID}))?(?:\?(?P<query>.*))?$")
_LAST = re.compile(rf"[/:]({_ID})$")
#: A key of a JSON object: within a string its quotes would be escaped.
_REFERENCE = re.compile(r'"reference"(\s*:\s*)"((?:[^"\\]|\\.)*)"')
_CONDITIONAL = re.compile(r"^(?P<type>[A-Z][A-Za-z]+)\?(?P<query>.*)$")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PLACEHOLDER = ("urn:uuid:", "urn:oid:")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an entry of a transaction or batch asked for, and of which resource.

    ``found``: a conditional create of what is there already; nothing is written.
    """

    index: int
    method: str
    reference: str
    found: bool = False


@dataclass(frozen=True, slots=True)
class Push:
    """What a body holds. ``places`` are the entries' indexes, one for each line; none when it was no Bundle.

    ``assigned`` are references to the entries that came without an id, by index. ``asked`` has the entries of a
    transaction or batch, in their order.
    """

    atomic: bool
    lines: tuple[str, ...]
    places: tuple[int, ...] = ()
    assigned: Mapping[int, str] = field(default_factory=dict)
    deletions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: tuple[Asked, ...] = ()


def _nothing(_: Criteria) -> Sequence[str]:
    return ()


def read_push(body: bytes, stored: Stored = _nothing) -> Push:
    """Understand a resource or Bundle; InputError names the entry, path and rule of what an import does not do.

    ``stored`` finds what the sender has stored by the criteria of conditional interactions and references;
    AmbiguousError where several resources meet them.

    An id that is given depends on the whole body and the entry's place: the same body gives the same ids. References
    to entries' ``fullUrl`` become references to what they are stored as; other text stays as it was.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        bundle = orjson.loads(body)
        text = body.decode()
        if not is_set(bundle):
            return Push(False, (one_line(text),))
        return _Entries(bundle["type"], hashlib.sha256(body).hexdigest(), stored).read(entries(text))
    except orjson.JSONDecodeError:
        raise InputError("the body is not JSON", location=Location(rule="json")) from None
    except RecursionError:
        raise InputError("the Bundle is nested too deep", location=Location(rule="depth")) from None


def bundled(text: str) -> Iterator[str]:
    """The resources in the text of a resource or Bundle of a file, each on one line; what is not JSON comes whole.

    A Bundle is taken as a collection, whatever its type: its entries are who their id or ``fullUrl`` says, references
    to a ``fullUrl`` follow, and conditions stay as they are written. InputError for a Bundle that deletes.
    """
    bundle = parsed(text)
    if not is_set(bundle):
        yield one_line(text)
        return
    yield from _Entries("collection", None, _nothing).read(_without_deletions(entries(text))).lines


def _without_deletions(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if text.startswith("{"):
            parts = {name: text[start:end] for name, start, end in members(text, 0)}
            if "resource" not in parts and is_deletion(parts.get("request")):
                raise InputError(
                    "files bring resources; a Bundle that deletes is to be sent to $import",
                    location=Location(path="Bundle.entry.request.method", rule="method"),
                )
        yield text


class _Entries:
    """The entries of one Bundle, read one after the other and resolved at the end."""

    def __init__(self, kind: str, digest: str | None, stored: Stored) -> None:
        # without a digest no ids are made up
        self._ordered = kind in ("transaction", "batch")
        self._atomic = kind == "transaction"
        self._digest = digest
        self._lines: list[tuple[int, str]] = []
        self._names: dict[str, str] = {}
        self._assigned: dict[int, str] = {}
        self._written: dict[str, int] = {}
        self._deleted: dict[str, int] = {}
        self._stored = stored
        self._asked: dict[int, Asked] = {}
        self._known: dict[str, dict[str, dict[str, Any]]] = {}  # ids and identifiers of what is written, by type and id
        self._found: dict[str, str] = {}  # what conditional references lead to

    def read(self, texts: Iterable[str]) -> Push:
        read = [(index, self._parts(index, text)) for index, text in enumerate(texts)]
        for wanted in (True, False):  # deletions come first (3.1.0.11.2)
            for index, entry in read:
                if entry is not None and (entry[0] == "DELETE") == wanted:
                    self._entry(index, *entry)
        for reference in self._written.keys() & self._deleted.keys():
            raise _refused(self._deleted[reference], "", "duplicate", "the Bundle writes what it deletes")
        deletions: dict[str, list[str]] = {}
        for reference in self._deleted:
            kind, _, identity = reference.partition("/")
            deletions.setdefault(kind, []).append(identity)
        return Push(
            self._atomic,
            tuple(self._resolved(index, line) for index, line in sorted(self._lines)),
            tuple(index for index, _ in sorted(self._lines)),
            self._assigned,
            {kind: tuple(ids) for kind, ids in deletions.items()},
            tuple(self._asked[index] for index in sorted(self._asked)),
        )

    def _parts(self, index: int, text: str) -> tuple[str, Any, dict[str, str]] | None:
        """Method, request and texts of an entry; None for one that is no object or tells about a search."""
        if not text.startswith("{"):
            self._lines.append((index, text))  # validation says what is wrong with it
            return None
        parts = {name: text[start:end] for name, start, end in members(text, 0)}
        if is_outcome(parts.get("search")):
            return None
        asked = orjson.loads(parts.get("request", "null")) if self._ordered else None
        try:
            resource = orjson.loads(parts.get("resource", "null"))
        except orjson.JSONDecodeError:  # in a file: not UTF-8, or NaN; validation says it
            self._lines.append((index, one_line(parts["resource"])))
            return None
        return _method(index, asked, resource), asked, parts

    def _entry(self, index: int, method: str, asked: Any, parts: Mapping[str, str]) -> None:
        resource = orjson.loads(parts.get("resource", "null"))
        target = _target(index, asked)
        if method == "DELETE":
            if target is None or target["id"] is None:
                raise _refused(index, "request.url", "url", "a deletion names a resource by type and id")
            reference = f"{target['type']}/{target['id']}"
            self._deleted.setdefault(reference, index)
            self._asked[index] = Asked(index, method, reference)
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
        full_url = orjson.loads(parts.get("fullUrl", "null"))
        if asked is not None:
            _agree(index, method, target, kind, identity)
            match = self._match(index, asked, target, kind)
            if match is not None and method == "POST":
                self._refer(full_url, f"{kind}/{match}", index)
                self._asked[index] = Asked(index, method, f"{kind}/{match}", found=True)
                return
            if match is not None and identity not in (None, match):
                raise _refused(index, "resource.id", "id", "the resource that meets the condition has another id")
            if match is not None and identity is None:
                line, identity = f'{{"id":"{match}",{line[1:].lstrip()}', match
        if identity is None and "id" not in resource:
            identity = self._new_id(index, full_url, created=asked is not None)
            if identity is not None:
                line = f'{{"id":"{identity}",{line[1:].lstrip()}'
                self._assigned[index] = f"{kind}/{identity}"
        self._lines.append((index, line))
        if isinstance(identity, str):
            self._name(index, full_url, f"{kind}/{identity}")
            self._known.setdefault(kind, {})[identity] = {"id": identity, "identifier": resource.get("identifier")}
            if asked is not None:
                self._asked[index] = Asked(index, method, f"{kind}/{identity}")

    def _match(self, index: int, asked: Any, target: re.Match[str] | None, kind: str) -> str | None:
        """The id of what a conditional create or update means; None when there is none, or no condition."""
        path, query = "request.url", target["query"] if target is not None else None
        if query is None:
            path, query = "request.ifNoneExist", asked.get("ifNoneExist")
            if query is not None and not isinstance(query, str):
                raise _refused(index, path, "conditional", "a condition is a text")
        if query is None:
            return None
        found = self._meeting(index, path, kind, query.rpartition("?")[2])
        return found[0] if found else None

    def _meeting(self, index: int, path: str, kind: str, query: str, *, here: bool = False) -> list[str]:
        """Ids of what is stored (and, ``here``, in the Bundle) and meets a condition: one or none."""
        try:
            criteria = read_criteria(kind, query)
        except ValueError as error:
            raise _refused(index, path, "conditional", str(error)) from None
        written = self._known.get(kind, {})
        found = {one for one in self._stored(criteria) if f"{kind}/{one}" not in self._deleted}
        if here:
            found -= written.keys()
            found |= {one for one, resource in written.items() if criteria.met_by(resource)}
        if len(found) > 1:
            where = _where(index, path, "conditional")
            raise AmbiguousError(f"{len(found)} resources meet the condition", location=where)
        return list(found)

    def _new_id(self, index: int, full_url: object, *, created: bool) -> str | None:
        """In a set of resources the ``fullUrl`` says who the entry is; in a create it is a placeholder."""
        known = None if created or not isinstance(full_url, str) else _LAST.search(full_url)
        if known or self._digest is None:
            return known[1] if known else None
        return hashlib.sha256(f"{self._digest}:{index}".encode()).hexdigest()[:32]

    def _name(self, index: int, full_url: object, reference: str) -> None:
        if self._atomic and reference in self._written:
            raise _refused(index, "resource.id", "duplicate", "a transaction names a resource once")
        self._written[reference] = index
        self._refer(full_url, reference, index)

    def _refer(self, full_url: object, reference: str, index: int) -> None:
        """References to the ``fullUrl`` lead to ``reference``."""
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
            if self._ordered and (condition := _CONDITIONAL.match(value)):
                return f'"reference"{match[1]}"{self._meant(index, value, condition)}"'
            if self._atomic and value.startswith(_PLACEHOLDER):
                raise _refused(index, "resource", "reference", "a reference to an entry that the transaction lacks")
            return match[0]

        return _REFERENCE.sub(replaced, line)

    def _meant(self, index: int, value: str, condition: re.Match[str]) -> str:
        """The resource that a conditional reference means: exactly one, stored or in the Bundle (3.1.0.11.2)."""
        if value not in self._found:
            kind = condition["type"]
            found = self._meeting(index, "resource", kind, condition["query"], here=True)
            if not found:
                raise _refused(index, "resource", "reference", "no resource meets a conditional reference")
            self._found[value] = f"{kind}/{found[0]}"
        return self._found[value]


def _method(index: int, asked: Any, resource: Any) -> str:
    """What an entry asks for; one that does not say updates what has an id and creates what has none."""
    if asked is None:
        return "PUT" if isinstance(resource, dict) and "id" in resource else "POST"
    method = asked.get("method") if isinstance(asked, dict) else None
    if method not in ("POST", "PUT", "DELETE"):
        raise _refused(index, "request.method", "method", "an import creates, updates and deletes; nothing else")
    for condition in CONDITIONS:
        if condition in asked:
            raise _refused(index, f"request.{condition}", "conditional", "versions are not compared here")
    if "ifNoneExist" in asked and method != "POST":
        raise _refused(index, "request.ifNoneExist", "conditional", "ifNoneExist is for creates")
    return str(method)


def _target(index: int, asked: Any) -> re.Match[str] | None:
    url = asked.get("url") if isinstance(asked, dict) else None
    if not isinstance(url, str):
        return None
    if "?" in url and asked.get("method") != "PUT":
        raise _refused(index, "request.url", "conditional", "only updates are conditional by their URL")
    return _URL.search(url)


def _agree(index: int, method: str, target: re.Match[str] | None, kind: str, identity: object) -> None:
    """An update's URL names the resource that comes with it; a create's names its type."""
    by_type = target is not None and target["id"] is None
    if target is None or target["type"] != kind or by_type != (method == "POST" or target["query"] is not None):
        expected = "[type]" if method == "POST" else "[type]/[id] or [type]?[condition]"
        raise _refused(index, "request.url", "url", f"the URL of a {method} is {expected} of its resource")
    if method == "PUT" and not by_type and target["id"] != identity:
        raise _refused(index, "resource.id", "id", "the resource's id is not that of the URL")


def _refused(index: int, path: str, rule: str, message: str) -> InputError:
    return InputError(message, location=_where(index, path, rule))


def _where(index: int, path: str, rule: str) -> Location:
    return Location(path=f"Bundle.entry[{index}]" + (f".{path}" if path else ""), rule=rule)
