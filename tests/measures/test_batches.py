"""Results do not depend on the batch, over published cases: split or one at a time, every case has the same counts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from fhir_gateway.measures import Evaluator, MeasurePackage, MemoryPopulation
from tests.measures.published import NOW, read_cases, rename

Row = tuple[tuple[int, ...], str | None]


@pytest.mark.shared
@pytest.mark.parametrize("measure", ["CMS0334FHIRPCCesareanBirth", "CMS645FHIRBoneDensityPCADTherapy"])
def test_batches_do_not_change_answers(shared: Path, measure: str) -> None:
    folder = shared / "data" / "ecqm" / "dqm2025" / measure
    cases = read_cases(folder)
    start, end = (date.fromisoformat(cases[0]["measurementPeriod"][key][:10]) for key in ("start", "end"))
    groups = [(f"case-{number:04}", rename(case, number)) for number, case in enumerate(cases)]
    evaluator = Evaluator(MeasurePackage.load(folder))

    def rows(population: MemoryPopulation) -> dict[str, Row]:
        result = evaluator.evaluate(population, (start, end), NOW)
        return {
            member: (
                tuple(int(p.counts[index]) for g in result.groups for p in g.populations),
                result.failed.get(member),
            )
            for index, member in enumerate(result.members.to_pylist())
        }

    whole = rows(MemoryPopulation(groups))
    assert rows(MemoryPopulation(groups, batch_size=7)) == whole
    for group in groups[::11]:
        assert rows(MemoryPopulation([group])) == {group[0]: whole[group[0]]}
