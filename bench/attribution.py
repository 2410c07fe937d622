"""Attribution of a synthetic population next to a hand-written DuckDB query of the same rule.

``python -m bench.attribution [members ...]`` (default 100,000 and 1,000,000): twenty claim lines and one Coverage per
member, made in NumPy; the terms of the Medicare Shared Savings Program 2025 (steps 1 to 3) against
:data:`QUERY`, which does the same for this population and nothing else. Both give every member the same entity, step
and amount, or the run fails. CPU seconds of one process and peak memory; each population and way in a process of its
own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import AttributionTerms, Participant, attribute

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
TERMS = "mssp-primary-care-2025"
LINES = 20  # of each member
PRACTICES, OURS = 2000, 600  # TINs, and how many of them are the participant's
CLINICIANS = 5  # NPIs of a TIN

_CODES = ["99213", "99214", "99203", "G0439", "99490", "99309", "36415", "80053", "71046", "93000", "85025", "99284"]
_SPECIALTIES = ["08", "11", "50", "97", "06", "39", "07", "30", "69"]

#: The rule by hand: codes and specialties of this population as literals, no eligibility but a month of coverage.
QUERY = """
WITH codes AS (SELECT unnest($codes) AS code),
covered AS (SELECT DISTINCT _member AS member FROM coverage
  WHERE period.start <= '2025-12-31' AND coalesce(period.end, '9') >= '2025-01-01' AND status = 'active'),
services AS (
  SELECT _member AS member, CASE WHEN tin IN (FROM ours) THEN 'aco' ELSE 'tin:' || tin END AS competitor,
    service_from AS day, service_from >= DATE '2025-01-01' AS recent, allowed,
    specialty IN ('01', '08', '11', '37', '38') AS pcp, specialty IN ('50', '89', '97') AS npp,
    specialty IN ('06', '12', '13', '16', '23', '25', '26', '27', '29', '39', '46', '70', '79', '82', '83', '84', '86',
      '90', '98') AS specialist
  FROM lines JOIN codes ON code = procedure
  WHERE counts AND NOT denied AND bill_type IS NULL AND service_from BETWEEN DATE '2024-01-01' AND DATE '2025-12-31'
    AND _member IN (FROM covered) AND NOT (procedure = '99309' AND place_of_service = '31')
), sums AS (
  SELECT member, competitor, sum(allowed) FILTER (recent AND (pcp OR npp)) AS one,
    max(day) FILTER (recent AND (pcp OR npp)) AS last_one, sum(allowed) FILTER (recent AND specialist) AS two,
    max(day) FILTER (recent AND specialist) AS last_two, sum(allowed) FILTER (pcp OR npp OR specialist) AS three,
    max(day) FILTER (pcp OR npp OR specialist) AS last_three,
    coalesce(bool_or(recent AND (pcp OR specialist)), FALSE) AS physician,
    coalesce(bool_or(recent AND npp), FALSE) AS nurse, coalesce(bool_or(pcp OR specialist), FALSE) AS doctor
  FROM services GROUP BY member, competitor
), members AS (
  SELECT member, CASE WHEN bool_or(competitor = 'aco' AND physician) AND bool_or(one IS NOT NULL) THEN 1
    WHEN bool_or(competitor = 'aco' AND physician) THEN 2
    WHEN bool_or(competitor = 'aco' AND nurse AND doctor) THEN 3 END AS step
  FROM sums GROUP BY member
), ranked AS (
  SELECT s.member, m.step, s.competitor, CASE m.step WHEN 1 THEN one WHEN 2 THEN two ELSE three END AS amount,
    CASE m.step WHEN 1 THEN last_one WHEN 2 THEN last_two ELSE last_three END AS last
  FROM sums s JOIN members m USING (member) WHERE m.step IS NOT NULL
    AND (s.competitor <> 'aco' OR m.step = 3 OR physician)
)
SELECT member, 'step ' || step AS step, competitor AS entity, amount,
  count(*) OVER (PARTITION BY member, amount, last) > 1 AS tied
FROM ranked WHERE amount IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY member ORDER BY amount DESC, last DESC, competitor) = 1
"""


def population(members: int) -> tuple[pa.Table, pa.Table]:
    """Claim lines of two years and Coverage, as the lake gives them."""
    random = np.random.default_rng(7)
    count = members * LINES
    names = pa.array(np.char.add("p", np.char.zfill(np.arange(members).astype(str), 16)))
    home = random.integers(0, PRACTICES, members)
    whose = np.repeat(np.arange(members), LINES)
    practice = np.where(random.random(count) < 0.6, home[whose], random.integers(0, PRACTICES, count))
    clinician = practice * CLINICIANS + random.integers(0, CLINICIANS, count)
    specialty = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8])[(clinician * 7919) % 11]

    def text(values: np.ndarray, words: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int32)), pa.array(words)).cast(pa.string())

    def constant(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), count)

    code = random.integers(0, len(_CODES), count)
    days = np.datetime64("2024-01-01") + random.integers(0, 731, count)
    words = np.zeros((count, 2), dtype=np.int64)  # 128 bit numbers of 1e-8, the low word first
    words[:, 0] = random.integers(2000, 30000, count) * 1_000_000
    amount = pa.Array.from_buffers(pa.decimal128(28, 8), count, [None, pa.py_buffer(words)])
    tins = [f"{one:09d}" for one in range(100_000_000, 100_000_000 + PRACTICES)]
    npis = [f"{one:010d}" for one in range(1_000_000_000, 1_000_000_000 + PRACTICES * CLINICIANS)]
    lines = pa.table(
        {
            "_member": names.take(pa.array(whose)),
            "source": constant("payer", pa.string()),
            "eob": constant("e", pa.string()),
            "counts": constant(True, pa.bool_()),
            "denied": pa.array(random.random(count) < 0.02),
            "claim_type": constant("professional", pa.string()),
            "bill_type": constant(None, pa.string()),
            "service_from": pa.array(days.astype("datetime64[D]")),
            "service_thru": pa.array(days.astype("datetime64[D]")),
            "tin": text(practice, tins),
            "npi": text(clinician, npis),
            "organization": constant(None, pa.string()),
            "specialty": text(specialty, _SPECIALTIES),
            "procedure": text(code, _CODES),
            "place_of_service": text((random.random(count) < 0.03).astype(int), ["11", "31"]),
            "revenue_code": constant(None, pa.string()),
            "allowed": amount,
            "paid": amount,
        }
    )
    begins = np.where(random.random(members) < 0.05, 1, 0)
    period = pa.StructArray.from_arrays(
        [text(begins, ["2023-01-01", "2026-01-01"]), pa.nulls(members, pa.string())], names=["start", "end"]
    )
    coding = pa.ListArray.from_arrays(
        pa.array(np.arange(members + 1, dtype=np.int32)),
        pa.StructArray.from_arrays([pa.repeat(pa.scalar("AB"), members)], names=["code"]),
    )
    coverage = pa.table(
        {
            "_member": names,
            "_source": pa.repeat(pa.scalar("payer"), members),
            "id": names,
            "status": pa.repeat(pa.scalar("active"), members),
            "type": pa.StructArray.from_arrays([coding], names=["coding"]),
            "period": period,
        }
    )
    return lines, coverage


def _ours() -> list[str]:
    return [f"{one:09d}" for one in range(100_000_000, 100_000_000 + OURS)]


def by_product(lines: pa.Table, coverage: pa.Table) -> pa.Table:
    """Members attributed to anybody, by the product."""
    aco = Participant("aco", tins=tuple(_ours()))
    table = attribute(lines, coverage, AttributionTerms.load(TERMS), PERIOD, [aco]).table
    found = table.filter(table["entity"].is_valid())
    return found.select(["member", "step", "entity", "amount", "tie_break"])


def by_hand(lines: pa.Table, coverage: pa.Table) -> pa.Table:
    """The same by :data:`QUERY`."""
    terms = AttributionTerms.load(TERMS)
    codes = [code for one in terms.services for code in one.expanded() if one.if_window_touches is None]
    with duckdb.connect() as connection:
        connection.register("lines", lines)
        connection.register("coverage", coverage)
        connection.register("ours", pa.table({"tin": _ours()}))
        return connection.sql(QUERY, params={"codes": codes}).to_arrow_table()


def _alone(way: str, members: int) -> None:
    """Run one way on one core and say what it took, and what it found, in a line of JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lines, coverage = population(members)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, wall = time.process_time(), time.monotonic()
    found = {"product": by_product, "hand": by_hand}[way](lines, coverage)
    cpu, wall = time.process_time() - began, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drawn = pc.fill_null(pc.equal(found["tie_break"], "hash"), False) if way == "product" else found["tied"]
    sure = found.filter(pc.invert(drawn)).sort_by("member")
    keys = [sure["member"].to_numpy(), sure["step"].to_numpy(), sure["entity"].to_numpy()]
    print(
        json.dumps(
            {
                "way": way, "members": members, "cpu": cpu, "wall": wall, "population_mb": held // 1024,
                "peak_mb": peak // 1024, "attributed": found.num_rows, "without lots": sure.num_rows,
                "same": hash_of(keys, sure["amount"]), "ours": pc.sum(pc.equal(found["entity"], "aco")).as_py(),
            }
        )
    )  # fmt: skip


def hash_of(keys: list[np.ndarray], amounts: pa.ChunkedArray) -> str:
    """A digest of who got whom by which step and amount."""
    import hashlib

    digest = hashlib.sha256()
    for one in keys:
        digest.update("\n".join(one.tolist()).encode())
    digest.update(str(pc.sum(amounts.cast(pa.decimal128(38, 4))).as_py().normalize()).encode())
    return digest.hexdigest()[:16]


def main() -> None:
    """Measure, compare and print."""
    if len(sys.argv) == 4 and sys.argv[1] == "--alone":
        _alone(sys.argv[2], int(sys.argv[3]))
        return
    sizes = [int(one) for one in sys.argv[1:]] or [100_000, 1_000_000]
    for members in sizes:
        results = []
        for way in ("product", "hand"):
            command = [sys.executable, "-m", "bench.attribution", "--alone", way, str(members)]
            results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        product, hand = results
        for one in results:
            print(
                f"{members:>9,} members {one['way']:>8}: {one['cpu']:7.1f} s CPU, {one['wall']:7.1f} s,"
                f" {members / one['cpu']:>9,.0f} members/s of CPU, peak {one['peak_mb']:,} MB"
                f" ({one['population_mb']:,} MB before it), attributed {one['attributed']:,}, ours {one['ours']:,}"
            )
        print(f"{'':>18}the product takes {product['cpu'] / hand['cpu']:.2f} times the CPU of the query by hand")
        if product["same"] != hand["same"]:
            raise SystemExit("the two differ in whom they attribute, by which step or to whom")


if __name__ == "__main__":
    main()
