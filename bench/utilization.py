"""Utilization: members per second for all metrics, beside a query by hand: ``python -m bench.utilization``.

Claim lines are made up in columns: 20 a member over two years, one in 40 of an inpatient stay, one in 20 of an
emergency department, the rest professional, outpatient and pharmacy. The query by hand counts months, cost,
admissions, ED visits and office visits of the same table, without merging transfers; its CPU is what the data costs to
be looked at.

Members come in slices as they do from the buckets of a lake (62,500: a million in 16 buckets).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.attribution.eligibility import MONTH_SCHEMA
from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.risk.utilization import (
    LINE_COLUMNS,
    PEOPLE_SCHEMA,
    STRATA_SCHEMA,
    Population,
    metrics,
    utilization_of,
)

YEAR = (date(2026, 1, 1), date(2026, 12, 31))
DIAGNOSES = (
    "I50.9",
    "J44.1",
    "E11.65",
    "J18.9",
    "N39.0",
    "I10",
    "M16.11",
    "Z51.11",
    "C50.911",
    "R51.9",
    "E11.9",
    "I48.0",
)
PROCEDURES = ("99213", "99214", "99204", "80053", "71046", "J1885", "90834", "99397", "97110", "45378")

#: CPU seconds and rows of making the lines so far.
MADE: dict[str, float] = {}

_LINES = """
WITH rows AS (
  SELECT i // $per AS person, i % $per AS n, hash(i) AS h FROM range($first * $per, $beyond * $per) t(i)
), placed AS (
  SELECT *, CASE WHEN h % 40 = 0 THEN 'stay' WHEN h % 20 = 1 THEN 'ed' WHEN h % 10 = 2 THEN 'pharmacy'
    WHEN h % 10 = 3 THEN 'outpatient' ELSE 'visit' END AS what, DATE '2025-01-01' + (h // 7 % 730)::INT AS opened
  FROM rows
)
SELECT 'm' || lpad(person::VARCHAR, 8, '0') AS _member, 'payer' AS source, 'c' || (person * $per + n) AS claim_group,
  TRUE AS counts, h % 50 = 7 AS denied, opened AS service_from,
  opened + CASE WHEN what = 'stay' THEN (h // 11 % 9)::INT ELSE 0 END AS service_thru, opened AS claim_from,
  service_thru AS claim_thru,
  CASE what WHEN 'stay' THEN 'inpatient' WHEN 'ed' THEN 'outpatient' WHEN 'visit' THEN 'professional' ELSE what END
    AS claim_type,
  CASE what WHEN 'stay' THEN CASE WHEN h % 7 = 0 THEN '0211' ELSE '0111' END WHEN 'ed' THEN '0131'
    WHEN 'outpatient' THEN '0131' END AS bill_type,
  (1000000000 + h % 5000)::VARCHAR AS npi, (100000000 + h % 300)::VARCHAR AS tin,
  CASE WHEN what IN ('stay', 'ed', 'outpatient') THEN 'Organization/' || (h % 300) END AS organization,
  NULL::VARCHAR AS specialty,
  CASE WHEN what <> 'pharmacy' THEN $procedures[1 + (h // 13 % len($procedures))::INT] END AS procedure,
  CASE what WHEN 'visit' THEN '11' END AS place_of_service, CASE what WHEN 'ed' THEN '0450' WHEN 'stay' THEN '0120' END
    AS revenue_code,
  CASE WHEN what <> 'pharmacy' THEN $diagnoses[1 + (h // 17 % len($diagnoses))::INT] END AS diagnosis,
  CASE what WHEN 'stay' THEN '470' END AS drg, (20 + h % 400)::DECIMAL(28, 8) AS allowed,
  (10 + h % 300)::DECIMAL(28, 8) AS paid, opened + 30 AS payment_date, NULL::DATE AS admitted, NULL::DATE AS discharged,
  CASE WHEN what = 'stay' THEN '01' END AS discharge_status, CASE WHEN what = 'stay' THEN '1' END AS admission_type,
  CASE WHEN diagnosis IS NOT NULL THEN [diagnosis] END AS diagnoses, NULL::VARCHAR[] AS procedures,
  1::DECIMAL(28, 8) AS units
FROM placed
"""

_MEMBERS = """
SELECT 'm' || lpad(i::VARCHAR, 8, '0') AS member, DATE '1930-01-01' + (hash(i) % 32000)::INT AS birth_date,
  NULL::DATE AS died, CASE WHEN hash(i) % 2 = 0 THEN 'female' ELSE 'male' END AS sex
FROM range($first, $beyond) t(i)
"""

_BY_HAND = """
SELECT (SELECT sum(months) FROM months), sum(paid) FILTER (y), sum(allowed) FILTER (y),
  count(DISTINCT claim_group) FILTER (y AND claim_type = 'inpatient' AND bill_type = '0111'),
  count(DISTINCT (_member, service_from, organization)) FILTER (y AND revenue_code BETWEEN '0450' AND '0459'),
  count(DISTINCT (_member, service_from, npi)) FILTER (y AND procedure IN ('99213', '99214', '99204', '99397')
    AND place_of_service = '11')
FROM (SELECT *, service_from BETWEEN DATE '2026-01-01' AND DATE '2026-12-31' AS y FROM lines
  WHERE counts AND NOT coalesce(denied, FALSE))
"""


def made(members: range, per: int) -> tuple[pa.Table, Population]:
    """Claim lines, and members with twelve months each, born and of a sex."""
    with duckdb.connect() as connection:
        whose = {"first": members.start, "beyond": members.stop}
        given = {**whose, "per": per, "procedures": list(PROCEDURES), "diagnoses": list(DIAGNOSES)}
        lines = connection.sql(_LINES, params=given).to_arrow_table()
        people = connection.sql(_MEMBERS, params=whose).to_arrow_table()
        connection.register("people", people)
        months = connection.sql(
            "SELECT member, m::DATE AS month, 1::DECIMAL(28, 8) AS months FROM people,"
            " range(DATE '2026-01-01', DATE '2027-01-01', INTERVAL 1 MONTH) r (m)"
        ).to_arrow_table()
        strata = connection.sql("SELECT member, 'sex' AS dimension, sex AS value FROM people").to_arrow_table()
    schema = pa.schema([LINE_SCHEMA.field(name) for name in LINE_COLUMNS])
    born = people.select(PEOPLE_SCHEMA.names).cast(PEOPLE_SCHEMA)
    population = Population(months.cast(MONTH_SCHEMA), people=born, strata=strata.cast(STRATA_SCHEMA))
    return lines.select(schema.names).cast(schema), population


def slices(members: int, per: int, size: int) -> Iterator[tuple[pa.Table, Population]]:
    """The same members in slices of a size, made when they are asked for; their CPU is left out of what is measured."""
    for first in range(0, members, size):
        before = time.process_time()
        one = made(range(first, min(first + size, members)), per)
        MADE["cpu"] += time.process_time() - before
        MADE["lines"] += one[0].num_rows
        yield one


def by_hand(given: Iterable[tuple[pa.Table, Population]]) -> list[Any]:
    """The six sums, of all slices."""
    found = []
    for lines, population in given:
        with duckdb.connect() as connection:
            connection.register("lines", lines)
            connection.register("months", population.months)
            found.append(connection.execute(_BY_HAND).fetchall()[0])
    return [sum(column) for column in zip(*found, strict=True)]


def main() -> None:
    """Make the claim lines, compute, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("members", type=int, nargs="*", default=[100_000])
    parser.add_argument("--lines", type=int, default=20, help="claim lines per member")
    parser.add_argument("--slice", type=int, default=62_500, help="members of a slice (a bucket of the lake)")
    given = parser.parse_args()
    for members in given.members:
        MADE.update(cpu=0.0, lines=0)
        cpu = time.process_time()
        found = utilization_of(slices(members, given.lines, given.slice), YEAR, through=date(2027, 3, 31))
        cpu = time.process_time() - cpu - MADE["cpu"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows = len(set(found.table["metric"].to_pylist()))
        print(f"{members:,} members, {MADE['lines']:,.0f} claim lines, in slices of {given.slice:,} members")
        print(
            f"{rows} of {len(metrics())} metrics, in total, by category and by sex: {cpu:.1f} s of CPU,"
            f" {members / cpu:,.0f} members/s of CPU; peak memory {peak:.1f} GiB, with one slice of lines"
        )
        cpu, MADE["cpu"] = time.process_time(), 0.0
        theirs = by_hand(slices(members, given.lines, given.slice))
        print(f"by hand, six sums: {time.process_time() - cpu - MADE['cpu']:.1f} s of CPU")
        names = ("member-months", "paid-pmpm", "allowed-pmpm", None, "ed-visits-all-per-1000", "office-visits-per-1000")
        for name, their in zip(names, theirs, strict=True):
            if name is not None and found.row(name)["numerator"] != their:
                raise SystemExit(f"{name}: {found.row(name)['numerator']} and by hand {their}")


if __name__ == "__main__":
    main()
