"""Enrolment types of Medicare by month, out of Coverage: ESRD, disabled, aged and dual eligible, aged and not.

42 CFR 425.601(a)(2): a month has one type, the first that holds in this order. Medicare's own Coverage resources
carry the Medicare status of a year and the dual status of each month as extensions named after the variables of CMS.
Without a status the disabled are those below 65; without a dual status whoever is in Medicaid on the month's first day
is dual, and whoever is not counts as not dual. How many months rest on what is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.benchmarks.person_years import ENROLMENT_SCHEMA
from fhir_gateway.equity.coverage import PAYER
from fhir_gateway.risk.hcc.eligibility import VARIABLES

#: Columns of Coverage that are looked at.
ENROLMENT_COLUMNS = ("status", "extension", "period", "type")

# Medicare status 10 aged, 20 disabled, 11, 21 and 31 with ESRD; of dual status 01 to 06 and 08 are in Medicaid
_QUERY = f"""
WITH {VARIABLES}, status AS (
  SELECT member, year, max(value) FILTER (name = 'ms_cd') AS code, coalesce(
      bool_or(value IN ('11', '21', '31')) FILTER (name = 'ms_cd'),
      bool_or(upper(value) IN ('Y', '1')) FILTER (name IN ('esrd_ind', 'esrd_indicator'))) AS esrd
  FROM dated GROUP BY member, year
), dual AS (
  SELECT member, year, try_cast(name[6:] AS INTEGER) AS month, max(lpad(value, 2, '0')) AS code
  FROM dated WHERE name SIMILAR TO 'dual_[0-9]{{2}}' AND value IS NOT NULL AND value NOT IN ('', '99', '**')
  GROUP BY ALL
), typed AS (
  SELECT member, opened, closed, {PAYER} AS payer FROM (
    SELECT _member AS member, coalesce(try_cast((period.start || '-01-01')[1:10] AS DATE), DATE '0001-01-01') AS opened,
      coalesce(CASE length(period.end) WHEN 4 THEN try_cast(period.end || '-12-31' AS DATE)
        WHEN 7 THEN last_day(try_cast(period.end || '-01' AS DATE)) ELSE try_cast(period.end[1:10] AS DATE) END,
        DATE '9999-12-31') AS closed, c.code AS code,
      coalesce(c.system, '') AS system, coalesce(c.code, '') || ' ' || coalesce(text, '') AS words
    FROM (SELECT _member, period, unnest(coalesce(type.coding, [NULL])) AS c, type.text AS text FROM coverage
      WHERE _member IS NOT NULL AND status NOT IN ('cancelled', 'entered-in-error', 'draft')))
), medicaid AS (
  SELECT DISTINCT m.member, m.month FROM months m JOIN typed t USING (member)
  WHERE t.payer = 'medicaid' AND m.month BETWEEN t.opened AND t.closed
), known AS (
  SELECT m.member, m.month, coalesce(s.esrd, always.esrd) AS esrd, coalesce(s.code, always.code) AS status,
    d.code AS dual, a.member IS NOT NULL AS medicaid, p.birth_date
  FROM months m LEFT JOIN people p USING (member)
  LEFT JOIN status s ON s.member = m.member AND s.year = year(m.month)
  LEFT JOIN status always ON always.member = m.member AND always.year = 0 -- said without a year
  LEFT JOIN dual d ON d.member = m.member AND d.year = year(m.month) AND d.month = month(m.month)
  LEFT JOIN medicaid a ON a.member = m.member AND a.month = m.month
), judged AS (
  SELECT *, coalesce(esrd, FALSE) AS with_esrd, CASE WHEN status IS NOT NULL THEN status IN ('20', '21')
    ELSE coalesce(datesub('year', birth_date, month) < 65, FALSE) END AS disabled
  FROM known
)
SELECT member, month, CASE WHEN with_esrd THEN 'ESRD' WHEN disabled THEN 'DIS'
    WHEN coalesce(dual IN ('01', '02', '03', '04', '05', '06', '08'), medicaid) THEN 'AGDU' ELSE 'AGND' END AS type,
  CASE WHEN with_esrd OR (disabled AND status IS NOT NULL) THEN 'status' WHEN disabled THEN 'age'
    WHEN dual IS NOT NULL THEN 'dual' WHEN medicaid THEN 'medicaid' ELSE 'nothing' END AS by
FROM judged ORDER BY member, month
"""  # noqa: S608 the words spliced in are ours

_WORDS = {
    "status": "by Medicare status",
    "age": "below 65",
    "dual": "by dual status",
    "medicaid": "in Medicaid by Coverage",
    "nothing": "of whom nothing says they are dual",
}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Types by member and month (:data:`ENROLMENT_SCHEMA`), and what they rest on, in words."""

    table: pa.Table
    source: str


def enrolment_types(coverage: pa.Table, people: pa.Table, months: pa.Table) -> Enrolment:
    """Types of months (``member``, ``month`` as its first day); ``people`` have ``member`` and ``birth_date``.

    ``coverage`` is what the lake gives for :data:`ENROLMENT_COLUMNS`.
    """
    with duckdb.connect() as connection:
        for name, table in {"coverage": coverage, "people": people, "months": months}.items():
            connection.register(name, table)
        found = connection.sql(_QUERY).to_arrow_table()
        connection.register("found", found)
        counts = dict(connection.execute('SELECT "by", count(*) FROM found GROUP BY ALL').fetchall())
    rests = ", ".join(f"{counts[name]} {words}" for name, words in _WORDS.items() if name in counts)
    schema = pa.schema([field.with_nullable(True) for field in ENROLMENT_SCHEMA])
    return Enrolment(found.select(schema.names).cast(schema), f"Coverage: {rests or 'no month'}")
