"""Inpatient stays out of claims: interim claims and transfers are one stay.

Claims of one member and kind are one stay when they overlap; when the later one begins on the day the earlier one ends
or the day after, at another acute hospital (a transfer); when they are an interim claim and its continuation at the
same provider; or when the same hospital admits on the day of discharge for the same diagnosis (three characters).
Source: CMS hospital-wide readmission measure, index admissions and transfers (trust M).

The days of a claim are those of admission and discharge that it states, or the Encounters that it names; else its
statement period, where its lines lie within and it is no longer than ``longest_statement`` days; else the days of its
lines, with as many nights after the first as units of accommodation were billed (revenue codes 0100 to 0219).
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from fhir_gateway.risk.utilization.lines import connect
from fhir_gateway.risk.utilization.rules import Rules, rank_of

#: A row per stay. ``kind`` as in ``rules.toml``; ``days`` are nights, at least 1; provider columns and
#: ``discharge_status`` are those of the last claim, ``first_provider``, ``diagnosis`` and ``admission_type`` of the
#: first; ``last_diagnosis`` is the last claim's. ``emergent``: urgent by type of admission, or through an emergency
#: department; null when neither was said. ``died``, ``against_advice``, ``transferred``: by discharge status.
STAY_SCHEMA = pa.schema(
    [
        ("stay", pa.int64()),
        ("member", pa.string()),
        ("kind", pa.string()),
        ("admitted", pa.date32()),
        ("discharged", pa.date32()),
        ("days", pa.int32()),
        ("claims", pa.int32()),
        ("claim", pa.string()),
        ("provider", pa.string()),
        ("first_provider", pa.string()),
        ("organization", pa.string()),
        ("tin", pa.string()),
        ("npi", pa.string()),
        ("drg", pa.string()),
        ("diagnosis", pa.string()),
        ("last_diagnosis", pa.string()),
        ("diagnoses", pa.list_(pa.string())),
        ("procedures", pa.list_(pa.string())),
        ("admission_type", pa.string()),
        ("discharge_status", pa.string()),
        ("emergent", pa.bool_()),
        ("died", pa.bool_()),
        ("against_advice", pa.bool_()),
        ("transferred", pa.bool_()),
        ("unfinished", pa.bool_()),
        ("allowed", pa.decimal128(28, 8)),
        ("paid", pa.decimal128(28, 8)),
    ]
)

# Some payers give a period that is not that of the services, or one of a year.
_CLAIMS = """
CREATE OR REPLACE TEMP TABLE inpatient AS
SELECT member, claim, min({rank}) AS rank,
  min(claim_from) <= min(day) AND max(claim_thru) >= max(day) AND max(claim_thru) - min(claim_from) <= {longest}
    AS holds,
  coalesce(min(admitted), CASE WHEN holds THEN min(claim_from) END, min(day)) AS opened,
  coalesce(max(discharged), CASE WHEN holds THEN max(claim_thru) END, greatest(
    max(CASE WHEN service_thru - day <= {longest} THEN service_thru ELSE day END),
    opened + coalesce(sum(units) FILTER (revenue_code BETWEEN '0100' AND '0219'), 0)::INTEGER)) AS closed,
  any_value(provider ORDER BY provider) AS provider, any_value(organization ORDER BY organization) AS organization,
  any_value(tin ORDER BY tin) AS tin, any_value(npi ORDER BY npi) AS npi, any_value(drg ORDER BY drg) AS drg,
  any_value(diagnosis ORDER BY diagnosis) AS diagnosis, any_value(diagnoses ORDER BY diagnoses) AS diagnoses,
  any_value(procedures ORDER BY procedures) AS procedures, any_value(admission_type ORDER BY admission_type) AS type,
  any_value(discharge_status ORDER BY discharge_status) AS status, bool_or({ed}) AS through_ed,
  bool_or(bill_type[3:3] IN ('2', '3')) AS interim,
  sum(allowed) AS allowed, sum(paid) AS paid
FROM line WHERE claim_type = 'inpatient' GROUP BY member, claim
"""

_STAYS = """
CREATE OR REPLACE TEMP TABLE stay AS
WITH claims AS (
  SELECT * EXCLUDE (rank, closed, holds), kinds.kind, greatest(opened, closed) AS closed
  FROM inpatient JOIN kinds USING (rank) WHERE opened IS NOT NULL
), following AS (
  SELECT *, max(closed) OVER before AS reached, lag(provider) OVER stays IS NOT DISTINCT FROM provider AS same,
    coalesce(lag(interim) OVER stays OR lag(status) OVER stays = '30', FALSE) AS continued,
    coalesce(lag(diagnosis) OVER stays[1:3] = diagnosis[1:3], FALSE) AS alike
  FROM claims
  WINDOW stays AS (PARTITION BY member, kind ORDER BY opened, closed, claim),
    before AS (PARTITION BY member, kind ORDER BY opened, closed, claim
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), numbered AS (
  SELECT *, sum(CASE WHEN opened < reached OR (kind = 'acute' AND NOT same AND opened <= reached + 1)
      OR (same AND continued AND opened <= reached + 1)
      OR (same AND opened = reached AND (alike OR kind <> 'acute')) THEN 0 ELSE 1 END)
    OVER (PARTITION BY member, kind ORDER BY opened, closed, claim ROWS UNBOUNDED PRECEDING) AS number
  FROM following
), merged AS (
  SELECT member, kind, min(opened) AS admitted, max(closed) AS discharged, count(*) AS claims,
    min_by(claim, (opened, closed, claim)) AS claim,
    max(struct_pack(closed, opened, claim, provider, organization, tin, npi, drg, diagnosis, status, interim)) AS final,
    min(struct_pack(opened, closed, claim, provider, diagnosis, type, through_ed)) AS initial,
    list_distinct(flatten(list(coalesce(diagnoses, []) ORDER BY opened, closed, claim))) AS diagnoses,
    list_distinct(flatten(list(coalesce(procedures, []) ORDER BY opened, closed, claim))) AS procedures,
    sum(allowed) AS allowed, sum(paid) AS paid
  FROM numbered GROUP BY member, kind, number
)
SELECT row_number() OVER (ORDER BY member, admitted, discharged, claim) AS stay, member, kind, admitted, discharged,
  greatest(discharged - admitted, 1) AS days, claims, claim, final.provider AS provider,
  initial.provider AS first_provider, final.organization AS organization, final.tin AS tin, final.npi AS npi,
  final.drg AS drg, initial.diagnosis AS diagnosis, final.diagnosis AS last_diagnosis,
  list_sort(list_transform(diagnoses, lambda x: upper(replace(x, '.', '')))) AS diagnoses,
  list_sort(list_transform(procedures, lambda x: upper(replace(x, '.', '')))) AS procedures,
  initial.type AS admission_type, final.status AS discharge_status,
  CASE WHEN initial.through_ed THEN TRUE ELSE initial.type IN ('1', '2', '5') END AS emergent,
  coalesce(final.status IN ('20', '40', '41', '42'), FALSE) AS died,
  coalesce(final.status = '07', FALSE) AS against_advice,
  coalesce(final.status IN ('02', '05', '43', '66', '82', '85', '88', '94'), FALSE) AS transferred,
  coalesce(final.interim OR final.status = '30', FALSE) AS unfinished, allowed, paid
FROM merged
"""


def stays(lines: pa.Table, rules: Rules | None = None) -> pa.Table:
    """Stays (:data:`STAY_SCHEMA`) out of claim lines (:data:`.lines.LINE_COLUMNS`), by member and day of admission."""
    with connect(lines) as connection:
        find_stays(connection, rules or Rules.load())
        found = connection.sql("SELECT * FROM stay ORDER BY stay").to_arrow_table()
    return found.select(STAY_SCHEMA.names).cast(STAY_SCHEMA)


def find_stays(connection: duckdb.DuckDBPyConnection, rules: Rules) -> None:
    """Create the table ``stay`` out of the view ``line`` of a connection."""
    ed = " OR ".join(f"({rule.condition})" for rule in rules.visits if rule.id == "ed")
    connection.execute(_CLAIMS.format(rank=rank_of(rules.stays), ed=ed or "FALSE", longest=rules.longest_statement))
    kinds = {"rank": pa.array(range(len(rules.stays)), pa.int32()), "kind": [rule.id for rule in rules.stays]}
    connection.register("kinds", pa.table(kinds))
    connection.execute(_STAYS)
    connection.execute("DROP TABLE inpatient")
