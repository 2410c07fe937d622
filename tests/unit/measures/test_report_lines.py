"""Lines of reports written from columns are the very bytes of one report at a time, however a run is cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.measures import ResultStore, reports, run_id
from fhir_gateway.measures.dialect import Family
from fhir_gateway.measures.model import (
    Cases,
    Component,
    Composite,
    GroupResult,
    MeasureResult,
    Observations,
    PopulationResult,
    StratifierResult,
    SupplementalResult,
)
from fhir_gateway.measures.report_lines import ReportLines
from tests.support.measures import NAMES, REPORTER, result_of

META = {"versionId": "7", "lastUpdated": "2026-11-22T10:00:00.000Z"}
CODE = {"coding": [{"system": "http://loinc.org", "code": "45392-8"}]}


def one_by_one(
    result: MeasureResult, run: str, family: Family = "us", elements: frozenset[str] | None = None
) -> set[str]:
    """Every individual report as the read of it gives it."""
    found = set()
    for index, member in enumerate(result.members.to_pylist()):
        if member in result.failed or reports.in_initial_population(result, index):
            report = reports.individual(result, index, REPORTER, family=family)
            meta = report.pop("meta") | META
            head: dict[str, Any] = {"resourceType": "MeasureReport", "id": f"{run}-{member}", "meta": meta}
            whole = head | {name: value for name, value in report.items() if name not in head}
            if elements is not None:
                always = {"resourceType", "id", "meta", "status", "type", "measure", "period"}
                whole = {name: value for name, value in whole.items() if name in always | elements}
                tag = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
                whole["meta"] = meta | {"tag": [tag]}
            found.add(orjson.dumps(whole).decode() + "\n")
    return found


def in_slices(folder: Path, result: MeasureResult, size: int, **options: Any) -> set[str]:
    """The same from the columns of a saved run."""
    store = ResultStore(folder)
    run = store.save(result)
    lines = ReportLines(run, REPORTER, options.pop("family", "us"), META, **options)
    found = [line for part in store.slices(run, size, raw=False) for line in lines.lines(part).to_pylist()]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("family", ["us", "uv"])
@pytest.mark.parametrize("name", NAMES)
def test_our_measures(tmp_path: Path, name: str, family: Family) -> None:
    result = result_of(name)
    result = dataclasses.replace(result, failed={result.members[0].as_py(): 'a "reason"\n'})
    for size in (3, 1000):
        assert in_slices(tmp_path, result, size, family=family) == one_by_one(result, run_id(result), family)


@pytest.mark.parametrize("elements", [{"subject"}, {"group", "evaluatedResource"}, {"contained"}, {"extension"}, {"x"}])
def test_elements(tmp_path: Path, elements: set[str]) -> None:
    chosen = frozenset(elements)
    for name in NAMES:
        result = result_of(name)
        assert in_slices(tmp_path, result, 4, elements=chosen) == one_by_one(result, run_id(result), elements=chosen)


def test_chosen_members(tmp_path: Path) -> None:
    result = result_of("readmission-30-day")
    chosen = np.arange(len(result.members)) % 2 == 0
    lines = ReportLines(run_id(result), REPORTER, "us", META).lines(result, chosen).to_pylist()
    names = set(result.members.filter(pa.array(chosen)).to_pylist())
    whole = one_by_one(result, run_id(result))
    assert set(lines) == {line for line in whole if orjson.loads(line)["subject"]["reference"].split("/")[1] in names}


def a_group(draw: Any, size: int, number: int, *, composite: bool = True) -> GroupResult:
    """A group with everything that a group can have."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    episodes = draw(st.booleans())
    basis = "Encounter" if episodes else "boolean"
    of = np.sort(random.integers(0, size, draw(st.integers(0, 3 * size)))).astype(np.int32)
    spots = len(of) if episodes else size
    masks = {name: random.random(spots) < 0.6 for name in ("ip", "den", "num")}
    codes = {"ip": "initial-population", "den": "denominator", "num": "numerator"}

    def counts(mask: Any) -> Any:
        return np.bincount(of[mask], minlength=size) if episodes else mask.astype(np.int16)

    found = [PopulationResult(name, codes[name], counts(mask), counts(mask)) for name, mask in masks.items()]
    if draw(st.booleans()):
        case = np.flatnonzero(masks["den"])
        member = (of[case] if episodes else case).astype(np.int32)
        value = pa.array(random.integers(0, 5, len(case))).cast(pa.decimal128(28, 8))
        observed = Observations("average", None, member, case.astype(np.int64), value, "d")
        number_of = np.bincount(member, minlength=size)
        found.append(PopulationResult("obs", "measure-observation", number_of, number_of, observed))
    names = ["Encounter/" + ("é" if one % 7 == 0 else "e") + str(one % 5) for one in range(len(of))]
    reference = pa.array([None if one % 11 == 3 else name for one, name in enumerate(names)], pa.string())
    cases = (Cases("Encounter", of, reference, masks),) if episodes else ()
    strata = ()
    if draw(st.booleans()):
        values = tuple(({"valueString": name},) for name in ("a", "b"))
        numbers = {basis: random.integers(-1, 2, spots).astype(np.int32)}
        strata = (StratifierResult("s", CODE, (), ("initial-population", "numerator"), False, values, numbers),)
    parts = None
    if composite and draw(st.booleans()):
        component = Component("http://x|1", a_group(draw, size, 0, composite=False), 1, False)  # type: ignore[arg-type]
        parts = Composite("opportunity", (component,))
    scoring = "continuous-variable" if len(found) > 3 else "proportion"
    return GroupResult(f"g{number}", None, scoring, "increase", basis, tuple(found), None, 2, cases, strata, parts)


@st.composite
def a_result(draw: Any) -> MeasureResult:
    size = draw(st.integers(1, 12))
    groups = tuple(a_group(draw, size, number) for number in range(draw(st.integers(1, 3))))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    supplemental = []
    for number in range(draw(st.integers(0, 3))):
        member = np.sort(random.integers(0, size, size)).astype(np.int32)
        texts = [
            '{"valueReference":{"reference":"Coverage/1"}}',
            '{"valueString":"a \\"b\\" c"}',
            '{"valueCodeableConcept":{"coding":[{"code":"x"}]}}',
        ]
        value = pa.array([texts[one] for one in random.integers(0, 3, size)])
        types = ("summary",) if number == 2 else ()
        supplemental.append(SupplementalResult(f"sde-{number}", "supplemental-data", CODE, types, member, value))
    members = [f"p{number:03}" for number in range(size)]
    failed = {members[0]: "why"} if draw(st.booleans()) else {}
    return dataclasses.replace(
        result_of(NAMES[0]), members=pa.array(members), groups=groups, supplemental=tuple(supplemental), failed=failed
    )


@settings(max_examples=60)
@given(a_result(), st.integers(1, 5))
def test_whatever_a_result_holds(tmp_path_factory: pytest.TempPathFactory, result: MeasureResult, size: int) -> None:
    expected = one_by_one(result, run_id(result))
    assert in_slices(tmp_path_factory.mktemp("runs"), result, size) == expected
    whole = ReportLines(run_id(result), REPORTER, "us", META).lines(result)
    assert set(whole.to_pylist()) == expected
