"""Providers side by side: control limits of a funnel plot, more variation than chance, an achievable benchmark.

Limits are exact ones of the binomial (of rates: Poisson) distribution about the rate of all, interpolated between
counts (Spiegelhalter, Funnel plots for comparing institutional performance, Statistics in Medicine 2005;24:1185,
A.1.1). Whether providers differ by more than chance is said by the dispersion of their z-scores, winsorised by a tenth
(ibid. 2.6; Handling over-dispersion of performance indicators, Qual Saf Health Care 2005;14:347).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

Values = npt.NDArray[np.float64]
Kind = Literal["proportion", "rate"]
Position = Literal["inside", "above 95 %", "above 99.8 %", "below 95 %", "below 99.8 %"]

#: Probabilities below the limits of 95 % and of 99.8 %, about two and three standard deviations.
TAILS = (0.025, 0.001)
_WINSORISED = 0.1
_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Control limits at each of some denominators, of rates (not scaled)."""

    low95: Values
    high95: Values
    low998: Values
    high998: Values


@dataclass(frozen=True, slots=True)
class Dispersion:
    """``factor``: mean of squared winsorised z-scores, 1 by chance. ``more``: beyond what chance gives so many."""

    factor: float
    providers: int

    @property
    def more(self) -> bool:
        """Whether there is more variation than chance: above one by two standard deviations of the factor."""
        return self.providers > 1 and self.factor > 1 + 2 * math.sqrt(2 / self.providers)


def control_limits(kind: Kind, centre: float, denominators: Sequence[float]) -> Limits:
    """Limits about the rate of all at these denominators (members, episodes or exposure), all above 0."""
    sizes = np.asarray(denominators, np.float64)
    quantile = _binomial if kind == "proportion" else _poisson
    (low95, high95), (low998, high998) = (
        (quantile(tail, centre, sizes), quantile(1 - tail, centre, sizes)) for tail in TAILS
    )
    return Limits(low95, high95, low998, high998)


def widened(kind: Kind, centre: float, denominators: Sequence[float], dispersion: Dispersion) -> Limits:
    """Limits that allow for the dispersion (multiplicative: as many times as far from the centre as its root says)."""
    limits, factor = control_limits(kind, centre, denominators), math.sqrt(max(1.0, dispersion.factor))
    most = 1.0 if kind == "proportion" else math.inf
    low95, high95, low998, high998 = (
        np.clip(centre + (one - centre) * factor, 0.0, most)
        for one in (limits.low95, limits.high95, limits.low998, limits.high998)
    )
    return Limits(low95, high95, low998, high998)


def positions(kind: Kind, centre: float, numerators: Sequence[float], denominators: Sequence[float]) -> list[Position]:
    """Where each provider stands: outside when so many, or so few, have a lower probability than the limit's tail.

    Of few members that is not the same as to be beyond the drawn limit, which runs between the counts that there are.
    """
    met, sizes = np.rint(np.asarray(numerators, np.float64)), np.asarray(denominators, np.float64)
    below = _binomial_below if kind == "proportion" else _poisson_below
    expected = centre if kind == "proportion" else centre * sizes
    least, most = below(met, sizes, expected), 1 - below(met - 1, sizes, expected)
    return [_position(low, high) for low, high in zip(least.tolist(), most.tolist(), strict=True)]


def positions_beyond(
    limits: Limits, exact: Sequence[Position], numerators: Sequence[float], denominators: Sequence[float]
) -> list[Position]:
    """Of those outside, where they stand by wider limits."""
    found: list[Position] = []
    for place, where in enumerate(exact):
        rate = numerators[place] / denominators[place]
        if where == "inside":
            found.append("inside")
        elif where.startswith("above"):
            found.append(_beyond(rate > limits.high998[place], rate > limits.high95[place], "above"))
        else:
            found.append(_beyond(rate < limits.low998[place], rate < limits.low95[place], "below"))
    return found


def _position(least: float, most: float) -> Position:
    """By the probabilities of at most, and of at least, what was found."""
    near, far = TAILS
    side: Literal["above", "below"] = "above" if most < least else "below"
    return _beyond(min(least, most) <= far, min(least, most) <= near, side)


def _beyond(far: bool | np.bool_, near: bool | np.bool_, side: Literal["above", "below"]) -> Position:
    if far:
        return "above 99.8 %" if side == "above" else "below 99.8 %"
    if near:
        return "above 95 %" if side == "above" else "below 95 %"
    return "inside"


def dispersion(kind: Kind, numerators: Sequence[float], denominators: Sequence[float]) -> Dispersion:
    """How much more providers differ than by chance; a factor of 1 where there is nothing to compare."""
    met, sizes = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    centre = met.sum() / sizes.sum() if sizes.sum() else 0.0
    spread = centre * (1 - centre) if kind == "proportion" else centre
    if len(sizes) < 2 or spread <= 0:
        return Dispersion(1.0, len(sizes))
    scores = np.sort((met / sizes - centre) / np.sqrt(spread / sizes))
    cut = math.floor(_WINSORISED * len(scores))
    scores = np.clip(scores, scores[cut], scores[len(scores) - 1 - cut])
    return Dispersion(float(np.mean(scores**2)), len(sizes))


def achievable(
    direction: Literal["increase", "decrease"], numerators: Sequence[float], denominators: Sequence[float]
) -> float | None:
    """Achievable benchmark of care (Kiefe et al., Int J Qual Health Care 1998;10:443) of a proportion.

    The rate of the best providers who together have a tenth of the members; providers are ordered by a rate that
    takes few members for little evidence ((numerator + 1) / (denominator + 2)). None of fewer than two providers.
    """
    met, sizes = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if len(sizes) < 2:
        return None
    adjusted = (met + 1) / (sizes + 2)
    order = np.argsort(-adjusted if direction == "increase" else adjusted, kind="stable")
    last = int(np.searchsorted(np.cumsum(sizes[order]), _SHARE * sizes.sum())) + 1
    best = order[:last]
    return float(met[best].sum() / sizes[best].sum())


def _binomial(probability: float, centre: float, sizes: Values) -> Values:
    if centre <= 0 or centre >= 1:
        return np.full_like(sizes, centre)
    whole = np.maximum(np.rint(sizes), 1.0)
    first = np.clip(np.ceil(special.bdtrik(probability, whole, centre)), 0, whole)
    found = _interpolated(probability, first, lambda count: _binomial_below(count, whole, centre))
    return np.clip(found / whole, 0.0, 1.0)


def _poisson(probability: float, centre: float, sizes: Values) -> Values:
    if centre <= 0:
        return np.zeros_like(sizes)
    expected = centre * sizes
    first = np.maximum(np.nan_to_num(np.ceil(special.pdtrik(probability, expected))), 0)
    found = _interpolated(probability, first, lambda count: _poisson_below(count, sizes, expected))
    return np.maximum(found / sizes, 0.0)


def _binomial_below(count: Values, sizes: Values, centre: float | Values) -> Values:
    """Probability of at most so many."""
    whole = np.maximum(np.rint(sizes), 1.0)
    found = special.bdtr(np.clip(count, 0, whole), whole.astype(np.int64), centre)
    return np.where(count < 0, 0.0, np.where(count >= whole, 1.0, np.asarray(found, np.float64)))


def _poisson_below(count: Values, _: Values, expected: float | Values) -> Values:
    """Probability of at most so many."""
    return np.where(count < 0, 0.0, np.asarray(special.pdtr(np.maximum(count, 0), expected), np.float64))


def _interpolated(probability: float, first: Values, below: Callable[[Values], Values]) -> Values:
    """The count up to which the distribution has that probability, between the counts on both sides of it."""
    count = np.where(below(first - 1) >= probability, first - 1, first)
    count = np.where(below(count) < probability, count + 1, count)
    upper, lower = below(count), below(count - 1)
    return np.asarray(count - (upper - probability) / np.maximum(upper - lower, 1e-300), np.float64)
