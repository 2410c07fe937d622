"""Cost per capita by enrolment type: months make person years, cost is annualised and truncated per person and type.

42 CFR 425.601(a), 425.605(a). A person who changed type counts in each with the months spent there; one who died counts
with the months lived. Annualised cost is 12 x cost / months; what lies above the type's limit does not count. All sums
are exact: no quotient is taken before the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.benchmarks.blend import ZERO
from fhir_gateway.errors import ContractError

TYPES = ("ESRD", "DIS", "AGDU", "AGND")

#: A row per person and month of enrolment, ``month`` any day of it.
ENROLMENT_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("month", pa.date32(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class TypeCost:
    """Cost of an enrolment type in a year, truncated."""

    months: Decimal
    cost: Decimal
    truncated: int  # persons above the limit

    @property
    def person_years(self) -> Decimal:
        """Months / 12."""
        return self.months / 12

    @property
    def per_capita(self) -> Decimal:
        """Cost per person year; zero where there is nobody."""
        return self.cost * 12 / self.months if self.months else ZERO


def type_costs(
    lines: pa.Table,
    enrolment: pa.Table,
    limits: Mapping[int, Mapping[str, Decimal]],
    amount: Literal["paid", "allowed"] = "paid",
    negative: Literal["keep", "zero"] = "keep",
) -> dict[int, dict[str, TypeCost]]:
    """Cost of each enrolment type in the calendar years of ``limits``; types without a limit are not truncated.

    Claims of months without enrolment do not count. ``negative``: what adjustments leave below zero for a person and
    type counts, or counts as nothing. ContractError when a person has two types in a month, or a type is unknown.
    """
    with duckdb.connect() as connection:
        connection.register("lines", lines)
        connection.register("enrolment", enrolment)
        connection.register("years", pa.table({"year": pa.array(limits, pa.int64())}))
        connection.register("limits", _limits(limits))
        connection.execute(_MASKS)
        _refuse(connection)
        counts = "NOT denied" if amount == "allowed" else "TRUE"
        query = _COSTS.format(amount=amount, counts=counts)  # words that are enumerated above
        found = connection.execute(query, {"zero": negative == "zero"}).fetchall()
    costs: dict[int, dict[str, TypeCost]] = {year: {} for year in limits}
    for year, kind, months, twelvefold, over in found:
        costs[year][kind] = TypeCost(Decimal(months), twelvefold / 12, over)
    return costs


#: A row per person, year and type, with a bit for each month: far fewer rows than months.
_MASKS = """
CREATE TABLE masks AS
SELECT member, year(month) AS year, type, bit_or(1 << month(month)) AS mask
FROM enrolment WHERE year(month) IN (FROM years) GROUP BY ALL
"""
_COSTS = """
WITH spent AS (
  SELECT member, year, type, sum({amount}) AS cost
  FROM lines JOIN masks ON _member = member AND year(service_from) = year AND (mask >> month(service_from)) & 1 = 1
  WHERE {counts} GROUP BY ALL
), persons AS (
  SELECT year, type, bit_count(mask)::BIGINT AS months, coalesce(cost, 0)::DECIMAL(38, 8) AS cost
  FROM masks LEFT JOIN spent USING (member, year, type)
), counted AS (
  SELECT year, type, months, most * months AS most, CASE WHEN $zero AND cost < 0 THEN 0 ELSE cost END * 12 AS yearly
  FROM persons LEFT JOIN limits USING (year, type)
)
SELECT year, type, sum(months)::BIGINT, sum(least(yearly, coalesce(most, yearly)))::DECIMAL(38, 8),
  count(*) FILTER (yearly > most)
FROM counted GROUP BY year, type ORDER BY year, type
"""


def _limits(limits: Mapping[int, Mapping[str, Decimal]]) -> pa.Table:
    rows = [(year, kind, most) for year, kinds in limits.items() for kind, most in kinds.items()]
    return pa.table(
        {
            "year": pa.array([row[0] for row in rows], pa.int64()),
            "type": pa.array([row[1] for row in rows], pa.string()),
            "most": pa.array([row[2] for row in rows], pa.decimal128(28, 8)),
        }
    )


def _refuse(connection: duckdb.DuckDBPyConnection) -> None:
    other = connection.execute(
        "SELECT count(*) FROM masks WHERE NOT list_contains($known, type)", {"known": list(TYPES)}
    ).fetchone()
    if other and other[0]:
        raise ContractError(f"tables.enrolment: type is none of {', '.join(TYPES)}")
    twice = connection.execute(
        """
        SELECT count(*) FROM (
          SELECT sum(bit_count(mask)) AS months, bit_count(bit_or(mask)) AS different FROM masks GROUP BY member, year
        ) WHERE months <> different
        """
    ).fetchone()
    if twice and twice[0]:
        raise ContractError("tables.enrolment: a person has two types in the same month")
