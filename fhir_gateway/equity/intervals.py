"""Confidence intervals of 95 %: Wilson's for proportions, the exact Poisson interval for rates."""

from __future__ import annotations

import math

from scipy.special import gammaincinv

Z = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""


def wilson(numerator: float, denominator: float) -> tuple[float, float] | None:
    """Wilson's score interval (1927) of a proportion; None of nobody."""
    if denominator <= 0:
        return None
    rate, square = numerator / denominator, Z * Z
    centre = rate + square / (2 * denominator)
    half = Z * math.sqrt(rate * (1 - rate) / denominator + square / (4 * denominator * denominator))
    scale = 1 + square / denominator
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def poisson(events: float, exposure: float) -> tuple[float, float] | None:
    """Garwood's exact interval (1936) of events per exposure; None without exposure."""
    if exposure <= 0:
        return None
    low = float(gammaincinv(events, 0.025)) if events > 0 else 0.0
    return low / exposure, float(gammaincinv(events + 1, 0.975)) / exposure
