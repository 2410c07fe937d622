"""From the differences of episodes to what is owed: quality, limits, spending after the window."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.episodes.caps import above_mean
from fhir_gateway.contracts.episodes.construct import WHOLE
from fhir_gateway.contracts.terms import Fraction, Money, Terms

HUNDRED = Decimal(100)
ZERO = Decimal(0)


class QualityAdjustment(Terms):
    """What a composite quality score of 0-100 changes: the part of a gain that quality has to earn, and the part of a
    loss that it forgives. A gain becomes gain x (1 - positive x (1 - score/100)), a loss loss x (1 - negative x
    score/100)."""

    positive: Fraction = ZERO
    negative: Fraction = ZERO

    def share(self, difference: Decimal, score: Decimal) -> Decimal:
        """What a difference is multiplied with."""
        if difference > 0:
            return 1 - self.positive * (1 - score / HUNDRED)
        return 1 - self.negative * score / HUNDRED


class Limits(Terms):
    """Most that is gained or lost, as fractions of all targets; empty: no limit."""

    gain: Fraction | None = None
    loss: Fraction | None = None

    def within(self, amount: Decimal, targets: Decimal) -> Decimal:
        """The amount, within the limits."""
        if amount > 0 and self.gain is not None:
            return min(amount, self.gain * targets)
        if amount < 0 and self.loss is not None:
            return max(amount, -self.loss * targets)
        return amount


class PostEpisode(Terms):
    """Spending in the days after windows that is owed back: the mean of an entity above ``limit``, or above the mean of
    all providers plus ``deviations`` standard deviations, times its episodes."""

    days: int = Field(default=30, ge=1, le=365)
    limit: Money | None = None
    deviations: Annotated[Decimal, Field(gt=0)] | None = None

    def problems(self, where: str) -> list[str]:
        """One of both is stated."""
        return (
            [f"{where}.limit: either it or deviations is stated"]
            if (self.limit is None) == (self.deviations is None)
            else []
        )

    def threshold(self, episodes: pa.Table) -> Decimal | None:
        """Spending per episode that is not owed back; None without episodes."""
        if self.limit is not None:
            return self.limit
        with duckdb.connect() as connection:
            connection.register("episodes", episodes)
            count, total, squares = connection.sql(
                f"""
                WITH cents AS (SELECT round(after_window, 2)::DECIMAL(18, 2) AS amount FROM episodes
                  WHERE {WHOLE})
                SELECT count(*), coalesce(sum(amount), 0)::VARCHAR, coalesce(sum(amount * amount), 0)::VARCHAR
                FROM cents
                """  # noqa: S608  our own condition
            ).fetchall()[0]
        return above_mean(count, Decimal(total), Decimal(squares), self.deviations or ZERO) if count else None


class LowVolume(Terms):
    """Families with fewer than ``below`` baseline episodes: no losses from them, or they do not count at all."""

    below: int = Field(default=31, ge=1)
    policy: Literal["none", "no_downside", "excluded"] = "none"
