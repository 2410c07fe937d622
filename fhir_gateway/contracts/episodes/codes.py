"""Which claim lines a rule is about: patterns of codes, as conditions over columns of claim lines."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field

from fhir_gateway.contracts.terms import Terms
from fhir_gateway.lake.patterns import PATTERN, one_of

#: A code (``470``), the codes from one to another (``480-482``), those that begin so (``S72*``), or any at all (``*``).
#: Diagnoses are compared without dots, MS-DRGs with three digits, bill types without leading zeros.
Pattern = Annotated[str, Field(pattern=PATTERN)]
ClaimType = Literal["inpatient", "outpatient", "professional", "pharmacy", "oral", "vision"]

#: Fields of :class:`Match` that are columns as they stand; ``mdc`` is looked up by MS-DRG.
_COLUMNS = (
    *("claim_type", "bill_type", "drg", "procedure", "revenue_code", "place_of_service", "diagnosis", "specialty"),
    *("npi", "tin"),
)


class Match(Terms):
    """Claim lines of which every stated field has one of its patterns; with no field stated, all lines."""

    claim_type: tuple[ClaimType, ...] = ()
    bill_type: tuple[Pattern, ...] = ()
    drg: tuple[Pattern, ...] = ()
    mdc: tuple[Pattern, ...] = Field(default=(), description="Major diagnostic category, two digits: 00 is pre-MDC.")
    procedure: tuple[Pattern, ...] = ()
    revenue_code: tuple[Pattern, ...] = ()
    place_of_service: tuple[Pattern, ...] = ()
    diagnosis: tuple[Pattern, ...] = ()
    specialty: tuple[Pattern, ...] = ()
    npi: tuple[Pattern, ...] = ()
    tin: tuple[Pattern, ...] = ()

    @property
    def condition(self) -> str:
        """The SQL condition over normalised lines. Its literals are patterns, checked on the way in."""
        found = [one_of(name, getattr(self, name)) for name in _COLUMNS if getattr(self, name)]
        if self.mdc:
            found.append(one_of("drg", [drg for mdc in self.mdc for drg in drgs_of(mdc)] or ["none"]))
        return " AND ".join(found) or "TRUE"


def first_rule(matches: Iterable[Match]) -> str:
    """SQL expression: the position of the first rule that a line matches, or NULL."""
    cases = " ".join(f"WHEN {match.condition} THEN {number}" for number, match in enumerate(matches))
    return f"CASE {cases} ELSE NULL END" if cases else "NULL::INTEGER"


def any_rule(matches: Iterable[Match]) -> str:
    """SQL condition: a line matches one of the rules."""
    return " OR ".join(f"({match.condition})" for match in matches) or "FALSE"


def problems(match: Match, where: str) -> list[str]:
    """Patterns that can match nothing."""
    found = []
    for name in (*_COLUMNS, "mdc"):
        for pattern in getattr(match, name):
            first, _, last = pattern.partition("-")
            if last and (len(first) != len(last) or first > last):
                found.append(
                    f"{where}.{name}: '{pattern}' is no range from a lower to a higher code of the same length"
                )
    found += [f"{where}.mdc: there is no category '{mdc}'" for mdc in match.mdc if not drgs_of(mdc)]
    return found


@cache
def shipped(name: str) -> dict[str, Any]:
    """A file of ``episodes/models``: what programmes state, as data."""
    text = files(__package__).joinpath("models", f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text, parse_float=Decimal)


@cache
def drgs_of(mdc: str) -> tuple[str, ...]:
    """MS-DRG patterns of a major diagnostic category."""
    found: tuple[str, ...] = tuple(shipped("ms_drg")["mdc"].get(mdc, ()))
    return found
