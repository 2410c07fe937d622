"""Hospital Readmissions Reduction Program: excess readmission ratios against peers, and what they cost.

42 CFR 412.150-154. Caps, peer groups and the smallest number of discharges are data
(``contracts/programmes/readmissions.toml``), by fiscal year.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.scoring.points import ONE, ZERO
from fhir_gateway.contracts.terms import Fraction
from fhir_gateway.errors import ContractError

_FACTOR = Decimal("0.0001")


class ReadmissionsYear(ProgrammeYear):
    """A fiscal year: highest penalty, smallest number of eligible discharges, number of peer groups (0: none)."""

    cap: Fraction
    min_discharges: int
    peer_groups: int
    conditions: tuple[str, ...]

    @classmethod
    def of(cls, year: int) -> ReadmissionsYear:
        """The shipped table for a fiscal year."""
        return programme_year("readmissions", year, cls)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a hospital. ``median`` is that of its peers; ``payment_ratio`` its part in base DRG payments."""

    discharges: Decimal | None
    ratio: Decimal | None
    median: Decimal
    payment_ratio: Decimal


def excess_ratio(predicted: Decimal, expected: Decimal) -> Decimal:
    """Excess readmission ratio: predicted over expected, both of the hierarchical model."""
    if expected <= 0:
        raise ContractError("excess readmission ratio: the expected rate is not positive")
    return predicted / expected


def peer_groups(dual_proportion: Mapping[str, Decimal], groups: int = 5) -> dict[str, int]:
    """Group of each hospital, 1 to ``groups``, by the rank of its dual proportion; ties share the mean rank.

    The group of rank r of n is the whole part of r x groups / (n + 1), counted from 1.
    """
    ordered = sorted(dual_proportion.items(), key=lambda item: item[1])
    of_value: dict[Decimal, list[int]] = defaultdict(list)
    for rank, (_, value) in enumerate(ordered, start=1):
        of_value[value].append(rank)
    mean = {value: Decimal(sum(ranks)) / len(ranks) for value, ranks in of_value.items()}
    return {name: int(mean[value] * groups / (len(ordered) + 1)) + 1 for name, value in ordered}


def median(values: Sequence[Decimal]) -> Decimal:
    """The middle value, or the mean of both in the middle."""
    if not values:
        raise ContractError("median: there is no value")
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def peer_medians(ratios: Mapping[str, Decimal], groups: Mapping[str, int]) -> dict[int, Decimal]:
    """Median excess ratio of each group, over all its hospitals that have one, few discharges or many."""
    members: dict[int, list[Decimal]] = defaultdict(list)
    for name, ratio in ratios.items():
        if name in groups:
            members[groups[name]].append(ratio)
    return {group: median(values) for group, values in sorted(members.items())}


def is_penalised(condition: Condition, min_discharges: int = 25) -> bool:
    """Whether a condition counts: enough discharges, and a ratio above the peers' median."""
    enough = condition.discharges is not None and condition.discharges >= min_discharges
    return enough and condition.ratio is not None and condition.ratio > condition.median


def unmodified_penalty(conditions: Sequence[Condition], min_discharges: int = 25) -> Decimal:
    """Sum over penalised conditions of payment ratio x excess over the median, before modifier and cap."""
    return sum(
        (
            c.payment_ratio * (c.ratio - c.median)
            for c in conditions
            if is_penalised(c, min_discharges) and c.ratio is not None
        ),
        ZERO,
    )


def penalty(unmodified: Decimal, modifier: Decimal, cap: Decimal) -> Decimal:
    """The payment reduction as a fraction of base operating DRG payments."""
    return min(cap, modifier * unmodified)


def adjustment_factor(reduction: Decimal) -> Decimal:
    """Payment adjustment factor, four digits."""
    return (ONE - reduction).quantize(_FACTOR, ROUND_HALF_UP)


def neutrality_modifier(hospitals: Sequence[tuple[Decimal, Decimal]], target: Decimal, cap: Decimal) -> Decimal:
    """The modifier with which all penalties together, capped, come to ``target`` (the penalties under the old rule).

    ``hospitals`` are (base payments, unmodified penalty). The sum grows with the modifier in straight pieces that end
    where a hospital reaches the cap; where nobody does, it is the ratio of old to new penalties.
    """
    if target < 0:
        raise ContractError("neutrality modifier: penalties to be matched are negative")
    liable = sorted(((x, base) for base, x in hospitals if x > 0 and base > 0), reverse=True)
    capped = ZERO
    growing = sum((x * base for x, base in liable), ZERO)
    for x, base in liable:
        modifier = (target - capped) / growing
        if modifier * x <= cap:
            return modifier
        capped += cap * base
        growing -= x * base
        if growing <= 0:
            break
    if target == capped == ZERO:
        return ZERO
    raise ContractError("neutrality modifier: with every hospital at the cap, penalties do not reach the target")
