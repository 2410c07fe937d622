"""Settlement of a synthetic population next to a hand-written DuckDB query of the same rules.

``python -m bench.settlement [members ...]`` (default 100,000 and 1,000,000), two settlements of the same claims:

commercial  cost of this year and of the year before, truncated per member; target by trend; corridor, share, losses
program     Shared Savings Program: cost of four years by enrolment type, annualised and truncated by person; historical
            benchmark, risk ratios, update; sharing at level E

Twelve claim lines a member over four years and a row of enrolment a month, made in NumPy. Both ways come to the same
sums by year and type and the same amount to the cent, or the run fails. CPU seconds of one process and peak memory;
each settlement, size and way in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.contracts import Contract, Exposure, MeasureScore, SettlementInputs
from fhir_gateway.contracts.arrangements import Facts
from fhir_gateway.contracts.arrangements.facts import PEOPLE_SCHEMA
from fhir_gateway.contracts.arrangements.mssp import SharedSavingsProgram
from fhir_gateway.contracts.arrangements.mssp_benchmark import TYPES_SCHEMA
from fhir_gateway.contracts.inputs import exposure
from fhir_gateway.contracts.service import settle
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.terms import MeasureTerms

D = Decimal
LINES = 12  # of each member
YEARS = (2021, 2022, 2023, 2024)
KINDS = ("ESRD", "DIS", "AGDU", "AGND")
TRUNCATION = {"ESRD": 9_000, "DIS": 7_000, "AGDU": 8_000, "AGND": 6_000}  # low, so that many are truncated
LIMIT = 4_500  # of the commercial contract

COMMERCIAL = {
    "id": "bench", "url": "https://example.org/Measure/bench", "version": "1", "title": "Bench",
    "identifier": {"system": "https://example.org/contracts", "value": "B"}, "line_of_business": "private",
    "hcp_lan": "3B", "payer": {"name": "P", "identifier": {"system": "urn:payer", "value": "1"}},
    "provider": {"name": "Q", "identifier": {"system": "urn:tin", "value": "1"}, "entity": "aco", "tins": ["1"]},
    "period": {"start": date(2024, 1, 1), "end": date(2024, 12, 31)},
    "attribution": {"terms": "mssp-primary-care-2024"},
    "claims": {"paid_through": date(2025, 3, 31), "truncation": D(LIMIT), "completion_factor": D("1.01")},
    "arrangements": [
        {
            "kind": "shared_savings", "id": "ss", "pool": "all", "target": {"kind": "prior_year", "trend": D("0.04")},
            "corridor": {"kind": "fixed", "msr": D("0.01")}, "rate": D("0.5"), "cap": D("0.1"),
            "losses": {"rate": D("0.3"), "limit": D("0.04")},
        }
    ],
}  # fmt: skip
PROGRAM = {
    "kind": "mssp", "id": "aco", "pool": "all", "performance_year": 2024, "level": "E", "standard": "met",
    "election": 0, "benchmark": {
        "base_years": [2021, 2022, 2023], "year": 2024, "national_weight": D("0.25"), "regional_time": None,
    },
}  # fmt: skip

COMMERCIAL_BY_HAND = f"""
WITH cost AS (
  SELECT member, coalesce(sum(paid) FILTER (year(service_from) = 2024), 0) AS now,
    coalesce(sum(paid) FILTER (year(service_from) = 2023), 0) AS before
  FROM roster LEFT JOIN (
    SELECT * FROM lines WHERE counts AND service_from BETWEEN DATE '2023-01-01' AND DATE '2024-12-31'
      AND payment_date <= DATE '2025-03-31' AND claim_type IN ('inpatient', 'outpatient', 'professional', 'pharmacy')
  ) ON _member = member GROUP BY member
), sums AS (
  SELECT count(*) * 12 AS months, sum(least(now, {LIMIT})) AS now, sum(least(before, {LIMIT})) AS before FROM cost
), money AS (
  SELECT now, before, (now * 1.01)::DOUBLE AS cost, before::DOUBLE * 1.01 / months * 1.04 * months AS target FROM sums
)
SELECT now, before, CASE
  WHEN abs(target - cost) / target < 0.01 THEN 0
  WHEN target >= cost THEN least((target - cost) * 0.5, 0.1 * target)
  ELSE greatest((target - cost) * 0.3, -0.04 * target) END FROM money
"""  # noqa: S608 a number of ours

PROGRAM_BY_HAND = """
WITH mine AS (
  SELECT year(month) AS y, member, type, month FROM enrolment
), spent AS (
  SELECT _member AS member, date_trunc('month', service_from)::DATE AS month, sum(paid) AS cost FROM lines GROUP BY ALL
), persons AS (
  SELECT y, type, member, count(*) AS months, sum(coalesce(cost, 0)) AS cost
  FROM mine LEFT JOIN spent USING (member, month) GROUP BY ALL
), sums AS (
  SELECT y, persons.type, sum(months) AS months, sum(least(12 * cost, truncation * months)) AS twelvefold
  FROM persons JOIN types ON types.year = y AND types.type = persons.type GROUP BY ALL
), capita AS (
  SELECT s.*, t.risk::DOUBLE AS risk, t.national::DOUBLE AS national, t.regional::DOUBLE AS regional,
    twelvefold::DOUBLE / months::DOUBLE AS per_capita
  FROM sums s JOIN types t ON t.year = y AND t.type = s.type
), based AS (
  SELECT b.type, sum(per_capita * (0.25 * l.national / b.national + 0.75 * l.regional / b.regional) * l.risk / b.risk
    * CASE b.y WHEN 2021 THEN 0.1 WHEN 2022 THEN 0.3 ELSE 0.6 END) AS historical, any_value(l) AS last
  FROM capita b JOIN (SELECT type, national, regional, risk FROM capita WHERE y = 2023) l USING (type)
  WHERE b.y < 2024 GROUP BY b.type
), money AS (
  SELECT sum(historical * least(c.risk / last.risk, 1.03)
      * (0.25 * c.national / last.national + 0.75 * c.regional / last.regional) * c.months) / 12 AS target,
    sum(c.twelvefold)::DOUBLE / 12 AS cost
  FROM capita c JOIN based USING (type) WHERE c.y = 2024
)
SELECT (SELECT list((y, type, months, twelvefold) ORDER BY y, type) FROM sums), CASE
  WHEN target >= cost THEN least((target - cost) * 0.5 * 0.98, 0.1 * target)
  ELSE greatest((target - cost) * 0.3, -0.04 * target) END FROM money
"""


def population(members: int) -> tuple[pa.Array, pa.Table]:
    """Members and their claim lines of four years."""
    random = np.random.default_rng(11)
    count = members * LINES
    names = pa.array(np.char.add("p", np.char.zfill(np.arange(members).astype(str), 16)))
    whose = np.repeat(np.arange(members), LINES)
    days = (np.datetime64("2021-01-01") + random.integers(0, 1461, count)).astype("datetime64[D]")
    words = np.zeros((count, 2), dtype=np.int64)  # 128 bit numbers of 1e-8, the low word first
    cents = (random.gamma(0.4, 100_000, count) * (1 + 0.02 * (days.astype("datetime64[Y]").astype(int) - 51))).astype(
        np.int64
    )
    words[:, 0] = cents * 1_000_000
    amount = pa.Array.from_buffers(pa.decimal128(28, 8), count, [None, pa.py_buffer(words)])
    day = pa.array(days)
    return names, pa.table(
        {
            "_member": names.take(pa.array(whose)),
            "counts": pa.repeat(pa.scalar(True), count),
            "denied": pa.repeat(pa.scalar(False), count),
            "claim_type": pa.repeat(pa.scalar("professional"), count),
            "service_from": day,
            "claim_from": day,
            "claim_thru": day,
            "payment_date": day,
            "allowed": amount,
            "paid": amount,
        }
    )


def enrolment(names: pa.Array) -> pa.Table:
    """Twelve months of four years, mostly of one type."""
    members, months = len(names), len(YEARS) * 12
    first = np.datetime64("2021-01", "M") + np.arange(months)
    kind = np.array([3, 3, 3, 3, 3, 3, 3, 2, 1, 0])[np.arange(members) % 10].repeat(months)
    switched = (np.arange(members) % 37 == 0).repeat(months) & (np.tile(np.arange(months), members) >= 42)
    kind[switched] = 2  # some become dual eligible in July 2024
    return pa.table(
        {
            "member": pa.DictionaryArray.from_arrays(
                pa.array(np.arange(members, dtype=np.int32).repeat(months)), names
            ),
            "month": pa.array(np.tile(first.astype("datetime64[D]"), members)),
            "type": pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int8)), pa.array(KINDS)),
        }
    )


def types() -> pa.Table:
    """What the program would publish."""
    rows = [
        {
            "year": year, "type": kind, "risk": D(1) + D(place) / 10 + D(number) / 50,
            "truncation": D(TRUNCATION[kind]), "national": D(3_000 + 100 * number), "regional": D(3_100 + 90 * number),
        }
        for number, year in enumerate(YEARS)
        for place, kind in enumerate(KINDS)
    ]  # fmt: skip
    return pa.Table.from_pylist([row | {"demographic": None, "completion": None} for row in rows], schema=TYPES_SCHEMA)


Found = tuple[str, Decimal]
Work = Callable[[], Found]


def cents(amount: Any) -> Decimal:
    """To the cent."""
    return D(amount).quantize(D("0.01"), ROUND_HALF_UP)


def commercial_by_product(members: int) -> Work:
    names, lines = population(members)
    contract = Contract.of(COMMERCIAL)

    def work() -> Found:
        months = D(12 * members)
        now = exposure(contract, names, months, lines, contract.dates)
        before = exposure(contract, names, months, lines, (date(2023, 1, 1), date(2023, 12, 31)))
        found = settle(contract, SettlementInputs(now, {}, before))
        sums = [now.cost_before_completion, before.cost_before_completion]
        return str([f"{value.normalize():f}" for value in sums]), cents(found.line("ss.payable").value)

    return work


def commercial_by_hand(members: int) -> Work:
    names, lines = population(members)

    def work() -> Found:
        with duckdb.connect() as connection:
            connection.register("lines", lines)
            connection.register("roster", pa.table({"member": names}))
            row = connection.execute(COMMERCIAL_BY_HAND).fetchone()
        assert row is not None
        return str([f"{value.normalize():f}" for value in row[:2]]), cents(row[2])

    return work


def program_by_product(members: int) -> Work:
    names, lines = population(members)
    months, published = enrolment(names), types()
    terms = SharedSavingsProgram.model_validate(PROGRAM)
    assert not terms.problems()
    quality = MeasureTerms.model_validate(
        {"id": "q", "canonical": "urn:q", "name": "Q", "direction": "increase", "weight": 1,
         "scoring": {"kind": "linear", "threshold": 0, "target": 1}}
    )  # fmt: skip

    def work() -> Found:
        tables = {"enrolment": months, "benchmark_types": published}
        nothing = PEOPLE_SCHEMA.empty_table()
        facts = Facts((date(2024, 1, 1), date(2024, 12, 31)), lines, nothing, nothing, nothing, tables)
        spent = Exposure(members, D(12 * members), D(0), D(0), D(0), 0)
        ledger = Ledger("aco", "USD", "cent", None)
        inputs = SettlementInputs(spent, {"q": MeasureScore(None, 1, D(1))}, facts=facts)
        terms.settle(inputs, (quality,), ledger)
        values = {line.id.removeprefix("aco."): line for line in ledger.lines}
        sums = [
            (f"{kind}.BY{number}", round(values[f"{kind}.BY{number}"].value or D(0), 6))
            for number in (1, 2, 3)
            for kind in sorted(KINDS)
        ]
        return str([f"{name} {value}" for name, value in sums]), cents(values["payable"].value)

    return work


def program_by_hand(members: int) -> Work:
    names, lines = population(members)
    months, published = enrolment(names), types()

    def work() -> Found:
        with duckdb.connect() as connection:
            connection.register("lines", lines)
            connection.register("enrolment", months)
            connection.register("types", published)
            row = connection.execute(PROGRAM_BY_HAND).fetchone()
        assert row is not None
        sums = [
            (f"{kind}.BY{YEARS.index(year) + 1}", round(D(twelvefold) / D(count), 6))
            for year, kind, count, twelvefold in ((each[0], each[1], each[2], each[3]) for each in row[0])
            if year < 2024
        ]
        return str([f"{name} {value}" for name, value in sums]), cents(row[1])

    return work


WAYS: dict[str, Callable[[int], Work]] = {
    "commercial product": commercial_by_product,
    "commercial hand": commercial_by_hand,
    "program product": program_by_product,
    "program hand": program_by_hand,
}


def _alone(way: str, members: int) -> None:
    """Run one way and say what it took, and what it found, in a line of JSON."""
    work = WAYS[way](members)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, wall = time.process_time(), time.monotonic()
    sums, amount = work()
    cpu, wall = time.process_time() - began, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {"cpu": cpu, "wall": wall, "held": held // 1024, "peak": peak // 1024, "sums": sums, "amount": str(amount)}
        )
    )


def main() -> None:
    """Measure, compare and print."""
    if len(sys.argv) == 4 and sys.argv[1] == "--alone":
        _alone(sys.argv[2], int(sys.argv[3]))
        return
    for members in [int(text) for text in sys.argv[1:]] or [100_000, 1_000_000]:
        for settlement in ("commercial", "program"):
            taken = {}
            for way in ("product", "hand"):
                command = [sys.executable, "-m", "bench.settlement", "--alone", f"{settlement} {way}", str(members)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                taken[way] = json.loads(done.stdout)
                one = taken[way]
                print(
                    f"{members:>9,} members  {settlement:<10} {way:<7} {one['cpu']:6.2f} CPU s {one['wall']:6.2f} s  "
                    f"{members / one['cpu']:>9,.0f} members/CPU s  {one['peak'] - one['held']:>5} MB more than the "
                    f"input's {one['held']}  amount {one['amount']}"
                )
            if any(taken["product"][name] != taken["hand"][name] for name in ("sums", "amount")):
                raise SystemExit(f"{settlement}: the two ways differ\n{taken['product']}\n{taken['hand']}")
            ratio = taken["product"]["cpu"] / taken["hand"]["cpu"]
            print(
                f"{'':>9}          {settlement:<10} same sums and amount; product takes {ratio:.2f} x the query's CPU"
            )


if __name__ == "__main__":
    main()
