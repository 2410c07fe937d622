"""Who the members are to risk adjustment: out of Patient and Coverage, and a table for what FHIR does not carry.

Age and sex are the Patient's. Medicare's own Coverage resources (Blue Button, BCDA) carry the reasons of entitlement,
the dual status of each month, the Medicare status and the reference year as extensions named after the variables of
CMS; CARIN and US Core have no place for them. A new enrollee has fewer than twelve covered months in the year before;
nothing is concluded about whom there is no Coverage of. Long-term institutional status and special needs plans are in
no FHIR resource: they come by the table.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.risk.hcc.demographics import MEMBER_SCHEMA, age_on_first_february

#: Columns of Coverage that are looked at.
RISK_COVERAGE_COLUMNS = ("status", "extension")
_STATED = tuple(name for name in MEMBER_SCHEMA.names if name not in ("member", "age", "sex"))
#: What may be stated about a member in a payment year; what is null stays as the resources say.
STATED_SCHEMA = pa.schema(
    [("member", pa.string()), ("year", pa.int64()), *((name, MEMBER_SCHEMA.field(name).type) for name in _STATED)]
)
MONTHS_SCHEMA = pa.schema([("member", pa.string()), ("months", pa.float64())])

#: SQL of two expressions of a WITH clause: ``dated`` has member, coverage, name, value and year (0: not said) of each
#: variable of CMS in the table ``coverage``.
VARIABLES = """
variables AS (
  SELECT _member AS member, _source || '/' || id AS coverage,
    lower(regexp_extract(e.url, '[^/]+$')) AS name,
    coalesce(e.valueCoding.code, e.valueCodeableConcept.coding[1].code, e.valueCode, e.valueString, e.valueDate,
      e.valueInteger::VARCHAR) AS value
  FROM (SELECT _member, _source, id, unnest(extension) AS e FROM coverage
    WHERE _member IS NOT NULL AND coalesce(status, 'active') NOT IN ('cancelled', 'entered-in-error', 'draft'))
  WHERE e.url LIKE 'https://bluebutton.cms.gov/resources/variables/%'
), dated AS (
  SELECT member, coverage, name, value, coalesce(
    try_cast(any_value(value) FILTER (name = 'rfrnc_yr') OVER (PARTITION BY coverage) AS INTEGER), 0) AS year
  FROM variables
)
"""

# Of dual status that of January of the payment year counts, else of the month nearest to it: in the payment year the
# first one that is known, in a year before it the last. Medicare status 11, 21 and 31 are those with ESRD.
_QUERY = f"""
WITH {VARIABLES}, valued AS (
  SELECT *, CASE WHEN name LIKE 'dual_%' AND year = $year THEN -try_cast(name[6:] AS INTEGER)
    WHEN name LIKE 'dual_%' THEN try_cast(name[6:] AS INTEGER) ELSE 0 END AS place
  FROM dated WHERE year <= $year AND value IS NOT NULL AND value NOT IN ('', 'NA', '99', '**')
), said AS (
  SELECT member,
    arg_max(value, (year, place, coverage)) FILTER (name = 'orec') AS orec,
    arg_max(value, (year, place, coverage)) FILTER (name = 'crec') AS crec,
    arg_max(value, (year, place, coverage)) FILTER (name SIMILAR TO 'dual_[0-9]{{2}}') AS dual,
    bool_or(value IN ('11', '21', '31')) FILTER (name = 'ms_cd') AS ms_esrd,
    bool_or(upper(value) IN ('Y', '1')) FILTER (name IN ('esrd_ind', 'esrd_indicator')) AS esrd
  FROM valued GROUP BY member
)
SELECT p.member, p.birth_date, CASE p.gender WHEN 'male' THEN 'M' WHEN 'female' THEN 'F' END AS sex,
  coalesce(t.orec, s.orec) AS orec, coalesce(t.crec, s.crec) AS crec,
  coalesce(t.dual, CASE WHEN length(s.dual) = 1 THEN '0' || s.dual ELSE s.dual END) AS dual,
  t.lti, coalesce(t.new_enrollee, m.months < 12) AS new_enrollee, t.snp,
  coalesce(t.esrd, s.esrd OR s.ms_esrd, s.esrd, s.ms_esrd) AS esrd, t.segment
FROM people p LEFT JOIN said s USING (member) LEFT JOIN months m USING (member)
LEFT JOIN stated t ON t.member = p.member AND t.year = $year
WHERE p.died IS NULL OR p.died >= make_date($year, 1, 1)
ORDER BY p.member
"""  # noqa: S608 the words spliced in are ours


def risk_members(people: pa.Table, coverage: pa.Table, months: pa.Table, stated: pa.Table, year: int) -> pa.Table:
    """Members (:data:`MEMBER_SCHEMA`) of a payment year; who died before it is left out.

    ``people`` has ``member``, ``birth_date``, ``gender`` and ``died``; ``coverage`` is what the lake gives for
    :data:`RISK_COVERAGE_COLUMNS`; ``months`` (:data:`MONTHS_SCHEMA`) are months covered in the year before, of all
    who have a Coverage; ``stated`` (:data:`STATED_SCHEMA`) has at most one row for a member and year.
    """
    with duckdb.connect() as connection:
        for name, table in {"people": people, "coverage": coverage, "months": months, "stated": stated}.items():
            connection.register(name, table)
        found = connection.sql(_QUERY, params={"year": year}).to_arrow_table()
    ages = age_on_first_february(found["birth_date"], year)
    columns = [found[name] if name != "age" else ages for name in MEMBER_SCHEMA.names]
    return pa.table(columns, names=MEMBER_SCHEMA.names).cast(MEMBER_SCHEMA)
