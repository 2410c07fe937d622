"""An arrangement of a statement, its lines, and the arithmetic that rules share."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

Value = Fraction | None
Rule = Callable[..., Value]
RULES: dict[str, dict[str, Rule]] = {}
NOTHING = Fraction(0)
DIGITS = Fraction(1, 10**20)


class NoRuleError(Exception):
    """The contract asks for something that this script cannot do."""


def number(stated: Any) -> Fraction:
    """A number of a document, exactly as written."""
    return Fraction(str(stated))


def rule(kinds: str, pattern: str) -> Callable[[Rule], Rule]:
    """Register a rule for lines of these kinds of arrangements (``*``: all) whose whole name is like this."""

    def register(function: Rule) -> Rule:
        for kind in kinds.split():
            RULES.setdefault(kind, {})[pattern] = function
        return function

    return register


class Case:
    """An arrangement, the contract around it and its lines; remembers which lines a rule looked at."""

    def __init__(self, contract: dict[str, Any], terms: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        self.contract, self.terms = contract, terms
        self.id: str = terms["id"]
        self.lines = {line["id"].removeprefix(f"{self.id}."): line for line in lines}
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.lines

    def peek(self, name: str) -> Value:
        """What a line says, where it only decides."""
        if name not in self.lines:
            raise NoRuleError(f"there is no line '{name}'")
        stated = self.lines[name]["value"]
        return None if stated is None else Fraction(stated)

    def at(self, name: str) -> Fraction:
        """What a line says, computed with; nothing counts as zero."""
        found = self.peek(name)
        self.used.add(name)
        return NOTHING if found is None else found

    def like(self, pattern: str) -> list[str]:
        """Names of lines, in their order."""
        return [name for name in self.lines if re.fullmatch(pattern, name)]

    def sum(self, *patterns: str) -> Fraction:
        """The sum of the lines with such names."""
        return sum((self.at(name) for pattern in patterns for name in self.like(pattern)), NOTHING)

    def last(self, *names: str) -> Fraction:
        """The last of these that is there: what steps that a contract may have or not lead to."""
        return self.at([name for name in names if name in self.lines][-1])

    def term(self, name: str, default: Any = None) -> Any:
        """A term of the arrangement; the default where it is not stated."""
        stated = self.terms.get(name)
        return default if stated is None else stated

    def number(self, name: str, default: Any = 0) -> Fraction:
        """A term that is a number."""
        return number(self.term(name, default))

    def only(self, of: str, allowed: str) -> None:
        """Terms of a part of the arrangement that rules know; others would need rules of their own."""
        more = set(self.term(of, {})) - set(allowed.split())
        if more:
            raise NoRuleError(f"terms {of}: {', '.join(sorted(more))}")

    def measures(self) -> list[dict[str, Any]]:
        """Measures that count for the arrangement."""
        named = self.term("measures")
        of = self.contract.get("measures", [])
        return [m for m in of if (m["id"] in named if named else m.get("status", "contractual") == "contractual")]

    def measure(self, name: str) -> dict[str, Any]:
        """The measure of an id."""
        return next(m for m in self.measures() if m["id"] == name)


def half_up(value: Fraction, rounding: str) -> Fraction:
    """To whole cents or dollars, halves away from zero."""
    units = 100 if rounding == "cent" else 1
    whole = (abs(value) * units + Fraction(1, 2)).__floor__()
    return Fraction(whole if value >= 0 else -whole, units)


def share_out(amount: Fraction, weights: dict[str, Fraction], rounding: str) -> dict[str, Fraction]:
    """Largest remainder: everybody's share cut to whole cents, what is left to the largest rests, then by name."""
    units = 100 if rounding == "cent" else 1
    whole, total = abs(amount) * units, sum(weights.values())
    exact = {name: whole * weight / total for name, weight in weights.items()}
    parts = {name: share.__floor__() for name, share in exact.items()}
    left = int(whole) - sum(parts.values())
    for name in sorted(parts, key=lambda name: (parts[name] - exact[name], name))[:left]:
        parts[name] += 1
    return {name: Fraction(part if amount >= 0 else -part, units) for name, part in parts.items()}


def in_bands(deviation: Fraction, reference: Fraction, bands: list[dict[str, Any]]) -> list[tuple[Fraction, Fraction]]:
    """What of a deviation lies in each band, and at which share."""
    found, low, size = [], NOTHING, abs(deviation)
    for band in bands:
        high = number(band["through"]) * reference if band.get("through") is not None else size
        inside = max(NOTHING, min(size, high) - low)
        found.append((inside if deviation >= 0 else -inside, number(band["share"])))
        low = high
    return found


def known(value: Value) -> Fraction:
    if value is None:
        raise NoRuleError("a line that must have a value has none")
    return value
