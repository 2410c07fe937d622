"""Completion factors: what incurred months will come to once all their claims are paid (chain ladder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.benchmarks.blend import ONE, ZERO
from fhir_gateway.contracts.benchmarks.cost import UNTYPED
from fhir_gateway.errors import ContractError


@dataclass(frozen=True, slots=True)
class Triangle:
    """Cumulative amounts by month of service and months until payment.

    ``amounts[n]`` are those of month ``first + n``, one for each month of development that is known as of the end.
    """

    first: date
    amounts: tuple[tuple[Decimal, ...], ...]

    def age_to_age(self) -> tuple[Decimal, ...]:
        """Growth from each month of development to the next, over the months of service that reached it; 1 for none."""
        ages = max((len(row) for row in self.amounts), default=0)
        factors = []
        for age in range(ages - 1):
            reached = [row for row in self.amounts if len(row) > age + 1]
            before = sum((row[age] for row in reached), ZERO)
            after = sum((row[age + 1] for row in reached), ZERO)
            factors.append(after / before if before > 0 else ONE)
        return tuple(factors)

    def to_ultimate(self) -> tuple[Decimal, ...]:
        """Growth from each month of development to the oldest known one."""
        factors = [ONE]
        for factor in reversed(self.age_to_age()):
            factors.append(factors[-1] * factor)
        return tuple(reversed(factors))

    def ultimate(self) -> tuple[Decimal, ...]:
        """What each month of service will come to."""
        factors = self.to_ultimate()
        return tuple(row[-1] * factors[len(row) - 1] if row else ZERO for row in self.amounts)


@dataclass(frozen=True, slots=True)
class Completed:
    """Cost of a period so far and completed."""

    paid: Decimal
    ultimate: Decimal

    @property
    def factor(self) -> Decimal:
        """Completed cost / cost so far; 1 when there is none."""
        return self.ultimate / self.paid if self.paid > 0 else ONE

    @property
    def ibnr(self) -> Decimal:
        """Incurred and not yet paid."""
        return self.ultimate - self.paid


def triangle(
    lines: pa.Table,
    members: pa.Array,
    as_of: date,
    months: int,
    amount: Literal["paid", "allowed"] = "paid",
    without_types: Sequence[str] = (),
) -> Triangle:
    """The triangle of the ``months`` months of service that end with that of ``as_of``.

    Payments before their service count in its month; payments after ``as_of`` are as if unknown. Lines without a type
    are of the class :data:`~.cost.UNTYPED`.
    """
    last = as_of.year * 12 + as_of.month - 1
    first = last - months + 1
    with duckdb.connect() as connection:
        connection.register("lines", lines)
        connection.register("roster", pa.table({"member": members}))
        cells = connection.execute(
            f"""
            WITH known AS (
              SELECT year(service_from) * 12 + month(service_from) - 1 AS service,
                     year(payment_date) * 12 + month(payment_date) - 1 AS payment, {amount} AS amount
              FROM lines SEMI JOIN roster ON _member = member
              WHERE payment_date <= $as_of AND NOT list_contains($types, coalesce(claim_type, '{UNTYPED}'))
                AND {"NOT denied" if amount == "allowed" else "TRUE"}
            )
            SELECT service - $first, greatest(payment - service, 0), sum(amount)::DECIMAL(38, 8) FROM known
            WHERE service BETWEEN $first AND $last AND amount IS NOT NULL GROUP BY ALL
            """,  # noqa: S608 the words spliced in are enumerated above
            {"as_of": as_of, "types": list(without_types), "first": first, "last": last},
        ).fetchall()
    rows = [[ZERO] * (months - number) for number in range(months)]
    for number, lag, value in cells:
        rows[number][min(lag, len(rows[number]) - 1)] += value
    for row in rows:
        for age in range(1, len(row)):
            row[age] += row[age - 1]
    return Triangle(date(first // 12, first % 12 + 1, 1), tuple(tuple(row) for row in rows))


def completed(found: Triangle, period: tuple[date, date]) -> Completed:
    """Cost of the months of a period, so far and completed; ContractError when the triangle does not reach over it."""
    origin = found.first.year * 12 + found.first.month - 1
    start = period[0].year * 12 + period[0].month - 1 - origin
    if start < 0:
        raise ContractError("completion.months: do not reach back to the beginning of the period")
    end = min(period[1].year * 12 + period[1].month - 1 - origin, len(found.amounts) - 1)
    paid = sum((row[-1] for row in found.amounts[start : end + 1]), ZERO)
    return Completed(paid, sum(found.ultimate()[start : end + 1], ZERO))
