"""Payments by member month at 1 million members x 12 months: CPU seconds and memory, next to a query by hand.

``python -m bench.capitation [--members 1000000] [--kind capitation]`` makes a synthetic population (months, persons,
programmes, scores, tiers), settles it, and prints CPU seconds of the process, the time passed and the peak of memory.
``capitation`` has 36 cells by age, gender and programme and risk scores with a reference; the query by hand next to it
does the same join and sum in one statement, in binary floating point, without rows or checks. Each kind in a process of
its own.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts import Exposure, SettlementInputs
from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.contracts.arrangements.facts import AMOUNT, PEOPLE_SCHEMA, Facts
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.lake.claims import LINE_SCHEMA

PERIOD = (date(2024, 1, 1), date(2024, 12, 31))
PROGRAMMES = ("TANF", "SSI", "DUAL")
AGES = ((0, 0), (1, 5), (6, 17), (18, 44), (45, 64), (65, None))

TERMS: dict[str, dict[str, Any]] = {
    "capitation": {
        "cells": {"attributes": ["programme"]},
        "risk": {"normalise": "reference", "reference": Decimal("1.02")},
        "withhold": {"part": Decimal("0.05"), "earned": "all"},
    },
    "case_rate": {
        "tier_change": "prorate",
        "rates": [{"tier": tier, "rate": rate} for tier, rate in (("1", 200), ("2", 600), ("3", 900))],
    },
    "care_management_fee": {
        "programme": {"name": "cpc_plus_track_1", "year": 2020},
        "tiers": "tiers",
        "payment": "prospective_quarterly",
        "as_of": date(2025, 2, 1),
        "retro_quarters": 4,
    },
}
BY_HAND = """
SELECT sum(m.months::DOUBLE * r.rate::DOUBLE * s.score::DOUBLE / 1.02)
FROM months m JOIN people p USING (member) JOIN attributes a USING (member) JOIN scores s USING (member)
JOIN rates r ON r.gender = p.gender AND r.programme = a.programme
  AND date_sub('year', p.birth_date, m.month) >= r.age_from
  AND date_sub('year', p.birth_date, m.month) <= coalesce(r.age_through, 999)
"""


def facts(members: int, seed: int = 1) -> Facts:
    """A population of which each member counts in nine months of ten."""
    random = np.random.default_rng(seed)
    names = pc.binary_join_element_wise("member-", pa.array(np.arange(members)).cast(pa.string()), "")
    births = pa.array(np.datetime64("2024-01-01") - random.integers(1, 90 * 365, members).astype("timedelta64[D]"))
    genders = pa.array(np.where(random.random(members) < 0.5, "female", "male"))
    owner, month = np.divmod(np.flatnonzero(random.random(members * 12) < 0.9), 12)
    firsts = np.array([np.datetime64(f"2024-{number:02d}-01") for number in range(1, 13)])
    nothing = pa.nulls(members, pa.string())
    rates = [
        {"cell": f"{programme}-{gender}-{low}", "rate": Decimal(100 + 7 * low), "gender": gender, "age_from": low,
         "age_through": high, "programme": programme}
        for programme in PROGRAMMES for gender in ("female", "male") for low, high in AGES
    ]  # fmt: skip
    rate_schema = pa.schema(
        [(name, pa.string()) for name in ("cell", "gender", "programme")]
        + [(name, pa.int32()) for name in ("age_from", "age_through", "months_from", "months_through")]
        + [("effective_from", pa.date32()), ("effective_through", pa.date32()), ("rate", AMOUNT)]
    )
    no_day, no_months = pa.nulls(members, pa.date32()), pa.nulls(members, AMOUNT)
    scores = pa.array(random.integers(300, 3000, members)).cast(pa.decimal128(28, 0)).cast(AMOUNT)
    tiers = pa.array(random.integers(1, 4, members)).cast(pa.string())
    assessed = pa.array(np.datetime64("2023-07-01") + random.integers(0, 500, members).astype("timedelta64[D]"))
    return Facts(
        period=PERIOD,
        lines=LINE_SCHEMA.empty_table(),
        people=pa.table([names, births, genders, no_day, nothing, nothing, no_months], schema=PEOPLE_SCHEMA),
        months=pa.table(
            {
                "member": names.take(pa.array(owner)),
                "month": pa.array(firsts[month]).cast(pa.date32()),
                "months": pa.repeat(Decimal(1), len(owner)).cast(AMOUNT),
            }
        ),
        baseline_months=pa.table({}),
        tables={
            "rates": pa.Table.from_pylist([dict.fromkeys(rate_schema.names) | row for row in rates], rate_schema),
            "member_attributes": pa.table(
                {
                    "member": names,
                    "effective_from": no_day,
                    "effective_through": no_day,
                    "programme": pa.array(np.array(PROGRAMMES)[random.integers(0, 3, members)]),
                }
            ),
            "risk_scores": pa.table(
                {
                    "member": names,
                    "score": pc.multiply(scores, pa.scalar(Decimal("0.001"))).cast(AMOUNT),
                    "month": no_day,
                    "previous": no_months,
                }
            ),
            "assessments": pa.table(
                {
                    "member": names,
                    "effective_from": assessed.cast(pa.date32()),
                    "tier": tiers,
                    "instrument": nothing,
                    "score": no_months,
                }
            ),
            "tiers": pa.table({"member": names, "tier": tiers, "effective_from": no_day}),
        },
    )


def measure(kind: str, members: int) -> None:
    """Settle once and print."""
    given = facts(members)
    months = Decimal(given.months.num_rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, clock = time.process_time(), time.monotonic()
    if kind == "by hand":
        with duckdb.connect() as connection:
            for name, table in (("months", given.months), ("people", given.people), ("rates", given.tables["rates"])):
                connection.register(name, table)
            connection.register("attributes", given.tables["member_attributes"])
            connection.register("scores", given.tables["risk_scores"])
            amount = connection.execute(BY_HAND).fetchall()[0][0]
    else:
        terms = ARRANGEMENTS[kind].model_validate({"kind": kind, "id": "bench", "pool": "bench"} | TERMS[kind])
        inputs = SettlementInputs(Exposure(members, months, *[Decimal(0)] * 3, 0), {}, facts=given)
        ledger = Ledger("bench", "USD", "cent", terms.stream())
        terms.settle(inputs, (), ledger)
        amount = ledger.lines[-1].amount
    cpu, clock = time.process_time() - cpu, time.monotonic() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{kind:20} {members:>9,} members {int(months):>11,} months  {cpu:7.1f} s CPU {clock:7.1f} s"
        f"  peak {peak / 2**20:5.1f} GB (inputs {before / 2**20:.1f})  {int(months) / cpu:>11,.0f} months/s"
        f"  {amount:,.2f}"
    )


def main() -> None:
    """Each kind in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=[*TERMS, "by hand"])
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.members)
        return
    print(f"Python {platform.python_version()}, DuckDB {duckdb.__version__}, {platform.machine()}", flush=True)
    for kind in ("by hand", *TERMS):
        command = [sys.executable, "-m", "bench.capitation", "--kind", kind, "--members", str(arguments.members)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
