"""Funnel plots: limits next to sums of probabilities by hand, dispersion and benchmark next to worked examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

import pytest

from fhir_gateway.equity.funnel import (
    TAILS,
    Dispersion,
    Kind,
    achievable,
    control_limits,
    dispersion,
    positions,
    positions_beyond,
    widened,
)


def exact(probability: float, mass: Callable[[int], float]) -> float:
    """The count up to which probabilities sum to one, linearly between the counts on both sides."""
    below = 0.0
    for number in count():
        here = mass(number)
        if below + here >= probability:
            return number - (below + here - probability) / here
        below += here
    raise AssertionError


@pytest.mark.parametrize("centre", [0.02, 0.3, 0.5, 0.93])
@pytest.mark.parametrize("size", [3, 17, 60, 400])
def test_limits_of_a_proportion_are_those_of_the_binomial_distribution(size: int, centre: float) -> None:
    def mass(number: int) -> float:
        return math.comb(size, number) * centre**number * (1 - centre) ** (size - number)

    limits = control_limits("proportion", centre, [size])
    for tail, low, high in zip(TAILS, (limits.low95, limits.low998), (limits.high95, limits.high998), strict=True):
        assert low[0] == pytest.approx(max(0.0, exact(tail, mass) / size), abs=1e-9)
        assert high[0] == pytest.approx(min(1.0, exact(1 - tail, mass) / size), abs=1e-9)


@pytest.mark.parametrize("expected", [0.4, 6.0, 45.5])
def test_limits_of_a_rate_are_those_of_the_poisson_distribution(expected: float) -> None:
    def mass(number: int) -> float:
        return math.exp(-expected + number * math.log(expected) - math.lgamma(number + 1))

    exposure = 1000.0
    limits = control_limits("rate", expected / exposure, [exposure])
    for tail, low, high in zip(TAILS, (limits.low95, limits.low998), (limits.high95, limits.high998), strict=True):
        assert low[0] == pytest.approx(max(0.0, exact(tail, mass)) / exposure, abs=1e-9)
        assert high[0] == pytest.approx(exact(1 - tail, mass) / exposure, abs=1e-9)


def test_positions_say_on_which_side_and_how_far() -> None:
    """Of a hundred about a half: at most 40 have a probability of 2.8 %, 39 of 1.8 %, 34 of 0.09 %."""
    found = positions("proportion", 0.5, [34, 35, 39, 40, 50, 60, 61, 65, 66], [100] * 9)
    assert found == [
        *("below 99.8 %", "below 95 %", "below 95 %", "inside"),
        *("inside", "inside", "above 95 %", "above 95 %", "above 99.8 %"),
    ]


def test_one_of_one_is_no_outlier() -> None:
    """The drawn limit at one member is below 1, the probability of that one is not low."""
    assert control_limits("proportion", 0.6, [1]).high95[0] < 1
    assert positions("proportion", 0.6, [1, 0], [1, 1]) == ["inside", "inside"]


def test_positions_of_rates_are_by_the_poisson_distribution() -> None:
    """Ten expected: at most 3 have a probability of 1.0 %, 4 of 2.9 %; at least 17 of 2.7 %, 18 of 1.4 %."""
    found = positions("rate", 0.01, [3, 4, 17, 18], [1000] * 4)
    assert found == ["below 95 %", "inside", "inside", "above 95 %"]


@pytest.mark.parametrize(("kind", "centre"), [("proportion", 0.0), ("proportion", 1.0), ("rate", 0.0)])
def test_where_all_or_none_met_a_measure_nobody_is_outside(kind: Kind, centre: float) -> None:
    assert positions(kind, centre, [centre, 50 * centre], [1, 50]) == ["inside", "inside"]
    limits = control_limits(kind, centre, [1, 50])
    assert limits.low95.tolist() == limits.high998.tolist() == [centre, centre]


def test_dispersion_is_the_mean_of_squared_scores() -> None:
    """Rates 0.4, 0.5, 0.6 of 100 each about 0.5: scores -2, 0, 2, none of three is winsorised."""
    found = dispersion("proportion", [40, 50, 60], [100, 100, 100])
    assert found.factor == pytest.approx(8 / 3)
    assert found.more  # above 1 + 2 * sqrt(2 / 3), which is 2.63


def test_an_outlier_among_many_is_winsorised() -> None:
    """Nineteen providers at the average and one far above: a tenth is two, so it counts as the second next does."""
    found = dispersion("proportion", [50] * 19 + [90], [100] * 20)
    centre = (50 * 19 + 90) / 2000
    score = (0.5 - centre) / math.sqrt(centre * (1 - centre) / 100)
    assert found.factor == pytest.approx(score**2)
    assert not found.more


def test_nothing_to_compare_is_no_dispersion() -> None:
    assert dispersion("proportion", [5], [10]) == Dispersion(1.0, 1)
    assert dispersion("proportion", [0, 0], [10, 20]).factor == 1.0
    assert not dispersion("rate", [], []).more


def test_limits_that_allow_for_dispersion_are_wider_by_its_root() -> None:
    narrow, wide = control_limits("proportion", 0.5, [100]), widened("proportion", 0.5, [100], Dispersion(4.0, 10))
    assert wide.high95[0] - 0.5 == pytest.approx(2 * (narrow.high95[0] - 0.5))
    assert wide.low998[0] == pytest.approx(0.5 - 2 * (0.5 - narrow.low998[0]))
    assert positions_beyond(wide, ["above 99.8 %"], [58], [100]) == ["inside"]
    assert positions_beyond(wide, ["above 99.8 %"], [75], [100]) == ["above 95 %"]
    same = widened("proportion", 0.5, [100], Dispersion(0.2, 10))
    assert same.high95[0] == narrow.high95[0]


def test_the_achievable_benchmark_is_of_the_best_who_have_a_tenth_of_the_members() -> None:
    """1 of 1 does not lead: adjusted 2/3, after 46/52; 50 of 1,051 are not a tenth, so the next counts too."""
    met, sizes = [1, 45, 160, 500], [1, 50, 200, 800]
    assert achievable("increase", met, sizes) == pytest.approx((45 + 160) / 250)
    assert achievable("decrease", met, sizes) == pytest.approx(500 / 800)
    assert achievable("increase", [5], [10]) is None
