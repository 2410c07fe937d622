"""Admissions, discharges and emergency visits out of Encounters: once per event, however many sources tell of it."""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

#: What an Encounter says has happened: ``encounter`` is ``source/id``, ``event`` numbers what is the same event.
HAPPENED = pa.schema(
    [
        ("encounter", pa.string()),
        ("kind", pa.string()),
        ("event", pa.int64()),
        ("stands", pa.bool_()),
        ("member", pa.string()),
        ("day", pa.date32()),
        ("told", pa.bool_()),
    ]
)

_HAPPENED = """
WITH begun AS (
    SELECT e._source || '/' || e.id AS encounter, e._member AS member, v.event, v.stands, e.status,
        e.class.code IN ('IMP', 'ACUTE', 'NONAC') AS inpatient, e.class.code = 'EMER' AS emergency,
        try_cast(e.period.start[1:10] AS DATE) AS first, try_cast(e.period."end"[1:10] AS DATE) AS last
    FROM encounters e JOIN events v USING (_source, id)
    WHERE e._member IS NOT NULL AND e.status IN ('arrived', 'triaged', 'in-progress', 'onleave', 'finished')),
happened AS (
    SELECT encounter, 'admission' AS kind, event, stands, member, first AS day FROM begun WHERE inpatient
    UNION ALL
    SELECT encounter, 'discharge', event, stands, member, last FROM begun WHERE inpatient AND status = 'finished'
    UNION ALL
    SELECT encounter, 'emergency-visit', event, stands, member, first FROM begun WHERE emergency)
SELECT h.*, t.encounter IS NOT NULL AS told FROM happened h LEFT JOIN told t USING (encounter, kind)
WHERE h.day IS NOT NULL AND h.day BETWEEN $since AND $day ORDER BY kind, day, encounter
"""


def happened(encounters: pa.Table, events: pa.Table, told: pa.Table, since: date, day: date) -> pa.Table:
    """What happened between two days (both included), as ``HAPPENED``; ``told``: encounter and kind told before.

    ``encounters`` as the lake gives them (``identity.encounters.PATHS``), ``events`` of ``same_events`` over them.
    """
    with duckdb.connect() as work:
        for name, table in (("encounters", encounters), ("events", events), ("told", told)):
            work.register(name, table)
        return work.sql(_HAPPENED, params={"since": since, "day": day}).to_arrow_table().cast(HAPPENED)


def to_tell(found: pa.Table) -> pa.Table:
    """Of ``HAPPENED`` the rows to tell: of each event and kind that nobody was told of the copy that stands for it."""
    with duckdb.connect() as work:
        work.register("found", found)
        return (
            work.sql("""
            SELECT * FROM (SELECT *, bool_or(told) OVER (PARTITION BY event, kind) AS known,
                row_number() OVER (PARTITION BY event, kind ORDER BY stands DESC, encounter) AS place FROM found)
            WHERE NOT known AND place = 1 ORDER BY kind, day, encounter
        """)
            .to_arrow_table()
            .select(HAPPENED.names)
            .cast(HAPPENED)
        )
