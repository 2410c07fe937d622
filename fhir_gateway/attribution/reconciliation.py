"""Two rosters compared: the payer's and ours, member by member, over whole columns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

#: One row per entry of a roster. ``member`` is the person where he is known here, ``named`` how the roster calls him
#: (a member number or reference). Days are ISO; an open end is null.
ROSTER_SCHEMA = pa.schema(
    [
        ("named", pa.string()),
        ("member", pa.string()),
        ("tin", pa.string()),
        ("npi", pa.string()),
        ("start", pa.string()),
        ("end", pa.string()),
    ]
)

Finding = Literal["same", "different-provider", "different-period", "only-theirs", "only-ours", "unknown-member"]
FINDINGS: tuple[Finding, ...] = (
    "same",
    "different-provider",
    "different-period",
    "only-theirs",
    "only-ours",
    "unknown-member",
)

_COMPARED = """
WITH mine AS (SELECT DISTINCT * FROM ours), other AS (SELECT DISTINCT * FROM theirs),
pairs AS (
  SELECT t.named, t.member, t.tin AS their_tin, t.npi AS their_npi, t.start AS their_start, t.end AS their_end,
    o.tin AS our_tin, o.npi AS our_npi, o.start AS our_start, o.end AS our_end,
    (t.tin IS NULL AND t.npi IS NULL) OR coalesce(t.tin = o.tin, FALSE) OR coalesce(t.npi = o.npi, FALSE) AS agreed,
    t.start IS NULL OR (t.start = o.start AND t.end IS NOT DISTINCT FROM o.end) AS dated
  FROM other t JOIN mine o USING (member)
),
best AS (
  SELECT * FROM pairs QUALIFY row_number() OVER (
    PARTITION BY member, their_tin, their_npi, their_start, their_end ORDER BY agreed DESC, dated DESC, our_tin, our_npi
  ) = 1
)
SELECT CASE WHEN NOT agreed THEN 'different-provider' WHEN NOT dated THEN 'different-period' ELSE 'same' END AS finding,
  named, member, their_tin, their_npi, their_start, their_end, our_tin, our_npi, our_start, our_end
FROM best
UNION ALL
SELECT CASE WHEN t.member IS NULL THEN 'unknown-member' ELSE 'only-theirs' END, t.named, t.member,
  t.tin, t.npi, t.start, t.end, NULL, NULL, NULL, NULL
FROM other t WHERE t.member IS NULL OR t.member NOT IN (SELECT member FROM mine)
UNION ALL
SELECT 'only-ours', o.named, o.member, NULL, NULL, NULL, NULL, o.tin, o.npi, o.start, o.end
FROM mine o ANTI JOIN (SELECT member FROM other WHERE member IS NOT NULL) USING (member)
ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What two rosters agree and differ in.

    ``table`` has a row per finding: ``finding``, ``named``, ``member``, and tin, npi, start and end of both sides
    (``their_...``, ``our_...``). A side that states no provider or no period is taken to agree in it.
    """

    table: pa.Table

    @property
    def counts(self) -> dict[Finding, int]:
        """Rows of each finding."""
        found: dict[str, int] = {}
        for one in self.table["finding"].value_counts().to_pylist():
            found[one["values"]] = one["counts"]
        return {name: found.get(name, 0) for name in FINDINGS}

    def differences(self, findings: Collection[str] = FINDINGS[1:]) -> pa.Table:
        """The rows of these findings."""
        return self.table.filter(pc.is_in(self.table["finding"], value_set=pa.array(findings, pa.string())))


def reconcile(theirs: pa.Table, ours: pa.Table) -> Reconciliation:
    """Compare two rosters of :data:`ROSTER_SCHEMA`; entries of ``theirs`` without ``member`` are unknown here."""
    with duckdb.connect() as connection:
        connection.register("theirs", theirs.select(ROSTER_SCHEMA.names).cast(ROSTER_SCHEMA))
        connection.register("ours", ours.select(ROSTER_SCHEMA.names).cast(ROSTER_SCHEMA))
        return Reconciliation(connection.sql(_COMPARED).to_arrow_table())
