"""Evaluating over populations: results do not depend on how a population is cut, ordered or timed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fhir_gateway.errors import InputError
from fhir_gateway.measures import (
    Evaluator,
    LakePopulation,
    MeasurePackage,
    MeasureResult,
    MemoryPopulation,
    evaluate,
    run_id,
)
from tests.support.measures import MEASURES, NAMES, NOW, PERIOD, groups_of, result_of


def by_member(result: MeasureResult) -> dict[str, list[tuple[int, int]]]:
    columns = [p for group in result.groups for p in group.populations]
    return {
        member: [(int(p.counts[i]), int(p.raw[i])) for p in columns]
        for i, member in enumerate(result.members.to_pylist())
    }


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_split_and_alone_give_the_same(name: str) -> None:
    evaluator = Evaluator(MeasurePackage.load(MEASURES / name))
    groups = groups_of(name)
    whole = evaluator.evaluate(MemoryPopulation(groups), PERIOD, NOW)
    shuffled = random.Random(7).sample(groups, len(groups))  # noqa: S311 - not for security
    for member, resources in shuffled:
        random.Random(member).shuffle(resources)  # noqa: S311 - not for security
    split = evaluator.evaluate(MemoryPopulation(shuffled, batch_size=5), PERIOD, NOW)
    assert by_member(whole) == by_member(split)
    assert whole.groups[0].score() == split.groups[0].score()
    assert [case.reference for case in whole.groups[0].cases] == [case.reference for case in split.groups[0].cases]
    assert run_id(whole) == run_id(split)
    for member, resources in groups[::7]:
        alone = evaluator.evaluate(MemoryPopulation([(member, resources)]), PERIOD, NOW)
        assert by_member(alone)[member] == by_member(whole)[member]


@pytest.mark.parametrize("name", NAMES)
def test_invariants_of_membership(name: str) -> None:
    result = result_of(name)
    assert result.failed == {}
    for group in result.groups:
        parents = {"denominator": "initial-population"} if group.scoring == "proportion" else {}
        for child, parent in (parents | {"denominator-exclusion": "denominator"}).items():
            inside, outside = group.population(child), group.population(parent)
            if inside is not None and outside is not None:
                assert (inside.counts <= outside.counts).all()
        assert all((p.counts <= p.raw).all() for p in group.populations)
        if group.scoring == "proportion":
            assert (group.population("numerator").counts <= group.population("denominator").counts).all()  # type: ignore[union-attr]


def test_an_empty_population_gives_zeros() -> None:
    for name in NAMES:
        result = evaluate(MeasurePackage.load(MEASURES / name), MemoryPopulation([]), PERIOD, NOW)
        assert len(result.members) == 0
        (group,) = result.groups
        assert group.count("initial-population") == 0
        assert group.score() is None


def with_visit_at(instant: str) -> MemoryPopulation:
    subject = {"reference": "Patient/p"}
    coding = [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "E11.9"}]
    return MemoryPopulation.from_resources(
        [
            {"resourceType": "Patient", "id": "p", "birthDate": "1960-01-01"},
            {
                "resourceType": "Condition",
                "id": "c",
                "subject": subject,
                "code": {"coding": coding},
                "onsetDateTime": "2020-01-01",
            },
            {
                "resourceType": "Encounter",
                "id": "e",
                "status": "finished",
                "class": {"code": "AMB"},
                "subject": subject,
                "type": [{"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "99213"}]}],
                "period": {"start": instant, "end": instant},
            },
        ]
    )


@pytest.mark.parametrize("hours", [-8, 0, 9])
def test_patients_see_the_same_period_in_their_own_zone(hours: int) -> None:
    """A visit on the last evening of the period, local time, counts wherever the evaluation runs locally."""
    zone = timezone(timedelta(hours=hours))
    evaluator = Evaluator(MeasurePackage.load(MEASURES / "diabetes-hba1c-poor-control"))
    for day, counted in (("2026-12-31", 1), ("2026-01-01", 1), ("2027-01-01", 0), ("2025-12-31", 0)):
        for clock in ("00:00:00", "23:59:59"):
            local = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=zone).isoformat()
            result = evaluator.evaluate(with_visit_at(local), PERIOD, NOW.astimezone(zone))
            assert result.groups[0].count("initial-population") == counted, (local, counted)


def test_the_period_spans_its_days_in_the_zone_of_the_request() -> None:
    evaluator = Evaluator(MeasurePackage.load(MEASURES / "diabetes-hba1c-poor-control"))
    low, high = evaluator._measurement_period(PERIOD, datetime(2027, 2, 1, tzinfo=ZoneInfo("America/New_York")))
    assert str(low) == "2026-01-01 00:00:00-05:00"
    assert str(high) == "2026-12-31 23:59:59.999000-05:00"
    summer = (date(2026, 4, 1), date(2026, 6, 30))
    _, high = evaluator._measurement_period(summer, datetime(2027, 2, 1, tzinfo=ZoneInfo("America/New_York")))
    assert str(high) == "2026-06-30 23:59:59.999000-04:00"


def test_what_is_no_period_is_refused() -> None:
    evaluator = Evaluator(MeasurePackage.load(MEASURES / "diabetes-hba1c-poor-control"))
    with pytest.raises(InputError, match="ends before it starts"):
        evaluator.evaluate(MemoryPopulation([]), (PERIOD[1], PERIOD[0]), NOW)
    with pytest.raises(InputError, match="time zone"):
        evaluator.evaluate(MemoryPopulation([]), PERIOD, datetime(2027, 1, 1))  # noqa: DTZ001 - that is the mistake


def test_the_result_says_what_it_was_made_from() -> None:
    package = MeasurePackage.load(MEASURES / "readmission-30-day")
    result = evaluate(package, MemoryPopulation([]), PERIOD, NOW)
    assert (result.package_hash, result.terminology_hash) == (package.package_hash, package.terminology_hash)
    assert (result.canonical, result.evaluated_at, result.lake_version) == (f"{package.url}|1.0.0", NOW, None)
    later = evaluate(package, MemoryPopulation([]), PERIOD, NOW.replace(minute=1))
    assert run_id(result) != run_id(later)
    assert result.seconds > 0


class BucketedLake:
    """A lake of one version whose members lie in buckets by the last letter of their id."""

    version = 7

    def buckets_of(self, version: int | None) -> int:
        return 3

    def __init__(self, groups: Sequence[tuple[str, list[dict[str, Any]]]]) -> None:
        self._all = MemoryPopulation(groups)
        self._ids = sorted(member for member, _ in groups)
        self.read_buckets: list[int | None] = []

    def rows(self, version: int | None = None) -> int:
        return 5 * len(self._ids)

    def members(self, bucket: int | None = None, version: int | None = None) -> pa.Array:
        return pa.array([m for m in self._ids if bucket is None or int(m[-1]) % 3 == bucket], pa.string())

    def read(
        self,
        resource_type: str,
        columns: Any = None,
        bucket: int | None = None,
        version: int | None = None,
        members: pa.Array | None = None,
        *,
        coded: Any = None,
        sparse: bool = False,
    ) -> pa.Table:
        assert version == 7
        self.read_buckets.append(bucket)
        table = self._all.read(resource_type, columns or ())
        place = pa.array([int(m[-1]) % 3 for m in table["_member"].to_pylist()], pa.int32())
        table = table.set_column(table.column_names.index("_bucket"), "_bucket", place)
        wanted = self.members(bucket) if members is None else members
        return table.filter(pc.is_in(table["_member"], value_set=wanted))


def test_a_lake_is_evaluated_bucket_by_bucket() -> None:
    name = "ed-visits-per-1000"
    evaluator = Evaluator(MeasurePackage.load(MEASURES / name))
    groups = groups_of(name)
    lake = BucketedLake(groups)
    result = evaluator.evaluate(LakePopulation(lake, batch_members=len(groups) - 1), PERIOD, NOW)
    assert by_member(result) == by_member(evaluator.evaluate(MemoryPopulation(groups), PERIOD, NOW))
    assert result.lake_version == 7
    assert set(lake.read_buckets) == {0, 1, 2}
    for size in (1, 2, len(groups)):  # parts of buckets, and all of them in one batch
        cut = evaluator.evaluate(LakePopulation(lake, batch_members=size), PERIOD, NOW)
        assert cut.members.equals(result.members)
        assert by_member(cut) == by_member(result)
    one = evaluator.evaluate(LakePopulation(lake, members=["case-3", "nobody"]), PERIOD, NOW)
    assert one.members.to_pylist() == ["case-3"]
    assert by_member(one)["case-3"] == by_member(result)["case-3"]
    assert len(evaluator.evaluate(LakePopulation(lake, members=[]), PERIOD, NOW).members) == 0


def test_masks_restrict_counts_and_scores() -> None:
    result = result_of("ed-visits-per-1000")
    (group,) = result.groups
    for index in range(len(result.members)):
        mask = np.zeros(len(result.members), np.bool_)
        mask[index] = True
        assert group.score(mask) == group.member_score(index)
        assert group.count("numerator", mask) == group.population("numerator").counts[index]  # type: ignore[union-attr]
