"""Control planes for tests: SQLite in a folder, and PostgreSQL when the environment names an empty database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine, transaction
from fhir_gateway.db.migrate import upgrade

KINDS = ("sqlite", "postgresql")


@contextmanager
def control_plane(kind: str, folder: Path) -> Iterator[Engine]:
    """An upgraded, empty control plane; skips PostgreSQL visibly when there is none. Its schema is emptied first."""
    if kind == "sqlite":
        engine = create_engine(f"sqlite:///{folder}/control.db")
    else:
        url = os.environ.get("FHIR_GATEWAY_TEST_POSTGRESQL")
        if not url:
            pytest.skip("needs an empty PostgreSQL database in FHIR_GATEWAY_TEST_POSTGRESQL")
        engine = create_engine(url)
        with transaction(engine) as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
    upgrade(engine)
    try:
        yield engine
    finally:
        engine.dispose()
