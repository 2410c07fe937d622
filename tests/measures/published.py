"""Run published measures against their own test cases.

``python -m tests.measures.published [-v] DIR...`` where each DIR holds a package (``bundle.json.gz``, or any layout
``MeasurePackage.load`` reads) and ``cases.ndjson.gz``: one line per case with ``id``, ``measurementPeriod``,
``resources`` and ``expected`` (counts by population code or id, and optionally the score). Prints
``NAME passed/total`` for each measure and last ``cases passed/total passed``. What is no folder is skipped.

``--stratifiers`` and ``--observations`` compare those expectations too, and print what differs with ``-v``; they are
weaker than the counts, so they do not change the exit code. Two habits of the sources are told apart: a stratum
``false`` that holds the complement of each count of ``true`` (a case outside the numerator is "in" it), and strata that
repeat the case's own counts whatever the criterion says.

Cases whose expectation contradicts the CQL are listed with the proof in ``exclusions.toml``: they need not pass, and
must not. Exits 1 when any other case fails, or an excluded one passes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from fhir_gateway.errors import GatewayError
from fhir_gateway.measures import Evaluator, GroupResult, MeasurePackage, MeasureResult, MemoryPopulation
from fhir_gateway.measures.strata import only, restrict

Resource = dict[str, Any]
#: All published cases are written in UTC.
NOW = datetime(2026, 11, 1, tzinfo=UTC)
COMPLEMENT, REPEATED, OTHER = "(complement of true)", "(the case's own counts)", "(unexplained)"
EXCLUSIONS = Path(__file__).with_name("exclusions.toml")


@dataclass(frozen=True)
class Comparison:
    """How many weaker expectations a case has, and those that differ."""

    total: int = 0
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One case: its id and title, and what differs from the expected counts (empty when it passes)."""

    case: str
    title: str
    differences: tuple[str, ...]
    strata: Comparison = Comparison()
    observations: Comparison = Comparison()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("-v", "--verbose", action="store_true", help="list failing cases with got and expected")
    parser.add_argument("--stratifiers", action="store_true", help="compare the counts of each stratum")
    parser.add_argument("--observations", action="store_true", help="compare the observed values")
    options = parser.parse_args(arguments)
    weaker = [name for name in ("stratifiers", "observations") if getattr(options, name)]
    tallies = {name: [0, 0] for name in weaker}
    habits = Counter[str]()
    excluded = {(case["measure"], case["id"]) for case in tomllib.loads(EXCLUSIONS.read_text("utf-8"))["case"]}
    passed = total = excused = 0
    stale: list[str] = []
    for folder in options.folders:
        if not folder.is_dir():
            continue
        cases = read_cases(folder)
        try:
            outcomes = run(MeasurePackage.load(folder), cases)
        except GatewayError as error:
            print(f"{folder.name}: {type(error).__name__}: {error}")
            outcomes = [Outcome(case["id"], case.get("title", ""), ("not evaluated",)) for case in cases]
        good = sum(not outcome.differences for outcome in outcomes)
        print(f"{folder.name} {good}/{len(outcomes)}", flush=True)
        if options.verbose:
            for outcome in outcomes:
                if outcome.differences:
                    print(f"    {outcome.case} {outcome.title}: {'; '.join(outcome.differences)}")
        for name in weaker:
            _tally(name, outcomes, tallies[name], options.verbose)
        for outcome in outcomes:
            if (folder.name, outcome.case) in excluded:
                excused += bool(outcome.differences)
                if not outcome.differences:
                    stale.append(f"{folder.name} {outcome.case} passes although it is excluded")
        habits.update(d[d.rindex("(") :] for outcome in outcomes for d in outcome.strata.differences)
        passed += good
        total += len(outcomes)
    for line in stale:
        print(line)
    if excused:
        print(f"excluded with proof: {excused}")
    for name, (same, compared) in tallies.items():
        print(f"{name} {same}/{compared} as expected")
        if name == "stratifiers" and habits:
            print("    differ: " + ", ".join(f"{count} {habit}" for habit, count in sorted(habits.items())))
    print(f"cases {passed}/{total} passed")
    return 0 if passed + excused == total and not stale else 1


def _tally(name: str, outcomes: Iterable[Outcome], tally: list[int], verbose: bool) -> None:
    """Add up one kind of weaker expectation, and print where a measure differs."""
    for outcome in outcomes:
        found: Comparison = outcome.strata if name == "stratifiers" else outcome.observations
        tally[0] += found.total - len(found.differences)
        tally[1] += found.total
        if verbose and found.differences:
            print(f"    {name} {outcome.case} {outcome.title}: {'; '.join(found.differences)}")


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
    """Population counts of each case against what it expects."""
    members = {member: index for index, member in enumerate(result.members.to_pylist())}
    for number, case in enumerate(cases):
        member = f"case-{number}"
        differences = []
        strata, observations = Comparison(), Comparison()
        if member in result.failed:
            differences.append(f"failed: {result.failed[member]}")
        elif member not in members:
            differences.append("the case has no Patient")
        else:
            expectations = case["expected"]["groups"]
            for place, expected in enumerate(expectations):
                group = next((g for g in result.groups if g.id == expected["id"]), None)
                if group is None and len(expectations) == len(result.groups):
                    group = result.groups[place]  # cases exported from an older revision name groups by other ids
                if group is None:
                    differences.append(f"the measure has no group {expected['id']}")
                    continue
                index = members[member]
                alone = only(group, index)
                strata = _joined(strata, compare_strata(alone, expected.get("stratifier", ()), expected["population"]))
                if "observations" in expected:
                    observations = _joined(observations, compare_observations(alone, expected["observations"]))
                for name, count in expected["population"].items():
                    population = next((p for p in group.populations if p.id == name), group.population(name))
                    got = None if population is None else int(population.counts[index])
                    if got != count:
                        differences.append(f"{group.id} {name} got {got} expected {count}")
                if "score" in expected and (score := group.member_score(index)) != _decimal(expected["score"]):
                    differences.append(f"{group.id} score got {score} expected {expected['score']}")
        yield Outcome(case["id"], case.get("title", ""), tuple(differences), strata, observations)


def compare_strata(group: GroupResult, expected: Iterable[Mapping[str, Any]], counts: Mapping[str, int]) -> Comparison:
    """One comparison for each expected stratum of a group that holds one member.

    The value is ``true`` or ``false``; anything else (``Strata-1``) is a label for the cases that meet the criterion.
    """
    total, differences = 0, []
    for stratifier in expected:
        found = next((s for s in group.stratifiers if s.id == stratifier["id"]), None)
        for stratum in stratifier["strata"]:
            total += 1
            wanted = ({"valueBoolean": stratum.get("value") != "false"},)
            got: dict[str, int] = {}
            if found is not None and wanted in found.values:
                inside = restrict(group, found, found.values.index(wanted))
                got = {p.code: int(p.counts.sum()) for p in inside.populations if p.code in stratum["population"]}
            if got != stratum["population"]:
                reason = _habit(stratum, stratifier["strata"], counts)
                different = [
                    f"{c} got {got.get(c)} expected {n}" for c, n in stratum["population"].items() if got.get(c) != n
                ]
                differences.append(
                    f"{group.id} {stratifier['id']}={stratum.get('value')} {', '.join(different)} {reason}"
                )
    return Comparison(total, tuple(differences))


def _habit(stratum: Mapping[str, Any], strata: Iterable[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    """Which habit of the sources explains an expectation: COMPLEMENT, REPEATED or OTHER."""
    population = stratum["population"]
    for other in strata:
        complement = {code: 1 - count for code, count in other["population"].items()}
        if (stratum.get("value"), other.get("value")) == ("false", "true") and population == complement:
            return COMPLEMENT
    return REPEATED if all(counts.get(code) == count for code, count in population.items()) else OTHER


def compare_observations(group: GroupResult, expected: Iterable[Mapping[str, Any]]) -> Comparison:
    """Observed values of a group that holds one member, as a multiset: how they are named differs between sources."""
    wanted = sorted(Decimal(str(observation["value"])) for observation in expected)
    found = [p.observations for p in group.populations if p.observations is not None]
    got = sorted(value.as_py() for observations in found for value in observations.value)
    if got == wanted:
        return Comparison(int(bool(wanted)))
    listed = [", ".join(f"{value.normalize():f}" for value in values) for values in (got, wanted)]
    return Comparison(1, (f"{group.id} got [{listed[0]}] expected [{listed[1]}]",))


def _joined(one: Comparison, other: Comparison) -> Comparison:
    return Comparison(one.total + other.total, one.differences + other.differences)


def _decimal(score: str | None) -> Decimal | None:
    return None if score is None else Decimal(score)


if __name__ == "__main__":
    sys.exit(main())
