"""Run published measures against their own test cases.

``python -m tests.measures.published [-v] DIR...`` where each DIR holds a package (``bundle.json.gz``, or any layout
``MeasurePackage.load`` reads) and ``cases.ndjson.gz``: one line per case with ``id``, ``measurementPeriod``,
``resources`` and ``expected``: counts by population code or id, and optionally the score, strata and observed values.
Prints ``NAME passed/total`` for each measure, where a case passes when its populations do, then how many strata and
observations are as expected, and last ``cases passed/total passed``. What is no folder is skipped.

Expectations that contradict the CQL, or themselves, are listed with the proof in ``exclusions.toml``: they need not be
met, and must not. Exits 1 when anything else differs, or something listed is met. ``-v`` lists every difference.

``--content`` takes ``meta.profile`` off all data and compares what is told by content alone: populations only; cases
whose content contradicts the profile they declare are listed as ``[[content]]``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fhir_gateway.errors import GatewayError
from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation
from fhir_gateway.measures.strata import only
from tests.measures.exclusions import Exclusions
from tests.measures.expectations import KINDS, Comparison, Difference, compare_group, joined

Resource = dict[str, Any]
#: All published cases are written in UTC.
NOW = datetime(2026, 11, 1, tzinfo=UTC)
EXCLUSIONS = Path(__file__).with_name("exclusions.toml")


@dataclass(frozen=True)
class Outcome:
    """One case: its id and title, and how its expectations compare with the result."""

    case: str
    title: str
    comparison: Comparison

    @property
    def differences(self) -> tuple[str, ...]:
        """What differs from the expected populations; empty when the case passes."""
        return tuple(d.text for d in self.comparison.differences if d.kind == "populations")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("-v", "--verbose", action="store_true", help="list what differs, with got and expected")
    parser.add_argument("--content", action="store_true", help="without declared profiles")
    options = parser.parse_args(arguments)
    exclusions = Exclusions.load(EXCLUSIONS, content=options.content)
    compared, met, excused = Counter[str](), Counter[str](), Counter[str]()
    passed = total = 0
    wrong: list[str] = []
    for folder in options.folders:
        if not folder.is_dir():
            continue
        cases = read_cases(folder)
        try:
            if options.content:
                outcomes = run(MeasurePackage.load(folder, profiles="content"), map(undeclared, cases))
            else:
                outcomes = run(MeasurePackage.load(folder), cases)
        except GatewayError as error:
            print(f"{folder.name}: {type(error).__name__}: {error}")
            outcomes = [_not_evaluated(case, "not evaluated") for case in cases]
        good = sum(not outcome.differences for outcome in outcomes)
        print(f"{folder.name} {good}/{len(outcomes)}", flush=True)
        for outcome in outcomes:
            differences = outcome.comparison.differences
            compared.update(outcome.comparison.compared)
            met.update(outcome.comparison.compared)
            met.subtract(difference.kind for difference in differences)
            for difference in differences:
                known = exclusions.excuses(folder.name, outcome.case, difference)
                excused[difference.kind] += known
                line = f"{outcome.case} {outcome.title}: {difference.text}"
                if options.verbose:
                    print(f"    {line}{' (excluded)' if known else ''}")
                if not known:
                    wrong.append(f"{folder.name} {line}")
        wrong.extend(exclusions.stale(folder.name, (outcome.case for outcome in outcomes)))
        passed += good
        total += len(outcomes)
    if wrong:
        print("to be explained:", *wrong, sep="\n    ")
    for kind in KINDS[1:]:
        if compared[kind]:
            print(f"{kind} {met[kind]}/{compared[kind]} as expected, {excused[kind]} excluded with proof")
    if cases_excused := sum(kind == "populations" for _, _, kind, _ in exclusions.used):
        print(f"excluded with proof: {cases_excused}")
    print(f"cases {passed}/{total} passed")
    return 1 if wrong else 0


def _not_evaluated(case: Mapping[str, Any], reason: str) -> Outcome:
    comparison = Comparison({}, (Difference("populations", "*", reason),))
    return Outcome(case["id"], case.get("title", ""), comparison)


def read_cases(folder: Path) -> list[dict[str, Any]]:
    """Cases of ``cases.ndjson.gz``, or of every JSON file in ``cases/``."""
    packed = folder / "cases.ndjson.gz"
    if packed.exists():
        with gzip.open(packed, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    return [json.loads(file.read_text("utf-8")) for file in sorted((folder / "cases").glob("*.json"))]


def run(package: MeasurePackage, cases: Iterable[Mapping[str, Any]], now: datetime = NOW) -> list[Outcome]:
    """Evaluate all cases that share a measurement period as one population, and compare the counts."""
    evaluator = Evaluator(package)
    by_period: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for case in cases:
        period = case["measurementPeriod"]
        by_period.setdefault((period["start"][:10], period["end"][:10]), []).append(case)
    outcomes: list[Outcome] = []
    for (start, end), together in by_period.items():
        population = MemoryPopulation((f"case-{n}", rename(case, n)) for n, case in enumerate(together))
        result = evaluator.evaluate(population, (date.fromisoformat(start), date.fromisoformat(end)), now)
        outcomes.extend(compare(result, together))
    return outcomes


def undeclared(case: Mapping[str, Any]) -> dict[str, Any]:
    """The case without declared profiles and with nothing but its populations expected."""
    resources = [
        {**resource, "meta": {key: value for key, value in resource.get("meta", {}).items() if key != "profile"}}
        for resource in case["resources"]
    ]
    groups = [{"id": group["id"], "population": group["population"]} for group in case["expected"]["groups"]]
    return {**case, "resources": resources, "expected": {"groups": groups}}


def rename(case: Mapping[str, Any], number: int) -> list[Resource]:
    """The case's resources under new ids: ids recur between cases, which are evaluated together.

    The Patient becomes ``case-N``; references inside the case follow, references to what is not there stay dangling.
    """
    resources = case["resources"]
    names = {
        f"{resource['resourceType']}/{resource['id']}": f"{resource['resourceType']}/case-{number}"
        if resource["resourceType"] == "Patient"
        else f"{resource['resourceType']}/case-{number}-{resource['id']}"
        for resource in resources
    }

    def renamed(node: Any) -> Any:
        if isinstance(node, list):
            return [renamed(item) for item in node]
        if isinstance(node, dict):
            return {
                key: names.get(value, value) if key == "reference" and isinstance(value, str) else renamed(value)
                for key, value in node.items()
            }
        return node

    return [
        renamed(resource) | {"id": names[f"{resource['resourceType']}/{resource['id']}"].partition("/")[2]}
        for resource in resources
    ]


def compare(result: MeasureResult, cases: list[Mapping[str, Any]]) -> Iterator[Outcome]:
    """What each case expects against what it got."""
    members = {member: index for index, member in enumerate(result.members.to_pylist())}
    for number, case in enumerate(cases):
        member = f"case-{number}"
        if member in result.failed:
            yield _not_evaluated(case, f"failed: {result.failed[member]}")
        elif member not in members:
            yield _not_evaluated(case, "the case has no Patient")
        else:
            comparison = joined(_groups(result, case["expected"]["groups"], members[member]))
            yield Outcome(case["id"], case.get("title", ""), comparison)


def _groups(result: MeasureResult, expectations: list[Mapping[str, Any]], index: int) -> Iterator[Comparison]:
    for place, expected in enumerate(expectations):
        group = next((g for g in result.groups if g.id == expected["id"]), None)
        if group is None and len(expectations) == len(result.groups):
            group = result.groups[place]  # cases exported from an older revision name groups by other ids
        if group is None:
            text = f"the measure has no group {expected['id']}"
            yield Comparison({}, (Difference("populations", "*", text),))
        else:
            yield compare_group(only(group, index), expected)


if __name__ == "__main__":
    sys.exit(main())
