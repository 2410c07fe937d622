"""Bring a control plane database to the present schema, and write the migration for a changed one.

``python -m fhir_gateway.db.migrate MESSAGE`` is the authoring command: it compares the tables of ``db.tables`` with
what the migrations make and writes the difference to ``db/migrations/versions``, to be read and committed.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.engine import create_engine, snapshot, transaction
from fhir_gateway.db.tables import metadata

_FOLDER = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Create or upgrade all tables; cheap when there is nothing to do, safe from several processes at once."""
    with snapshot(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != _head():
        with transaction(engine, lock="migrations") as connection:
            command.upgrade(_configuration(connection), "head")


@cache
def _head() -> str | None:
    """The last migration there is; all are read to find it."""
    return ScriptDirectory(str(_FOLDER)).get_current_head()


def differences(engine: Engine) -> list[object]:
    """Return how the tables in the database differ from those in the code; empty when they agree."""
    with snapshot(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found: list[object] = compare_metadata(context, metadata())
        return found


def revise(message: str) -> None:
    """Write a migration for what has changed in the tables since the last one."""
    engine = create_engine("sqlite://")
    upgrade(engine)
    number = len(list(ScriptDirectory(str(_FOLDER)).walk_revisions())) + 1
    with transaction(engine) as connection:
        command.revision(_configuration(connection), message, autogenerate=True, rev_id=f"{number:04d}")


def _configuration(connection: Connection) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    return configuration


if __name__ == "__main__":
    revise(" ".join(sys.argv[1:]))
