"""One row per person: all reasons together, ranked, with how the person is reached."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.outreach.models import PRIORITIES, REASONS

# Several reasons of one kind (gaps) count up to three times: a person with ten open gaps is called once.
_PEOPLE = """
WITH pointed AS (
    SELECT i.*, p.points, p.label FROM items i JOIN points p USING (reason)),
kinds AS (
    SELECT member, reason, max(points) * least(count(*), 3) AS points FROM pointed GROUP BY member, reason),
ranked AS (SELECT member, sum(points)::INT AS rank FROM kinds GROUP BY member),
listed AS (
    SELECT member, list({'item': id, 'reason': reason, 'text': label || ': ' || text, 'state': state, 'until': until}
        ORDER BY points DESC, reason, detail) AS reasons FROM pointed GROUP BY member)
SELECT member, rank, CASE {priorities} END AS priority, c.family, c.given, c.birth_date, c.phone, c.sms, c.email,
    c.language, reasons
FROM ranked JOIN listed USING (member) LEFT JOIN contacts c USING (member) ORDER BY rank DESC, member
"""


def people(items: pa.Table, contacts: pa.Table) -> pa.Table:
    """A row per person with something left to do, the most pressing first.

    ``items``: id, member, reason, detail, text, until, state; ``contacts`` of :mod:`fhir_gateway.outreach.contact`.
    """
    priorities = " ".join(f"WHEN rank >= {least} THEN '{name}'" for name, least in PRIORITIES)
    points = pa.table(
        {
            "reason": list(REASONS),
            "points": [one for one, _ in REASONS.values()],
            "label": [one for _, one in REASONS.values()],
        }
    )
    with duckdb.connect() as work:
        for name, table in (("items", items), ("contacts", contacts), ("points", points)):
            work.register(name, table)
        return work.sql(_PEOPLE.replace("{priorities}", priorities)).to_arrow_table()
