"""All edits by id: what they say of themselves (``edits.toml``), and their queries in the modules of ``edits/``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

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
    stated = tomllib.loads(files(__package__).joinpath("edits.toml").read_text(encoding="utf-8"))["edit"]
    queries: dict[str, str] = {}
    for module in _FAMILIES:
        queries |= module.QUERIES
    found = {one["id"]: _edit(one, queries[one["id"]]) for one in stated}
    if len(found) != len(stated) or set(found) != set(queries):
        raise AssertionError("claim_edits: an edit is stated twice, or a query belongs to none")
    return MappingProxyType(found)


def _edit(stated: Mapping[str, Any], query: str) -> Edit:
    words = {name: value for name, value in stated.items() if name not in ("needs", "effective_from", "effective_to")}
    effective = stated.get("effective_from"), stated.get("effective_to")
    return Edit(**words, query=query, needs=tuple(stated.get("needs", ())), effective=effective)


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
