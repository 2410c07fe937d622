"""A control plane for each test, of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from tests.support.databases import KINDS, REAL_UPGRADE, control_plane


@pytest.fixture(autouse=True)
def migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones, each time."""
    monkeypatch.setattr("alembic.command.upgrade", REAL_UPGRADE)


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with control_plane(request.param, tmp_path) as opened:
        yield opened
