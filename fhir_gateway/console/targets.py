"""What contracts want of a measure, for people: the target, the benchmark, and whether a rate meets them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from fhir_gateway.console.contracts_seen import Listed
from fhir_gateway.contracts.terms import MeasureTerms, Scoring


@dataclass(frozen=True, slots=True)
class Target:
    """Terms of one contract on a measure's group: ``target`` to reach, ``benchmark`` of the terms where they have one.

    Of attainment and improvement the threshold is to be reached and the target is the benchmark, as in Hospital
    Value-Based Purchasing; of deciles the highest is the target.
    """

    contract: str
    contract_id: str
    direction: str
    target: Decimal | None
    benchmark: Decimal | None
    deciles: tuple[tuple[int, Decimal], ...]

    def met(self, rate: float | Decimal | None) -> bool | None:
        """Whether a rate reaches the target; None where there is nothing to say."""
        return _reaches(rate, self.target, self.direction)

    def reaches_benchmark(self, rate: float | Decimal | None) -> bool | None:
        """Whether it reaches the benchmark."""
        return _reaches(rate, self.benchmark, self.direction)

    def decile(self, rate: float | Decimal | None) -> int | None:
        """The decile that a rate reaches, by the deciles of the terms."""
        if rate is None or not self.deciles:
            return None
        return max((number for number, at in self.deciles if _reaches(rate, at, self.direction)), default=0)


def targets_of(contracts: Iterable[Listed], canonical: str, group: str | None) -> list[Target]:
    """What some contracts want of a measure (url, with or without version)."""
    url = canonical.partition("|")[0]
    return [
        _target(listed, one, one.scoring)
        for listed in contracts
        for one in (listed.terms.measures if listed.terms else ())
        if one.canonical.partition("|")[0] == url and one.group in (None, group) and one.scoring is not None
    ]


def _target(listed: Listed, terms: MeasureTerms, scoring: Scoring) -> Target:
    target, benchmark = scoring.target, None
    if scoring.kind == "attainment_or_improvement":
        target, benchmark = scoring.threshold, scoring.target
    elif scoring.kind == "ladder" and scoring.steps:
        target = max(scoring.steps, key=lambda one: one.points).at
    elif scoring.kind == "decile" and scoring.deciles:
        target = max(scoring.deciles, key=lambda one: one.decile).at
    deciles = tuple((one.decile, one.at) for one in scoring.deciles)
    return Target(listed.title, listed.id, terms.direction, target, benchmark, deciles)


def _reaches(rate: float | Decimal | None, wanted: Decimal | None, direction: str) -> bool | None:
    if rate is None or wanted is None:
        return None
    here = Decimal(str(rate))
    return here >= wanted if direction == "increase" else here <= wanted
