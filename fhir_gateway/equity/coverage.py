"""Payer, dual status and low-income subsidy out of Coverage rows and imported eligibility, as of a day."""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.equity.tables import ELIGIBILITY_SCHEMA

#: What is read of Coverage.
COVERAGE_COLUMNS = (
    *("status", "period.start", "period.end", "type.coding.code", "type.coding.system", "type.text"),
    *("extension.url", "extension.valueCoding.code", "extension.valueCode", "extension.valueString"),
)

#: SQL: who pays, by ``system``, ``code`` and ``words`` of a type.
#: Source of Payment Typology (NAHDO): the first digit is the kind of payer. Others are codes and words in use.
PAYER = """
CASE WHEN system LIKE '%nahdo.org/sopt%' OR system LIKE '%2.16.840.1.113883.3.221.5%' THEN
    CASE code[1] WHEN '1' THEN 'medicare' WHEN '2' THEN 'medicaid' WHEN '3' THEN 'other-government'
      WHEN '4' THEN 'other-government' WHEN '5' THEN 'commercial' WHEN '6' THEN 'commercial' WHEN '8' THEN 'self-pay'
      WHEN '9' THEN CASE WHEN code LIKE '99%' THEN NULL ELSE 'other' END ELSE 'other' END
  WHEN code = 'SUBSIDIZ' OR regexp_matches(lower(words), 'medicaid|medi-cal|\\bchip\\b') THEN 'medicaid'
  WHEN regexp_matches(lower(words), 'medicare|part[- ]?[abcd]\\b|\\bma-?pd\\b') OR code IN ('MCR', 'MA', 'MB')
    THEN 'medicare'
  WHEN code IN ('EHCPOL', 'HMO', 'PPO', 'POS', 'HSAPOL') OR regexp_matches(lower(words), 'commercial|employer|private')
    THEN 'commercial'
  WHEN code IN ('PUBLICPOL', 'VET', 'MILITARY', 'TRICARE')
    OR regexp_matches(lower(words), 'tricare|veteran|indian health') THEN 'other-government'
  WHEN code = 'pay' OR regexp_matches(lower(words), 'self[- ]?pay|uninsured') THEN 'self-pay' END
"""

# Dual status codes of Medicare (02, 04, 08 full; 01, 03, 05, 06 partial; 00, NA none), a variable for each month.
_SQL = f"""
WITH active AS (
  SELECT * FROM coverage WHERE _member IS NOT NULL AND coalesce(status, 'active') IN ('active', 'draft')
    AND coalesce(period.start[1:10], '0000') <= $day AND coalesce(period.end[1:10] || '~', '9999') >= $day
), typed AS (
  SELECT _member AS member, c.code AS code, coalesce(c.system, '') AS system,
    coalesce(c.code, '') || ' ' || coalesce(t, '') AS words
  FROM (SELECT _member, unnest(coalesce(type.coding, [NULL])) AS c, type.text AS t FROM active)
), payers AS (
  SELECT member, {PAYER} AS payer FROM typed
), payer AS (
  SELECT member, list_contains(found, 'medicare') AS medicare, list_contains(found, 'medicaid') AS medicaid,
    CASE WHEN medicare AND medicaid THEN 'dual' WHEN medicare THEN 'medicare' WHEN medicaid THEN 'medicaid'
      WHEN list_contains(found, 'commercial') THEN 'commercial' ELSE found[1] END AS payer
  FROM (SELECT member, list_sort(list(DISTINCT payer) FILTER (payer IS NOT NULL)) AS found FROM payers GROUP BY member)
), extensions AS (
  SELECT _member AS member, e.url AS url, coalesce(e.valueCoding.code, e.valueCode, e.valueString) AS code
  FROM (SELECT _member, unnest(extension) AS e FROM coverage WHERE _member IS NOT NULL)
), said AS (
  SELECT member,
    max(code) FILTER (regexp_matches(url, 'variables/dual_' || $month || '$')) AS dual,
    max(code) FILTER (regexp_matches(url, 'variables/(cst_shr|rdsind|lis)[a-z_]*_?' || $month || '$')) AS cost_share
  FROM extensions GROUP BY member
), imported AS (
  SELECT member, arg_max(dual_status, since) AS dual, arg_max(lis, since) AS lis, arg_max(disabled, since) AS disabled
  FROM eligibility WHERE since <= $day::DATE AND (until IS NULL OR until >= $day::DATE) GROUP BY member
)
SELECT m.member, p.payer,
  CASE WHEN coalesce(i.dual, s.dual) IN ('02', '04', '08', '2', '4', '8') THEN 'full'
    WHEN coalesce(i.dual, s.dual) IN ('01', '03', '05', '06', '1', '3', '5', '6') THEN 'partial'
    WHEN coalesce(i.dual, s.dual) IS NOT NULL THEN 'no'
    WHEN p.medicare AND p.medicaid THEN 'full' WHEN p.payer IS NOT NULL THEN 'no' END AS dual,
  coalesce(i.lis, CASE WHEN s.cost_share IS NULL THEN NULL ELSE s.cost_share IN ('01', '02', '03') END) AS lis,
  i.disabled
FROM members m LEFT JOIN payer p USING (member) LEFT JOIN said s USING (member) LEFT JOIN imported i USING (member)
ORDER BY m.member
"""  # noqa: S608 the words spliced in are ours


def coverage_of(members: pa.Array, coverage: pa.Table, eligibility: pa.Table | None, on: date) -> pa.Table:
    """member, payer, dual (codes), lis and disabled (bool); null where nothing says so.

    Whoever has Medicare and Medicaid at once, and no dual status code, is taken for fully dual; whoever has a known
    payer and no such code, for not dual. ``eligibility`` (:data:`fhir_gateway.equity.tables.ELIGIBILITY_SCHEMA`) is
    what was imported, and goes first.
    """
    with duckdb.connect() as connection:
        connection.register("members", pa.table({"member": members}))
        connection.register("coverage", coverage)
        connection.register("eligibility", ELIGIBILITY_SCHEMA.empty_table() if eligibility is None else eligibility)
        days = {"day": on.isoformat(), "month": f"{on.month:02}"}
        return connection.sql(_SQL, params=days).to_arrow_table()
