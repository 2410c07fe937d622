"""Where the time of an evaluation goes: CPU seconds by stage and ELM node, each without the nodes below it.

``python -m bench.measure_profile [MEASURE ...] [--patients 100000] [--data ...]``

The clock around each node costs some 10 % of the total; reading is what the lake takes, other is what is spent outside
of nodes (population algebra, supplemental data's distinct values).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from bench.measures import NOW, child, machine, open_lake, read_cases, replicate


class Clock:
    """Own time of nested steps by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._below: list[float] = [0.0]

    def around(self, name: str, function: Any) -> Any:
        """The function, timed."""

        def timed(*arguments: Any) -> Any:
            self._below.append(0.0)
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                spent = time.thread_time() - start
                self.spent[name] += spent - self._below.pop()
                self.calls[name] += 1
                self._below[-1] += spent

        return timed


def profile(package: Path, lake: Path, period: dict[str, str]) -> tuple[Clock, float]:
    """Evaluate once on one core with a clock around each node."""
    from fhir_gateway.cql import Batch
    from fhir_gateway.measures import Evaluator, MeasurePackage
    from fhir_gateway.measures.population import LakePopulation

    clock = Clock()
    evaluator = Evaluator(MeasurePackage.load(package))
    for node in evaluator.compiled.compiler._nodes.values():
        if not node.cheap:
            kind = str(node.elm.get("type"))
            node.run = clock.around(f"{kind} {node.elm['name']}" if kind == "FunctionRef" else kind, node.run)

    class Timed(LakePopulation):
        def batches(self) -> Any:
            for batch in super().batches():
                yield Batch(batch.members, clock.around("reading", batch.read), narrows=batch.narrows)

    days = date.fromisoformat(period["start"]), date.fromisoformat(period["end"])
    start = time.thread_time()
    evaluator.evaluate(Timed(open_lake(lake)), days, NOW)
    return clock, time.thread_time() - start


def show(name: str, clock: Clock, total: float, rows: int = 18) -> None:
    """The table of one measure."""
    print(f"\n{name}: {total:.2f} CPU s")
    print("stage or node | calls | CPU s | share")
    ranked = sorted(clock.spent, key=lambda kind: -clock.spent[kind])
    for kind in ranked[:rows]:
        print(f"{kind} | {clock.calls[kind]} | {clock.spent[kind]:.2f} | {clock.spent[kind] / total:.0%}")
    rest = sum(clock.spent[kind] for kind in ranked[rows:])
    print(f"{len(ranked[rows:])} other nodes | | {rest:.2f} | {rest / total:.0%}")
    other = total - sum(clock.spent.values())
    print(f"other | | {other:.2f} | {other / total:.0%}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", default=["CMS122"])
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        raise SystemExit(f"{options.data}: no published measures here; name their folder with --data")
    print(f"{machine()}, {options.patients} patients, one core")
    for name in options.measures:
        folder = next(iter(sorted(options.data.glob(f"{name}*"))))
        cases = read_cases(folder)
        with tempfile.TemporaryDirectory() as scratch:
            source, lake = Path(scratch) / "source", Path(scratch) / "lake"
            source.mkdir()
            replicate(cases, options.patients // len(cases) * len(cases), source)
            child("--ingest", str(source), str(lake))
            show(folder.name, *profile(folder, lake, cases[0]["measurementPeriod"]))


if __name__ == "__main__":
    main()
