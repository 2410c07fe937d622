"""Registry of attribution methods: one module each, applied in the order the terms name them.

A method is a function over a :class:`Workspace`. It adds rows to the table ``assigned`` for members it settles and
leaves alone those that an earlier method settled. Adding a method: a module here with ``@method("name")``, its import
below, its test, and a line in ``docs/use/attribution.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import duckdb

from fhir_gateway.attribution.rules import AttributionTerms
from fhir_gateway.errors import ContractError


@dataclass(frozen=True, slots=True)
class Workspace:
    """A connection with the tables that methods read and write.

    ``eligible`` (member); ``lines``, ``clinicians`` (which ``knows_providers`` says are known), ``selections_given``,
    ``residence``, ``areas`` (entity, code), ``participants``, ``held`` (who won before) as they were given;
    ``assigned``, ``candidates`` and ``unattributed``: what methods write (see :mod:`fhir_gateway.attribution.service`).
    """

    connection: duckdb.DuckDBPyConnection
    terms: AttributionTerms
    period: tuple[date, date]
    knows_providers: bool = False


Method = Callable[[Workspace], None]
_METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register an attribution method."""

    def register(function: Method) -> Method:
        _METHODS[name] = function
        return function

    return register


def find(name: str) -> Method:
    """The method of a name; ContractError names those there are."""
    try:
        return _METHODS[name]
    except KeyError:
        known = ", ".join(sorted(_METHODS))
        raise ContractError(f"methods: there is no attribution method '{name}' (there are {known})") from None


from fhir_gateway.attribution.methods import geography, plurality, selection  # noqa: E402, F401 they register themselves
