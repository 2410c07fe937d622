"""How well data are coded: how many resources of a type have a code, one of a value set, or a local one only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fhir_gateway.terminology.value_sets import Code

#: Unmapped codes that are named.
MOST_FREQUENT = 5

# A code that has blanks or is long is a text that somebody wrote into it, and may say who it is about.
_COVERAGE = """
WITH per_row AS (
    SELECT r.row, r.source,
        bool_or(c.code IS NOT NULL) AS coded,
        bool_or(w.code IS NOT NULL) AS member,
        bool_or(c.system IN (SELECT system FROM wanted)) AS standard
    FROM resource r LEFT JOIN coding c USING (row) LEFT JOIN wanted w ON w.system = c.system AND w.code = c.code
    GROUP BY r.row, r.source
), other AS (
    SELECT r.source, CASE WHEN regexp_full_match(c.code, '[^\\s]{1,32}')
        THEN coalesce(c.system, '') || '|' || c.code ELSE coalesce(c.system, '') || '|(text)' END AS code,
        count(*) AS count
    FROM per_row r JOIN coding c USING (row)
    WHERE NOT r.member AND c.code IS NOT NULL AND (c.system IS NULL OR c.system NOT IN (SELECT system FROM wanted))
    GROUP BY ALL
), named AS (
    SELECT source, list(code || ' (' || count || ')' ORDER BY count DESC, code)[1:$most] AS codes
    FROM other GROUP BY source
)
SELECT source, count(*) AS resources, count(*) FILTER (coded) AS coded, count(*) FILTER (member) AS member,
    count(*) FILTER (coded AND NOT coalesce(standard, false)) AS local, any_value(n.codes) AS codes
FROM per_row LEFT JOIN named n USING (source) GROUP BY source ORDER BY source
"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Codes in the resources of one type of one source, against a set of codes.

    Of ``resources``, ``coded`` have any code and ``member`` one of the set; ``local`` have codes, but none of a code
    system of the set. The rest has a text or nothing. ``unmapped`` are the most frequent codes of other systems where
    no code is of the set, with counts.
    """

    source: str
    resources: int
    coded: int
    member: int
    local: int
    unmapped: tuple[str, ...]

    @property
    def uncoded(self) -> int:
        """Resources without any code."""
        return self.resources - self.coded


def coverage(rows: pa.Table, column: str, wanted: Iterable[Code]) -> list[Coverage]:
    """Coverage by source of ``rows`` (``_source`` and ``column``: a code, Coding or CodeableConcept, or a list)."""
    wanted = sorted(set(wanted))
    at, systems, codes = codings(rows.column(column).combine_chunks())
    with duckdb.connect() as work:
        work.register("resource", pa.table({"row": np.arange(rows.num_rows), "source": rows["_source"]}))
        work.register("coding", pa.table({"row": at, "system": systems, "code": codes}))
        work.register(
            "wanted",
            pa.table(
                {
                    "system": pa.array([system for system, _ in wanted], pa.string()),
                    "code": pa.array([code for _, code in wanted], pa.string()),
                }
            ),
        )
        found = work.execute(_COVERAGE, {"most": MOST_FREQUENT}).fetchall()
    return [Coverage(*row, tuple(codes or ())) for *row, codes in found]  # type: ignore[call-arg]  # six columns


def codings(column: pa.Array) -> tuple[NDArray[np.int64], pa.Array, pa.Array]:
    """All codings of a column: number of the row, system and code; a plain code has no system."""
    rows = np.arange(len(column))
    while True:
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            rows, column = np.repeat(rows, lengths), column.flatten()
        elif pa.types.is_struct(kind):
            parts = dict(zip((field.name for field in kind), column.flatten(), strict=True))
            if "coding" in parts:
                column = parts["coding"]
            else:
                return rows, parts["system"], parts["code"]
        else:
            return rows, pa.nulls(len(column), pa.string()), column.cast(pa.string())
