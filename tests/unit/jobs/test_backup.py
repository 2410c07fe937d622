"""A backup is of one moment, is known to be whole, and gives the same gateway back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import backup as backups
from fhir_gateway.jobs.pull import pull_files
from tests.support.databases import KINDS, control_plane


def patient(number: int, **more: Any) -> dict[str, Any]:
    number_of = {"system": "https://payer.example/member", "value": f"M{number}"}
    return {"resourceType": "Patient", "id": f"p{number}", "identifier": [number_of], "gender": "female", **more}


def take_in(gateway: Gateway, folder: Path, *resources: dict[str, Any]) -> None:
    path = folder / "ehr.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in resources))
    pull_files(gateway, [path], "ehr")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", lake_buckets=2)


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path) -> Gateway:
    gateway = Gateway(settings)
    take_in(gateway, tmp_path, patient(1), patient(2), {"resourceType": "Patient", "id": "bad", "gender": "none"})
    gateway.secrets.encrypt(b"a key is made")
    return gateway


def state(gateway: Gateway) -> dict[str, Any]:
    """What readers see: the lake's rows, what is served, what is quarantined, and secrets that open."""
    rows = gateway.lake.read("Patient", ["_raw"])
    return {
        "version": gateway.lake.version,
        "rows": rows.select(["_source", "id", "_member", "_raw"]).to_pylist(),
        "served": {name: gateway.resources.read("Patient", name).body for name in rows["_member"].to_pylist()},
        "quarantined": [line.message for line in gateway.lake.quarantined()],
        "pulls": [(row.id, row.state) for row in gateway.pulls.recent(10)],
    }


def test_a_restored_gateway_is_the_same_and_goes_on(gateway: Gateway, tmp_path: Path) -> None:
    sealed = gateway.secrets.encrypt(b"ours")
    before = state(gateway)
    made = backups.backup(gateway, tmp_path / "backup")
    assert (made.lake_version, made.database) == (1, "sqlite")
    take_in(gateway, tmp_path, patient(3))
    backups.restore(tmp_path / "backup", Settings(data_dir=tmp_path / "again"))

    again = Gateway(Settings(data_dir=tmp_path / "again"))
    assert state(again) == before
    assert again.secrets.decrypt(sealed) == b"ours"
    take_in(again, tmp_path, patient(3))
    assert state(again)["rows"] == state(gateway)["rows"]


def test_what_is_committed_while_files_are_copied_is_not_in_it(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(gateway)
    listed = backups._files

    def busy(*arguments: Any) -> Any:
        take_in(gateway, tmp_path, patient(2, birthDate="1950-01-01"), patient(3))
        return listed(*arguments)

    monkeypatch.setattr(backups, "_files", busy)
    assert backups.backup(gateway, tmp_path / "backup").lake_version == 1
    assert gateway.lake.version > 1
    backups.restore(tmp_path / "backup", Settings(data_dir=tmp_path / "again"))
    again = Gateway(Settings(data_dir=tmp_path / "again"))
    assert state(again) == before
    take_in(again, tmp_path, patient(4))  # over what the interrupted version left in the tables
    assert {row["id"] for row in state(again)["rows"]} == {"p1", "p2", "p4"}


def test_a_damaged_or_unfinished_backup_is_refused_and_writes_nothing(gateway: Gateway, tmp_path: Path) -> None:
    folder, target = tmp_path / "backup", Settings(data_dir=tmp_path / "again")
    made = backups.backup(gateway, folder)
    (one, *_) = (name for name in made.files if name.endswith(".parquet"))
    content = (folder / one).read_bytes()
    (folder / one).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigurationError, match=f"damaged: {one} has changed"):
        backups.restore(folder, target)
    (folder / one).unlink()
    with pytest.raises(ConfigurationError, match=f"damaged: {one} is missing"):
        backups.verify(folder)
    (folder / backups.MANIFEST).unlink()
    with pytest.raises(ConfigurationError, match="not finished"):
        backups.restore(folder, target)
    assert not (tmp_path / "again").exists()


def test_nothing_is_overwritten(gateway: Gateway, settings: Settings, tmp_path: Path) -> None:
    backups.backup(gateway, tmp_path / "backup")
    with pytest.raises(ConfigurationError, match="holds something"):
        backups.backup(gateway, tmp_path / "backup")
    with pytest.raises(ConfigurationError, match="holds something"):
        backups.restore(tmp_path / "backup", settings)
    elsewhere = Settings(data_dir=tmp_path / "again", database_url=SecretStr("postgresql://u:secret@127.0.0.1/none"))
    with pytest.raises(ConfigurationError, match="on sqlite, the settings name postgresql") as refused:
        backups.restore(tmp_path / "backup", elsewhere)
    assert "secret" not in str(refused.value)


def test_commands_and_the_key_that_stays_away(gateway: Gateway, settings: Settings, tmp_path: Path) -> None:
    run = CliRunner()
    data = ["--data-dir", str(settings.data_dir)]
    made = run.invoke(app, [*data, "backup", str(tmp_path / "b"), "--no-key"])
    assert made.exit_code == 0, made.output
    assert "without the key" in made.output
    assert not (tmp_path / "b" / "data" / "encryption.key").exists()
    checked = run.invoke(app, ["--json", "restore", str(tmp_path / "b"), "--check"])
    assert json.loads(checked.output)["lake_version"] == 1
    restored = run.invoke(app, ["--data-dir", str(tmp_path / "new"), "restore", str(tmp_path / "b")])
    assert restored.exit_code == 0, restored.output
    assert Gateway(Settings(data_dir=tmp_path / "new")).lake.version == 1
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "b").rglob("*") if path.is_file()} == {0}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_control_plane_on_postgresql_comes_back(kind: str, tmp_path: Path) -> None:
    with control_plane(kind, tmp_path) as engine:
        url = SecretStr(engine.url.render_as_string(hide_password=False))
        gateway = Gateway(Settings(data_dir=tmp_path / "data", database_url=url))
        take_in(gateway, tmp_path, patient(1), patient(2))
        before = state(gateway)
        backups.backup(gateway, tmp_path / "backup")
        there = Settings(data_dir=tmp_path / "again", database_url=url)
        with pytest.raises(ConfigurationError, match="the database of the settings is not empty"):
            backups.restore(tmp_path / "backup", there)
        gateway.engine.dispose()
    with control_plane(kind, tmp_path) as engine:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
            connection.exec_driver_sql("DROP SCHEMA IF EXISTS dbos CASCADE")
        backups.restore(tmp_path / "backup", there)
        again = Gateway(there)
        assert state(again) == before
        again.engine.dispose()
