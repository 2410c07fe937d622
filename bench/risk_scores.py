"""Risk scores: members per second by our columns, beside hccinfhir in one process: ``python -m bench.risk_scores``.

Members are made up: ages of a Medicare population, 5 diagnoses each on average, half of which map to a category.
hccinfhir scores a sample of them one by one; both see the same codes, and their scores are compared.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pyarrow as pa

from fhir_gateway.risk.hcc import payment_year, score
from fhir_gateway.risk.hcc.tables import model_tables

_SAMPLE = 5_000


def population(count: int, model: str, year: int) -> tuple[pa.Table, pa.Table]:
    """Members and their diagnoses."""
    chance = np.random.default_rng(7)
    names = pa.array([f"p{number:016x}" for number in range(count)])
    members = pa.table(
        {
            "member": names,
            "age": chance.choice(np.arange(40, 100), count).astype(np.int16),
            "sex": pa.array(["M", "F"]).take(pa.array(chance.integers(0, 2, count))),
            "orec": pa.array(["0", "0", "0", "1"]).take(pa.array(chance.integers(0, 4, count))),
            "dual": pa.array(["00", "00", "00", "02", "03"]).take(pa.array(chance.integers(0, 5, count))),
        }
    )
    codes = model_tables(payment_year(year).model(model)).codes.to_pylist()
    codes = pa.array([*codes, *(f"Z{number:05}" for number in range(len(codes)))])
    each = chance.poisson(5, count)
    member = np.repeat(np.arange(count), each)
    chosen = pa.array(chance.integers(0, len(codes), len(member)))
    return members, pa.table({"member": names.take(pa.array(member)), "diagnosis": codes.take(chosen)})


def by_hccinfhir(members: pa.Table, diagnoses: pa.Table, model: str) -> tuple[float, list[float]]:
    """CPU seconds for a sample, and its scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hccinfhir import HCCInFHIR

        peer = HCCInFHIR(model_name=f"CMS-HCC Model {model}")
    rows = members.slice(0, _SAMPLE).to_pylist()
    of: dict[str, list[str]] = {row["member"]: [] for row in rows}
    for row in diagnoses.slice(0, _SAMPLE * 10).to_pylist():
        if row["member"] in of:
            of[row["member"]].append(row["diagnosis"])
    start = time.process_time()
    found = [
        peer.calculate_from_diagnosis(
            of[row["member"]], age=row["age"], sex=row["sex"], orec=row["orec"], dual_elgbl_cd=row["dual"]
        ).risk_score
        for row in rows
    ]
    return time.process_time() - start, found


def main() -> None:
    """Print members per CPU second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("members", type=int, nargs="*", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    model, year = "V28", 2026
    for count in arguments.members:
        members, diagnoses = population(count, model, year)
        score(members.slice(0, 10), diagnoses.slice(0, 10), model, year)  # tables are read once
        for detail, what in ((False, "scores"), (True, "scores, components and evidence")):
            begun, start = time.perf_counter(), time.process_time()
            found = score(members, diagnoses, model, year, detail=detail)
            cpu, wall = time.process_time() - start, time.perf_counter() - begun
            print(
                f"RAF {model} {year}: {count:,} members, {diagnoses.num_rows:,} diagnoses, {what}: "
                f"{cpu:.2f} CPU s, {wall:.2f} s, {count / cpu:,.0f} members per CPU second"
            )
        cpu, theirs = by_hccinfhir(members, diagnoses, model)
        ours = [float(raw) for raw in found.scores["raw"].slice(0, _SAMPLE).to_pylist()]
        agree = sum(abs(a - b) < 1e-9 for a, b in zip(ours, theirs, strict=True))
        print(
            f"hccinfhir: {len(theirs):,} members: {cpu:.2f} CPU s, {len(theirs) / cpu:,.0f} members per CPU second; "
            f"{agree:,} of {len(theirs):,} scores are the same"
        )


if __name__ == "__main__":
    main()
