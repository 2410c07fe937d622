"""UCUM units: conversion factors by a library (ucumvert on pint), asked once for each pair of units."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from fhir_gateway.cql.values import AnyArray, BoolArray, StrVec
from fhir_gateway.cql.values.base import gather
from fhir_gateway.cql.values.scalars import shared_codes

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


@cache
def conversion(source: str | None, target: str | None) -> Fraction | None:
    """Factor from ``source`` to ``target``; None when they do not convert (or one is not a UCUM unit)."""
    left, right = normal(source), normal(target)
    if left == right:
        return Fraction(1)
    try:
        registry = _registry()
        a, b = registry.from_ucum(left), registry.from_ucum(right)
        if a.dimensionality != b.dimensionality:
            return None
        # the library computes in floats: 15 digits are exact, the rest is noise
        return Fraction(f"{a.to(b.units).magnitude:.15g}") / Fraction(f"{b.magnitude:.15g}")
    except Exception:  # noqa: BLE001 - the library raises many kinds for a text that is not a unit; all mean the same
        return None


def factors(left: StrVec, right: StrVec) -> tuple[AnyArray, AnyArray, BoolArray]:
    """Integers (n, d) that put ``left * n`` and ``right * d`` on one scale, and whether the units convert at all."""
    a, b = shared_codes(left, right)
    n = len(a)
    comparable = a == b
    if comparable.all():
        return np.ones(n, dtype=np.int64), np.ones(n, dtype=np.int64), comparable
    width = len(left.dictionary) + len(right.dictionary) + 2
    pair = (a + 1) * width + (b + 1)
    _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    texts = zip(left.take(first.astype(np.int64)).pylist(), right.take(first.astype(np.int64)).pylist(), strict=True)
    found = [conversion(x, y) for x, y in texts]
    top = np.array([f.numerator if f is not None else 1 for f in found], dtype=object)
    bottom = np.array([f.denominator if f is not None else 1 for f in found], dtype=object)
    known = np.array([f is not None for f in found], dtype=bool)
    inverse = inverse.astype(np.int64)
    return gather(top, inverse), gather(bottom, inverse), gather(known, inverse)
