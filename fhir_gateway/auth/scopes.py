"""SMART scopes for backend clients, version 1 (``.read``) and version 2 (``.rs``), and what of a request is granted.

A scope of version 2 may carry a search restriction (``system/Group.rs?identifier=...``): criteria that the resources
meet which it is about. What is granted is the meet of what was asked and what is registered; criteria of both are
combined, so a restriction is never lost on the way. Source: SMART App Launch 2.2.0, "Scopes and Launch Context" and
"Backend Services".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fhir_gateway.db.audience import BY_NAME, CLIENTS, Grant
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.matching import evaluable
from fhir_gateway.r4.spec import resource_types

#: Interactions in the order that a scope must list them: create, read, update, delete, search.
INTERACTIONS = "cruds"
#: Scopes with search restrictions in one token: each is a condition of every statement that reads.
MOST_RESTRICTIONS = 50

_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}
_GRAMMAR = re.compile(r"system/(?P<type>\*|[A-Z][A-Za-z]*)\.(?P<ops>read|write|\*|[cruds]+)(?:\?(?P<query>.+))?\Z")
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")  # RFC 6749 section 3.3
_MOST_CRITERIA = 10


@dataclass(frozen=True, slots=True)
class Scope:
    """One ``system`` scope: a resource type (or ``*``) and the interactions allowed on it, in ``cruds`` order."""

    resource_type: str
    interactions: str
    version: int = 2
    constraint: str | None = None  # search restriction after ``?``, as it was spelled

    def __str__(self) -> str:
        interactions = self.interactions
        if self.version == 1:  # version 1 cannot say every subset: what it cannot say is answered as version 2
            interactions = next((word for word, ops in _VERSION_1.items() if ops == interactions), interactions)
        return f"system/{self.resource_type}.{interactions}" + (f"?{self.constraint}" if self.constraint else "")

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """The search restriction as criteria that all must be met."""
        return _criteria(self.constraint) or ()

    def reaches(self, resource_type: str, interaction: str) -> bool:
        """True when this scope is about ``interaction`` (one letter of ``cruds``) on resources of the type, or some."""
        return self.grant().reaches(resource_type, interaction)

    def covers(self, resource_type: str, interaction: str) -> bool:
        """True when this scope allows ``interaction`` on every resource of the type."""
        return self.constraint is None and self.reaches(resource_type, interaction)

    def grant(self) -> Grant:
        """What the resource store enforces of it."""
        return Grant(self.resource_type, self.interactions, self.criteria)


def parse_scope(text: str) -> Scope | None:
    """Parse one scope; None when it is no ``system`` scope this server can understand.

    Interactions out of order (``.sr``) are undefined in the specification: they are put in order. Repeated letters
    are not understood, nor are search restrictions of version 1.
    """
    match = _GRAMMAR.match(text)
    if match is None:
        return None
    letters, query = match["ops"], match["query"]
    if query is not None and _criteria(query) is None:
        return None
    if letters in _VERSION_1:
        return None if query is not None else Scope(match["type"], _VERSION_1[letters], 1)
    ordered = "".join(letter for letter in INTERACTIONS if letter in letters)
    if len(ordered) != len(letters):
        return None
    return Scope(match["type"], ordered, 2, query)


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Parse a space-separated list that this server wrote itself; what is not understood is left out."""
    return tuple(scope for scope in map(parse_scope, text.split()) if scope is not None)


def is_scope_list(text: str) -> bool:
    """True when ``text`` is a well-formed, non-empty OAuth scope list (RFC 6749 section 3.3)."""
    tokens = text.split(" ")
    return all(_SCOPE_TOKEN.match(token) for token in tokens if token) and any(tokens)


def grant(
    requested: str,
    registered: Sequence[Scope],
    supported_types: Collection[str] | None = None,
    supported_interactions: str = INTERACTIONS,
) -> tuple[Scope, ...]:
    """Intersect the ``requested`` scope list with what the client registered and what this server supports.

    Left out are scopes of other contexts, of types that FHIR or this server does not have, of interactions that were
    not registered, and search restrictions that cannot be evaluated: the broader scope would be wrong. Restrictions
    are for reading: scopes with one keep ``r`` and ``s``. A version 1 scope is answered as version 1.
    ``supported_types`` None means every R4 type.
    """
    types = frozenset((*resource_types(), CLIENTS) if supported_types is None else supported_types)
    granted: dict[Scope, None] = {}
    for text in requested.split():
        asked = parse_scope(text)
        if asked is not None:
            granted |= dict.fromkeys(_granted(asked, registered, types, supported_interactions))
    return tuple(granted)


def _granted(asked: Scope, registered: Iterable[Scope], types: frozenset[str], supported: str) -> list[Scope]:
    """The meets of one scope with all registered ones; what another of them says already is left out."""
    letters: dict[tuple[str, str | None], set[str]] = {}
    for one in registered:
        kind = _common_type(asked, one)
        if kind is None or (kind != "*" and kind not in types):
            continue
        constraint = _both(asked.constraint, one.constraint)
        both = set(asked.interactions) & set(one.interactions) & set(supported)
        if constraint is not None:
            both &= set("rs") if evaluable(kind, _criteria(constraint) or ()) else set()
        letters.setdefault((kind, constraint), set()).update(both)
    found = [
        Scope(kind, ordered, 2 if constraint else asked.version, constraint)
        for (kind, constraint), both in sorted(letters.items(), key=lambda one: (one[0][0], one[0][1] or ""))
        if (ordered := "".join(letter for letter in INTERACTIONS if letter in both))
    ]
    kept: list[Scope] = []
    for one in sorted(found, key=lambda scope: len(scope.criteria)):  # the wide ones first
        if not any(_says(other, one) for other in kept):
            kept.append(one)
    return [one for one in found if one in kept]


def _common_type(asked: Scope, registered: Scope) -> str | None:
    """The type that both are about; a wildcard does not mean the types that must be named."""
    kinds = {asked.resource_type, registered.resource_type}
    if len(kinds) == 1:
        return asked.resource_type
    if asked.resource_type == "*":
        return registered.resource_type
    return asked.resource_type if registered.resource_type == "*" and asked.resource_type not in BY_NAME else None


def _both(asked: str | None, registered: str | None) -> str | None:
    """The restriction that holds where both hold, in the words of ``asked`` where these say it all."""
    if asked is None or registered is None:
        return asked or registered
    given = _criteria(asked) or ()
    pieces = zip(registered.split("&"), _criteria(registered) or (), strict=True)
    return "&".join([asked, *(piece for piece, one in pieces if not any(_implies(other, one) for other in given))])


def _implies(narrow: Criterion, wide: Criterion) -> bool:
    """True when a resource that meets ``narrow`` meets ``wide``: the same, or fewer of its alternatives."""
    if narrow == wide:
        return True
    if narrow[0] != wide[0] or ":not" in wide[0] or "\\" in narrow[1] + wide[1]:
        return False
    return set(narrow[1].split(",")) <= set(wide[1].split(","))


def _says(wide: Scope, narrow: Scope) -> bool:
    """True when ``wide`` allows everything that ``narrow`` allows."""
    return all(wide.reaches(narrow.resource_type, letter) for letter in narrow.interactions) and all(
        any(_implies(one, other) for one in narrow.criteria) for other in wide.criteria
    )


def _criteria(constraint: str | None) -> tuple[Criterion, ...] | None:
    """The criteria of a search restriction; None for what is none (or too long a one)."""
    if constraint is None:
        return ()
    try:
        pairs = parse_qsl(constraint, True, True, errors="strict", max_num_fields=_MOST_CRITERIA)
    except ValueError:
        return None
    return tuple(pairs) if all(name and value for name, value in pairs) else None
