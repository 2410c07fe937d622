"""Everything that the server emits is valid: by R4, our own profiles, and those of the guides when they are here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import emitted
import pytest
from face import Face, running
from installed import PROFILES, install

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.validator import Validator
from tests.measures.deqm_rules import problems

#: Warnings that stay, each with its reason; anything else fails.
KNOWN_WARNINGS: Mapping[str, str] = {}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Mapping[str, Any]]]:
    """What each row of the table gives; asked for once."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    with running(tmp_path_factory.mktemp("emitting")) as face:
        for name, row in _rows(face):
            found[name] = list(row)
    return found


def _rows(face: Face) -> Iterator[tuple[str, Iterator[Mapping[str, Any]]]]:
    yield "interactions", emitted.interactions(face)
    for function in dict.fromkeys(emitted.OPERATIONS.values()):
        yield function.__name__, function(face)


def resources(node: Any) -> Iterator[Mapping[str, Any]]:
    """A resource and all resources in it."""
    if isinstance(node, dict):
        if "resourceType" in node:
            yield node
        for one in node.values():
            yield from resources(one)
    elif isinstance(node, list):
        for one in node:
            yield from resources(one)


def checked(validator: Validator, answers: Mapping[str, list[Mapping[str, Any]]]) -> None:
    """No rule is broken; prints what was looked at."""
    broken: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    unchecked: Counter[str] = Counter()
    for row, several in answers.items():
        for one in several:
            report = validator.validate(one)
            for found in report.findings:
                if found.severity == "error" or found.rule not in KNOWN_WARNINGS:
                    path = f"{found.path.rsplit('.', 3)[0]} ... {found.path}" if len(found.path) > 200 else found.path
                    broken[f"{row}: {found.severity} {path} {found.rule} {found.profile or 'R4'}"] += 1
            kinds.update(inner["resourceType"] for inner in resources(one))
            unchecked.update(told.what for told in report.unchecked)
    print(f"{kinds.total()} resources: " + ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())))
    print("not checked: " + "; ".join(f"{what} ({number})" for what, number in sorted(unchecked.items())))
    assert not broken, "\n" + "\n".join(f"{number} x {name}" for name, number in broken.most_common(40))
    assert {"MeasureReport", "Group", "Measure", "Bundle", "Parameters", "CapabilityStatement"} <= kinds.keys()
    assert {"OperationOutcome", "Subscription", "Library"} <= kinds.keys()


def test_each_operation_has_a_row() -> None:
    assert emitted.expected() - emitted.OPERATIONS.keys() == set(), "give the operation a row in emitted.py"
    assert emitted.OPERATIONS.keys() - emitted.expected() == set(), "rows of operations that are no longer served"


def test_what_is_emitted_is_valid_by_r4_and_our_own_profiles(answers: dict[str, list[Mapping[str, Any]]]) -> None:
    checked(Validator(Definitions.of(PROFILES, None)), answers)


@pytest.mark.shared
def test_what_is_emitted_keeps_the_profiles_of_the_guides(
    answers: dict[str, list[Mapping[str, Any]]], shared: Path, tmp_path: Path
) -> None:
    checked(install(shared / "data", tmp_path), answers)


def test_reports_keep_the_rules_of_the_sheets(answers: dict[str, list[Mapping[str, Any]]]) -> None:
    """deqm-0 to deqm-9 and what tells reports apart, by a checker that knows no profiles; results say their inputs."""
    ours = "https://fhir-gateway.example/fhir/StructureDefinition/recomputable-measurereport"
    validator = Validator(Definitions.of(PROFILES, None))
    counts: Counter[str] = Counter()
    for row, several in answers.items():
        for report in (inner for one in several for inner in resources(one)):
            profiles = report.get("meta", {}).get("profile", ())
            if report["resourceType"] != "MeasureReport" or not any("deqm" in one for one in profiles):
                continue
            if report["type"] == "data-collection" or any(
                tag["code"] == "SUBSETTED" for tag in report["meta"].get("tag", ())
            ):
                continue
            family = "uv" if any("/uv/" in one for one in profiles) else "us"
            assert not problems(report, family), f"{row}: {report.get('id')}: {problems(report, family)}"
            assert not validator.validate(report, [ours]).findings, f"{row}: {report.get('id')}"
            counts[f"{family} {report['type']}"] += 1
    print(counts)
    assert {f"{family} {kind}" for family in ("us", "uv") for kind in ("individual", "summary")} <= counts.keys()
