"""Member months from Coverage: spans merged first, then counted by the contract's rule.

Rules (all over calendar months that the period touches): ``snapshot_1st``, ``snapshot_15th``, ``snapshot_last`` covered
on that day; ``any_day`` at least one covered day; ``prorated`` covered days by days of the month; ``mid_month`` a start
on 1-15 counts the month in full, later the next one, an end on 1-15 does not count the month, later in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.attribution.models import MonthRule

#: Columns of Coverage that :func:`member_months` reads.
COVERAGE_COLUMNS = ("status", "type", "period")

MONTH_SCHEMA = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))])

_SPANS = """
CREATE TABLE spans AS
WITH stated AS (
  SELECT c._member AS member, c._source || '/' || c.id AS coverage,
    coalesce(try_cast(CASE length(c.period.start) WHEN 4 THEN c.period.start || '-01-01'
      WHEN 7 THEN c.period.start || '-01' ELSE c.period.start[1:10] END AS DATE), DATE '1900-01-01') AS opened,
    least(coalesce(CASE length(c.period.end) WHEN 4 THEN try_cast(c.period.end || '-12-31' AS DATE)
      WHEN 7 THEN last_day(try_cast(c.period.end || '-01' AS DATE))
      ELSE try_cast(c.period.end[1:10] AS DATE) END, DATE '9999-12-31'),
      coalesce(d.died, DATE '9999-12-31')) AS closed,
    list_transform(coalesce(c.type.coding, []), lambda x: x.code) AS types
  FROM coverage c LEFT JOIN deaths d ON d.member = c._member
  WHERE c._member IS NOT NULL AND c.status NOT IN ('cancelled', 'entered-in-error', 'draft')
)
SELECT member, coverage, greatest(opened, $start) AS opened, least(closed, $end) AS closed,
  list_has_any(types, $exclude) AS excluded
FROM stated
WHERE opened <= $end AND closed >= $start AND opened <= closed
  AND (len($include) = 0 OR list_has_any(types, $include) OR list_has_any(types, $exclude))
"""

# overlapping and adjacent spans become one (gaps of 0 days are joined)
_MONTHS = """
WITH marked AS (
  SELECT member, opened, closed, CASE WHEN opened <= max(closed) OVER (PARTITION BY member ORDER BY opened, closed
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) + 1 THEN 0 ELSE 1 END AS is_new
  FROM spans WHERE NOT excluded
), numbered AS (
  SELECT *, sum(is_new) OVER (PARTITION BY member ORDER BY opened, closed ROWS UNBOUNDED PRECEDING) AS island
  FROM marked
), merged AS (
  SELECT member, min(opened) AS opened, max(closed) AS closed FROM numbered GROUP BY member, island
), calendar AS (
  SELECT CAST(unnest(generate_series(date_trunc('month', $start), $end, INTERVAL 1 MONTH)) AS DATE) AS month
), overlap AS (
  SELECT m.member, c.month, last_day(c.month) AS last,
    sum(least(m.closed, last_day(c.month)) - greatest(m.opened, c.month) + 1) AS days,
    bool_or(m.opened <= c.month AND m.closed >= c.month) AS on_1st,
    bool_or(m.opened <= c.month + 14 AND m.closed >= c.month + 14) AS on_15th,
    bool_or(m.opened <= last_day(c.month) AND m.closed >= last_day(c.month)) AS on_last,
    bool_or(m.opened <= c.month + 14 AND m.closed >= c.month + 15) AS mid
  FROM merged m JOIN calendar c ON m.opened <= last_day(c.month) AND m.closed >= c.month
  GROUP BY ALL
), counted AS (
  SELECT member, month, CASE $rule
    WHEN 'snapshot_1st' THEN on_1st::INT * 100000000
    WHEN 'snapshot_15th' THEN on_15th::INT * 100000000
    WHEN 'snapshot_last' THEN on_last::INT * 100000000
    WHEN 'any_day' THEN 100000000
    WHEN 'mid_month' THEN mid::INT * 100000000
    ELSE (days * 200000000 + day(last)) // (2 * day(last)) END AS parts -- days / days of the month, half up at 8 digits
  FROM overlap
)
SELECT member, month, (parts::DECIMAL(18, 0) * 0.00000001::DECIMAL(10, 8))::DECIMAL(28, 8) AS months
FROM counted WHERE parts > 0 ORDER BY member, month
"""


def member_months(
    coverage: pa.Table,
    period: tuple[date, date],
    rule: MonthRule,
    include_types: Sequence[str] = (),
    exclude_types: Sequence[str] = (),
    deaths: pa.Table | None = None,
) -> pa.Table:
    """Months counted per member (:data:`MONTH_SCHEMA`); months that do not count have no row.

    ``coverage`` is what the lake gives for :data:`COVERAGE_COLUMNS`; cancelled and erroneous Coverages are left out.
    ``deaths`` (member, died date32) end every span. Spans of excluded types do not count.
    """
    with duckdb.connect() as connection:
        prepare_spans(connection, coverage, period, include_types, exclude_types, deaths)
        counted = connection.sql(_MONTHS, params={"start": period[0], "end": period[1], "rule": rule})
        result: pa.Table = counted.to_arrow_table()
    return result.cast(MONTH_SCHEMA)


def prepare_spans(
    connection: duckdb.DuckDBPyConnection,
    coverage: pa.Table,
    period: tuple[date, date],
    include_types: Sequence[str] = (),
    exclude_types: Sequence[str] = (),
    deaths: pa.Table | None = None,
) -> None:
    """Create the table ``spans`` (member, coverage, opened, closed, excluded), clipped to the period."""
    connection.register("coverage", coverage)
    no_deaths = pa.schema([("member", pa.string()), ("died", pa.date32())]).empty_table()
    connection.register("deaths", deaths if deaths is not None else no_deaths)
    connection.execute(
        _SPANS,
        {"start": period[0], "end": period[1], "include": list(include_types), "exclude": list(exclude_types)},
    )
