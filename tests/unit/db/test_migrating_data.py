"""Data of every earlier release is there after the upgrade; releases side by side bear each other's tables.

Every migration was the last one of some release: rows go into the tables of each, and are looked for in today's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db import migrate
from fhir_gateway.db.engine import create_engine, snapshot, transaction
from fhir_gateway.db.migrate import differences, revision, upgrade
from fhir_gateway.errors import ConfigurationError
from tests.support.databases import KINDS, empty_database
from tests.support.waiting import until

REVISIONS = sorted(one.revision for one in ScriptDirectory(str(migrate._FOLDER)).walk_revisions())
ROWS = 3
PROMISED = "0021"
"""From the next migration on, the release before goes on with the tables while processes are replaced."""
MOVED = {("source_pull", "status_url")}
"""Columns that a migration took away, after it had put their values elsewhere."""


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with empty_database(request.param, tmp_path) as opened:
        yield opened


def bring(engine: Engine, to: str) -> None:
    with transaction(engine) as connection:
        command.upgrade(migrate._configuration(connection), to)


def tables(connection: Connection) -> list[sa.Table]:
    found = sa.MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def value(column: sa.Column[Any], number: int, given: Mapping[str, Any]) -> Any:
    """Something that a column takes; what refers to another table refers to its row of the same number."""
    for key in column.foreign_keys:
        return given[key.target_fullname]
    kind = column.type
    if isinstance(kind, sa.JSON) or "json" in column.name:
        return {"number": number} if isinstance(kind, sa.JSON) else f'{{"number": {number}}}'
    instant = datetime(2026, 1, number, tzinfo=UTC)
    made: dict[type[Any], Any] = {
        bool: False,
        int: number,
        float: number + 0.5,
        bytes: b"{}",
        str: f"{column.name}-{number}",
        date: instant.date(),
        datetime: instant,
    }
    python = kind.python_type
    if python is str and isinstance(kind, sa.String) and kind.length:
        return f"{number}-{column.name}"[: kind.length]
    return made[python]


def fill(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Rows in all tables; what they hold, as the database gives it back."""
    with transaction(engine) as connection:
        made = tables(connection)
        for number in range(1, ROWS + 1):
            given: dict[str, Any] = {}
            for table in made:
                row = {column.name: value(column, number, given) for column in table.columns}
                connection.execute(table.insert().values(row))
                given |= {f"{table.name}.{name}": one for name, one in row.items()}
    return content(engine)


def content(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    with snapshot(engine) as connection:
        return {
            table.name: [
                dict(row) for row in connection.execute(table.select().order_by(*table.primary_key)).mappings()
            ]
            for table in tables(connection)
        }


@pytest.mark.parametrize("earlier", REVISIONS[:-1])
def test_rows_of_every_release_are_there_after_the_upgrade(empty: Engine, earlier: str) -> None:
    bring(empty, earlier)
    before = fill(empty)
    assert before
    assert all(len(rows) == ROWS for rows in before.values())
    upgrade(empty)
    assert revision(empty) == REVISIONS[-1]
    assert differences(empty) == []
    after = content(empty)
    for name, rows in before.items():
        assert len(after[name]) >= ROWS
        for was, now in zip(rows, after[name][:ROWS], strict=True):
            kept = {column: one for column, one in was.items() if (name, column) not in MOVED}
            assert {column: now[column] for column in kept} == kept, name


def shape(engine: Engine) -> dict[tuple[str, str], sa.Column[Any]]:
    with snapshot(engine) as connection:
        return {(table.name, column.name): column for table in tables(connection) for column in table.columns}


def test_what_a_migration_adds_the_release_before_bears(empty: Engine) -> None:
    bring(empty, PROMISED)
    before = shape(empty)
    for number in [one for one in REVISIONS if one > PROMISED]:
        bring(empty, number)
        after = shape(empty)
        gone = set(before) - set(after)
        assert not gone, f"{number}: the release before still reads {gone}"
        for name, column in after.items():
            if name in before:
                assert str(column.type) == str(before[name].type), f"{number}: {name}"
                assert column.nullable or not before[name].nullable, f"{number}: the release before leaves {name} out"
            elif name[0] in {table for table, _ in before}:
                free = column.nullable or column.server_default is not None
                assert free, f"{number}: the release before does not fill {name}"
        before = after


def newer(engine: Engine, *statements: str) -> None:
    """A release of tomorrow has been here."""
    upgrade(engine)
    with transaction(engine) as connection:
        for statement in [*statements, "UPDATE alembic_version SET version_num = '9999'"]:
            connection.execute(sa.text(statement))


def test_tables_of_a_newer_release_are_worked_with(empty: Engine) -> None:
    newer(
        empty,
        "CREATE TABLE fhir_tomorrow (id INTEGER PRIMARY KEY, url VARCHAR NOT NULL)",
        "ALTER TABLE source_pull ADD COLUMN mood VARCHAR",
        "ALTER TABLE source_pull ADD COLUMN weight INTEGER NOT NULL DEFAULT 1",
        "CREATE INDEX source_pull_mood ON source_pull (mood)",
    )
    upgrade(empty)
    assert revision(empty) == "9999"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE source_pull RENAME COLUMN source TO sender",
        "ALTER TABLE source_pull DROP COLUMN complete",
        "ALTER TABLE source_pull RENAME TO pulls",
    ],
)
def test_tables_that_this_release_could_not_work_with_are_refused(empty: Engine, statement: str) -> None:
    newer(empty, statement)
    with pytest.raises(ConfigurationError, match="migration 9999 by a newer release"):
        upgrade(empty)
    assert revision(empty) == "9999"


def test_an_empty_database_has_no_migration() -> None:
    engine = create_engine("sqlite://")
    assert revision(engine) is None
    engine.dispose()


def test_a_long_reader_holds_up_the_migration_and_no_other_reader(tmp_path: Path) -> None:
    with empty_database("postgresql", tmp_path) as engine:
        bring(engine, "0001")
        ended = threading.Event()

        def migrating() -> None:
            upgrade(engine)
            ended.set()

        with engine.connect() as long_reader:
            long_reader.execute(sa.text("SELECT count(*) FROM source_pull")).all()  # and its transaction goes on
            thread = threading.Thread(target=migrating, daemon=True)
            thread.start()
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as reader:
                for _ in range(3):
                    until(lambda: reader.execute(waiting).scalar_one() > 0)  # it waits for the long reader
                    assert reader.execute(sa.text("SELECT count(*) FROM source_pull")).scalar_one() == 0
            assert not ended.is_set()
        thread.join()
        assert ended.is_set()
        assert revision(engine) == REVISIONS[-1]
