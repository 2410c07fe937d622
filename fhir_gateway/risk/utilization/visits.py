"""Visits out of claims: emergency department, observation, office, urgent care; one per person, day and place.

An ED visit is one per person, day and facility: revenue 045x or 0981, CPT 99281-99285, place of service 23. What a
professional bills on the days of a facility's ED claim is that visit. It was ``admitted`` when its claim is an
inpatient one, or a stay began on one of its days (or was under way). Source: NUBC, CPT; HEDIS EDU and MSSP count alike
(trust M).
"""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.risk.utilization.lines import connect
from fhir_gateway.risk.utilization.rules import Rules, any_of
from fhir_gateway.risk.utilization.stays import find_stays

#: A row per visit. ``kind``: ed, observation, office, transitional, urgent-care, ambulatory. Provider columns: who
#: rendered it (of a facility's ED visit the facility). ``low_acuity``: every ED level of the visit is 1 to 3, and there
#: is one. ``observed``: there was observation of the person on its days.
VISIT_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("kind", pa.string()),
        ("day", pa.date32()),
        ("claim", pa.string()),
        ("provider", pa.string()),
        ("organization", pa.string()),
        ("tin", pa.string()),
        ("npi", pa.string()),
        ("diagnosis", pa.string()),
        ("admitted", pa.bool_()),
        ("observed", pa.bool_()),
        ("low_acuity", pa.bool_()),
        ("allowed", pa.decimal128(28, 8)),
        ("paid", pa.decimal128(28, 8)),
    ]
)

_FOUND = """
CREATE OR REPLACE TEMP TABLE visited AS
SELECT member, claim, claim_type, day, coalesce(claim_from, day) AS opened,
  greatest(coalesce(claim_thru, day), coalesce(service_thru, day)) AS closed, provider, organization, tin, npi,
  diagnosis,
  CASE WHEN procedure BETWEEN '99281' AND '99285' AND length(procedure) = 5 THEN procedure[5:5] END AS level,
  coalesce(allowed, 0) AS allowed, coalesce(paid, 0) AS paid, {flags}
FROM line WHERE ({any_kind}) AND day BETWEEN $first AND $last
"""

# days of a claim that its lines lie outside of say nothing of the visit
_ED = """
CREATE OR REPLACE TEMP TABLE ed_visit AS
WITH claims AS (
  SELECT member, day, claim_type <> 'professional' AS facility, bool_or(claim_type = 'inpatient') AS inpatient,
    CASE WHEN claim_type = 'professional' THEN '' ELSE coalesce(provider, '') END AS place, min(claim) AS claim,
    max(CASE WHEN day BETWEEN opened AND closed AND closed - opened <= 30 THEN closed ELSE day END) AS until,
    min(provider) AS provider, min(organization) AS organization, min(tin) AS tin, min(npi) AS npi,
    min_by(diagnosis, (claim, diagnosis)) AS diagnosis, max(level) AS level, sum(allowed) AS allowed, sum(paid) AS paid
  FROM visited WHERE is_ed GROUP BY ALL
), facility AS (
  SELECT * FROM claims WHERE facility
), alone AS (
  SELECT p.* FROM claims p WHERE NOT facility AND NOT EXISTS (
    SELECT 1 FROM facility f WHERE f.member = p.member AND p.day BETWEEN f.day AND f.until)
), helped AS (
  SELECT f.member, f.day, f.place, max(p.level) AS level
  FROM facility f JOIN claims p ON p.member = f.member AND NOT p.facility AND p.day BETWEEN f.day AND f.until
  GROUP BY ALL
), visits AS (
  SELECT f.* REPLACE (greatest(f.level, h.level) AS level)
  FROM facility f LEFT JOIN helped h ON h.member = f.member AND h.day = f.day AND h.place = f.place
  UNION ALL BY NAME SELECT * FROM alone
)
SELECT v.*, v.inpatient OR EXISTS (
    SELECT 1 FROM stay s WHERE s.member = v.member AND s.kind NOT IN ('snf', 'ancillary', 'hospice')
      AND (s.admitted BETWEEN v.day AND v.until OR v.day BETWEEN s.admitted AND s.discharged - 1)) AS admitted,
  EXISTS (SELECT 1 FROM visited o WHERE o.is_observation AND o.member = v.member
    AND o.day BETWEEN v.day AND greatest(v.until, v.day + 1)) AS observed
FROM visits v
"""

_VISITS = """
CREATE OR REPLACE TEMP TABLE visit AS
WITH found AS (
  SELECT member, 'ed' AS kind, day, claim, provider, organization, tin, npi, diagnosis, admitted, observed,
    coalesce(level <= '3', FALSE) AS low_acuity, allowed, paid
  FROM ed_visit
  UNION ALL
  SELECT member, 'observation', min(day), claim, min(provider), min(organization), min(tin), min(npi), min(diagnosis),
    FALSE, TRUE, FALSE, sum(allowed), sum(paid)
  FROM visited WHERE is_observation AND claim_type <> 'professional' GROUP BY member, claim
  {others}
)
SELECT * FROM found
"""

_OTHER = """
  UNION ALL
  SELECT member, '{kind}', day, min(claim), min(provider), min(organization), min(tin), npi,
    min_by(diagnosis, (claim, diagnosis)), FALSE, FALSE, FALSE, sum(allowed), sum(paid)
  FROM visited WHERE {flag} GROUP BY member, day, npi, CASE WHEN npi IS NULL THEN provider END
"""


def visits(lines: pa.Table, rules: Rules | None = None) -> pa.Table:
    """Visits (:data:`VISIT_SCHEMA`) out of claim lines (:data:`.lines.LINE_COLUMNS`), by member and day."""
    rules = rules or Rules.load()
    with connect(lines) as connection:
        find_stays(connection, rules)
        find_visits(connection, rules)
        found = connection.sql("SELECT * FROM visit ORDER BY member, day, kind, claim, provider").to_arrow_table()
    return found.select(VISIT_SCHEMA.names).cast(VISIT_SCHEMA)


def find_visits(
    connection: duckdb.DuckDBPyConnection, rules: Rules, first: date = date.min, last: date = date.max
) -> None:
    """Create the table ``visit`` of days from ``first`` to ``last`` out of the view ``line`` and the table ``stay``."""
    kinds = list(dict.fromkeys(rule.id for rule in rules.visits))
    flags = {kind: f"is_{kind.replace('-', '_')}" for kind in kinds}
    stated = ", ".join(f"{any_of(rules.visits, kind)} AS {flag}" for kind, flag in flags.items())
    any_kind = " OR ".join(any_of(rules.visits, kind) for kind in kinds)
    connection.execute(_FOUND.format(flags=stated, any_kind=any_kind), {"first": first, "last": last})
    connection.execute(_ED)
    others = "".join(
        _OTHER.format(kind=kind, flag=flag) for kind, flag in flags.items() if kind not in ("ed", "observation")
    )
    connection.execute(_VISITS.format(others=others))
    connection.execute("DROP TABLE visited; DROP TABLE ed_visit")  # of a million members they are gigabytes
