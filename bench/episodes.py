"""Episodes of care of a made population: TEAM's episodes, found, prorated, priced and reconciled.

    python -m bench.episodes --members 1000000 --lines 20

Every member has so many claim lines over two years; one in forty has a stay or a procedure that triggers, followed by a
nursing facility, home health, visits and some readmissions. Claim lines are made first and not measured. Beside it, the
same grouping (anchors, window, sum of payments by MS-DRG) as one hand-written SQL statement without any of the rules.
"""

from __future__ import annotations

import argparse
import resource
import time
from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.arrangements import ARRANGEMENTS, Exposure, Facts, SettlementInputs
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.arrangements.facts import PEOPLE_SCHEMA
from fhir_gateway.contracts.episodes import GMLOS_SCHEMA, LINE_COLUMNS
from fhir_gateway.contracts.episodes.targets import PRICE_SCHEMA
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.lake.claims import LINE_SCHEMA

#: MS-DRGs of TEAM, and two of readmissions.
DRGS = ("469", "470", "521", "522", "480", "481", "482", "231", "235", "330", "402", "450", "471")
READMITTED = ("871", "291")
YEAR = (date(2026, 1, 1), date(2026, 12, 31))

_LINES = """
WITH rows AS (
  SELECT i // $per AS person, i % $per AS n, hash(i) AS h FROM range($members * $per) t(i)
), placed AS (
  SELECT *, person % 40 = 0 AS has_episode, DATE '2025-12-01' + (hash(person) % 380)::INT AS admitted FROM rows
), shaped AS (
  SELECT *, CASE WHEN NOT has_episode THEN 'visit' WHEN n = 0 THEN 'anchor' WHEN n = 1 THEN 'snf' WHEN n = 2 THEN 'home'
    WHEN n = 3 AND person % 160 = 0 THEN 'again' ELSE 'visit' END AS what FROM placed
), dated AS (
  SELECT *, CASE what WHEN 'anchor' THEN admitted WHEN 'snf' THEN admitted + 4 WHEN 'home' THEN admitted + 24
    WHEN 'again' THEN admitted + 30 ELSE DATE '2025-06-01' + (h % 730)::INT END AS opened FROM shaped
), ended AS (
  SELECT *, CASE what WHEN 'anchor' THEN opened + 3 WHEN 'snf' THEN opened + 18 WHEN 'home' THEN opened + 25
    WHEN 'again' THEN opened + 9 ELSE opened END AS closed FROM dated
)
SELECT 'm' || person AS _member, 'c' || (person * $per + n) AS claim_group, opened AS service_from,
  opened AS claim_from, closed AS claim_thru,
  CASE what WHEN 'visit' THEN 'professional' WHEN 'home' THEN 'outpatient' ELSE 'inpatient' END AS claim_type,
  CASE what WHEN 'anchor' THEN '111' WHEN 'again' THEN '111' WHEN 'snf' THEN '211' WHEN 'home' THEN '329' END
    AS bill_type,
  (1000000000 + h % 5000)::VARCHAR AS npi, (100000000 + person % 300)::VARCHAR AS tin,
  CASE WHEN what IN ('anchor', 'again') THEN 'Organization/' || (person % 300) END AS organization,
  NULL::VARCHAR AS specialty, CASE WHEN what = 'visit' THEN (99200 + h % 300)::VARCHAR END AS procedure,
  '11' AS place_of_service, NULL::VARCHAR AS revenue_code, 'M16.11' AS diagnosis,
  CASE what WHEN 'anchor' THEN $drgs[1 + (h % len($drgs))::INT] WHEN 'again' THEN $readmitted[1 + (h % 2)::INT] END
    AS drg,
  (CASE what WHEN 'anchor' THEN 15000 + h % 9000 WHEN 'visit' THEN 40 + h % 200 ELSE 1500 + h % 6000 END)
    ::DECIMAL(28, 8) AS allowed, allowed AS paid, FALSE AS denied
FROM ended
"""

_BY_HAND = """
WITH anchors AS (
  SELECT _member, claim_group, drg, claim_from AS opened, claim_thru + 29 AS closed FROM lines
  WHERE claim_type = 'inpatient' AND drg IN ({drgs}) AND claim_thru BETWEEN DATE '2026-01-01' AND DATE '2026-12-31'
)
SELECT a.drg, count(DISTINCT a.claim_group), sum(l.paid) FROM anchors a
JOIN lines l ON l._member = a._member AND l.service_from BETWEEN a.opened AND a.closed GROUP BY a.drg
"""


def claim_lines(members: int, per: int) -> pa.Table:
    """Claim lines of a made population."""
    with duckdb.connect() as connection:
        made = connection.sql(
            _LINES, params={"members": members, "per": per, "drgs": list(DRGS), "readmitted": list(READMITTED)}
        ).to_arrow_table()
    schema = pa.schema([LINE_SCHEMA.field(name) for name in ("_member", *LINE_COLUMNS)])
    return made.select(schema.names).cast(schema)


def team() -> EpisodeTerms:
    """TEAM with given prices for whoever has claims."""
    made = ARRANGEMENTS["team"].model_validate(
        {
            "kind": "team", "id": "team", "pool": "episodes", "population": "all", "performance_year": 1, "track": 3,
            "quality_score": 60, "gmlos": "gmlos", "price": {"kind": "given", "table": "prices", "discounted": True},
        }
    )  # fmt: skip
    assert isinstance(made, EpisodeTerms)
    return made


def main() -> None:
    """Make the claim lines, settle, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--lines", type=int, default=20, help="claim lines per member")
    given = parser.parse_args()
    lines = claim_lines(given.members, given.lines)
    print(f"{given.members:,} members, {lines.num_rows:,} claim lines, {lines.nbytes / 2**30:.1f} GiB")
    nothing = Decimal(0)
    empty = pa.schema([("member", pa.string()), ("month", pa.date32()), ("months", pa.decimal128(28, 8))]).empty_table()
    loose = {
        schema: pa.schema([field.with_nullable(True) for field in schema]) for schema in (GMLOS_SCHEMA, PRICE_SCHEMA)
    }
    tables = {
        "gmlos": pa.Table.from_pylist(
            [{"drg": drg, "gmlos": Decimal(4)} for drg in (*DRGS, *READMITTED)], schema=loose[GMLOS_SCHEMA]
        ),
        "prices": pa.Table.from_pylist(
            [{"price_group": drg, "price": Decimal(26000)} for drg in DRGS], schema=loose[PRICE_SCHEMA]
        ),
    }
    facts = Facts(YEAR, lines, PEOPLE_SCHEMA.empty_table(), empty, empty, tables)
    inputs = SettlementInputs(Exposure(0, nothing, nothing, nothing, nothing, 0), {}, facts=facts)
    terms = team()
    ledger = Ledger("team", "USD", "cent", terms.stream())
    wall, cpu = time.perf_counter(), time.process_time()
    terms.settle(inputs, (), ledger)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = next(line for line in ledger.lines if line.id == "team.episodes")
    rate = given.members / cpu
    print(f"settled: {found.value:,} episodes, {wall:.1f} s, {cpu:.1f} s of CPU, {rate:,.0f} members/s of CPU")
    wall, cpu = time.perf_counter(), time.process_time()
    with duckdb.connect() as connection:
        connection.register("lines", lines)
        quoted = ", ".join(f"'{drg}'" for drg in DRGS)
        connection.sql(_BY_HAND.format(drgs=quoted)).fetchall()
    wall, by_hand = time.perf_counter() - wall, time.process_time() - cpu
    print(f"by hand, sums only: {wall:.1f} s, {by_hand:.1f} s of CPU")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
