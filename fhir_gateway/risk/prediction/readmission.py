"""What the readmission model learns from: a row per stay with what was known at discharge, and what came in 30 days.

A stay counts when somebody of 18 or more (or of unknown age) left it alive. The next stay that begins within 30 days
decides: planned by CMS's algorithm on its claim, or elective by its own words, it is no readmission and nothing after
it is looked at. Stays are those of ``inputs``: transfers and copies are one.
"""

from __future__ import annotations

from datetime import date, timedelta

import duckdb
import pyarrow as pa

from fhir_gateway.risk.prediction.inputs import Inputs
from fhir_gateway.risk.prediction.targets import READMISSION

DAYS = 30
"""A readmission is within so many days of a discharge."""
#: Claim stays that CMS's algorithm judges to be planned.
PLANNED = pa.schema([("member", pa.string()), ("admitted", pa.date32())])

_ROWS = """
WITH following AS (
    SELECT *, lead(admitted) OVER w AS next_admitted, lead(emergent) OVER w AS next_emergent,
        admitted - lag(discharged) OVER w AS days_since
    FROM stays WINDOW w AS (PARTITION BY member ORDER BY admitted, discharged, stay)),
chosen AS (
    SELECT f.*, p.birth_date, p.gender, p.died AS death FROM following f JOIN persons p USING (member)
    WHERE f.discharged BETWEEN $since AND $until AND f.died IS NOT TRUE
        AND (p.died IS NULL OR p.died > f.discharged)
        AND (p.birth_date IS NULL OR date_sub('year', p.birth_date, f.admitted) >= 18)),
planned_next AS (
    SELECT DISTINCT c.stay FROM chosen c JOIN planned p ON p.member = c.member
        AND abs(p.admitted - c.next_admitted) <= 1),
earlier AS (
    SELECT c.stay, count(*) AS number FROM chosen c JOIN stays e ON e.member = c.member
        AND e.admitted >= c.admitted - 365 AND e.admitted < c.admitted GROUP BY c.stay),
emergency_before AS (
    SELECT c.stay, count(DISTINCT v.day) AS number FROM chosen c JOIN emergency v ON v.member = c.member
        AND v.day >= c.admitted - 180 AND v.day < c.admitted GROUP BY c.stay),
office_before AS (
    SELECT c.stay, count(DISTINCT v.day) AS number FROM chosen c JOIN office v ON v.member = c.member
        AND v.day >= c.admitted - 365 AND v.day < c.admitted GROUP BY c.stay),
operations AS (
    SELECT DISTINCT c.stay FROM chosen c JOIN procedures o ON o.member = c.member
        AND o.day BETWEEN c.admitted AND c.discharged),
last_labs AS (
    SELECT c.stay, l.analyte, arg_max(l.value, l.at) AS value FROM chosen c JOIN labs l ON l.member = c.member
        AND l.value IS NOT NULL AND try_cast(l.at[1:10] AS DATE) BETWEEN c.admitted AND c.discharged GROUP BY ALL)
SELECT c.stay, c.member, c.discharged, c.next_admitted, c.death,
    date_sub('year', c.birth_date, c.discharged)::DOUBLE AS age, (c.gender = 'male')::DOUBLE AS male,
    (c.discharged - c.admitted)::DOUBLE AS days, c.emergent::DOUBLE AS emergent,
    coalesce(c.oncology, FALSE)::DOUBLE AS oncology, h.value AS haemoglobin, n.value AS sodium,
    (o.stay IS NOT NULL)::DOUBLE AS operated, coalesce(e.number, 0)::DOUBLE AS admissions,
    c.days_since::DOUBLE AS days_since_discharge, coalesce(v.number, 0)::DOUBLE AS emergency,
    coalesce(f.number, 0)::DOUBLE AS office, k.value::DOUBLE AS charlson, x.value::DOUBLE AS elixhauser,
    (coalesce(c.next_admitted - c.discharged BETWEEN 0 AND $days, FALSE) AND c.next_emergent IS NOT FALSE
        AND q.stay IS NULL)::DOUBLE AS {outcome}
FROM chosen c LEFT JOIN planned_next q USING (stay) LEFT JOIN earlier e USING (stay)
LEFT JOIN emergency_before v USING (stay) LEFT JOIN office_before f USING (stay) LEFT JOIN operations o USING (stay)
LEFT JOIN last_labs h ON h.stay = c.stay AND h.analyte = 'haemoglobin'
LEFT JOIN last_labs n ON n.stay = c.stay AND n.analyte = 'sodium'
LEFT JOIN charlson k ON k.key = c.stay LEFT JOIN elixhauser x ON x.key = c.stay
ORDER BY c.member, c.discharged, c.stay
"""


def stay_rows(
    persons: pa.Table,
    inputs: Inputs,
    planned: pa.Table,
    charlson: pa.Table,
    elixhauser: pa.Table,
    since: date,
    until: date,
) -> pa.Table:
    """Stays that ended between two days (both included): stay, member, discharged, next_admitted, death, features,
    outcome.

    ``charlson`` and ``elixhauser`` are by stay, as of its discharge; ``planned`` is ``PLANNED``. The outcome of stays
    that ended less than 30 days before what is known ends is not to be learned from: that is the caller's to see to.
    """
    scores = {"planned": planned, "charlson": charlson, "elixhauser": elixhauser}
    visits = {"stays": inputs.stays, "emergency": inputs.emergency, "office": inputs.office}
    tables = {"persons": persons, "procedures": inputs.procedures, "labs": inputs.labs, **scores, **visits}
    with duckdb.connect() as work:
        for name, table in tables.items():
            work.register(name, table)
        params = {"since": since, "until": until, "days": DAYS}
        return work.sql(_ROWS.replace("{outcome}", READMISSION), params=params).to_arrow_table()


def windows(day: date) -> tuple[tuple[date, date], tuple[date, date]]:
    """First and last discharges of two years that are known 30 days on as of the eve of a day: to learn, to judge."""
    last = day - timedelta(DAYS + 1)
    middle = last - timedelta(365)
    return (middle - timedelta(364), middle), (middle + timedelta(1), last)
