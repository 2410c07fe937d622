"""Tallies of slices of a population added up, and the metrics that they make."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from fhir_gateway.risk.utilization.metrics import Metric

#: The dimension of who rendered a service (of a stay the discharging hospital, of an ED visit the facility).
RENDERING = "rendering"
#: A row per metric and group. Of the whole population ``dimension`` and ``value`` are null; ``category`` is null but of
#: metrics by service category. ``result`` is null where the denominator is zero.
RESULT_SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("dimension", pa.string()),
        ("value", pa.string()),
        ("category", pa.string()),
        ("numerator", pa.decimal128(38, 8)),
        ("denominator", pa.decimal128(38, 8)),
        ("result", pa.float64()),
    ]
)
#: What each member adds to numerators and denominators.
MEMBER_SCHEMA = pa.schema([("member", pa.string()), ("tally", pa.string()), ("quantity", pa.decimal128(38, 8))])

_SUMS = f"""
WITH by_member AS (
  SELECT member, tally, category, sum(quantity) AS quantity FROM tally GROUP BY ALL
), placed AS (
  SELECT NULL::VARCHAR AS dimension, NULL::VARCHAR AS value, tally, category, quantity FROM by_member
  UNION ALL
  SELECT s.dimension, s.value, b.tally, b.category, b.quantity FROM by_member b JOIN stratum s USING (member)
  UNION ALL
  SELECT '{RENDERING}', provider, tally, category, quantity FROM tally WHERE $rendering AND provider IS NOT NULL
)
SELECT dimension, value, tally, category, sum(quantity) AS quantity FROM placed GROUP BY ALL
"""  # noqa: S608 our word

_ADDED = f"""
CREATE TEMP TABLE sums AS
SELECT dimension, value, tally, category, sum(quantity) AS quantity FROM (FROM added UNION ALL ({_SUMS})) GROUP BY ALL
"""  # noqa: S608 our query

_BY_MEMBER = "SELECT member, tally, sum(quantity) AS quantity FROM tally GROUP BY ALL ORDER BY ALL"

# whoever cost something, and which groups he is of: the most expensive are known when all slices are
_SPENDERS = """
CREATE OR REPLACE TEMP TABLE spender AS
SELECT member, sum(paid) AS paid FROM cost SEMI JOIN (SELECT member FROM tally WHERE tally = 'members') USING (member)
GROUP BY member HAVING sum(paid) > 0
"""
_GROUPS_OF_SPENDERS = "SELECT * FROM stratum SEMI JOIN spender USING (member)"

_HIGH = """
CREATE TEMP TABLE tally AS
WITH ranked AS (
  SELECT *, row_number() OVER (ORDER BY paid DESC, member) AS place,
    (SELECT sum(quantity) FROM added WHERE tally = 'members' AND dimension IS NULL) AS everybody
  FROM spender
)
SELECT member, name AS tally, NULL::VARCHAR AS category, NULL::VARCHAR AS provider,
  CASE WHEN name = 'high-cost-members' THEN 1 ELSE paid END::DECIMAL(28, 8) AS quantity
FROM (
  SELECT member, paid, unnest(CASE WHEN paid >= $threshold THEN ['high-cost-members', 'high-cost-paid'] ELSE [] END
    || CASE WHEN place <= ceil(everybody * 0.01) THEN ['top-1-paid'] ELSE [] END
    || CASE WHEN place <= ceil(everybody * 0.05) THEN ['top-5-paid'] ELSE [] END) AS name
  FROM ranked)
"""

#: Tallies of members, whom nobody renders.
_OF_MEMBERS = (
    *("members", "member-months", "adult-months", "months-40-plus", "months-18-39", "uamcc-months"),
    *("high-cost-members", "high-cost-paid", "top-1-paid", "top-5-paid"),
)
_THOSE = ", ".join(f"'{name}'" for name in _OF_MEMBERS)
# what nobody renders (member months) is, of a rendering provider, that of the whole population
_RESULTS = f"""
WITH whole AS (
  SELECT dimension, value, tally, sum(quantity) AS quantity FROM sums GROUP BY ALL
), place AS (
  SELECT DISTINCT dimension, value, NULL::VARCHAR AS category FROM sums
), category AS (
  SELECT p.dimension, p.value, c.category
  FROM place p, (SELECT DISTINCT category FROM sums WHERE category IS NOT NULL) c
), wanted AS (
  SELECT m.*, p.dimension, p.value, p.category FROM metric m, place p
  UNION ALL
  SELECT m.*, c.dimension, c.value, c.category FROM metric m, category c WHERE m.by_category
), counted AS (
  SELECT w.metric, w.position, w.per, w.denominator AS over, w.dimension, w.value, w.category,
    coalesce(CASE WHEN w.category IS NULL THEN n.quantity ELSE s.quantity END, 0) AS numerator,
    CASE WHEN w.denominator IS NOT NULL THEN coalesce(d.quantity, a.quantity, 0) END AS denominator,
    w.dimension IS DISTINCT FROM '{RENDERING}' OR w.numerator NOT IN ({_THOSE})
      AND (n.quantity IS NOT NULL OR d.quantity IS NOT NULL)
      AND (w.category IS NULL OR s.quantity IS NOT NULL) AS shown
  FROM wanted w
  LEFT JOIN whole n ON n.tally = w.numerator AND n.dimension IS NOT DISTINCT FROM w.dimension
    AND n.value IS NOT DISTINCT FROM w.value
  LEFT JOIN sums s ON s.tally = w.numerator AND s.dimension IS NOT DISTINCT FROM w.dimension
    AND s.value IS NOT DISTINCT FROM w.value AND s.category = w.category
  LEFT JOIN whole d ON d.tally = w.denominator AND d.dimension IS NOT DISTINCT FROM w.dimension
    AND d.value IS NOT DISTINCT FROM w.value
  LEFT JOIN whole a ON a.tally = w.denominator AND a.dimension IS NULL AND w.dimension = '{RENDERING}'
    AND a.tally IN ({_THOSE})
)
SELECT metric, dimension, value, category, numerator, denominator,
  CASE WHEN over IS NULL THEN numerator::DOUBLE
    WHEN denominator <> 0 THEN numerator::DOUBLE * per / denominator::DOUBLE END AS result
FROM counted WHERE shown
ORDER BY position, dimension NULLS FIRST, value, category NULLS FIRST
"""  # noqa: S608 our words


class Sums:
    """What slices add up to; each member is in one slice alone. ``high_cost`` is the amount from which a cost is high.

    The most expensive members are those of all slices together, so of each slice are kept: sums by group, and what its
    members cost.
    """

    def __init__(self, high_cost: int, *, by_rendering: bool, keep_members: bool) -> None:
        self.high_cost = high_cost
        self.by_rendering = by_rendering
        self.keep_members = keep_members
        self._sums: list[pa.Table] = []
        self._spenders: list[pa.Table] = []
        self._groups: list[pa.Table] = []
        self._members: list[pa.Table] = []

    def add(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add a slice: its ``tally``, ``cost`` and ``stratum``."""
        self._sums.append(connection.sql(_SUMS, params={"rendering": self.by_rendering}).to_arrow_table())
        connection.execute(_SPENDERS)
        self._spenders.append(connection.sql("SELECT * FROM spender").to_arrow_table())
        groups = connection.sql(_GROUPS_OF_SPENDERS).to_arrow_table()
        for at, name in ((1, "dimension"), (2, "value")):  # few words, often said
            groups = groups.set_column(at, name, groups[name].dictionary_encode())
        self._groups.append(groups)
        if self.keep_members:
            self._members.append(connection.sql(_BY_MEMBER).to_arrow_table())

    def results(self, wanted: Sequence[Metric]) -> tuple[pa.Table, pa.Table | None]:
        """Results of these metrics (:data:`RESULT_SCHEMA`), and what each member adds (:data:`MEMBER_SCHEMA`)."""
        with duckdb.connect() as connection:
            if not self._sums:
                return RESULT_SCHEMA.empty_table(), MEMBER_SCHEMA.empty_table() if self.keep_members else None
            for name, tables in (("added", self._sums), ("spender", self._spenders), ("stratum", self._groups)):
                connection.register(name, pa.concat_tables(tables).unify_dictionaries())
            connection.execute(_HIGH, {"threshold": self.high_cost})
            connection.execute(_ADDED, {"rendering": False})
            connection.register("metric", _described(wanted))
            table = connection.sql(_RESULTS).to_arrow_table().cast(RESULT_SCHEMA)
            if not self.keep_members:
                return table, None
            high = connection.sql(_BY_MEMBER).to_arrow_table()
        members = pa.concat_tables([one.cast(MEMBER_SCHEMA) for one in (*self._members, high)])
        return table, members.sort_by([("member", "ascending"), ("tally", "ascending")])


def _described(wanted: Sequence[Metric]) -> pa.Table:
    return pa.table(
        {
            "metric": [one.id for one in wanted],
            "position": pa.array(range(len(wanted)), pa.int32()),
            "numerator": [one.numerator for one in wanted],
            "denominator": pa.array([one.denominator for one in wanted], pa.string()),
            "per": pa.array([one.per for one in wanted], pa.int32()),
            "by_category": [one.by_category for one in wanted],
        }
    )
