"""Migrations and table classes say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine, snapshot
from fhir_gateway.db.migrate import differences, upgrade
from fhir_gateway.db.tables import TABLE_MODULES, metadata


def test_migrations_make_the_tables_of_the_code(engine: Engine) -> None:
    assert differences(engine) == []


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    assert differences(engine) == []


def test_processes_that_start_together_upgrade_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/control.db"
    code = f"from fhir_gateway.db import engine, migrate; migrate.upgrade(engine.create_engine({url!r}))"
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    engine = create_engine(url)
    assert differences(engine) == []
    engine.dispose()


def test_every_module_with_tables_is_listed() -> None:
    package = Path(__file__).parents[3] / "fhir_gateway"
    with_tables = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*.py")
        if "table=True" in path.read_text(encoding="utf-8")
        or "SQLModel.metadata,\n" in path.read_text(encoding="utf-8")
    }
    assert with_tables == set(TABLE_MODULES)


def test_tables_are_named_after_their_domain() -> None:
    prefixes = (
        *("fhir_", "identity_", "source_", "auth_", "audit_", "job_", "contract_", "terminology_"),
        *("alert_", "attribution_", "console_", "outreach_", "subscription_"),
    )
    assert [name for name in metadata().tables if not name.startswith(prefixes)] == []


def test_an_empty_database_has_no_tables_before_the_upgrade() -> None:
    engine = create_engine("sqlite://")
    with snapshot(engine) as connection:
        assert engine.dialect.get_table_names(connection) == []
    assert differences(engine) != []
    engine.dispose()
