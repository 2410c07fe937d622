"""From a measure's score to points.

Hospital VBP points follow 42 CFR 412.165 as published per hospital: rounding half up, never binary floating point
(three of 86,558 published points come out wrong with it).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from itertools import zip_longest
from typing import Literal

from fhir_gateway.contracts.terms import Scoring
from fhir_gateway.errors import ContractError

ZERO, ONE = Decimal(0), Decimal(1)
_HALF, _NINE_TENTHS, _CENT, _TEN = Decimal("0.5"), Decimal("0.9"), Decimal("0.01"), Decimal(10)
Direction = Literal["increase", "decrease"]


def round_half_up(value: Decimal) -> int:
    """Nearest integer, halves away from zero."""
    return int(value.to_integral_value(ROUND_HALF_UP))


def clip(value: Decimal, low: Decimal = ZERO, high: Decimal = ONE) -> Decimal:
    """The value within limits."""
    return min(high, max(low, value))


def achievement_points(performance: Decimal, threshold: Decimal, benchmark: Decimal) -> int:
    """0-10 points for a level reached; better is towards ``benchmark``."""
    sign = ONE if benchmark > threshold else -ONE
    if sign * (performance - benchmark) >= 0:
        return 10
    if sign * (performance - threshold) < 0:
        return 0
    return min(9, max(1, round_half_up(9 * (performance - threshold) / (benchmark - threshold) + _HALF)))


def improvement_points(performance: Decimal, baseline: Decimal, threshold: Decimal, benchmark: Decimal) -> int:
    """0-9 points for getting better than one's own baseline."""
    sign = ONE if benchmark > threshold else -ONE
    if sign * (performance - baseline) <= 0:
        return 0
    if sign * (performance - benchmark) >= 0:
        return 9
    return min(9, max(0, round_half_up(10 * (performance - baseline) / (benchmark - baseline) - _HALF)))


def percentile_rank(score: Decimal, peers: Sequence[Decimal], direction: Direction = "increase") -> Decimal:
    """Share of the peer set that is worse, ties counting half: (count below + 0.5 ties) / n."""
    if not peers:
        raise ContractError("percentile: the peer set is empty")
    sign = ONE if direction == "increase" else -ONE
    below = sum(1 for peer in peers if sign * (score - peer) > 0)
    ties = sum(1 for peer in peers if peer == score)
    return (below + _HALF * ties) / Decimal(len(peers))


def decile_points(score: Decimal, direction: Direction, scoring: Scoring) -> Decimal:
    """0-10 points by the deciles of a benchmark: decile d and the part of the way to the next, at most d.9.

    10 in the tenth decile; 1 below the first; nothing without a benchmark. Two decimals, as published examples have
    them. Then ``scoring.floor`` and ``scoring.cap``.
    """
    sign = ONE if direction == "increase" else -ONE
    found = ZERO if not scoring.deciles else ONE
    for here, beyond in zip_longest(scoring.deciles, scoring.deciles[1:]):
        if sign * (score - here.at) < 0:
            break
        if beyond is None:
            found = _TEN if here.decile == 10 else here.decile + _NINE_TENTHS
        else:
            part = min(_NINE_TENTHS, (score - here.at) / (beyond.at - here.at))
            found = here.decile + part.quantize(_CENT, ROUND_HALF_UP)
    found = found if scoring.floor is None else max(scoring.floor, found)
    return found if scoring.cap is None else min(scoring.cap, found)


def points(score: Decimal, direction: Direction, scoring: Scoring, peers: Sequence[Decimal] = ()) -> Decimal:
    """Points between 0 and 1 that a score earns. ``peers`` are the scores of the peer set, for a ``percentile``."""
    if scoring.kind == "percentile":
        rank = percentile_rank(score, peers, direction)
        if scoring.steps:
            return _ladder(rank, ONE, scoring)
        if scoring.threshold is None and scoring.target is None:
            return rank
        return _linear(rank, _given(scoring.threshold, "threshold"), _given(scoring.target, "target"))
    sign = ONE if direction == "increase" else -ONE
    if scoring.kind == "ladder":
        return _ladder(score, sign, scoring)
    if scoring.kind == "improvement":
        return _improvement(score, sign, scoring)
    if scoring.kind == "decile":
        return decile_points(score, direction, scoring) / 10
    target = _given(scoring.target, "target")
    if scoring.kind == "threshold":
        return ONE if sign * (score - target) >= 0 else ZERO
    threshold = _given(scoring.threshold, "threshold")
    if scoring.kind == "linear":
        return _linear(score, threshold, target)
    best = achievement_points(score, threshold, target)
    if scoring.baseline is not None:
        best = max(best, improvement_points(score, scoring.baseline, threshold, target))
    return Decimal(best) / 10


def next_step(score: Decimal, direction: Direction, scoring: Scoring) -> Decimal | None:
    """The score at which the next points are earned, of scorings with steps; None beyond the last, and of others."""
    sign = ONE if direction == "increase" else -ONE
    if scoring.kind == "threshold":
        steps = [_given(scoring.target, "target")]
    elif scoring.kind == "ladder":
        steps = [step.at for step in scoring.steps]
    elif scoring.kind == "decile":
        steps = [decile.at for decile in scoring.deciles]
    else:
        return None
    return next((at for at in steps if sign * (at - score) > 0), None)


def _ladder(score: Decimal, sign: Decimal, scoring: Scoring) -> Decimal:
    return max((step.points for step in scoring.steps if sign * (score - step.at) >= 0), default=ZERO)


def _linear(score: Decimal, threshold: Decimal, target: Decimal) -> Decimal:
    return clip((score - threshold) / (target - threshold))


def _improvement(score: Decimal, sign: Decimal, scoring: Scoring) -> Decimal:
    """``relative``: the part of the way from baseline to target; ``absolute``: the gain, from threshold to target."""
    baseline, target = _given(scoring.baseline, "baseline"), _given(scoring.target, "target")
    if scoring.improvement == "relative":
        if sign * (target - baseline) <= 0:  # nothing left to improve: what holds the target has all of it
            return ONE if sign * (score - target) >= 0 else ZERO
        return _from_floor(clip((score - baseline) / (target - baseline)), scoring.threshold)
    gain = sign * (score - baseline)
    start = scoring.threshold or ZERO
    if start == target:
        return ONE if gain >= target else ZERO
    return _linear(gain, start, target)


def _from_floor(part: Decimal, floor: Decimal | None) -> Decimal:
    return ZERO if floor is not None and part < floor else part


def _given(value: Decimal | None, name: str) -> Decimal:
    if value is None:
        raise ContractError(f"scoring.{name}: is missing")
    return value
