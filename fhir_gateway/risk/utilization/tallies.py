"""What metrics count, by member: months, stays, visits, readmissions, cost. One table, added up in any breakdown."""

from __future__ import annotations

from datetime import date

import duckdb

from fhir_gateway.risk.utilization.rules import Rules, first_of

#: A tally: ``provider`` is who rendered it (null: it is of nobody), ``category`` that of cost.
_TALLY = """
CREATE OR REPLACE TEMP TABLE tally
  (member VARCHAR, tally VARCHAR, category VARCHAR, provider VARCHAR, quantity DECIMAL(28, 8))
"""

# age on the first of a month; of whom nobody knows it, no month is of an age
_MONTHS = """
INSERT INTO tally BY NAME
WITH aged AS (
  SELECT m.member, m.months, CASE WHEN m.month >= p.birth_date THEN
    (date_diff('month', p.birth_date, m.month) - (day(m.month) < day(p.birth_date))::INT) // 12 END AS age
  FROM month m SEMI JOIN roster USING (member) LEFT JOIN people p USING (member)
  WHERE m.month BETWEEN date_trunc('month', $start::DATE) AND $end
), summed AS (
  SELECT member, sum(months) AS months, coalesce(sum(months) FILTER (age >= 18), 0) AS adult,
    coalesce(sum(months) FILTER (age >= 40), 0) AS older,
    coalesce(sum(months) FILTER (age BETWEEN 18 AND 39), 0) AS younger
  FROM aged GROUP BY member
)
UNPIVOT (
  SELECT member, 1::DECIMAL(28, 8) AS "members", months::DECIMAL(28, 8) AS "member-months",
    adult::DECIMAL(28, 8) AS "adult-months", older::DECIMAL(28, 8) AS "months-40-plus",
    younger::DECIMAL(28, 8) AS "months-18-39", NULL::VARCHAR AS category, NULL::VARCHAR AS provider
  FROM summed WHERE months > 0
) ON "members", "member-months", "adult-months", "months-40-plus", "months-18-39" INTO NAME tally VALUE quantity
"""

_STAYS = """
INSERT INTO tally
SELECT member, one.t, NULL, provider, one.q FROM (
  SELECT member, provider, unnest(CASE
      WHEN kind = 'acute' THEN [{'t': 'admissions', 'q': 1}, {'t': 'acute-admissions', 'q': 1},
        {'t': 'acute-days', 'q': days}]
      WHEN kind = 'snf' THEN [{'t': 'snf-admissions', 'q': 1}, {'t': 'snf-days', 'q': days}]
      WHEN kind IN ('psychiatric', 'rehabilitation') THEN [{'t': 'admissions', 'q': 1}]
      ELSE [] END) AS one
  FROM stay SEMI JOIN roster USING (member) WHERE admitted BETWEEN $start AND $end
)
"""

_VISITS = """
INSERT INTO tally
WITH found AS (
  SELECT v.*, CASE WHEN kind = 'ed' OR kind = 'observation' THEN provider ELSE coalesce(npi, provider) END AS rendering
  FROM visit v SEMI JOIN roster USING (member) WHERE day BETWEEN $start AND $end
)
SELECT member, tally, NULL, rendering, 1 FROM (
  SELECT member, rendering, unnest(CASE kind
      WHEN 'ed' THEN ['ed-visits-all'] || CASE WHEN admitted THEN [] ELSE ['ed-visits',
        CASE WHEN observed THEN 'ed-visits-observed' ELSE 'ed-visits-unobserved' END] END
        || CASE WHEN low_acuity AND NOT admitted THEN ['ed-low-acuity'] ELSE [] END
      WHEN 'observation' THEN ['observation-stays']
      WHEN 'office' THEN ['office-visits']
      WHEN 'urgent-care' THEN ['urgent-care-visits']
      WHEN 'ambulatory' THEN ['ambulatory-visits'] ELSE [] END) AS tally
  FROM found
)
UNION ALL
SELECT f.member, unnest(['ed-avoidable', 'ed-visits-classified']), NULL, f.rendering, unnest([e.probability, 1])
FROM found f JOIN ed_probability e USING (diagnosis) WHERE f.kind = 'ed' AND NOT f.admitted
"""

_READMISSIONS = """
INSERT INTO tally
SELECT i.member, unnest(['index-stays'] || CASE WHEN readmitted THEN ['readmissions'] ELSE [] END
  || CASE WHEN unplanned THEN ['readmissions-unplanned'] ELSE [] END), NULL, i.provider, 1
FROM index_stay i SEMI JOIN roster USING (member) WHERE reason IS NULL
UNION ALL
SELECT f.member, unnest(['discharges-' || w.days] || CASE WHEN f.days <= w.days THEN ['follow-up-' || w.days]
  ELSE [] END), NULL, f.provider, 1
FROM follow_up f SEMI JOIN roster USING (member), (VALUES (7), (14), (30)) w (days)
WHERE f.discharged + w.days <= $through
UNION ALL
SELECT member, 'pqi-' || indicator, NULL, provider, 1 FROM pqi SEMI JOIN roster USING (member)
"""

_COST = """
CREATE OR REPLACE TEMP TABLE cost AS
SELECT member, category, {provider} AS provider, sum(paid)::DECIMAL(28, 8) AS paid,
  CASE WHEN claim_type = 'pharmacy' THEN 'pharmacy' WHEN claim_type IN ('oral', 'vision') THEN 'other' ELSE 'medical'
    END AS kind,
  sum(allowed)::DECIMAL(28, 8) AS allowed, sum(allowed) FILTER ({outside})::DECIMAL(28, 8) AS outside
FROM (SELECT *, {category} AS category FROM line SEMI JOIN roster USING (member)
  WHERE day BETWEEN $start AND $end AND (paid IS NOT NULL OR allowed IS NOT NULL))
GROUP BY ALL
"""

_COSTS = """
INSERT INTO tally
SELECT member, 'paid', category, provider, paid FROM cost WHERE paid IS NOT NULL
UNION ALL SELECT member, 'allowed', category, provider, allowed FROM cost WHERE allowed IS NOT NULL
UNION ALL SELECT member, 'paid-medical', NULL, provider, paid FROM cost WHERE kind = 'medical' AND paid IS NOT NULL
UNION ALL SELECT member, 'paid-pharmacy', NULL, provider, paid FROM cost WHERE kind = 'pharmacy' AND paid IS NOT NULL
UNION ALL SELECT member, 'allowed-network', NULL, provider, allowed FROM cost
WHERE kind = 'medical' AND allowed IS NOT NULL
UNION ALL SELECT member, 'allowed-outside', NULL, provider, outside FROM cost
WHERE kind = 'medical' AND outside IS NOT NULL
"""

# of at least 66 years at the start, two groups of conditions in the year before: one inpatient claim or two days
_CHRONIC = """
CREATE OR REPLACE TEMP TABLE chronic AS
WITH elder AS (
  SELECT member FROM people SEMI JOIN roster USING (member) WHERE birth_date <= $start::DATE - INTERVAL 66 YEAR
), said AS (
  SELECT DISTINCT member, day, claim_type = 'inpatient' AS inpatient,
    upper(replace(unnest(list_append(coalesce(diagnoses, []), diagnosis)), '.', '')) AS code
  FROM line SEMI JOIN elder USING (member) WHERE day >= $start::DATE - INTERVAL 1 YEAR AND day < $start::DATE
), placed AS (
  SELECT DISTINCT c.code, v.id FROM (SELECT DISTINCT code FROM said WHERE code IS NOT NULL) c JOIN value_set v
    ON starts_with(c.code, v.low) AND (v.starts OR c.code = v.low) WHERE starts_with(v.id, 'uamcc-')
), had AS (
  SELECT member, id FROM said JOIN placed USING (code) GROUP BY member, id
  HAVING bool_or(inpatient) OR count(DISTINCT day) >= 2
)
SELECT member FROM had GROUP BY member HAVING count(*) >= 2
"""

_CHRONIC_TALLY = """
INSERT INTO tally
SELECT member, 'uamcc-months', NULL, NULL, quantity FROM tally SEMI JOIN chronic USING (member)
WHERE tally = 'member-months'
UNION ALL
SELECT member, 'uamcc-admissions', NULL, provider, 1 FROM acute SEMI JOIN chronic USING (member)
WHERE planned IS NULL AND admitted BETWEEN $start AND $end
"""


def tally(
    connection: duckdb.DuckDBPyConnection,
    period: tuple[date, date],
    through: date,
    rules: Rules,
    *,
    network: bool,
    by_rendering: bool,
) -> None:
    """Create ``tally`` and ``cost`` (paid by member) out of what was found, and drop the visits.

    Looked at are ``roster``, ``month``, ``people``, ``stay``, ``visit``, ``acute``, ``index_stay``, ``follow_up``,
    ``pqi``, ``line`` and, where there is a network, ``network`` (tin, npi).
    """
    days = {"start": period[0], "end": period[1]}
    connection.execute(_TALLY)
    connection.execute(_MONTHS, days)
    connection.execute(_STAYS, days)
    connection.execute(_VISITS, days)
    connection.execute(_READMISSIONS, {"through": through})
    connection.execute("DROP TABLE visit")
    outside = (
        "NOT (coalesce(tin IN (SELECT tin FROM network), FALSE) OR coalesce(npi IN (SELECT npi FROM network), FALSE))"
        if network
        else "FALSE"
    )
    provider = "coalesce(npi, provider)" if by_rendering else "NULL::VARCHAR"
    category = first_of(rules.categories, "'other'")
    connection.execute(_COST.format(provider=provider, outside=outside, category=category), days)
    connection.execute(_COSTS)
    connection.execute(_CHRONIC, {"start": period[0]})
    connection.execute(_CHRONIC_TALLY, days)
