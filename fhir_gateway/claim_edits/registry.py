"""All edits by id. A family is a module of :mod:`fhir_gateway.claim_edits.edits`; an edit is one entry in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

from fhir_gateway.claim_edits.edits import (
    codes,
    coverage,
    duplicates,
    eligibility,
    identity,
    money,
    ncci,
    procedures,
    time,
    value_based,
)
from fhir_gateway.claim_edits.models import Edit
from fhir_gateway.errors import InputError, Location

_FAMILIES = (identity, eligibility, codes, procedures, ncci, coverage, time, duplicates, money, value_based)


@cache
def edits() -> Mapping[str, Edit]:
    """Every edit, in the order of families."""
    found: dict[str, Edit] = {}
    for module in _FAMILIES:
        for edit in module.EDITS:
            if edit.id in found:
                raise AssertionError(f"two edits are called {edit.id}")
            found[edit.id] = edit
    return MappingProxyType(found)


def chosen(names: Iterable[str] | None) -> tuple[Edit, ...]:
    """The edits that are named by id or by family; all of them for None. InputError for an unknown name."""
    every = edits()
    if names is None:
        return tuple(every.values())
    found: dict[str, Edit] = {}
    for name in names:
        of_name = [edit for edit in every.values() if name in (edit.id, edit.family)]
        if not of_name:
            raise InputError("an edit or family of edits is not known", location=Location(path="edit", rule="unknown"))
        found |= {edit.id: edit for edit in of_name}
    return tuple(found.values())
