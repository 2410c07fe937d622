"""The interactions create, update and delete, also conditional ones (R4 http.html 3.1.0.4 to 3.1.0.8).

The gateway is the system of record for what it computes: clients write the types that the registry names, and change
only what clients wrote, each its own. What a client writes carries its label, so that it sees it again; persons that it
does not see it cannot write about. Ids are given by the server.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.audience import CLIENT, SYSTEM, label, labelled
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.values import reference_parts
from fhir_gateway.db.writing import Writing
from fhir_gateway.errors import AuthorizationError, InputError, Location, NotFoundError
from fhir_gateway.lake.explain import issues as broken_rules
from fhir_gateway.server.interactions import Interactions
from fhir_gateway.server.patch_documents import Patch
from fhir_gateway.server.problems import (
    InvalidResource,
    MethodNotAllowed,
    MultipleMatches,
    PreconditionFailed,
    issue,
)

_NAMED_ISSUES = 50
_ETAG = re.compile(r'(?:W/)?"?(\d{1,9})"?')

#: Says what is wrong with a resource of one type beyond FHIR and profiles: a path and the rule, or nothing.
Rule = Callable[[Mapping[str, Any]], tuple[str, str] | None]


@dataclass(frozen=True, slots=True)
class Change:
    """One write as it was asked for; ``place`` is where in a Bundle.

    ``criteria`` make it conditional: of a create those that nothing may meet, else those that say which resource; its
    ``id`` is then the one that the body names, if it does. An update may be said by a ``patch`` of what is there, until
    that is looked at.
    """

    interaction: str  # create, update, delete
    type: str
    id: str | None = None
    criteria: tuple[Criterion, ...] | None = None
    resource: Mapping[str, Any] | None = None
    if_match: str | None = None
    place: str = ""
    patch: Patch | None = None

    @property
    def letters(self) -> str:
        """What the token must allow; criteria tell what there is, as a search does."""
        return {"create": "c", "update": "u", "delete": "d"}[self.interaction] + ("" if self.criteria is None else "s")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A change and the resource that it is about: its id, and the stored version if there is one."""

    change: Change
    id: str
    existing: StoredResource | None


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a change: the HTTP status, and the resource as it is now stored (None: there was nothing)."""

    status: int
    stored: StoredResource | None


class Writes:
    """Carries out changes; the order is ``prepare``, then inside one transaction ``resolve`` and ``perform``."""

    def __init__(
        self,
        rest: Interactions,
        profiles: Callable[[Mapping[str, Any]], list[dict[str, Any]]],
        rules: Mapping[str, Rule],
    ) -> None:
        """``profiles`` names the errors (as issues) against the profiles that a resource declares."""
        self.rest = rest
        self._profiles = profiles
        self._rules = rules

    def prepare(self, change: Change, token: AccessToken) -> Change:
        """The change with its resource checked and labelled. Raises InvalidResource, and AuthorizationError.

        Nothing is locked: what needs the stored resources for more than a look belongs to the other two.
        """
        if change.criteria is None and change.id is not None:
            self._refuse_rendered(change, token)
        if change.resource is None:
            return change
        given = change.resource.get("id")
        if change.interaction == "update" and change.criteria is None and given != change.id:
            raise InputError("the body has not the id of the URL", location=_at(change, "id", "id"))
        keeps = change.interaction == "update" and given is not None
        resource = {**change.resource, "id": given if keeps else str(uuid.uuid4())}
        self.judge(change, resource)
        self.refuse_unseen(change, resource, token)
        rule = self._rules.get(change.type)
        broken = rule(resource) if rule else None
        if broken:
            raise InvalidResource(broken[1], [_issue(change, "business-rule", broken[1], broken[0])], 422)
        meta = {name: value for name, value in resource.get("meta", {}).items() if name not in _STAMPS}
        mine = labelled({**resource, "meta": meta}, label(CLIENT, token.client_id))
        return replace(change, resource=mine, id=given if keeps else None)

    def resolve(self, changes: Writing, change: Change, token: AccessToken) -> Resolved:
        """Which resource a change is about. Raises MultipleMatches, and MethodNotAllowed for ids that clients give."""
        view = self.rest.seen(token, "s" if change.criteria is not None else "r")
        new = "" if change.resource is None else str(change.resource["id"])
        if change.criteria is not None:
            found = view.matches_in(changes, change.type, change.criteria)
            if len(found) > 1:
                raise MultipleMatches("more than one resource meets the criteria", location=_at(change, "", "criteria"))
            if found and change.id not in (None, found[0].id):
                raise InputError("another resource meets the criteria", location=_at(change, "id", "id"))
            if not found and change.id is not None:
                raise no_such_id()
            return Resolved(change, found[0].id if found else new, found[0] if found else None)
        if change.interaction == "create" or change.id is None:
            return Resolved(change, new, None)
        if view.shows(changes, change.type, change.id):
            return Resolved(change, change.id, changes.current(change.type, change.id))
        if change.interaction == "update":
            raise no_such_id()
        return Resolved(change, change.id, None)

    def perform(self, changes: Writing, resolved: Resolved, token: AccessToken) -> Written:
        """Write. Raises AuthorizationError for what is not the client's, PreconditionFailed for another version."""
        change, existing = resolved.change, resolved.existing
        if change.interaction == "create" and existing is not None:
            return Written(200, existing)
        if existing is None:
            if change.if_match is not None:
                raise PreconditionFailed("there is no such version", location=_at(change, "", "If-Match"))
            if change.resource is None:
                return Written(204, None)
            return Written(201, changes.put({**change.resource, "id": resolved.id}))
        before = existing.json()
        _own(before, token)
        if change.if_match is not None and not same_version(change, existing.version):
            raise PreconditionFailed("the resource has another version", location=_at(change, "", "If-Match"))
        if change.resource is None:
            return Written(204, changes.delete(change.type, resolved.id))
        security = [one for one in before.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]
        return Written(200, changes.put(labelled({**change.resource, "id": resolved.id}, *security)))

    def _refuse_rendered(self, change: Change, token: AccessToken) -> None:
        """What the gateway renders is seen, but is not stored: it must not look as if it were not there."""
        try:
            seen = self.rest.catalog(change.type, token, "r").read(change.type, str(change.id))
        except NotFoundError:
            return
        try:
            self.rest.store.read(seen.type, seen.id)
        except NotFoundError:
            raise not_theirs() from None

    def judge(self, change: Change, resource: Mapping[str, Any]) -> None:
        """The rules of FHIR (400), then the declared profiles (422)."""
        found = [
            _issue(change, "structure", f"{one.message} [{one.rule}]", one.path)
            for _, one in zip(range(_NAMED_ISSUES), broken_rules(resource, change.type), strict=False)
        ]
        if found:
            raise InvalidResource("the body is no valid resource", found)
        against = self._profiles(resource)
        if against:
            prefix = f"{change.place}.resource" if change.place else ""
            for one in against if prefix else ():
                one["expression"] = [f"{prefix}: {path}" for path in one.get("expression", [])] or [prefix]
            raise InvalidResource("the body breaks a profile that it declares", against[:_NAMED_ISSUES], 422)

    def refuse_unseen(self, change: Change, resource: Mapping[str, Any], token: AccessToken) -> None:
        """Persons that the client does not see do not exist for it."""
        persons = {value for value in _references(resource, self.rest.base_url) if value[0] == "Patient"}
        seen = {(one.type, one.id) for one in self.rest.seen(token, "r").read_many(persons)}
        if persons - seen:
            text = "refers to a Patient that is not here"
            raise InvalidResource(text, [_issue(change, "not-found", text, change.type)], 422)


_STAMPS = frozenset({"versionId", "lastUpdated"})


def _own(resource: Mapping[str, Any], token: AccessToken) -> None:
    """A client changes what it wrote; the operator's clients what any client wrote; nobody what the gateway made."""
    security = resource.get("meta", {}).get("security", ())
    authors = {one.get("code") for one in security if one.get("system") == SYSTEM}
    authors = {one for one in authors if str(one).startswith(f"{CLIENT}:")}
    if not authors or not (token.audience.everybody or f"{CLIENT}:{token.client_id}" in authors):
        raise not_theirs()


def not_theirs() -> AuthorizationError:
    """The error for what another wrote."""
    return AuthorizationError("this resource was not written by the client, and is not its to change")


def no_such_id() -> MethodNotAllowed:
    """The error for an id that a client made up."""
    return MethodNotAllowed("there is no such resource to update, and ids are given by the server: create it by POST")


def same_version(change: Change, version: int) -> bool:
    """True when ``If-Match`` means this version; raises InputError for what is no ETag of ours."""
    if (change.if_match or "").strip() == "*":
        return True
    match = _ETAG.fullmatch((change.if_match or "").strip())
    if match is None:
        raise InputError("not one ETag of ours", location=_at(change, "", "If-Match"))
    return int(match[1]) == version


def _references(node: Any, base_url: str) -> Iterator[tuple[str, str]]:
    """All references of a resource to resources here, as (type, id)."""
    if isinstance(node, Mapping):
        reference = node.get("reference")
        if isinstance(reference, str):
            target, value = reference_parts(reference, base_url)
            if target is not None and "/" not in value:
                yield target, value
        for child in node.values():
            yield from _references(child, base_url)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child, base_url)


def _at(change: Change, element: str, rule: str) -> Location:
    path = ".".join(part for part in (change.place, change.type, element) if part)
    return Location(path=path, rule=rule)


def _issue(change: Change, code: str, text: str, path: str) -> dict[str, Any]:
    where = f"{change.place}.resource: {path}" if change.place else path
    return issue("error", code, text, where)
