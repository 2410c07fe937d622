"""Identifiers that cannot belong to a real person or provider, made for whole columns.

NPIs start with 2 and tax numbers with 00 (allowed by format, never issued), Medicare numbers carry an S in the second
place (a letter that real ones never contain).
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.sandbox.population.columns import STRING, Ints, TextArray, words


def scatter(numbers: Ints, space: int, key: int) -> Ints:
    """Map distinct numbers below ``space`` to distinct numbers below ``space`` that show no order.

    An affine map modulo ``space``; ``key`` chooses it.
    """
    if space > 2**31 or (len(numbers) and int(numbers.max()) >= space):
        raise ValueError("numbers must lie below the space, and the space below 2^31")
    factor = 2_654_435_761 % space + 2 * (key % 1_000)
    while math.gcd(factor, space) != 1:
        factor += 1
    return (numbers * (factor % space) + (key * 7_919_777 + 104_729) % space) % space


def npi(numbers: Ints) -> Ints:
    """Ten-digit NPIs with a valid check digit (Luhn over 80840 and the number, 45 CFR 162.406)."""
    base = 200_000_000 + scatter(numbers, 10_000_000, 11)
    total = np.full(len(base), 24, np.int64)  # the prefix 80840 adds 24
    rest = base.copy()
    for position in range(9):
        digit = rest % 10
        doubled = digit * 2 if position % 2 == 0 else digit
        total += doubled // 10 + doubled % 10
        rest //= 10
    return base * 10 + (-total) % 10


def tin(numbers: Ints) -> Ints:
    """Tax numbers below 10,000,000: nine digits with the prefix 00 when padded."""
    return 1_000_000 + scatter(numbers, 8_999_993, 5)


_DIGITS = "0123456789"
_LETTERS = "ACDEFGHJKMNPQRTUVWXY"  # CMS leaves out S, L, O, I, B, Z
_MBI_PLACES = (_DIGITS + _LETTERS, _DIGITS, _LETTERS, _DIGITS + _LETTERS, _DIGITS, _LETTERS, _LETTERS, _DIGITS, _DIGITS)
_MBI_SPACE = math.prod(len(place) for place in _MBI_PLACES)


class Mbi:
    """Medicare beneficiary identifiers, 11 characters, always ``1S...``; negative numbers are absent."""

    def __init__(self, numbers: Ints) -> None:
        """One identifier per distinct number."""
        self.numbers = numbers

    _tables = tuple(words(place) for place in _MBI_PLACES)

    def text(self, start: int, stop: int) -> TextArray:
        """Identifiers of the slice."""
        part = self.numbers[start:stop]
        rest = scatter(np.where(part < 0, 0, part), 2**31 - 1, 3) * 33 % _MBI_SPACE
        parts = [pa.scalar("1S", STRING)]
        for place, table in zip(_MBI_PLACES, self._tables, strict=True):
            parts.append(table.take(pa.array(rest % len(place))))
            rest //= len(place)
        joined = pc.binary_join_element_wise(*parts, pa.scalar("", STRING))
        return pc.if_else(pa.array(part >= 0), joined, pa.scalar(None, STRING))
