"""A small population, written once and read as JSON."""

from __future__ import annotations

import pytest

from fhir_gateway.sandbox.population import generate
from tests.support.population import Population, read


@pytest.fixture(scope="session")
def population(tmp_path_factory: pytest.TempPathFactory) -> Population:
    """Two batches, so that numbering across batches is tested too."""
    folder = tmp_path_factory.mktemp("population")
    summary = generate(folder, patients=360, seed=11, year=2025, batch=250)
    return Population(folder, summary, read(folder / "ehr"), read(folder / "payer"))
