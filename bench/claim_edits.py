# ruff: noqa: E501, S608  # statements that make tables up: names and numbers of this module
"""Claims per second of one core through all claim edits, with reference tables of realistic size.

``python -m bench.claim_edits [claims]``: professional claims of three lines with history, patients and coverage; 1.5
million procedure pairs, 15,000 unit limits, 75,000 diagnoses, 20,000 procedures. Codes are made up; the sizes are those
of the published files. CPU seconds of this process, one thread.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.claim_edits import CLAIM_SCHEMA, Context, TableStore, check, claim_rows
from fhir_gateway.claim_edits.models import ATTRIBUTED_SCHEMA, COVERAGE_SCHEMA, PATIENT_SCHEMA
from fhir_gateway.lake.claims import DIRECTORY_SCHEMA
from tests.support.claims import TABLES

PROCEDURES, DIAGNOSES, PAIRS, LIMITS = 20_000, 75_000, 1_500_000, 15_000
CPT, ICD, NPI = "http://www.ama-assn.org/go/cpt", "http://hl7.org/fhir/sid/icd-10-cm", "http://hl7.org/fhir/sid/us-npi"
BATCH = 50_000  # as the jobs do
NPIS = ("1234567893", "1679576722", "1245319599")


def main() -> None:
    """Make tables and claims, check the claims in batches, say how long it took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    batch = BATCH
    with tempfile.TemporaryDirectory() as folder:
        store = tables(Path(folder))
        lines = claims(count)
        members = [f"p{number}" for number in range(count // 4)]
        known = context(members)
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, one thread")
        print(f"{count:,} claims of three lines, {sum(map(len, lines)) / 2**20:,.0f} MB of JSON, batches of {batch:,}")
        started = time.process_time()
        parts = [claim_rows(lines[first : first + batch]) for first in range(0, count, batch)]
        read = time.process_time() - started
        started = time.process_time()
        found = [check(part, known, store) for part in parts]
        checked = time.process_time() - started
    edits = Counter(edit for one in found for edit in one.findings["edit"].to_pylist())
    lacking = {ground for one in found for ground in one.unchecked["ground"].to_pylist()}
    print(f"read JSON into columns: {read:.1f} s of CPU, {count / read:,.0f} claims/s")
    print(f"all edits, tables opened for each batch: {checked:.1f} s of CPU, {count / checked:,.0f} claims/s")
    print(f"together: {count / (read + checked):,.0f} claims/s per core")
    print(
        f"findings: {sum(edits.values()):,} of {len(edits)} edits; not checked: {', '.join(sorted(lacking)) or 'nothing'}"
    )
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


def procedure(number: str) -> str:
    """SQL of a code by its number: four digits and a letter or digit."""
    return f"printf('%05d', 10000 + ({number}))"


def tables(folder: Path) -> TableStore:
    """Every table: the large ones made up, the small ones as in the tests."""
    store = TableStore(folder / "tables")
    made = {
        "icd10cm": f"SELECT {diagnosis('range')} AS code, range % 4 <> 0 AS billable FROM range({DIAGNOSES})",
        "procedure-codes": f"SELECT {procedure('range')} AS code FROM range({PROCEDURES})",
        "ncci-ptp": f"SELECT DISTINCT {procedure(f'hash(range) % {PROCEDURES}')} AS column1, "
        f"{procedure(f'hash(range + 7) % {PROCEDURES}')} AS column2, range % 2 AS indicator, 'PROFESSIONAL' AS setting "
        f"FROM range({PAIRS})",
        "ncci-mue": f"SELECT {procedure('range')} AS code, 1 + range % 9 AS units, 1 + range % 3 AS mai FROM range({LIMITS})",
        "global-periods": f"SELECT {procedure('range * 3')} AS code, [0, 10, 90][1 + range % 3] AS days FROM range(5000)",
        "add-on-codes": f"SELECT {procedure('range * 37')} AS code, {procedure('range * 37 + 1')} AS primary_code FROM range(500)",
        "provider-roster": f"SELECT unnest({list(NPIS)!r}) AS npi",
        "modifier-codes": "SELECT unnest(['25', '59', 'RT', 'LT']) AS modifier",
        "timely-filing": "SELECT 'Payer' AS payer, 365 AS days",
        "fee-schedule": f"SELECT 'Payer' AS payer, {procedure('range')} AS code, 20 + range % 400 AS amount FROM range(9000)",
        "prior-authorization": f"SELECT 'Payer' AS payer, {procedure('range * 11')} AS code FROM range(1000)",
        "frequency-limits": f"SELECT 'Payer' AS payer, {procedure('range * 13')} AS code, {procedure('range * 13')} AS prior_code, "
        "5 AS full_months FROM range(500)",
        "coverage-diagnoses": f"SELECT {procedure('range // 100 * 17')} AS code, {diagnosis('range % 9000')} AS diagnosis "
        "FROM range(50000)",
    }
    for name, text in TABLES.items():
        file = folder / f"{name}.csv"
        if name in made:
            with duckdb.connect() as connection:
                connection.execute(f"COPY ({made[name]}) TO '{file}' (HEADER)")  # our own
        else:
            file.write_text(text, encoding="utf-8")
        store.load(name, file, "1", date(2020, 1, 1))
    return store


def diagnosis(number: str) -> str:
    """SQL of a diagnosis by its number."""
    return f"chr((65 + ({number}) // 4000)::INTEGER) || printf('%02d', ({number}) // 40 % 100) || printf('%02d', ({number}) % 40)"


def claims(count: int) -> list[bytes]:
    """Claims as JSON; members have four each, providers are few."""
    chance = np.random.default_rng(7)
    codes, days = chance.integers(0, PROCEDURES, (count, 3)), chance.integers(0, 365, count)
    found, kinds = chance.integers(0, DIAGNOSES, (count, 2)), chance.integers(0, 3, count)
    first = np.datetime64("2025-01-01")
    made = []
    for number in range(count):
        day = str(first + days[number])
        lines = ",".join(
            f'{{"sequence":{n + 1},"diagnosisSequence":[1],"productOrService":{{"coding":[{{"system":"{CPT}",'
            f'"code":"{10000 + codes[number, n]}"}}]}},"servicedDate":"{day}","quantity":{{"value":{1 + n}}},'
            f'"locationCodeableConcept":{{"coding":[{{"code":"11"}}]}},"net":{{"value":{100 + n},"currency":"USD"}},'
            f'"modifier":[{{"coding":[{{"code":"RT"}}]}}]}}'
            for n in range(3)
        )
        diagnoses = ",".join(
            f'{{"sequence":{n + 1},"diagnosisCodeableConcept":{{"coding":[{{"system":"{ICD}","code":"{written(code)}"}}]}}}}'
            for n, code in enumerate(found[number])
        )
        made.append(
            f'{{"resourceType":"Claim","id":"c{number}","status":"active","use":"claim","type":{{"coding":[{{"code":'
            f'"professional"}}]}},"patient":{{"reference":"Patient/p{number // 4}"}},"created":"2026-01-01","billablePeriod":'
            f'{{"start":"{day}","end":"{day}"}},"insurer":{{"display":"Payer"}},"provider":{{"identifier":{{"system":"{NPI}",'
            f'"value":"{NPIS[kinds[number]]}"}}}},"priority":{{"coding":[{{"code":"normal"}}]}},"diagnosis":[{diagnoses}],'
            f'"insurance":[{{"sequence":1,"focal":true,"coverage":{{"reference":"Coverage/c{number // 4}"}}}}],'
            f'"item":[{lines}],"total":{{"value":303,"currency":"USD"}}}}'.encode()
        )
    return made


def written(code: int) -> str:
    """A diagnosis by its number, as :func:`diagnosis` writes it."""
    return f"{chr(65 + code // 4000)}{code // 40 % 100:02d}{code % 40:02d}"


def context(members: list[str]) -> Context:
    """What is known of the members; their other claims are those of the batch."""
    count = len(members)
    days = pa.array([date(1960, 1, 1)] * count, pa.date32())
    covered = pa.array([date(2024, 1, 1)] * count, pa.date32())
    nothing = pa.nulls(count)
    patients = pa.table([pa.array(members), days, pa.array(["F"] * count), nothing], names=PATIENT_SCHEMA.names)
    coverages = pa.table(
        {
            "member": pa.array(members),
            "coverage": pa.array([f"Coverage/c{one[1:]}" for one in members]),
            "status": pa.array(["active"] * count),
            "covered_from": covered,
            "covered_to": nothing,
            "rank": pa.array([1] * count, pa.int64()),
            "payers": pa.array([["Payer"]] * count, pa.list_(pa.string())),
        }
    )
    return Context(
        patients.cast(PATIENT_SCHEMA),
        coverages.cast(COVERAGE_SCHEMA),
        ATTRIBUTED_SCHEMA.empty_table(),
        CLAIM_SCHEMA.empty_table(),
        DIRECTORY_SCHEMA.empty_table(),
    )


if __name__ == "__main__":
    main()
