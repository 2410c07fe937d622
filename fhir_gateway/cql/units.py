"""UCUM units: conversion factors by a library (ucumvert on pint), asked once for each pair of units."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from math import lcm
from typing import Any, NamedTuple

import numpy as np

from fhir_gateway.cql.values import AnyArray, BoolArray, IntArray, StrVec
from fhir_gateway.cql.values.base import gather
from fhir_gateway.cql.values.scalars import ONE, divide_half_up, magnitude, narrow, overflows, shared_codes, widen_if

#: CQL calendar units and the UCUM units they compare with.
CALENDAR = {
    "year": "a",
    "years": "a",
    "month": "mo",
    "months": "mo",
    "week": "wk",
    "weeks": "wk",
    "day": "d",
    "days": "d",
    "hour": "h",
    "hours": "h",
    "minute": "min",
    "minutes": "min",
    "second": "s",
    "seconds": "s",
    "millisecond": "ms",
    "milliseconds": "ms",
}


@cache
def _registry() -> Any:
    from ucumvert import PintUcumRegistry  # the grammar takes a second to load: only when units really differ

    return PintUcumRegistry()


def load_units() -> None:
    """Load the library of units now: a server does so before the first patient waits for it."""
    _registry()


#: UCUM annotations say nothing about the unit (UCUM section 2.1, curly braces): alone they stand for ``1``.
_ANNOTATION = re.compile(r"(?<=[^./(])\{[^{}]*\}")
_ONLY_ANNOTATION = re.compile(r"\{[^{}]*\}")


@cache
def normal(unit: str | None) -> str:
    """The UCUM code of a unit without annotations; calendar words become UCUM, an absent unit is ``1``."""
    if not unit:
        return "1"
    if "{" in unit:
        unit = _ONLY_ANNOTATION.sub("1", _ANNOTATION.sub("", unit))
    return CALENDAR.get(unit, unit)


#: Calendar durations of no definite length, in months.
_INDEFINITE = {"year": 12, "years": 12, "month": 1, "months": 1}
_MONTHS_OF = {"a": 12, "mo": 1}
#: Days that a calendar duration is equivalent to (CQL 1.5, author's guide, quantities).
_DAYS_OF = {12: 365, 1: 30}
#: Kelvin of the UCUM temperature units: kelvin = value * factor + offset.
_TEMPERATURES = {
    "K": (Fraction(1), Fraction(0)),
    "Cel": (Fraction(1), Fraction("273.15")),
    "[degF]": (Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
    "[degR]": (Fraction(5, 9), Fraction(0)),
    "[degRe]": (Fraction(5, 4), Fraction("273.15")),
}


class Conversion(NamedTuple):
    """``target = source * factor + offset``."""

    factor: Fraction
    offset: Fraction = Fraction(0)


def _number(magnitude: Any) -> Fraction:
    """The library computes in floats: 15 digits are exact, the rest is noise."""
    return Fraction(f"{magnitude:.15g}")


@cache
def conversion(source: str | None, target: str | None, *, equivalence: bool = False) -> Conversion | None:
    """How to get from ``source`` to ``target``; None when they do not convert (or one is not a UCUM unit).

    Calendar years and months are of no definite length: they convert into definite durations (UCUM ``a``, ``mo``,
    ``d`` ..., calendar weeks and days) only for ``equivalence``.
    """
    if source in _INDEFINITE and target in _INDEFINITE:
        return Conversion(Fraction(_INDEFINITE[source], _INDEFINITE[target]))
    if source in _INDEFINITE or target in _INDEFINITE:
        return _from_calendar(source, target) if equivalence else None
    left, right = normal(source), normal(target)
    if left == right:
        return Conversion(Fraction(1))
    if left in _TEMPERATURES and right in _TEMPERATURES:
        (a, a0), (b, b0) = _TEMPERATURES[left], _TEMPERATURES[right]
        return Conversion(a / b, (a0 - b0) / b)
    try:
        registry = _registry()
        one, other = registry.from_ucum(left), registry.from_ucum(right)
        if one.dimensionality != other.dimensionality:
            return None
        there = _number(one.to(other.units).magnitude) / _number(other.magnitude)
        back = _number(other.to(one.units).magnitude) / _number(one.magnitude)
    except Exception:  # noqa: BLE001 - the library raises many kinds for a text that is not a unit; all mean the same
        return None
    # of the two directions the one with the shorter number is the definition, the other its rounded inverse
    return Conversion(1 / back if back and back.denominator < there.denominator else there)


def _from_calendar(source: str | None, target: str | None) -> Conversion | None:
    if source not in _INDEFINITE:
        inverse = _from_calendar(target, source)
        return None if inverse is None else Conversion(1 / inverse.factor)
    months, other = _INDEFINITE[source], normal(target)
    if other in _MONTHS_OF:
        return Conversion(Fraction(months, _MONTHS_OF[other]))
    found = conversion("d", other)
    return None if found is None else Conversion(_DAYS_OF[months] * found.factor)


class Scale(NamedTuple):
    """For each row integers that put ``left * numerator + shift`` and ``right * denominator`` on one scale."""

    numerator: AnyArray
    shift: AnyArray
    denominator: AnyArray
    comparable: BoolArray

    @property
    def same(self) -> bool:
        """True when nothing has to be converted."""
        return bool(np.all((self.numerator == 1) & (self.denominator == 1) & (self.shift == 0)))


def common_scale(left: StrVec, right: StrVec, *, where: BoolArray | None = None, equivalence: bool = False) -> Scale:
    """How the values of two unit vectors compare (``shift`` is for values scaled by 10**8).

    Rows outside of ``where`` have no values: their units are not looked at.
    """
    a, b = shared_codes(left, right)
    n = len(a)
    comparable = a == b
    if where is not None:
        comparable |= ~where
        b = np.where(where, b, a)
    if comparable.all():
        one = np.ones(n, dtype=np.int64)
        return Scale(one, np.zeros(n, dtype=np.int64), one, comparable)
    width = len(left.dictionary) + len(right.dictionary) + 2
    pair = (a + 1) * width + (b + 1)
    _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    first = first.astype(np.int64)
    same = (a == b)[first]
    ours, theirs = left.take(first).pylist(), right.take(first).pylist()
    texts = ((x, x if alike else y) for x, y, alike in zip(ours, theirs, same.tolist(), strict=True))
    found = [Conversion(Fraction(1)) if x == y else conversion(x, y, equivalence=equivalence) for x, y in texts]
    bottom = [lcm(f.factor.denominator, f.offset.denominator) if f else 1 for f in found]
    top = [int(f.factor * d) if f else 1 for f, d in zip(found, bottom, strict=True)]
    shift = [int(f.offset * d) * ONE if f else 0 for f, d in zip(found, bottom, strict=True)]
    known = np.array([f is not None for f in found], dtype=bool)
    inverse = inverse.astype(np.int64)
    numerator, offset, denominator = (gather(narrow(np.array(v, dtype=object)), inverse) for v in (top, shift, bottom))
    return Scale(numerator, offset, denominator, gather(known, inverse))


def converted(values: AnyArray, scale: Scale) -> AnyArray:
    """Values of the left units in the right ones, rounded to 8 decimals."""
    if scale.same:
        return values
    above, below = scaled(values, scale.numerator, scale.shift), scale.denominator
    above, below = widen_if(overflows(2 * (magnitude(above) + magnitude(below))), above, below)
    return narrow(divide_half_up(above, below))


def scaled(values: AnyArray, factor: AnyArray, shift: AnyArray) -> AnyArray:
    """``values * factor + shift``; wide where int64 could overflow."""
    bound = magnitude(values) * magnitude(factor) + magnitude(shift)
    values, factor, shift = widen_if(overflows(bound), values, factor, shift)
    result: AnyArray = values * factor + shift
    return result


def kinds_of(unit: StrVec, values: AnyArray) -> tuple[IntArray, AnyArray]:
    """Number of each row's kind of unit (those that convert into one another), and integers comparable within a kind.

    Each distinct unit is looked at once; which numbers and scales come out depends on the units at hand, the order of
    the values does not.
    """
    (codes,) = unit.key_columns()
    present = np.unique(codes)
    if len(present) <= 1:
        return np.zeros(len(unit), dtype=np.int64), values
    texts: list[str | None] = [None if c < 0 else unit.dictionary[int(c)].as_py() for c in present.tolist()]
    firsts: list[str | None] = []
    found: list[tuple[int, Conversion]] = []
    for text in texts:
        for number, first in enumerate(firsts):
            how = conversion(text, first)
            if how is not None:
                found.append((number, how))
                break
        else:
            found.append((len(firsts), Conversion(Fraction(1))))
            firsts.append(text)
    scale = lcm(*(f.denominator for _, how in found for f in how))
    place = np.searchsorted(present, codes)
    kind = np.array([number for number, _ in found], dtype=np.int64)[place]
    factor = np.array([int(how.factor * scale) for _, how in found], dtype=object)[place]
    offset = np.array([int(how.offset * scale) * ONE for _, how in found], dtype=object)[place]
    return kind, narrow(values.astype(object) * factor + offset)
