"""One event behind several Encounters: the copies that sources have of the same visit or stay.

The rule, for Encounters of one person:

1. Two Encounters of *different* sources may be copies; of one source they never are.
2. They are of the same setting: inpatient (``IMP``, ``ACUTE``, ``NONAC``), emergency (``EMER``), or any other.
3. Stays: their days overlap. Visits: they begin on the same day, and are the first, second ... of it at their source.
   An Encounter whose start is missing or has no day is nobody's copy.
4. Where both name an organization that is known by NPI or tax number (``lake.claims.directory``), it is the same.
5. Each Encounter has at most one copy in each other source: the one that overlaps longest, then begins closest. Where
   copies of copies would make two of one source an event, nobody there is a copy.

Entered in error or cancelled ones are nobody's copy. Which copy stands for an event: one that is finished before any
other status; then that of the first source in ``precedence``; then one whose start has a time of day, which clinical
systems know and claims do not; then that of the first source by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: Elements of Encounter that are looked at.
ELEMENTS = ("status", "class", "period", "serviceProvider")
PATHS = ("status", "class.code", "period.start", "period.end", "serviceProvider.reference")

EVENT_SCHEMA = pa.schema(
    [
        ("_source", pa.string()),
        ("id", pa.string()),
        ("event", pa.int64()),
        ("copies", pa.int64()),
        ("stands", pa.bool_()),
    ]
)

_VISITS = """
CREATE TEMP TABLE visit AS
SELECT e.row, e._member AS member, e._source AS source,
    CASE WHEN e.class.code IN ('IMP', 'ACUTE', 'NONAC') THEN 'inpatient'
        WHEN e.class.code = 'EMER' THEN 'emergency' ELSE 'other' END AS setting,
    TRY_CAST(e.period.start[1:10] AS DATE) AS first,
    coalesce(TRY_CAST(e.period.end[1:10] AS DATE), TRY_CAST(e.period.start[1:10] AS DATE)) AS last,
    coalesce(d.npi, d.tin) AS organization,
    row_number() OVER (PARTITION BY e._member, e._source, setting, first, organization ORDER BY e.period.start, e.id)
        AS nth
FROM encounter e LEFT JOIN directory d ON d.source = e._source AND d.reference = e.serviceProvider.reference
WHERE e._member IS NOT NULL AND e.status NOT IN ('entered-in-error', 'cancelled') AND length(e.period.start) >= 10;

CREATE TEMP TABLE pair AS
SELECT a.row AS a, b.row AS b, a.source AS one, b.source AS other,
    least(a.last, b.last) - greatest(a.first, b.first) AS overlap, abs(a.first - b.first) AS off
FROM visit a JOIN visit b ON a.member = b.member AND a.setting = b.setting AND a.source <> b.source
WHERE (CASE WHEN a.setting = 'inpatient' THEN a.first <= b.last AND b.first <= a.last
        ELSE a.first = b.first AND a.nth = b.nth END)
    AND (a.organization = b.organization) IS NOT FALSE;

CREATE TEMP TABLE best AS
SELECT a, b FROM pair QUALIFY row_number() OVER (PARTITION BY a, other ORDER BY overlap DESC, off, b) = 1;
"""

_EVENTS = """
SELECT e._source, e.id, g.event, count(*) OVER (PARTITION BY g.event) AS copies,
    row_number() OVER (PARTITION BY g.event ORDER BY (e.status = 'finished') IS NOT TRUE,
        coalesce(p.rank, 1000000), (length(e.period.start) > 10) IS NOT TRUE, e._source, e.id) = 1 AS stands
FROM encounter e JOIN grouped g USING (row) LEFT JOIN precedence p ON p.source = e._source ORDER BY e.row
"""


def same_events(encounters: pa.Table, directory: pa.Table, precedence: Sequence[str] = ()) -> pa.Table:
    """Rows of ``EVENT_SCHEMA``, one per Encounter: its event, how many copies that has, and whether it stands for it.

    ``encounters`` has ``_source``, ``id``, ``_member`` and :data:`ELEMENTS` (or the parts of them in :data:`PATHS`) as
    the lake gives them, ``directory`` is
    that of :func:`fhir_gateway.lake.claims.directory`. Events are numbered in the order of rows.
    """
    rows = np.arange(encounters.num_rows)
    with duckdb.connect() as work:
        wanted = encounters.select(["_source", "id", "_member", *ELEMENTS])
        work.register("encounter", wanted.append_column("row", pa.array(rows)))
        work.register("directory", directory)
        named = list(precedence)
        work.register("precedence", pa.table({"source": pa.array(named, pa.string()), "rank": range(len(named))}))
        for statement in _VISITS.split(";\n"):
            if statement.strip():
                work.execute(statement)
        # a copy is mutual: each is the other's best in its source
        found = work.execute("SELECT a, b FROM best WHERE (b, a) IN (SELECT (a, b) FROM best) AND a < b").fetchnumpy()
        ends = np.stack([found["a"], found["b"]])
        labels = _components(ends, len(rows))
        sources = wanted["_source"].combine_chunks().dictionary_encode().indices.to_numpy()
        pairs, count = np.unique(np.stack([labels, sources]), axis=1, return_counts=True)
        ends = ends[:, ~np.isin(labels[ends[0]], pairs[0][count > 1])]
        labels = _components(ends, len(rows))
        _, first, number = np.unique(labels, return_index=True, return_inverse=True)
        events = np.argsort(np.argsort(first))[number] if len(rows) else labels
        work.register("grouped", pa.table({"row": rows, "event": events.astype(np.int64)}))
        return work.sql(_EVENTS).to_arrow_table().cast(EVENT_SCHEMA)


def _components(ends: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    graph = coo_array((np.ones(ends.shape[1], dtype=np.int8), (ends[0], ends[1])), shape=(count, count))
    _, labels = connected_components(graph.tocsr(), directed=False)
    return np.asarray(labels, dtype=np.int64)
