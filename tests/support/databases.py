"""Control planes for tests: SQLite in a folder, and PostgreSQL when the environment names an empty database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine, transaction
from fhir_gateway.db.migrate import upgrade

KINDS = ("sqlite", "postgresql")


REAL_UPGRADE = command.upgrade


class Remembered:
    """Alembic's ``upgrade`` that repeats in an empty SQLite what the migrations did to the first one.

    Thirteen migrations take 0.1 s, and most tests begin with an empty control plane.
    """

    def __init__(self) -> None:
        self._statements: list[str] = []

    def upgrade(self, configuration: Config, revision: str) -> None:
        connection = configuration.attributes["connection"]
        if connection.dialect.name != "sqlite" or sa.inspect(connection).get_table_names():
            REAL_UPGRADE(configuration, revision)
            return
        if not self._statements:
            REAL_UPGRADE(configuration, revision)
            dumped = list(connection.connection.driver_connection.iterdump())
            self._statements = [one for one in dumped if one not in ("BEGIN TRANSACTION;", "COMMIT;")]
            return
        for statement in self._statements:
            connection.connection.driver_connection.execute(statement)


@contextmanager
def control_plane(kind: str, folder: Path) -> Iterator[Engine]:
    """An upgraded, empty control plane; skips PostgreSQL visibly when there is none. Its schema is emptied first."""
    with empty_database(kind, folder) as engine:
        upgrade(engine)
        yield engine


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[Engine]:
    """A database without tables; that of PostgreSQL is emptied first."""
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
    try:
        yield engine
    finally:
        engine.dispose()
