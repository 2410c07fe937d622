"""From measure scores to points, and from points to what a programme pays by: pure decimal arithmetic.

``points``: one measure. ``composite``: the measures of an arrangement. The other modules are one programme each.
"""

from fhir_gateway.contracts.scoring.composite import (
    MeasureOutcome,
    Scored,
    composite,
    ladder_problems,
    problems,
    score_measures,
)
from fhir_gateway.contracts.scoring.points import (
    ONE,
    ZERO,
    achievement_points,
    improvement_points,
    percentile_rank,
    points,
    round_half_up,
)

__all__ = [
    "ONE",
    "ZERO",
    "MeasureOutcome",
    "Scored",
    "achievement_points",
    "composite",
    "improvement_points",
    "ladder_problems",
    "percentile_rank",
    "points",
    "problems",
    "round_half_up",
    "score_measures",
]
