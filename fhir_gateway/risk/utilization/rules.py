"""Which claim lines are what: kinds of stays and visits, service categories. Data in ``rules.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.lake.patterns import is_pattern, one_of

#: Columns of normalised lines (:mod:`.lines`) that rules are about.
COLUMNS = ("claim_type", "bill_type", "drg", "procedure", "place_of_service", "revenue_code", "specialty", "diagnosis")


@dataclass(frozen=True, slots=True)
class Rule:
    """Lines of which every column named has one of its patterns are of ``id``; an empty list: the column is null."""

    id: str
    match: Mapping[str, tuple[str, ...]]

    @property
    def condition(self) -> str:
        """The SQL condition over normalised lines."""
        found = [one_of(name, patterns) if patterns else f"{name} IS NULL" for name, patterns in self.match.items()]
        return " AND ".join(found) or "TRUE"


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of stays, visits and service categories, in order, and their version.

    ``longest_statement``: days of a claim's period beyond which it is not taken for a stay.
    """

    version: str
    stays: tuple[Rule, ...]
    visits: tuple[Rule, ...]
    categories: tuple[Rule, ...]
    longest_statement: int = 100

    @classmethod
    def load(cls, path: Path | None = None) -> Rules:
        """The shipped rules, or those of a file of the same form; ConfigurationError names what is wrong in it."""
        return _shipped() if path is None else _read(path.read_text(encoding="utf-8"), path.name)


def first_of(rules: Sequence[Rule], otherwise: str = "NULL") -> str:
    """SQL expression: the id of the first rule that a line matches."""
    cases = " ".join(f"WHEN {rule.condition} THEN '{rule.id}'" for rule in rules)
    return f"CASE {cases} ELSE {otherwise} END"


def rank_of(rules: Sequence[Rule]) -> str:
    """SQL expression: the position of the first rule that a line matches; null for none."""
    return "CASE " + " ".join(f"WHEN {rule.condition} THEN {n}" for n, rule in enumerate(rules)) + " END"


def any_of(rules: Sequence[Rule], name: str) -> str:
    """SQL condition: a line matches one of the rules with this id."""
    return "(" + (" OR ".join(f"({rule.condition})" for rule in rules if rule.id == name) or "FALSE") + ")"


@cache
def _shipped() -> Rules:
    return _read(files(__package__).joinpath("rules.toml").read_text(encoding="utf-8"), "rules.toml")


def _read(text: str, name: str) -> Rules:
    try:
        stated = tomllib.loads(text)
        longest = stated.get("longest_statement", 100)
        if not isinstance(longest, int) or longest < 1:
            raise ValueError("longest_statement: is a number of days")
        stays, visits, categories = (_rules(stated[kind], kind) for kind in ("stay", "visit", "category"))
        return Rules(str(stated["version"]), stays, visits, categories, longest)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{name}: no rules of utilization: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _rules(entries: Sequence[Mapping[str, Any]], kind: str) -> tuple[Rule, ...]:
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{kind}[{number}]"
        identifier = entry["id"]
        if not identifier.replace("-", "").isalnum():
            raise ValueError(f"{where}.id: letters, digits and dashes")
        for column, patterns in entry["match"].items():
            if column not in COLUMNS:
                raise ValueError(f"{where}.match: there is no column {column}")
            for pattern in patterns:
                if not is_pattern(pattern):
                    raise ValueError(f"{where}.match.{column}: '{pattern}' is no pattern of codes")
        found.append(Rule(identifier, {name: tuple(patterns) for name, patterns in entry["match"].items()}))
    return tuple(found)
