"""Social needs and disability out of Conditions and Observations (US Core SDOH, Gravity, ACS questions).

A need is a condition that is active on the day, or the newest answer to a screening question, in the two years before,
that means one. Whoever answered a question of the domain in that time and has no need was screened without one;
everybody else was not screened. Which codes mean what is data (``needs.toml``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.equity.dimensions import NEED_DOMAINS

#: What is read of Condition and Observation.
CONDITION_COLUMNS = (
    *("code.coding.code", "category.coding.code", "clinicalStatus.coding.code", "verificationStatus.coding.code"),
    *("onsetDateTime", "recordedDate", "abatementDateTime"),
)
OBSERVATION_COLUMNS = ("code.coding.code", "valueCodeableConcept.coding.code", "status", "effectiveDateTime", "issued")

_SQL = """
CREATE TEMP TABLE found AS
WITH active AS (
  SELECT _member AS member, code, category FROM conditions
  WHERE _member IS NOT NULL
    AND coalesce(clinicalStatus.coding[1].code, 'active') IN ('active', 'recurrence', 'relapse')
    AND coalesce(verificationStatus.coding[1].code, 'confirmed') NOT IN ('refuted', 'entered-in-error')
    AND coalesce(onsetDateTime[1:10], recordedDate[1:10], '0000') <= $day
    AND coalesce(abatementDateTime[1:10], '9999') > $day
), diagnosed AS (
  SELECT member, b.domain FROM (SELECT member, unnest(code.coding).code AS code FROM active) a
  JOIN beginnings b ON starts_with(a.code, b.beginning)
  UNION SELECT member, c.domain
  FROM (SELECT member, unnest(k.coding).code AS code FROM (SELECT member, unnest(category) AS k FROM active)) a
  JOIN categories c ON c.category = a.code
), answered AS (
  SELECT member, question, arg_max(answer, (moment, id)) AS answer FROM (
    SELECT _member AS member, id, unnest(code.coding).code AS question, valueCodeableConcept.coding[1].code AS answer,
      coalesce(effectiveDateTime, issued) AS moment
    FROM observations WHERE _member IS NOT NULL AND status IN ('final', 'amended', 'corrected')
  ) WHERE moment[1:10] BETWEEN $since AND $day AND answer IS NOT NULL GROUP BY ALL
), screened AS (
  SELECT member, q.domain, bool_or(list_contains(q.needs, answer)) AS need
  FROM answered JOIN questions q USING (question) GROUP BY ALL
)
SELECT member, domain, bool_or(need) AS need FROM
  (SELECT member, domain, true AS need FROM diagnosed UNION ALL SELECT * FROM screened) GROUP BY ALL
"""


@cache
def needs_table() -> Mapping[str, Any]:
    """The shipped codes."""
    loaded: Mapping[str, Any] = tomllib.loads(files(__package__).joinpath("needs.toml").read_text(encoding="utf-8"))
    return loaded


def question_codes() -> frozenset[str]:
    """LOINC codes of all questions: what Observations are looked for."""
    table = needs_table()
    social = {code for questions in table["questions"].values() for code in questions}
    return frozenset(social | set(table["disability"]["questions"]))


def social_needs(members: pa.Array, conditions: pa.Table, observations: pa.Table, on: date) -> pa.Table:
    """member, social-need, need-DOMAIN... (need, no-need, null) and disability (yes, no, null)."""
    table = needs_table()
    with duckdb.connect() as connection:
        connection.register("conditions", conditions)
        connection.register("observations", observations)
        _register(connection, "beginnings", "beginning", table["conditions"])
        _register(connection, "categories", "category", table["categories"])
        asked = [(domain, q, needs) for domain, of in table["questions"].items() for q, needs in of.items()]
        asked += [("disability", q, table["disability"]["yes"]) for q in table["disability"]["questions"]]
        connection.register(
            "questions",
            pa.table(
                {
                    "domain": [one[0] for one in asked],
                    "question": [one[1] for one in asked],
                    "needs": pa.array([one[2] for one in asked], pa.list_(pa.string())),
                }
            ),
        )
        since = date(on.year - 2, on.month, min(on.day, 28)).isoformat()
        connection.execute(_SQL, {"day": on.isoformat(), "since": since})
        connection.register("members", pa.table({"member": members}))
        columns = ", ".join(
            f"max(CASE WHEN domain = '{domain}' THEN CASE WHEN need THEN 'need' ELSE 'no-need' END END)"
            f' AS "need-{domain}"'
            for domain in NEED_DOMAINS
        )
        return connection.sql(
            f"""
            SELECT m.member, CASE WHEN bool_or(need) FILTER (domain <> 'disability') THEN 'need'
                WHEN count(*) FILTER (domain <> 'disability') > 0 THEN 'no-need' END AS "social-need", {columns},
              CASE WHEN bool_or(need) FILTER (domain = 'disability') THEN 'yes'
                WHEN count(*) FILTER (domain = 'disability') > 0 THEN 'no' END AS disability
            FROM members m LEFT JOIN found USING (member) GROUP BY m.member ORDER BY m.member
            """  # noqa: S608 the names are ours
        ).to_arrow_table()


def _register(connection: duckdb.DuckDBPyConnection, name: str, column: str, of: Mapping[str, list[str]]) -> None:
    pairs = [(domain, code) for domain, codes in of.items() for code in codes]
    connection.register(name, pa.table({"domain": [one[0] for one in pairs], column: [one[1] for one in pairs]}))
