"""For all tests: how examples are made up, and the optional reference data beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time (but for constants that Hypothesis takes from what a process has imported), however long
# they take: a run says whether the code is right, not how busy the machine is or whether chance found something today.
# ``--hypothesis-profile=explore`` looks for something new.
_BUSY = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("same", deadline=None, derandomize=True, database=None, suppress_health_check=_BUSY)
settings.register_profile("explore", deadline=None, suppress_health_check=_BUSY, print_blob=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ours."""
    parser.addoption("--unordered", type=int, metavar="SEED", help="shuffle what DuckDB is not told to sort")


@pytest.fixture(scope="session", autouse=True)
def unordered_rows(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--unordered``, a test that passes only in one order of rows fails."""
    from tests.support.unordered import shuffled

    seed = request.config.getoption("--unordered")
    with pytest.MonkeyPatch.context() as patch, shuffled(patch, seed) if seed is not None else nullcontext():
        yield


@pytest.fixture(scope="session", autouse=True)
def remembered_migrations() -> Iterator[None]:
    """Migrations run once in this process; ``tests/unit/db`` runs them each time."""
    from tests.support.databases import Remembered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alembic.command.upgrade", Remembered().upgrade)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with published measures and populations; tests that need it are skipped without it."""
    folder = Path(os.environ.get("FHIR_GATEWAY_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the reference data folder beside the checkout (or FHIR_GATEWAY_SHARED)")
    return folder
