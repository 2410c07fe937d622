"""What the faults strike: a small population with a contract, and what comes of it when nothing happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.site import WORK, Site, World, close_all, outcome

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults take minutes and some need Debian's packages: they are struck by a verb of their own."""
    if "FHIR_GATEWAY_TEST_FAULTS" not in os.environ:
        for item in items:
            if item.path.is_relative_to(_HERE):
                item.add_marker(pytest.mark.skip(reason="faults are struck by make test-faults"))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What a failed test leaves open is no other test's warning."""
    yield
    close_all()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pulled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the population, to be copied."""
    folder = tmp_path_factory.mktemp("pulled")
    Site(folder, world).prepare()
    return folder / "data"


@pytest.fixture(scope="session")
def expected(world: World, pulled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of the year's end when nothing happens."""
    site = Site.of(tmp_path_factory.mktemp("quiet") / "site", world, pulled)
    site.calculate(WORK)
    found = outcome(site.gateway)
    site.close()
    return found
