"""Whether the three types of report say the same: counts, members of Lists, and sums of individual reports."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from fhir_gateway.measures import MeasureResult, reports
from fhir_gateway.measures.dialect import Family
from tests.support.measures import REPORTER

#: Where a count stands: group, population; in strata with stratifier and value between them.
Place = tuple[str, ...]


def disagreement(made: MeasureResult, family: Family = "us") -> str | None:
    """What the reports of a result contradict each other in; None when they agree."""
    whole = flat(reports.summary(made, REPORTER, family=family))
    listed = reports.subject_list(made, REPORTER, family=family)
    lists = {f"#{r['id']}": r.get("entry", []) for r in listed["contained"] if r["resourceType"] == "List"}
    single: dict[str, dict[Place, int]] = {}
    sums: Counter[Place] = Counter()
    for index, member in enumerate(made.members.to_pylist()):
        if member not in made.failed and reports.in_initial_population(made, index):
            report = reports.individual(made, index, REPORTER, family=family)
            counts = single[f"MeasureReport/{report['id']}"] = flat(report)
            sums.update(counts)
    # an individual report has only those strata that the member is in
    if {place: count for place, count in whole.items() if count} != {p: c for p, c in sums.items() if c}:
        return "the summary is not the sum of the individual reports"
    if flat(listed) != whole:
        return "the subject-list counts other than the summary"
    for place, (_, subjects) in places(listed).items():
        inside = {reference for reference, counts in single.items() if counts.get(place)}
        if {entry["item"]["reference"] for entry in lists[subjects]} != inside:
            return f"the List of {place} does not name those who count there"
    return None


def flat(report: dict[str, Any]) -> dict[Place, int]:
    """The counts of a report."""
    return {place: count for place, (count, _) in places(report).items()}


def places(report: dict[str, Any]) -> dict[Place, tuple[int, str]]:
    """Count and List of each population."""
    found: dict[Place, tuple[int, str]] = {}
    for node in report.get("group", ()):
        for population in node["population"]:
            found[node["id"], population["id"]] = _entry(population)
        for stratifier in node.get("stratifier", ()):
            for stratum in stratifier.get("stratum", ()):
                value = json.dumps(stratum.get("value") or stratum["component"], sort_keys=True)
                for population in stratum["population"]:
                    found[node["id"], stratifier["id"], value, population["id"]] = _entry(population)
    return found


def _entry(population: dict[str, Any]) -> tuple[int, str]:
    return population["count"], population.get("subjectResults", {}).get("reference", "")
