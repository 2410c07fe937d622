"""Settings: from variables and a file, wrong ones named without their values, secrets kept out of sight."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError

URL = "postgresql://gateway:hunter2@127.0.0.1/gateway"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gateway.env"
    monkeypatch.setenv("FHIR_GATEWAY_ENV_FILE", str(path))
    return path


def test_the_file_is_read_and_variables_win(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"FHIR_GATEWAY_LAKE_BUCKETS=3\nFHIR_GATEWAY_REPORTER_NAME=File\nFHIR_GATEWAY_DATABASE_URL={URL}\n")
    monkeypatch.setenv("FHIR_GATEWAY_REPORTER_NAME", "Variable")
    settings = Settings.read(lake_buckets=5)
    assert (settings.lake_buckets, settings.reporter_name) == (5, "Variable")
    assert settings.resolved_database_url == URL


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("FHIR_GATEWAY_DATABSE_URL=hunter2", "FHIR_GATEWAY_DATABSE_URL"),
        ("FHIR_GATEWAY_LAKE_BUCKETS=hunter2", "FHIR_GATEWAY_LAKE_BUCKETS"),
        ("FHIR_GATEWAY_TIME_ZONE=hunter2", "FHIR_GATEWAY_TIME_ZONE"),
        ("FHIR_GATEWAY_TIME_ZONE=../hunter2", "FHIR_GATEWAY_TIME_ZONE"),
        ("FHIR_GATEWAY_TIME_ZONE=America", "FHIR_GATEWAY_TIME_ZONE"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(file: Path, line: str, name: str) -> None:
    file.write_text(line + "\n")
    with pytest.raises(ConfigurationError, match=f"settings: {name}: ") as caught:
        Settings.read()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file of settings"):
        Settings.read()
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not a text of settings"):
        Settings.read()


def test_variables_that_platforms_set_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_GATEWAY_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    assert Settings.read().time_zone == "UTC"


def test_the_database_url_does_not_show(tmp_path: Path) -> None:
    settings = Settings(database_url=SecretStr(URL), data_dir=tmp_path)
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert Settings(data_dir=tmp_path).resolved_database_url == f"sqlite:///{tmp_path}/control.db"
