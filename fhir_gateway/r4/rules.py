"""Rules of R4 beyond the shape of its types: invariants in FHIRPath, and the codes of its required value sets.

Source: ``rules.json``, generated from the published definitions by :mod:`fhir_gateway.r4.generate_rules`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule in FHIRPath; its context is an instance of the type or element that has it."""

    key: str
    severity: str  # error | warning
    human: str
    expression: str


@cache
def _table() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(files(__package__).joinpath("rules.json").read_text(encoding="utf-8"))
    return loaded


@cache
def invariants(place: str) -> tuple[Invariant, ...]:
    """The invariants of a type (``Period``), backbone element (``Bundle.entry``) or element (``ValueSet.url``)."""
    return tuple(Invariant(*row) for row in _table()["invariants"].get(place, ()))


def bound_value_set(place: str) -> str | None:
    """URL of the value set that a coding or concept element must take its code from; None when none binds it."""
    url: str | None = _table()["bindings"].get(place)
    return url


@cache
def codes(value_set: str) -> Mapping[str, frozenset[str]] | None:
    """System -> codes of a value set of R4's required bindings; None when it is not one, or cannot be listed."""
    listed = _table()["value_sets"].get(value_set)
    return None if listed is None else {system: frozenset(names) for system, names in listed.items()}
