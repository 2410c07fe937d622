"""Gaps of many members out of one recording are those of each alone; data requirements are the published ones."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.cql import Batch
from fhir_gateway.measures import Evaluator, MeasurePackage, MemoryPopulation
from fhir_gateway.measures.explain import explain
from fhir_gateway.measures.gap import OPEN, gap_statuses
from fhir_gateway.measures.gap_details import gap_details
from fhir_gateway.measures.gap_reasons import reasons
from fhir_gateway.measures.module_definition import module_definition
from tests.measures.published import read_cases, rename
from tests.support.measures import MEASURES, NOW, PERIOD, groups_of

OURS = ["controlling-high-blood-pressure", "diabetes-hba1c-poor-control", "readmission-30-day"]
PUBLISHED = ["CMS122FHIRDiabetesAssessGT9Pct", "CMS130FHIRColorectalCancerScrn", "CMS68FHIRDocumentationCurrentMeds"]
#: What published lists have although no retrieve of the measure stands behind it (ADR 0161).
UNFOUNDED = {"CMS122FHIRDiabetesAssessGT9Pct": {("Observation", "qicore-observation-lab", "")}}


def compared(
    evaluator: Evaluator, population: MemoryPopulation, period: tuple[date, date], now: datetime, most: int = 100
) -> int:
    """Compare everybody's gaps with those of an explanation of one; how many are open."""
    result = evaluator.evaluate(population, period, now)
    names = [name for name in result.members.to_pylist() if name not in result.failed]
    columns = {group.id: found for group in result.groups if (found := gap_statuses(group, period, now))}
    statuses = {
        name: {group: found[index] for group, found in columns.items()}
        for index, name in enumerate(result.members.to_pylist())
    }
    open_ones = [name for name in names if any(status in OPEN for status in statuses[name].values())]
    (batch,) = population.batches()
    some = Batch(pa.array(open_ones), batch.read)
    details = dict(gap_details(evaluator, result.groups, statuses, some, period, now))
    assert sorted(details) == sorted(open_ones)
    for name in open_ones[:most]:
        alone = {gap.group: gap for gap in explain(evaluator, population, name, period, now).gaps}
        assert {gap.group: gap for gap in details[name] if gap.status in OPEN} == {
            group: gap for group, gap in alone.items() if gap.status in OPEN
        }
        for gap in details[name]:
            if gap.status in OPEN:
                found = reasons(evaluator, gap)
                assert found
                assert all(one.path is None or one.evidence is not None for one in found)
    return len(open_ones)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("now", [NOW, datetime(2026, 6, 1, tzinfo=UTC)])
def test_reasons_of_many_are_those_of_each(name: str, now: datetime) -> None:
    evaluator = Evaluator(MeasurePackage.load(MEASURES / name))
    assert compared(evaluator, MemoryPopulation(groups_of(name)), PERIOD, now) > 3


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_reasons_of_published_measures(shared: Path, name: str) -> None:
    folder = shared / "data" / "ecqm" / "dqm2025" / name
    cases = read_cases(folder)
    stated = cases[0]["measurementPeriod"]
    period = (date.fromisoformat(stated["start"][:10]), date.fromisoformat(stated["end"][:10]))
    population = MemoryPopulation((f"case-{n}", rename(case, n)) for n, case in enumerate(cases))
    assert compared(Evaluator(MeasurePackage.load(folder)), population, period, datetime(2028, 1, 1, tzinfo=UTC), 6)


def key(requirement: dict[str, Any]) -> tuple[str, str, str]:
    """Type, profile and filter of a requirement."""
    codes = [
        one.get("valueSet") or ",".join(sorted(f"{code['system']}|{code['code']}" for code in one.get("code", ())))
        for one in requirement.get("codeFilter", ())
    ]
    return requirement["type"], requirement["profile"][0].rpartition("/")[2], " ".join(codes)


@pytest.mark.shared
def test_data_requirements_are_those_that_stewards_publish(shared: Path) -> None:
    exact = 0
    folders = sorted(path.parent for path in (shared / "data" / "ecqm" / "dqm2025").glob("*/bundle.json.gz"))
    for folder in folders[::4] + [folder for folder in folders if folder.name in PUBLISHED]:
        package = MeasurePackage.load(folder)
        published = {key(one) for one in package.measure["contained"][0]["dataRequirement"]}
        found = {key(one) for one in module_definition(package)["dataRequirement"]}
        assert found <= published, folder.name
        missing = published - found
        # "Resource", or a type and profile without the filter that each of its retrieves has
        assert all(kind == "Resource" or not filters for kind, _, filters in missing), folder.name
        if folder.name in PUBLISHED:
            assert missing == UNFOUNDED.get(folder.name, set())
        exact += not missing
    assert exact * 5 >= len(folders[::4]) * 2


def test_date_filters_where_the_retrieve_itself_has_one(tmp_path: Path) -> None:
    package = MeasurePackage.load(MEASURES / OURS[0])
    plain = module_definition(package)
    dated = module_definition(package, PERIOD)
    assert json.dumps(plain) == json.dumps(dated), "ours filter by date in queries, not in retrieves"
