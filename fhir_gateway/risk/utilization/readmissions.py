"""30-day all-cause readmission: which stays are an index, what came next, and whether it was planned.

Source: CMS hospital-wide readmission measure (HWR) and planned readmission algorithm 4.0 (trust M; transfers, death
and cohort exclusions as Tuva documents them, T). The first acute stay after an index decides: within 30 days and not
planned it is a readmission; a planned one stops the search. Any stay may itself be an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import duckdb
import pyarrow as pa

#: Why an acute stay is no index, in the order it is looked at; none: it is.
REASONS = (
    *("unfinished", "died", "against-advice", "transferred", "age", "psychiatric", "cancer", "not-enrolled-before"),
    *("not-enrolled-after", "run-out"),
)
#: Most days after a discharge that a follow-up visit is looked for.
FOLLOW_UP_DAYS = 30
#: An acute stay that ended in the period: ``reason`` is null when it is an index. ``next`` is the next acute stay,
#: ``gap`` the days until it; ``planned`` why it was, null when it was not.
INDEX_SCHEMA = pa.schema(
    [
        ("stay", pa.int64()),
        ("member", pa.string()),
        ("discharged", pa.date32()),
        ("provider", pa.string()),
        ("reason", pa.string()),
        ("next", pa.int64()),
        ("gap", pa.int32()),
        ("planned", pa.string()),
        ("readmitted", pa.bool_()),
        ("unplanned", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class ReadmissionTerms:
    """Terms of the readmission metrics.

    ``prior_months`` and ``after_days`` are looked at where member months are known (``enrolment`` required). Who has
    no date of birth is of any age.
    """

    days: int = 30
    min_age: int = 18
    enrolment: Literal["required", "ignored"] = "ignored"
    prior_months: int = 12
    after_days: int = 30


# which value sets the codes of stays are in
_SETS = """
CREATE OR REPLACE TEMP TABLE stay_set AS
WITH code AS (
  SELECT stay, 'principal' AS role, diagnosis AS code FROM stay WHERE kind = 'acute'
  UNION ALL SELECT stay, 'last', last_diagnosis FROM stay WHERE kind = 'acute'
  UNION ALL SELECT stay, 'any', unnest(diagnoses) FROM stay WHERE kind = 'acute'
  UNION ALL SELECT stay, 'procedure', unnest(procedures) FROM stay WHERE kind = 'acute'
), distinct_code AS (
  SELECT DISTINCT code FROM code WHERE code IS NOT NULL
), placed AS (
  SELECT d.code, v.id FROM distinct_code d JOIN value_set v ON d.code = v.low AND NOT v.starts AND v.low = v.high
  UNION SELECT d.code, v.id FROM distinct_code d, value_set v WHERE v.starts AND starts_with(d.code, v.low)
  UNION SELECT d.code, v.id FROM distinct_code d, value_set v
    WHERE NOT v.starts AND v.low <> v.high AND d.code BETWEEN v.low AND v.high AND length(d.code) = length(v.low)
)
SELECT DISTINCT c.stay, c.role, p.id AS value_set FROM code c JOIN placed p USING (code)
"""

# acute stays, and why each would be a planned readmission (null: it would not)
_ACUTE = """
CREATE OR REPLACE TEMP TABLE acute AS
WITH has AS (
  SELECT stay, list(role || ':' || value_set) AS sets FROM stay_set
  WHERE starts_with(value_set, 'readmission-') GROUP BY stay
)
SELECT s.* EXCLUDE (diagnoses, procedures), coalesce(h.sets, []) AS sets, CASE
    WHEN list_contains(h.sets, 'procedure:readmission-always-planned-procedures') THEN 'always-planned-procedure'
    WHEN list_contains(h.sets, 'principal:readmission-always-planned-diagnoses') THEN 'always-planned-diagnosis'
    WHEN list_contains(h.sets, 'procedure:readmission-planned-procedures')
      AND NOT list_contains(h.sets, 'principal:readmission-acute-diagnoses') THEN 'planned-procedure' END AS planned
FROM stay s LEFT JOIN has h USING (stay) WHERE s.kind = 'acute'
"""

_INDEX = """
CREATE OR REPLACE TEMP TABLE index_stay AS
WITH following AS (
  SELECT a.* EXCLUDE (planned), p.birth_date, p.died AS death, lead(stay) OVER later AS next,
    (lead(admitted) OVER later - discharged)::INTEGER AS gap, lead(planned) OVER later AS planned
  FROM acute a LEFT JOIN people p USING (member)
  WINDOW later AS (PARTITION BY member ORDER BY admitted, discharged, stay)
), enrolled AS ( -- months before the admission, and of those from the discharge on
  SELECT f.stay, count(*) FILTER (m.month >= date_trunc('month', f.admitted) - to_months($prior)
      AND m.month < date_trunc('month', f.admitted)) AS before,
    count(*) FILTER (m.month BETWEEN date_trunc('month', f.discharged) AND least(f.death, f.discharged + $after))
      AS after,
    1 + date_diff('month', f.discharged, least(f.death, f.discharged + $after)) AS needed
  FROM following f JOIN month m ON $enrolled AND m.member = f.member AND m.months > 0
  GROUP BY f.stay, f.discharged, f.death
), reasoned AS (
  SELECT f.*, CASE
      WHEN unfinished THEN 'unfinished'
      WHEN f.died OR death <= discharged THEN 'died'
      WHEN against_advice THEN 'against-advice'
      WHEN transferred THEN 'transferred'
      WHEN date_diff('month', birth_date, admitted) - (day(admitted) < day(birth_date))::INT < $min_age * 12 THEN 'age'
      WHEN list_contains(sets, 'last:readmission-psychiatric') THEN 'psychiatric'
      WHEN list_contains(sets, 'last:readmission-cancer')
        AND NOT list_contains(sets, 'procedure:readmission-surgical-procedures') THEN 'cancer'
      WHEN $enrolled AND coalesce(e.before, 0) < $prior THEN 'not-enrolled-before'
      WHEN $enrolled AND coalesce(e.after, 0) < e.needed THEN 'not-enrolled-after'
      WHEN discharged + $days > $through THEN 'run-out' END AS reason
  FROM following f LEFT JOIN enrolled e USING (stay)
)
SELECT stay, member, discharged, provider, reason, CASE WHEN gap <= $days THEN next END AS next,
  CASE WHEN gap <= $days THEN gap END AS gap, CASE WHEN gap <= $days THEN planned END AS planned,
  reason IS NULL AND coalesce(gap BETWEEN 0 AND $days, FALSE) AS readmitted,
  reason IS NULL AND coalesce(gap BETWEEN 0 AND $days, FALSE) AND planned IS NULL AS unplanned
FROM reasoned WHERE discharged BETWEEN $start AND $end
"""

# to the community: no facility, hospice or other hospital; a visit before any next admission
_FOLLOW_UP = """
CREATE OR REPLACE TEMP TABLE follow_up AS
WITH home AS (
  SELECT s.stay, s.member, s.discharged, s.provider, i.gap
  FROM stay s JOIN index_stay i USING (stay) LEFT JOIN people p ON p.member = s.member
  WHERE NOT s.unfinished AND NOT s.died AND NOT s.transferred AND (p.died <= s.discharged) IS NOT TRUE
    AND coalesce(s.discharge_status IN ('01', '06', '07', '08', '81', '86'), TRUE)
)
SELECT h.*, (SELECT min(v.day) FROM visit v WHERE v.member = h.member AND v.kind IN ('office', 'transitional')
    AND v.day > h.discharged AND v.day <= h.discharged + coalesce(h.gap, {days})::INTEGER) - h.discharged AS days
FROM home h
"""


def find_value_sets(connection: duckdb.DuckDBPyConnection) -> None:
    """Create ``stay_set`` (stay, role, value_set) and ``acute`` (with ``planned``) of ``stay`` and ``value_set``."""
    connection.execute(_SETS)
    connection.execute(_ACUTE)


def find_readmissions(
    connection: duckdb.DuckDBPyConnection, period: tuple[date, date], through: date, terms: ReadmissionTerms
) -> None:
    """Create ``index_stay`` (:data:`INDEX_SCHEMA`) and ``follow_up`` out of stays, visits, ``people`` and ``month``.

    ``through`` is the last day that is known: what was discharged later than its 30 days before is no index.
    """
    connection.execute(
        _INDEX,
        {
            "min_age": terms.min_age,
            "enrolled": terms.enrolment == "required",
            "prior": terms.prior_months,
            "after": terms.after_days,
            "days": terms.days,
            "through": through,
            "start": period[0],
            "end": period[1],
        },
    )
    connection.execute(_FOLLOW_UP.format(days=FOLLOW_UP_DAYS))
