"""A control plane for each test: SQLite in a file, and PostgreSQL when one is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine, transaction
from fhir_gateway.db.migrate import upgrade


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        opened = create_engine(f"sqlite:///{tmp_path}/control.db")
    else:
        url = os.environ.get("FHIR_GATEWAY_TEST_POSTGRESQL")
        if not url:
            pytest.skip("needs an empty PostgreSQL database in FHIR_GATEWAY_TEST_POSTGRESQL")
        opened = create_engine(url)
        with transaction(opened) as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
    upgrade(opened)
    yield opened
    opened.dispose()
