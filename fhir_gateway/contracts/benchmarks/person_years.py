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
    year: int,
    limits: Mapping[str, Decimal],
    amount: Literal["paid", "allowed"] = "paid",
    negative: Literal["keep", "zero"] = "keep",
) -> dict[str, TypeCost]:
    """Cost of each enrolment type in a calendar year; types without a limit are not truncated.

    Claims of months without enrolment do not count. ``negative``: what adjustments leave below zero for a person and
    type counts, or counts as nothing. ContractError when a person has two types in a month, or a type is unknown.
    """
    with duckdb.connect() as connection:
        connection.register("lines", lines)
        connection.register("enrolment", enrolment)
        connection.register(
            "limits", pa.table({"type": list(limits), "most": pa.array(list(limits.values()), pa.decimal128(28, 8))})
        )
        connection.execute(
            """
            CREATE TABLE mine AS SELECT member, date_trunc('month', month)::DATE AS month, type FROM enrolment
            WHERE year(month) = $year GROUP BY ALL
            """,
            {"year": year},
        )
        _refuse(connection)
        found = connection.execute(
            f"""
            WITH spent AS (
              SELECT _member AS member, date_trunc('month', service_from)::DATE AS month, sum({amount}) AS cost
              FROM lines WHERE year(service_from) = $year AND {"NOT denied" if amount == "allowed" else "TRUE"}
              GROUP BY ALL
            ),
            persons AS (
              SELECT member, type, count(*) AS months, coalesce(sum(cost), 0)::DECIMAL(38, 8) AS cost
              FROM mine LEFT JOIN spent USING (member, month) GROUP BY ALL
            ),
            counted AS (
              SELECT type, months, most * months AS most,
                CASE WHEN $zero AND cost < 0 THEN 0 ELSE cost END * 12 AS yearly
              FROM persons LEFT JOIN limits USING (type)
            )
            SELECT type, sum(months)::BIGINT, sum(least(yearly, coalesce(most, yearly)))::DECIMAL(38, 8),
              count(*) FILTER (yearly > most)
            FROM counted GROUP BY type
            """,  # noqa: S608 the words spliced in are enumerated above
            {"year": year, "zero": negative == "zero"},
        ).fetchall()
    return {kind: TypeCost(Decimal(months), twelvefold / 12, over) for kind, months, twelvefold, over in found}


def _refuse(connection: duckdb.DuckDBPyConnection) -> None:
    known = ", ".join(f"'{kind}'" for kind in TYPES)
    other = connection.execute(f"SELECT count(*) FROM mine WHERE type NOT IN ({known})").fetchone()  # noqa: S608
    if other and other[0]:
        raise ContractError(f"tables.enrolment: type is none of {', '.join(TYPES)}")
    twice = connection.execute("SELECT count(*) - count(DISTINCT (member, month)) FROM mine").fetchone()
    if twice and twice[0]:
        raise ContractError("tables.enrolment: a person has two types in the same month")
