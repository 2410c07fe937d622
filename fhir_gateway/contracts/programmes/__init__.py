"""Numbers of public programmes by year (weights, cut points, caps, credibility), as data with source and trust mark.

One TOML file per programme. An entry of ``[[years]]`` holds from its ``year`` until the next entry begins. Trust marks:
``V`` reproduces published results, ``CFR`` read in the regulation, ``DOC`` read in a public document, ``M`` from memory
(compare with the year's final rule before relying on it). A contract may state such a table itself instead.
"""

from __future__ import annotations

import tomllib
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

from pydantic import Field

from fhir_gateway.contracts.terms import Terms
from fhir_gateway.errors import ContractError


class ProgrammeYear(Terms):
    """What is common to the tables of all programmes."""

    year: int = Field(description="First programme year that it holds for.")
    trust: Literal["V", "CFR", "DOC", "M"] = Field(description="How far it was checked.")
    source: str


Y = TypeVar("Y", bound=ProgrammeYear)


@cache
def _entries(name: str) -> tuple[dict[str, Any], ...]:
    text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    years: list[dict[str, Any]] = tomllib.loads(text, parse_float=Decimal)["years"]
    return tuple(sorted(years, key=lambda entry: int(entry["year"])))


def programme_year(name: str, year: int, kind: type[Y]) -> Y:
    """The table of a programme that holds for a year; ContractError when the programme's tables begin later."""
    found = [entry for entry in _entries(name) if entry["year"] <= year]
    if not found:
        raise ContractError(f"programme {name}: there is no table for {year}; its first is {_entries(name)[0]['year']}")
    return kind.model_validate(found[-1])


def shipped_programmes() -> list[str]:
    """Names of the programmes with tables."""
    return sorted(
        file.name.removesuffix(".toml") for file in files(__package__).iterdir() if file.name.endswith(".toml")
    )
