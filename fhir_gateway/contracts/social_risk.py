"""Social risk of members as payment rules look at it: deprivation of where they live, dual eligibility, low income.

The table comes with the contract. Who is not in it, or has no value, counts as not known to be at risk: equity payments
are for those of whom it is known (42 CFR 425.512(b); ACO REACH financial guide).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ContractError

#: ``adi``: national percentile (1 to 100) of the Area Deprivation Index; ``dual``: eligible for Medicaid too;
#: ``low_income``: has the low-income subsidy of Part D.
SOCIAL_RISK_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        ("adi", pa.int32()),
        ("dual", pa.bool_()),
        ("low_income", pa.bool_()),
    ]
)

_EACH = """
CREATE TEMP TABLE each AS
SELECT member, max(adi) AS adi, coalesce(bool_or(dual), FALSE) OR coalesce(bool_or(low_income), FALSE) AS poor
FROM social_risk GROUP BY member
"""


@dataclass(frozen=True, slots=True)
class Underserved:
    """Members, and how many of them live in deprived areas, and are dual eligible or have low incomes."""

    members: int
    deprived: int
    poor: int

    @property
    def share(self) -> Decimal:
        """The higher of both shares."""
        return Decimal(max(self.deprived, self.poor)) / self.members if self.members else Decimal(0)


def underserved(table: pa.Table, members: pa.Array, adi: int) -> Underserved:
    """How many of ``members`` are underserved; deprived is a percentile of ``adi`` or more."""
    with _connect(table) as connection:
        connection.register("roster", pa.table({"member": members}))
        found = connection.execute(
            "SELECT count(*), count(*) FILTER (e.adi >= $adi), count(*) FILTER (e.poor)"
            " FROM (SELECT DISTINCT member FROM roster) LEFT JOIN each e USING (member)",
            {"adi": adi},
        ).fetchall()
    return Underserved(*found[0])


def tenths(table: pa.Table, poor_points: int, cuts: Sequence[Decimal] = ()) -> pa.Table:
    """``member, tenth`` by equity score (percentile of deprivation + ``poor_points``), the most underserved tenth is 1.

    By nine ``cuts``, the highest first: a score at or above the n-th is at most in tenth n. Without them all of the
    table are ranked among themselves, equals alike. Members without a percentile have no score.
    """
    with _connect(table) as connection:
        connection.execute(
            "CREATE TEMP TABLE scored AS SELECT member, adi + CASE WHEN poor THEN $points ELSE 0 END AS score"
            " FROM each WHERE adi IS NOT NULL",
            {"points": poor_points},
        )
        if cuts:
            rule, values = "1 + len(list_filter($cuts::DECIMAL(18, 4)[], lambda x: score < x))", {"cuts": list(cuts)}
        else:
            rule, values = "1 + 10 * (rank() OVER (ORDER BY score DESC) - 1) // count(*) OVER ()", {}
        query = f"SELECT member, ({rule})::INTEGER AS tenth FROM scored ORDER BY member"  # noqa: S608 our own rules
        return connection.sql(query, params=values).to_arrow_table()


def at_risk(table: pa.Table, adi: int) -> pa.Table:
    """``member, at_risk``: dual eligible, of low income, or living where deprivation is at ``adi`` or above (TEAM)."""
    with _connect(table) as connection:
        query = "SELECT member, poor OR coalesce(adi >= $adi, FALSE) AS at_risk FROM each ORDER BY member"
        return connection.sql(query, params={"adi": adi}).to_arrow_table()


def _connect(table: pa.Table) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.register("social_risk", table)
    connection.execute(_EACH)
    wrong = connection.execute("SELECT count(*) FROM each WHERE adi NOT BETWEEN 1 AND 100").fetchall()
    if wrong[0][0]:
        connection.close()
        raise ContractError("tables.social_risk: adi is not a percentile from 1 to 100")
    return connection
