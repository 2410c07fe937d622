"""Criteria of conditional interactions and references: which resources a sender means without naming their ids.

FHIR R4, 3.1.0.7.1, 3.1.0.8.1 and 3.1.0.11.2: a search within a type. Understood are ``identifier`` (``system|value``,
``|value``, ``value``) and ``_id``; a comma is an or, several parameters must all be met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from fhir_gateway.r4 import spec


@dataclass(frozen=True, slots=True)
class Token:
    """A value of ``identifier``: ``system`` None is any, empty is none; of ``_id``, whose system is never given."""

    system: str | None
    value: str


@dataclass(frozen=True, slots=True)
class Criteria:
    """Resources of ``kind`` that meet one token of each of ``identifiers``, and have one of each of ``ids``."""

    kind: str
    identifiers: tuple[tuple[Token, ...], ...] = ()
    ids: tuple[frozenset[str], ...] = ()

    def met_by(self, resource: Mapping[str, Any]) -> bool:
        """Whether a parsed resource of the kind meets them."""
        stated = resource.get("identifier")
        identifiers = stated if isinstance(stated, list) else [stated]
        has = {(one.get("system") or "", one.get("value")) for one in identifiers if isinstance(one, dict)}
        return all(resource.get("id") in some for some in self.ids) and all(
            any(one.value == value and one.system in (None, system) for one in tokens for system, value in has)
            for tokens in self.identifiers
        )


Stored = Callable[[Criteria], Sequence[str]]
"""Ids of what a sender has stored that meets criteria."""


def read_criteria(kind: str, query: str) -> Criteria:
    """Understand a search within a type; ValueError says which parameter is not understood."""
    if kind not in spec.resource_types():
        raise ValueError("the type is not one of R4")
    identifiers, ids = [], []
    for name, value in parse_qsl(query, keep_blank_values=True):
        parts = [part for part in value.split(",") if part]
        if name == "identifier" and parts and all(part.rpartition("|")[2] for part in parts):
            if "identifier" not in spec.column_structure(kind):
                raise ValueError(f"{kind} has no identifier")
            identifiers.append(tuple(_token(part) for part in parts))
        elif name == "_id" and parts:
            ids.append(frozenset(parts))
        else:
            raise ValueError("a condition is made of identifier=[system|]value and _id=, and of no other parameter")
    if not identifiers and not ids:
        raise ValueError("a condition names an identifier or _id")
    return Criteria(kind, tuple(identifiers), tuple(ids))


def _token(text: str) -> Token:
    system, mark, value = text.rpartition("|")
    return Token(system if mark else None, value)
