"""High-cost (and low-cost) episodes count up to a bound: a percentile, deviations from the mean, or as given."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.episodes.construct import WHOLE
from fhir_gateway.contracts.episodes.definition import AMOUNT
from fhir_gateway.contracts.terms import Fraction, Money, Terms

#: Bounds by price group (empty: all), as a table of the contract; an empty bound does not bind.
CAP_SCHEMA = pa.schema([("price_group", pa.string()), ("low", AMOUNT), ("high", AMOUNT)])
#: Bounds as they are applied.
BOUND_SCHEMA = pa.schema([("period", pa.string()), ("price_group", pa.string()), ("low", AMOUNT), ("high", AMOUNT)])
EIGHT = Decimal("1e-8")


class Cap(Terms):
    """Between which amounts the cost of an episode counts.

    ``percentile``: ``low`` and ``high`` of the price group (nearest rank: an amount that occurs). ``deviations``: the
    mean of the price group plus ``deviations`` standard deviations (of the population). ``amount``: ``high_amount`` for
    all. ``table``: by price group out of the contract's table. Episodes of a baseline year are bounded by that year's;
    ``basis`` says by which those of the period are, and all episodes there are count, of other providers too.
    """

    kind: Literal["percentile", "deviations", "amount", "table"]
    basis: Literal["performance", "baseline"] = "performance"
    low: Fraction | None = None
    high: Fraction | None = None
    deviations: Annotated[Decimal, Field(gt=0)] | None = None
    high_amount: Money | None = None
    table: str | None = None

    def problems(self, where: str) -> list[str]:
        """Terms that are missing or contradict each other."""
        wanted: dict[str, Any] = {
            "percentile": (self.high if self.high is not None else self.low, "high"),
            "deviations": (self.deviations, "deviations"),
            "amount": (self.high_amount, "high_amount"),
            "table": (self.table, "table"),
        }
        value, name = wanted[self.kind]
        found = [f"{where}.{name}: is needed for {self.kind}"] if value is None else []
        if self.low is not None and self.high is not None and self.low >= self.high:
            found.append(f"{where}.low: not below high")
        return found


# squares of cents: exact, so that the order of rows cannot show
_SUMS = """
WITH whole AS (
  SELECT period, price_group, actual, round(actual, 2)::DECIMAL(18, 2) AS cents FROM episodes
  WHERE {whole}
), labelled AS (
  SELECT * FROM whole UNION ALL SELECT 'baseline', price_group, actual, cents FROM whole WHERE period <> '{performance}'
)
SELECT period, price_group, count(*) AS episodes, sum(cents * cents)::VARCHAR AS squares, sum(cents)::VARCHAR AS cents,
  {low}::DECIMAL(28, 8) AS low, {high}::DECIMAL(28, 8) AS high
FROM labelled GROUP BY period, price_group ORDER BY ALL
"""
#: Label of the period that is settled; those of the baseline are ``baseline-1`` and so on.
PERFORMANCE = "performance"


def bounds(
    connection: duckdb.DuckDBPyConnection, table: pa.Table, cap: Cap | None, given: pa.Table | None = None
) -> pa.Table:
    """Bounds (:data:`BOUND_SCHEMA`) of episodes by period and price group, all that are whole; none without a cap.

    ``baseline`` is the period of all baseline years together.
    """
    if cap is None:
        return BOUND_SCHEMA.empty_table()
    connection.register("episodes", table)
    if cap.kind == "percentile":
        rows = connection.sql(
            _SUMS.format(low=_quantile(cap.low), high=_quantile(cap.high), performance=PERFORMANCE, whole=WHOLE)
        ).to_arrow_table()
        found = rows.select(BOUND_SCHEMA.names)
    elif cap.kind == "deviations":
        rows = connection.sql(
            _SUMS.format(low="NULL", high="NULL", performance=PERFORMANCE, whole=WHOLE)
        ).to_arrow_table()
        found = pa.Table.from_pylist([_deviated(row, cap) for row in rows.to_pylist()], schema=BOUND_SCHEMA)
    else:
        connection.register("given", CAP_SCHEMA.empty_table() if given is None else given)
        amount = "NULL" if cap.high_amount is None else f"{cap.high_amount:f}"
        found = connection.sql(
            f"""
            SELECT DISTINCT e.period, e.price_group, g.low, coalesce(g.high, {amount})::DECIMAL(28, 8) AS high
            FROM episodes e LEFT JOIN given g ON g.price_group = e.price_group
              OR (g.price_group IS NULL AND e.price_group NOT IN
                (SELECT price_group FROM given WHERE price_group IS NOT NULL))
            ORDER BY ALL
            """  # noqa: S608  an amount of the terms
        ).to_arrow_table()
    return found.cast(BOUND_SCHEMA).combine_chunks()


def _quantile(share: Decimal | None) -> str:
    return "NULL" if share is None else f"quantile_disc(actual, {share:f})"


def _deviated(row: dict[str, Any], cap: Cap) -> dict[str, Any]:
    high = above_mean(row["episodes"], Decimal(row["cents"]), Decimal(row["squares"]), cap.deviations or Decimal(0))
    return {"period": row["period"], "price_group": row["price_group"], "high": high}


def above_mean(count: int, total: Decimal, squares: Decimal, deviations: Decimal) -> Decimal:
    """Mean plus so many standard deviations of a population, from its sums."""
    mean = total / count
    variance = max(squares / count - mean**2, Decimal(0))
    return (mean + deviations * variance.sqrt()).quantize(EIGHT, ROUND_HALF_UP)


def applied(connection: duckdb.DuckDBPyConnection, table: pa.Table, found: pa.Table, cap: Cap | None) -> pa.Table:
    """Episodes with ``capped``, ``low`` and ``high``: each by the bounds of its period, or of the pooled baseline."""
    by_baseline = cap is not None and cap.basis == "baseline" and cap.kind in ("percentile", "deviations")
    connection.register("episodes", table)
    connection.register("bounds", found)
    return connection.sql(
        """
        SELECT e.*, b.low, b.high,
          greatest(least(e.actual, b.high), b.low) AS capped -- an empty bound does not bind
        FROM episodes e LEFT JOIN bounds b ON b.price_group = e.price_group
          AND b.period = CASE WHEN $by_baseline AND e.period = $performance THEN 'baseline' ELSE e.period END
        ORDER BY episode, period
        """,
        params={"by_baseline": by_baseline, "performance": PERFORMANCE},
    ).to_arrow_table()
