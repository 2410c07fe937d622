"""Results do not depend on the batch, over published cases; ``properties.py`` checks those of any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.measures.properties import check


@pytest.mark.shared
@pytest.mark.parametrize(
    "measure",
    [
        "CMS1264FHIRECATREHQR",  # episodes in strata
        "CMS645FHIRBoneDensityPCADTherapy",
        "CMS986FHIRMalnutritionScore",  # six continuous variables
    ],
)
def test_batches_do_not_change_answers(shared: Path, measure: str) -> None:
    assert check(shared / "data" / "ecqm" / "dqm2025" / measure, every=25)[1] == []
