"""Stop-loss: what of a member's cost, then of all members' cost, somebody else bears."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.audit import ZERO, connect
from fhir_gateway.contracts.terms import Fraction, Money, Terms

PLACES = Decimal("1e-8")


class IndividualStopLoss(Terms):
    """Per member and period: ``coinsurance x (min(cost, limit) - attachment)`` is recovered."""

    attachment: Money
    coinsurance: Fraction = Field(description="The part of the cost above the attachment that is recovered.")
    limit: Money | None = Field(default=None, description="Cost above which nothing more is recovered.")
    premium_pmpm: Money = Decimal(0)
    categories: tuple[str, ...] = Field(default=(), description="Service categories that count; default all.")

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        if self.limit is not None and self.limit <= self.attachment:
            return [f"{where}.limit: is not above the attachment, nothing would ever be recovered"]
        return []

    def recovered(self, cost: Decimal) -> Decimal:
        """What is recovered of one member's cost."""
        capped = cost if self.limit is None else min(cost, self.limit)
        return self.coinsurance * max(ZERO, capped - self.attachment)


class AggregateStopLoss(Terms):
    """For all members: the part of the cost above ``attachment`` times what was expected."""

    attachment: Annotated[Decimal, Field(ge=1)] = Field(description="Multiple of the expected cost, such as 1.15.")
    coinsurance: Fraction = Decimal(1)
    limit: Annotated[Decimal, Field(ge=1)] | None = Field(
        default=None, description="Multiple of the expected cost above which nothing more is recovered."
    )
    premium_pmpm: Money = Decimal(0)

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        if self.limit is not None and self.limit <= self.attachment:
            return [f"{where}.limit: is not above the attachment, nothing would ever be recovered"]
        return []

    def recovered(self, cost: Decimal, expected: Decimal) -> Decimal:
        """What is recovered of the cost that individual stop-loss left."""
        capped = cost if self.limit is None else min(cost, self.limit * expected)
        return self.coinsurance * max(ZERO, capped - self.attachment * expected)


def recover(costs: pa.Table, terms: IndividualStopLoss) -> pa.Table:
    """``costs`` (member, cost) with ``recovered`` and ``retained``, which sum to the cost of each member exactly.

    A recovery has 8 places, rounded half up.
    """
    with connect(costs=costs) as connection:
        return recover_in(connection, terms).to_arrow_table()


def recover_in(connection: duckdb.DuckDBPyConnection, terms: IndividualStopLoss) -> duckdb.DuckDBPyRelation:
    """The same over ``costs`` of a connection."""
    return connection.sql(
        """
        SELECT member, cost, recovered, (cost - recovered)::DECIMAL(28, 8) AS retained FROM (
          SELECT member, cost::DECIMAL(28, 8) AS cost,
            amount_of(greatest(0, least(cost, coalesce($limit, cost)) - $attachment), $coinsurance, 1) AS recovered
          FROM costs)
        ORDER BY member
        """,
        params={
            "limit": None if terms.limit is None else terms.limit.quantize(PLACES),
            "attachment": terms.attachment.quantize(PLACES),
            "coinsurance": terms.coinsurance.quantize(PLACES),
        },
    )
