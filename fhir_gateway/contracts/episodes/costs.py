"""What the services of an episode cost: grouped, cut at the window's end, brought to standard prices.

Amounts have eight decimals; a part of an amount is rounded half away from zero once, per line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.episodes.construct import WHOLE
from fhir_gateway.contracts.episodes.definition import AMOUNT, ANCHOR, Definition
from fhir_gateway.errors import ContractError

#: Geometric mean lengths of stay by MS-DRG, for days on which a stay begins (empty: always).
GMLOS_SCHEMA = pa.schema(
    [
        pa.field("drg", pa.string(), nullable=False),
        pa.field("gmlos", pa.decimal128(9, 4), nullable=False),
        pa.field("start", pa.date32()),
        pa.field("end", pa.date32()),
    ]
)
#: Factors that bring payments to standard prices, by billing tax number, category and day (empty: any).
STANDARDISATION_SCHEMA = pa.schema(
    [
        pa.field("factor", pa.decimal128(18, 10), nullable=False),
        pa.field("tin", pa.string()),
        pa.field("category", pa.string()),
        pa.field("start", pa.date32()),
        pa.field("end", pa.date32()),
    ]
)
#: Evidence below the episodes: a row per claim line that falls into one, with what counts of it and why not.
#: ``part``: ``window``, ``after`` (the days that are only looked at) or ``excluded``.
SERVICE_SCHEMA = pa.schema(
    [
        ("episode", pa.int64()),
        ("claim", pa.string()),
        ("day", pa.date32()),
        ("category", pa.string()),
        ("part", pa.string()),
        ("exclusion", pa.string()),
        ("complication", pa.bool_()),
        ("amount", AMOUNT),
        ("prorated", AMOUNT),
        ("standardised", AMOUNT),
    ]
)


@dataclass(frozen=True, slots=True)
class CostTables:
    """Tables of the contract that costs rest on."""

    gmlos: pa.Table | None = None
    standardisation: pa.Table | None = None


_PLACED = """
CREATE TABLE placed AS
WITH own AS (
  SELECT e.number, coalesce(s.claim, e.claim) AS claim
  FROM episode e LEFT JOIN stay s ON s.member = e.member AND s.chain = e.chain
  WHERE {whole}
), held AS (
  SELECT e.number, e.anchor_start, e.window_start, e.window_end, e.died, l.*, o.claim IS NOT NULL AS is_anchor,
    c.proration, c.days AS period_days, c.name AS service_name, x.name AS exclusion_name, x.anchor AS also_anchor,
    CASE WHEN c.proration = 'whole' THEN l.day ELSE l.claim_from END AS opens
  FROM episode e JOIN line l ON l.member = e.member
  LEFT JOIN categories c ON c.service = l.service LEFT JOIN exclusions x ON x.exclusion = l.exclusion
  LEFT JOIN own o ON o.number = e.number AND o.claim = l.claim
  WHERE {whole}
    AND (o.claim IS NOT NULL OR (l.service IS NOT NULL
      AND CASE WHEN c.proration = 'whole' THEN l.day ELSE l.claim_from END
        BETWEEN e.window_start AND e.window_end + $post))
), cut AS (
  SELECT *, CASE WHEN is_anchor THEN 'window' WHEN opens <= window_end THEN 'window' ELSE 'after' END AS part,
    greatest(claim_thru - claim_from, 1) AS stay_days, least(greatest(claim_thru - claim_from, 1),
      window_end - claim_from + 1) AS inside,
    NOT is_anchor AND opens <= window_end AND claim_thru > window_end AND proration <> 'whole' AS over
  FROM held
)
SELECT cut.*, is_anchor OR service IS NOT NULL AS counted, g.gmlos, CASE
    WHEN NOT over THEN 1
    WHEN proration = 'per_diem' THEN inside
    WHEN proration = 'home_health' THEN least(window_end - claim_from + 1, period_days)
    ELSE least((inside + 1) * 10000, (g.gmlos * 10000)::BIGINT) END AS numerator, CASE
    WHEN NOT over THEN 1
    WHEN proration = 'per_diem' THEN stay_days
    WHEN proration = 'home_health' THEN period_days
    ELSE (g.gmlos * 10000)::BIGINT END AS denominator
FROM cut LEFT JOIN gmlos g ON cut.over AND cut.proration = 'gmlos' AND lpad(ltrim(g.drg, '0'), 3, '0') = cut.drg
  AND cut.claim_from BETWEEN coalesce(g."start", DATE '0001-01-01') AND coalesce(g."end", DATE '9999-12-31')
"""

# the most particular factor there is: by tax number and category, by one of them, by none
_FACTORS = """
CREATE TABLE factor_of AS
WITH wanted AS (
  SELECT DISTINCT tin, day, CASE WHEN is_anchor THEN $anchor ELSE service_name END AS category FROM placed
  WHERE (SELECT count(*) FROM factors) > 0
)
SELECT w.tin, w.day, w.category, f.factor
FROM wanted w JOIN factors f ON (f.tin IS NULL OR f.tin = w.tin) AND (f.category IS NULL OR f.category = w.category)
  AND w.day BETWEEN coalesce(f."start", DATE '0001-01-01') AND coalesce(f."end", DATE '9999-12-31')
QUALIFY row_number() OVER (PARTITION BY w.tin, w.day, w.category ORDER BY (f.tin IS NULL)::INT
  + (f.category IS NULL)::INT, f.tin NULLS LAST, f."start" DESC NULLS LAST, f.factor) = 1
"""

_SERVICES = """
CREATE TABLE service_line AS
WITH prorated AS (
  SELECT *, CASE WHEN numerator = denominator THEN amount ELSE
    (sign(amount)::INT * (((2 * abs(amount) * 100000000)::HUGEINT * numerator + denominator) // (2 * denominator))
      )::DECIMAL(28, 0) * 0.00000001::DECIMAL(10, 8) END::DECIMAL(28, 8) AS prorated
  FROM placed
)
SELECT p.number, p.member, p.claim, p.day, p.is_anchor, p.claim_type, p.drg, p.milestone, p.window_start,
  CASE WHEN is_anchor THEN $anchor ELSE service_name END AS category,
  CASE WHEN exclusion_name IS NOT NULL AND (NOT is_anchor OR also_anchor) THEN 'excluded' ELSE part END AS part,
  CASE WHEN NOT is_anchor OR also_anchor THEN exclusion_name END AS exclusion,
  p.complication, p.amount, p.prorated,
  (p.prorated * coalesce(f.factor, 1)::DECIMAL(18, 10))::DECIMAL(28, 8) AS standardised
FROM prorated p LEFT JOIN factor_of f ON f.tin IS NOT DISTINCT FROM p.tin AND f.day = p.day
  AND f.category = CASE WHEN is_anchor THEN $anchor ELSE service_name END
"""

_SUMS = """
CREATE TABLE cost AS
WITH by_category AS (
  SELECT number, category, sum(standardised)::DECIMAL(28, 8) AS amount FROM service_line WHERE part = 'window'
  GROUP BY number, category
), by_exclusion AS (
  SELECT number, exclusion, sum(amount)::DECIMAL(28, 8) AS amount FROM service_line WHERE part = 'excluded'
  GROUP BY number, exclusion
)
SELECT number,
  sum(amount) FILTER (part = 'window') AS spending, sum(prorated) FILTER (part = 'window') AS prorated,
  sum(standardised) FILTER (part = 'window') AS actual,
  sum(standardised) FILTER (part = 'window' AND complication AND NOT is_anchor) AS complications,
  sum(standardised) FILTER (part = 'after') AS after_window,
  sum(standardised) FILTER (part = 'after' AND complication) AS after_complications,
  count(*) FILTER (part = 'window') AS services,
  count(DISTINCT claim) FILTER (part = 'window' AND NOT is_anchor AND claim_type = 'inpatient' AND drg IS NOT NULL)
    AS readmissions,
  any_value(c.costs) AS costs, any_value(x.excluded) AS excluded
FROM service_line s
LEFT JOIN (SELECT number, map_from_entries(list({k: category, v: amount} ORDER BY category)) AS costs
  FROM by_category GROUP BY number) c USING (number)
LEFT JOIN (SELECT number, map_from_entries(list({k: exclusion, v: amount} ORDER BY exclusion)) AS excluded
  FROM by_exclusion GROUP BY number) x USING (number)
GROUP BY number
"""


def add_costs(connection: duckdb.DuckDBPyConnection, definition: Definition, tables: CostTables) -> None:
    """Leave tables ``service_line`` and ``cost`` in the connection; ContractError when a stay's MS-DRG has no days."""
    services, exclusions = definition.services, definition.exclusions
    given: dict[str, pa.Table] = {
        "categories": pa.table(
            {
                "service": pa.array(range(len(services)), pa.int32()),
                "name": pa.array([one.id for one in services], pa.string()),
                "proration": pa.array([one.proration for one in services], pa.string()),
                "days": pa.array([one.days for one in services], pa.int32()),
            }
        ),
        "exclusions": pa.table(
            {
                "exclusion": pa.array(range(len(exclusions)), pa.int32()),
                "name": pa.array([one.id for one in exclusions], pa.string()),
                "anchor": pa.array([one.anchor for one in exclusions], pa.bool_()),
            }
        ),
        "gmlos": _empty(GMLOS_SCHEMA) if tables.gmlos is None else tables.gmlos,
        "factors": _empty(STANDARDISATION_SCHEMA) if tables.standardisation is None else tables.standardisation,
    }
    for name, table in given.items():
        connection.register(name, table)
    connection.execute(_PLACED.format(whole=WHOLE), {"post": definition.post_days})
    lacking = connection.sql("SELECT count(DISTINCT drg), count(DISTINCT claim) FROM placed WHERE denominator IS NULL")
    missing: tuple[Any, ...] = lacking.fetchall()[0]
    if missing[0]:
        raise ContractError(
            f"gmlos: {missing[1]} stays run over the end of an episode, and their {missing[0]} MS-DRGs have no row"
        )
    connection.execute(_FACTORS, {"anchor": ANCHOR})
    connection.execute(_SERVICES, {"anchor": ANCHOR})
    connection.execute(_SUMS)


def _empty(schema: pa.Schema) -> pa.Table:
    return pa.schema([field.with_nullable(True) for field in schema]).empty_table()


def service_lines(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """:data:`SERVICE_SCHEMA`, sorted."""
    found = connection.sql(
        "SELECT number AS episode, claim, day, category, part, exclusion, complication, amount, prorated, standardised"
        " FROM service_line ORDER BY ALL"
    ).to_arrow_table()
    return found.cast(SERVICE_SCHEMA).combine_chunks()
