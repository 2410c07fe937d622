"""A run that evaluates only those who changed is the run that evaluates everybody, to the byte."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.lake.store import Lake
from fhir_gateway.measures import Evaluator, MeasurePackage, ResultStore
from fhir_gateway.measures.population import LakePopulation
from fhir_gateway.measures.run import evaluate_lake
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.lake_pulls import People
from tests.support.measures import MEASURES, NAMES, NOW, PERIOD, groups_of, library, measure, population, true, write

COPIES = 3
Resource = dict[str, Any]


def resources_of(copy: int) -> list[Resource]:
    """The resources of all cases of our packages, under other ids."""
    found: list[Resource] = []
    for name in NAMES:
        for member, resources in groups_of(name):
            texts = (json.dumps(resource).replace(str(member), f"{name}-{copy}-{member}") for resource in resources)
            found += map(json.loads, texts)
    return found


def staged(folder: Path, name: str, resources: Sequence[Resource]) -> StagedPull:
    texts: dict[str, list[str]] = {}
    for resource in resources:
        texts.setdefault(resource["resourceType"], []).append(json.dumps(resource))
    files = []
    for resource_type, lines in texts.items():
        path = folder / f"{name}-{resource_type}.ndjson"
        path.write_text("\n".join(lines) + "\n")
        files.append(StagedFile(path, path.name, resource_type, None))
    return StagedPull(name, "ehr", "files", None, tuple(files))


def saved(folder: Path, runs: Sequence[str]) -> dict[str, bytes]:
    """All files of runs, without how long it took."""
    found = {}
    for name in runs:
        for path in sorted(folder.rglob(f"{name}/*")):
            content = path.read_bytes()
            if path.name == "header.json":
                content = json.dumps({**json.loads(content), "seconds": 0}).encode()
            found[f"{name}/{path.name}"] = content
    return found


@pytest.fixture(scope="module")
def evaluators() -> list[Evaluator]:
    return [Evaluator(MeasurePackage.load(MEASURES / name)) for name in NAMES]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many members were evaluated, batch by batch."""
    counts: list[int] = []
    true_batch = LakePopulation.batch

    def batch(self: LakePopulation, cut: Any) -> Any:
        counts.append(len(cut.members))
        return true_batch(self, cut)

    monkeypatch.setattr(LakePopulation, "batch", batch)
    return counts


def check(
    lake: Lake, evaluators: Sequence[Evaluator], folder: Path, now: datetime, evaluated: list[int]
) -> tuple[int, int]:
    """Both ways give the same; how many members each evaluated."""
    counts = []
    runs = []
    for name, reuse in (("kept", True), (f"full-{lake.version}-{now:%d}", False)):
        evaluated.clear()
        runs.append(
            evaluate_lake(
                evaluators, lake, PERIOD, now, ResultStore(folder / name), batch_members=40, processes=1, reuse=reuse
            )
        )
        counts.append(sum(evaluated))
    assert runs[0] == runs[1]
    assert saved(folder / "kept", runs[0]) == saved(folder / f"full-{lake.version}-{now:%d}", runs[1])
    return counts[0], counts[1]


def changed(resources: Sequence[Resource], patients: Sequence[str], draw: random.Random) -> list[Resource]:
    """What a pull brings that changes these patients: something of theirs is other than before."""
    found = []
    for resource in resources:
        owner = resource["id"] if resource["resourceType"] == "Patient" else json.dumps(resource)
        mine = [one for one in patients if one == owner or f'Patient/{one}"' in owner]
        if not mine or draw.random() < 0.4:
            continue
        other = json.loads(json.dumps(resource))
        if other["resourceType"] == "Patient":
            other["gender"] = draw.choice(["female", "male"])
            other["birthDate"] = f"{draw.randrange(1935, 2010)}-0{draw.randrange(1, 10)}-11"
        elif "status" in other:
            other["status"] = draw.choice(["entered-in-error", other["status"], other["status"]])
        found.append(other)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_changes_of_few_cost_few_and_give_what_everybody_gives(
    tmp_path: Path, evaluators: list[Evaluator], evaluated: list[int], seed: int
) -> None:
    """Pull after pull: patients changed, come, gone, and become another person, one in a hundred each time."""
    draw, people = random.Random(seed), People()  # noqa: S311 - made-up changes
    everything = [one for copy in range(COPIES) for one in resources_of(copy)]
    patients = sorted({one["id"] for one in everything if one["resourceType"] == "Patient"})
    late = set(draw.sample(patients, 3))
    lake = Lake.open(tmp_path / "lake", buckets=3)
    lake.commit(staged(tmp_path, "all", [one for one in everything if one["id"] not in late]), people)
    first, full = check(lake, evaluators, tmp_path, NOW, evaluated)
    assert first == full
    for number in range(4):
        few = draw.sample(patients, max(1, len(patients) // 100))
        pull = changed(everything, few, draw)
        gone = None
        if number == 1:
            pull += [one for one in everything if one["id"] in late]
        if number == 2:
            ids = [one["id"] for one in everything if one["resourceType"] == "Encounter"]
            gone = {"Encounter": draw.sample(ids, 2), "Patient": [draw.choice(patients)]}
        if number == 3:
            people.same[("ehr", patients[5])] = f"ehr/{patients[9]}"
            people.same[("ehr", patients[7])] = "ehr/nobody-before"
        lake.commit(staged(tmp_path, f"pull-{number}", pull), people, deletions=gone)
        now = NOW + timedelta(days=number + 1)
        some, full = check(lake, evaluators, tmp_path, now, evaluated)
        assert some < full / 5, "only those who changed are evaluated"
    some, _ = check(lake, evaluators, tmp_path, NOW + timedelta(days=9), evaluated)
    assert some == 0, "nobody changed"


RETRIEVE = {"type": "Retrieve", "dataType": "{http://hl7.org/fhir}Encounter"}
SHARED = {"type": "Retrieve", "dataType": "{http://hl7.org/fhir}Medication"}
DAY = {"type": "Quantity", "value": 1, "unit": "d"}
HOURS = {"type": "Quantity", "value": 24, "unit": "h"}
MILLIGRAM = {"type": "Quantity", "value": 1, "unit": "mg"}
VISITED = {"type": "Exists", "operand": RETRIEVE}
PRESENT = {"type": "GreaterOrEqual", "operand": [{"type": "Now"}, {"type": "Now"}]}

#: Criteria, what is observed, and whether those who changed are enough.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "their own rows": (VISITED, DAY, True),
    "rows of nobody": ({"type": "Exists", "operand": SHARED}, DAY, False),
    "the instant": (PRESENT, DAY, False),
    "several units": (true(), {"type": "If", "condition": VISITED, "then": DAY, "else": HOURS}, False),
    "units that do not convert": (true(), {"type": "If", "condition": VISITED, "then": DAY, "else": MILLIGRAM}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_when_everybody_has_to_be_evaluated(tmp_path: Path, evaluated: list[int], kind: str) -> None:
    criteria, observed, few = KINDS[kind]
    made = measure(
        "continuous-variable",
        [
            population("initial-population", "All"),
            population("measure-population", "All"),
            population(
                "measure-observation", "Observed", aggregateMethod="sum", criteriaReference="measure-population"
            ),
        ],
    )
    package = tmp_path / "package"
    package.mkdir()
    write(package, made, library("Main", {"All": criteria, "Observed": observed}, functions=["Observed"]))
    evaluator = Evaluator(MeasurePackage.load(package))
    lake = Lake.open(tmp_path / "lake", buckets=2)
    people = [{"resourceType": "Patient", "id": str(one), "gender": "female"} for one in range(12)]
    visits = [
        {
            "resourceType": "Encounter",
            "id": f"e{one}",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": {"reference": f"Patient/{one}"},
        }
        for one in range(9)
    ]
    lake.commit(staged(tmp_path, "all", [*people, *visits]), People())
    check(lake, [evaluator], tmp_path, NOW, evaluated)
    later = [
        {**visits[0], "id": "e11", "subject": {"reference": "Patient/11"}},
        {"resourceType": "Medication", "id": "m"},
    ]
    lake.commit(staged(tmp_path, "later", later), People())
    some, full = check(lake, [evaluator], tmp_path, NOW + timedelta(days=1), evaluated)
    assert full >= 12
    assert (some == 1) is few


def test_what_is_said_of_a_member_does_not_depend_on_buckets(tmp_path: Path, evaluators: list[Evaluator]) -> None:
    """A lake that is parted into more buckets, or was founded with others; a run may go by one from before."""
    everything, draw = resources_of(0), random.Random(3)  # noqa: S311 - made-up changes
    said, store = [], ResultStore(tmp_path / "kept")
    for buckets in (2, 5):
        lake, people = Lake.open(tmp_path / f"lake-{buckets}", buckets=buckets), People()
        lake.commit(staged(tmp_path, "all", everything), people)
        said.append(_by_member(lake, evaluators, store if buckets == 2 else ResultStore(tmp_path / "other"), 0))
    lake = Lake.open(tmp_path / "lake-2")
    lake.rebucket(6)
    said.append(_by_member(lake, evaluators, store, 1))
    assert said[0] == said[1] == said[2]
    patients = sorted({one["id"] for one in everything if one["resourceType"] == "Patient"})
    lake.commit(staged(tmp_path, "more", changed(everything, draw.sample(patients, 5), draw)), People())
    some = _by_member(lake, evaluators, store, 2)
    assert some == _by_member(lake, evaluators, ResultStore(tmp_path / "full"), 2)


def _by_member(lake: Lake, evaluators: Sequence[Evaluator], store: ResultStore, day: int) -> list[Any]:
    """Of each measure, what is said of each member."""
    found: list[Any] = []
    now = NOW + timedelta(days=day)
    for run in evaluate_lake(evaluators, lake, PERIOD, now, store, batch_members=40, processes=1, reuse=True):
        result = store.load(run)
        columns = [one.raw.tolist() for group in result.groups for one in group.populations]
        found.append((sorted(zip(result.members.to_pylist(), *columns, strict=True)), result.failed))
    return found
