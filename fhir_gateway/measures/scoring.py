"""Scores of a group from its counts and observations (Quality Measure IG, sections on each scoring type).

All arithmetic is Decimal; rounding to ``scoringPrecision`` is done where a score is written, never here.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import MeasureError

if TYPE_CHECKING:
    from fhir_gateway.measures.model import Composite, GroupResult, Mask, Observations, PopulationResult

#: 28 digits are those of a CQL Decimal before its fraction is cut; a quotient needs no more.
_ARITHMETIC = Context(prec=28, rounding=ROUND_HALF_UP)

#: Populations of a ``linear`` composite, in their order.
_SIDES = ("denominator", "numerator")

_Count = Callable[["PopulationResult"], int]
_Values = Callable[["Observations"], pa.Array]


def count(population: PopulationResult, mask: Mask | None) -> int:
    """Sum of effective counts over the members in ``mask``."""
    return int(population.counts.sum() if mask is None else population.counts[mask].sum())


def score(group: GroupResult, mask: Mask | None = None) -> Decimal | None:
    """Score over the members in ``mask``; None when the denominator is 0 or there is nothing to aggregate."""
    if group.composite is not None:
        return _composite(group, group.composite, mask)

    def values(observations: Observations) -> pa.Array:
        if mask is None:
            return observations.value
        return observations.value.filter(pa.array(mask[observations.member]))

    return _score(group, lambda population: count(population, mask), values)


def member_score(group: GroupResult, index: int) -> Decimal | None:
    """Score of the member at ``index`` alone; the cost does not depend on the size of the population."""
    if group.composite is not None:
        from fhir_gateway.measures.strata import only

        return score(only(group, index))

    def values(observations: Observations) -> pa.Array:
        first, last = np.searchsorted(observations.member, [index, index + 1])
        return observations.value.slice(int(first), int(last - first))

    return _score(group, lambda population: int(population.counts[index]), values)


def aggregate(method: str, values: pa.Array) -> Decimal | None:
    """Aggregate decimals by one of the six methods; None for an average, median or extreme of nothing."""
    size = len(values)
    if method == "count":
        return Decimal(size)
    if method == "sum":
        return _decimal(pc.sum(values)) if size else Decimal(0)
    if method not in ("average", "median", "minimum", "maximum"):
        raise MeasureError(f"aggregate method {method!r} is not one of the six")
    if not size:
        return None
    if method == "average":
        return _ARITHMETIC.divide(_decimal(pc.sum(values)), Decimal(size))
    if method == "median":
        ordered = values.take(pc.sort_indices(values))
        middle = [_decimal(ordered[(size - 1) // 2]), _decimal(ordered[size // 2])]
        return _ARITHMETIC.divide(_ARITHMETIC.add(*middle), Decimal(2))
    return _decimal(pc.min_max(values)[method.removesuffix("imum")])


def rounded(value: Decimal, precision: int | None) -> Decimal:
    """Round half up to ``precision`` decimals; without one, to the 8 decimals a CQL Decimal has."""
    return value.quantize(Decimal(1).scaleb(-(8 if precision is None else precision)), ROUND_HALF_UP)


def _composite(group: GroupResult, composite: Composite, mask: Mask | None) -> Decimal | None:
    """Weighted average of scores, average of subject scores (``linear``), or net numerators by net denominators."""
    if composite.method == "weighted":
        scored = [(c, c.group.score(mask)) for c in composite.components]
        parts = [(c.weight, 1 - found if c.flipped else found) for c, found in scored if found is not None]
        total = sum((weight * found for weight, found in parts), Decimal(0))
        return _quotient(total, sum((weight for weight, _ in parts), Decimal(0)))
    if composite.method != "linear":
        return _proportion(lambda code: group.count(code, mask))
    sides = [p.counts if mask is None else p.counts[mask] for p in group.populations if p.code in _SIDES]
    fractions, subjects = np.unique(np.stack(sides), axis=1, return_counts=True)
    total, size = Decimal(0), 0
    for (denominator, numerator), number in zip(fractions.T.tolist(), subjects.tolist(), strict=True):
        if denominator:  # distinct fractions, not subjects
            total += _ARITHMETIC.divide(Decimal(numerator * number), Decimal(denominator))
            size += number
    return _quotient(total, Decimal(size))


def _proportion(number: Callable[[str], int]) -> Decimal | None:
    return _quotient(
        Decimal(number("numerator") - number("numerator-exclusion")),
        Decimal(number("denominator") - number("denominator-exclusion") - number("denominator-exception")),
    )


def _score(group: GroupResult, counted: _Count, values: _Values) -> Decimal | None:
    def number(code: str) -> int:
        population = group.population(code)
        return 0 if population is None else counted(population)

    if group.scoring == "cohort":
        return Decimal(number("initial-population"))
    if group.scoring == "continuous-variable":
        observed = _observed(group, "measure-observation", None, values)
        return observed[0] if observed else None
    if group.scoring == "proportion":
        return _proportion(number)
    sides: list[Decimal | None] = []
    for branch in ("numerator", "denominator"):
        observed = _observed(group, "measure-observation", branch, values)
        net = Decimal(number(branch) - number(f"{branch}-exclusion"))
        sides.append(observed[0] if observed else net)
    return _quotient(*sides)


def _observed(group: GroupResult, code: str, branch: str | None, values: _Values) -> list[Decimal | None]:
    """Aggregates of the group's observations; of those that observe ``branch`` when it is given."""
    target = group.population(branch) if branch else None
    return [
        aggregate(population.observations.aggregate_method, values(population.observations))
        for population in group.populations
        if population.code == code
        and population.observations is not None
        and (target is None or population.observations.criteria_reference == target.id)
    ]


def _quotient(numerator: Decimal | None, denominator: Decimal | None) -> Decimal | None:
    if numerator is None or not denominator:
        return None
    return _ARITHMETIC.divide(numerator, denominator)


def _decimal(scalar: pa.Scalar) -> Decimal:
    return Decimal(scalar.as_py())
