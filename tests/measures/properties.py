"""Laws of every evaluation, over published cases: results do not depend on who is evaluated together with whom.

``python -m tests.measures.properties [--every N] DIR...`` evaluates the cases of each DIR (as ``published.py`` reads
them) together, then shuffled in small batches, with a stranger among them, and one at a time (every Nth case), and
compares what is known of each case: counts, criteria alone, failures, observations, strata and supplemental data. The
three types of report must agree. Exits 1 when one law is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation
from fhir_gateway.measures.strata import only
from tests.measures.agreement import disagreement
from tests.measures.published import NOW, read_cases, rename

Group = tuple[str, list[dict[str, Any]]]
STRANGER: Group = ("zz", [{"resourceType": "Patient", "id": "zz", "birthDate": "1950-01-01", "gender": "female"}])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--every", type=int, default=10, metavar="N", help="every Nth case alone (default 10)")
    options = parser.parse_args(arguments)
    cases = broken = 0
    for folder in (folder for folder in options.folders if folder.is_dir()):
        count, found = check(folder, options.every)
        cases += count
        broken += len(found)
        print(f"{folder.name} {count} cases", *found, sep="\n    ", flush=True)
    print(f"cases {cases}, laws broken {broken}")
    return 1 if broken else 0


def check(folder: Path, every: int) -> tuple[int, list[str]]:
    """The number of cases of a folder, and each law that one of them breaks."""
    by_period: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for number, case in enumerate(read_cases(folder)):
        period = case["measurementPeriod"]
        by_period[period["start"][:10], period["end"][:10]].append((f"case-{number}", rename(case, number)))
    evaluator = Evaluator(MeasurePackage.load(folder))
    found: list[str] = []
    for (start, end), groups in by_period.items():
        found.extend(_laws(evaluator, (date.fromisoformat(start), date.fromisoformat(end)), groups, every))
    return sum(map(len, by_period.values())), found


def _laws(evaluator: Evaluator, period: tuple[date, date], groups: Sequence[Group], every: int) -> Iterator[str]:
    whole = evaluator.evaluate(MemoryPopulation(groups), period, NOW)
    expected = known(whole)
    shuffled = list(groups)
    random.Random(len(groups)).shuffle(shuffled)  # noqa: S311 - no secret

    def differing(law: str, population: MemoryPopulation) -> Iterator[str]:
        for member, facts in known(evaluator.evaluate(population, period, NOW)).items():
            if member != STRANGER[0] and facts != expected[member]:
                yield f"{member} {law}: {facts} instead of {expected[member]}"

    yield from differing("shuffled in batches", MemoryPopulation(shuffled, batch_size=7))
    yield from differing("beside a stranger", MemoryPopulation([*groups, STRANGER]))
    for group in groups[::every]:
        yield from differing("alone", MemoryPopulation([group]))
    problem = disagreement(whole)
    if problem:
        yield f"reports do not agree: {problem}"


def known(result: MeasureResult) -> dict[str, tuple[Any, ...]]:
    """All that a result says of each member, in a form that does not depend on the others."""
    values: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for element in result.supplemental:
        for member, value in zip(element.member.tolist(), element.value.to_pylist(), strict=True):
            values[member].append((element.id, value))
    return {
        member: (
            result.failed.get(member),
            tuple(_group(only(group, index)) for group in result.groups),
            tuple(sorted(values[index])),
        )
        for index, member in enumerate(result.members.to_pylist())
    }


def _group(group: Any) -> tuple[Any, ...]:
    counts = tuple((int(p.counts[0]), int(p.raw[0])) for p in group.populations)
    observed = tuple(
        tuple(sorted(map(str, p.observations.value.to_pylist())))
        for p in group.populations
        if p.observations is not None
    )
    strata = tuple(
        tuple(sorted(str(s.values[number]) for number in numbers.tolist() if number >= 0))
        for s in group.stratifiers
        for numbers in s.strata.values()
    )
    return counts, observed, strata


if __name__ == "__main__":
    sys.exit(main())
