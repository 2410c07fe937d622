"""Opening the control plane: private files, transactions that wait, secrets that stay secret."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from psycopg import OperationalError
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.engine import Lookup, create_engine, session, snapshot, transaction
from fhir_gateway.db.secrets import KEY_FILE, SecretBox, open_secret_box
from fhir_gateway.errors import ConfigurationError
from tests.support.databases import control_plane


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_database_and_its_folder_belong_to_the_owner_alone(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/deep/control.db")
    with transaction(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")
    assert mode(tmp_path / "deep") == 0o700
    assert mode(tmp_path / "deep" / "control.db") == 0o600
    assert mode(tmp_path / "deep" / "control.db-wal") == 0o600
    engine.dispose()


def test_an_open_database_is_closed_to_others_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.touch(mode=0o644)
    create_engine(f"sqlite:///{path}").dispose()
    assert mode(path) == 0o600


@pytest.mark.parametrize("url", ["mysql://user:hunter2@host/db", "not a url hunter2", ""])
def test_other_urls_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_engine(url)
    assert "hunter2" not in str(caught.value)


def test_postgresql_urls_use_the_driver_we_ship() -> None:
    assert create_engine("postgresql://gateway@localhost/gateway").url.drivername == "postgresql+psycopg"


def test_a_failed_statement_does_not_show_its_parameters() -> None:
    with pytest.raises(sa.exc.OperationalError) as caught, transaction(create_engine("sqlite://")) as connection:
        connection.execute(sa.text("INSERT INTO absent VALUES (:name)"), {"name": "Jane Roe"})
    assert "Jane Roe" not in str(caught.value)


def test_readers_see_one_state_while_a_writer_works(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/control.db")
    with transaction(engine) as writing:
        writing.exec_driver_sql("CREATE TABLE t (n INTEGER)")
    with snapshot(engine) as reading:
        assert reading.scalar(sa.text("SELECT count(*) FROM t")) == 0
        with transaction(engine) as writing:
            writing.exec_driver_sql("INSERT INTO t VALUES (1)")
        assert reading.scalar(sa.text("SELECT count(*) FROM t")) == 0
    with session(engine) as opened:
        assert opened.connection().scalar(sa.text("SELECT count(*) FROM t")) == 1
    engine.dispose()


def test_concurrent_writers_who_read_first_all_succeed(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/control.db")
    with transaction(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE counter (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO counter VALUES (0)")

    def count() -> None:
        for _ in range(20):
            with transaction(engine) as connection:
                present = connection.scalar(sa.text("SELECT n FROM counter"))
                connection.execute(sa.text("UPDATE counter SET n = :n"), {"n": present + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with snapshot(engine) as connection:
        assert connection.scalar(sa.text("SELECT n FROM counter")) == 80
    engine.dispose()


def test_an_error_rolls_back(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")
    with transaction(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")

    def fail_after_writing() -> None:
        with transaction(engine) as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_writing()
    with snapshot(engine) as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM t")) == 0
    engine.dispose()


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    token = open_secret_box(settings).encrypt(b"a private key")
    assert mode(tmp_path / "data" / KEY_FILE) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [KEY_FILE]
    assert b"a private key" not in token
    assert open_secret_box(settings).decrypt(token) == b"a private key"


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    tokens: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: tokens.append(open_secret_box(settings).encrypt(b"x"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [open_secret_box(settings).decrypt(token) for token in tokens] == [b"x"] * 8


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    open_secret_box(Settings(data_dir=tmp_path))
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigurationError, match="mode to 600"):
        open_secret_box(Settings(data_dir=tmp_path))


def test_a_key_of_the_settings_needs_no_file(tmp_path: Path) -> None:
    key = Fernet.generate_key().decode()
    box = open_secret_box(Settings(data_dir=tmp_path, encryption_key=SecretStr(key)))
    assert SecretBox(key).decrypt(box.encrypt(b"x")) == b"x"
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_or_malformed_key_is_an_error_that_does_not_show_it() -> None:
    token = SecretBox(Fernet.generate_key()).encrypt(b"x")
    with pytest.raises(ConfigurationError, match="does not open"):
        SecretBox(Fernet.generate_key()).decrypt(token)
    with pytest.raises(ConfigurationError) as caught:
        SecretBox("hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[sa.Engine]:
    with control_plane("postgresql", tmp_path) as engine:
        yield engine


def _connection_number(engine: sa.Engine) -> int:
    with snapshot(engine) as connection:
        return int(connection.scalar(sa.text("SELECT pg_backend_pid()")))


def _end_connections_of(engine: sa.Engine) -> None:
    """As a server that starts again, or a firewall, does it."""
    other = create_engine(engine.url.render_as_string(hide_password=False))
    with transaction(other) as connection:
        number = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity "
        ended = connection.scalar(sa.text(number + "WHERE datname = current_database() AND pid <> pg_backend_pid()"))
    other.dispose()
    assert ended


def test_a_connection_that_rested_is_asked_whether_it_is_there(
    postgresql: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_gateway.db.engine.IDLE_SECONDS", 0.0)
    before = _connection_number(postgresql)
    assert _connection_number(postgresql) == before
    _end_connections_of(postgresql)
    assert _connection_number(postgresql) != before


def test_a_lost_connection_costs_one_statement_when_it_was_used_just_now(
    postgresql: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fhir_gateway.db.engine.IDLE_SECONDS", 1e9)
    lookup = Lookup(postgresql, sa.select(sa.literal_column("1")))
    assert lookup.first() == (1,)
    _end_connections_of(postgresql)
    with pytest.raises(OperationalError):
        lookup.first()
    assert lookup.first() == (1,)
    before = _connection_number(postgresql)
    _end_connections_of(postgresql)
    with pytest.raises(sa.exc.OperationalError):
        _connection_number(postgresql)
    assert _connection_number(postgresql) != before
    assert not caplog.records  # no trace of what the pool tried on a connection that is gone
