"""SMART scopes for backend clients, version 1 (``.read``) and version 2 (``.rs``), and what of a request is granted.

Source: SMART App Launch 2.2.0, "Scopes and Launch Context" and "Backend Services".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from fhir_gateway.r4.spec import resource_types

#: Interactions in the order that a scope must list them: create, read, update, delete, search.
INTERACTIONS = "cruds"

_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}
_GRAMMAR = re.compile(r"system/(?P<type>\*|[A-Z][A-Za-z]*)\.(?P<ops>read|write|\*|[cruds]+)(?:\?(?P<query>.+))?\Z")
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")  # RFC 6749 section 3.3


@dataclass(frozen=True, slots=True)
class Scope:
    """One ``system`` scope: a resource type (or ``*``) and the interactions allowed on it, in ``cruds`` order."""

    resource_type: str
    interactions: str
    version: int = 2
    constraint: str | None = None  # search restriction after ``?``

    def __str__(self) -> str:
        interactions = self.interactions
        if self.version == 1:  # version 1 cannot say every subset: what it cannot say is answered as version 2
            interactions = next((word for word, ops in _VERSION_1.items() if ops == interactions), interactions)
        return f"system/{self.resource_type}.{interactions}" + (f"?{self.constraint}" if self.constraint else "")

    def covers(self, resource_type: str, interaction: str) -> bool:
        """True when this scope allows ``interaction`` (one letter of ``cruds``) on ``resource_type``."""
        return (
            self.constraint is None and self.resource_type in ("*", resource_type) and interaction in self.interactions
        )


def parse_scope(text: str) -> Scope | None:
    """Parse one scope; None when it is no ``system`` scope this server can understand.

    Interactions out of order (``.sr``) are undefined in the specification: they are put in order. Repeated letters
    are not understood.
    """
    match = _GRAMMAR.match(text)
    if match is None:
        return None
    letters = match["ops"]
    if letters in _VERSION_1:
        return Scope(match["type"], _VERSION_1[letters], 1, match["query"])
    ordered = "".join(letter for letter in INTERACTIONS if letter in letters)
    if len(ordered) != len(letters):
        return None
    return Scope(match["type"], ordered, 2, match["query"])


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
    not registered, and scopes with search restrictions: they cannot be enforced, and granting the broader scope
    would be wrong. A version 1 scope is answered as version 1. ``supported_types`` None means every R4 type.
    """
    types = frozenset(resource_types() if supported_types is None else supported_types)
    granted: dict[Scope, None] = {}
    for text in requested.split():
        scope = parse_scope(text)
        if scope is None or scope.constraint is not None:
            continue
        wanted = [letter for letter in scope.interactions if letter in supported_interactions]
        for resource_type in _candidates(scope.resource_type, registered, types):
            allowed = "".join(x for x in wanted if any(r.covers(resource_type, x) for r in registered))
            if allowed:
                granted[Scope(resource_type, allowed, scope.version)] = None
    return tuple(granted)


def _candidates(resource_type: str, registered: Iterable[Scope], types: frozenset[str]) -> list[str]:
    """Types to consider for a requested one; ``*`` becomes ``*`` and whatever single types were registered."""
    if resource_type != "*":
        return [resource_type] if resource_type in types else []
    return ["*", *sorted({scope.resource_type for scope in registered} & types)]
