"""Strata of many measures: CPU seconds to break metrics down by every dimension, suppressed together.

    python -m bench.equity [members] [metrics]

Made-up members (the dimensions' own strata by uneven weights) and metrics whose denominators and numerators are random
parts of them, a fifth of them with a denominator that another has too. Seconds are process CPU seconds.
"""

from __future__ import annotations

import sys
import time
from datetime import date

import numpy as np
import pyarrow as pa

from fhir_gateway.equity.dimensions import DIMENSIONS
from fhir_gateway.equity.members import of_columns
from fhir_gateway.equity.metrics import Metric
from fhir_gateway.equity.stratify import stratify


def main(size: int = 100_000, count: int = 50) -> None:
    rng = np.random.default_rng(7)
    members = pa.array([f"p{n:016x}" for n in range(size)])
    columns: dict[str, pa.Array] = {}
    for one in DIMENSIONS.values():
        codes = [code for code in one.strata if code != "unknown"]
        if one.id in ("adi-quintile",):
            continue
        weights = 0.5 ** np.arange(len(codes))
        drawn = rng.choice(len(codes), size, p=weights / weights.sum())
        known = rng.random(size) < 0.9
        columns[one.id] = pa.array(codes).take(pa.array(drawn, mask=~known))
    decile = columns["adi-decile"].to_pylist()
    columns["adi-quintile"] = pa.array([None if d is None else str((int(d) + 1) // 2) for d in decile])
    start = time.process_time()
    dimensions = of_columns(members, date(2025, 12, 31), columns)
    metrics: list[Metric] = []
    for number in range(count):
        shared = metrics[-1].denominator if number % 5 == 4 else None
        denominator = (rng.random(size) < rng.uniform(0.02, 0.8)).astype(float) if shared is None else shared
        numerator = denominator * (rng.random(size) < rng.uniform(0.05, 0.95))
        metrics.append(Metric(f"m{number}", f"m{number}", members, denominator, numerator))
    made = time.process_time()
    strata = stratify(metrics, dimensions, tuple(DIMENSIONS) if "--needs" in sys.argv else ())
    done = time.process_time()
    cells = [cell for one in strata.breakdowns for cell in one.cells]
    hidden = sum(cell.suppressed for cell in cells)
    of = f"{count} metrics, {len(strata.population)} dimensions, {len(cells):,} cells ({hidden:,} hidden)"
    print(f"{size:,} members, {of}")
    print(f"codes {made - start:.2f} s CPU, strata {done - made:.2f} s CPU")


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:] if one.isdigit()))
