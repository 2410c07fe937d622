"""Reasons that follow from visits, stays and scores, in columns; those of gaps come from their own rooms."""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.outreach.models import ITEMS

#: Days within which somebody who left hospital or an emergency department is to be seen.
FOLLOW_UP_DAYS = 30

_MISSED = """
SELECT m.member, 'missed-visit' AS reason, '' AS detail, 'visits' AS scope,
    coalesce('last office visit ' || max(o.day), 'no office visit known') AS text, NULL::DATE AS until
FROM members m LEFT JOIN office o ON o.member = m.member AND o.day <= $day
GROUP BY m.member HAVING max(o.day) IS NULL OR max(o.day) < $day - to_months($months) ORDER BY m.member
"""
_DISCHARGED = """
SELECT s.member, 'follow-up-discharge' AS reason, s.stay AS detail, 'visits' AS scope,
    'discharged ' || s.discharged AS text, s.discharged + $within AS until
FROM stays s WHERE s.discharged BETWEEN $day - $within AND $day AND s.died IS NOT TRUE
    AND NOT EXISTS (FROM office o WHERE o.member = s.member AND o.day > s.discharged AND o.day <= $day)
    AND NOT EXISTS (FROM stays l WHERE l.member = s.member AND l.admitted >= s.discharged AND l.stay <> s.stay
        AND l.admitted <= $day)
ORDER BY s.member, s.stay
"""
_EMERGENCY = """
SELECT e.member, 'follow-up-emergency' AS reason, e.day::VARCHAR AS detail, 'visits' AS scope,
    'emergency department ' || e.day AS text, e.day + $within AS until
FROM emergency e WHERE e.day BETWEEN $day - $within AND $day
    AND NOT EXISTS (FROM office o WHERE o.member = e.member AND o.day > e.day AND o.day <= $day)
    AND NOT EXISTS (FROM stays s WHERE s.member = e.member AND s.admitted BETWEEN e.day AND e.day + 1)
QUALIFY row_number() OVER (PARTITION BY e.member ORDER BY e.day DESC) = 1 ORDER BY e.member
"""


def missed_visits(members: pa.Array, office: pa.Table, day: date, months: int) -> pa.Table:
    """Members without an office visit (``member``, ``day``) in the months before a day, as ``ITEMS``."""
    with duckdb.connect() as work:
        work.register("members", pa.table({"member": members}))
        work.register("office", office)
        return work.sql(_MISSED, params={"day": day, "months": months}).to_arrow_table().cast(ITEMS)


def follow_ups(stays: pa.Table, emergency: pa.Table, office: pa.Table, day: date) -> pa.Table:
    """Who left hospital or an emergency department within 30 days and was not seen since, as ``ITEMS``.

    Who is back in hospital has nobody to be called for; an emergency visit that led to a stay is that stay's.
    """
    with duckdb.connect() as work:
        for name, table in (("stays", stays), ("emergency", emergency), ("office", office)):
            work.register(name, table)
        params = {"day": day, "within": FOLLOW_UP_DAYS}
        return pa.concat_tables(
            [work.sql(query, params=params).to_arrow_table().cast(ITEMS) for query in (_DISCHARGED, _EMERGENCY)]
        )
