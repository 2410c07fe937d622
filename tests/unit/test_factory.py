"""The factory: what cannot be opened is said in one sentence, without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    url = SecretStr("postgresql://gateway:hunter2@127.0.0.1:1/gateway")
    with pytest.raises(ConfigurationError, match="does not open: no database answers") as caught:
        _ = Gateway(Settings(data_dir=tmp_path, database_url=url)).engine
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_bytes(b"certainly not SQLite" * 100)
    with pytest.raises(ConfigurationError, match=r"control\.db in the data folder is not a database"):
        _ = Gateway(Settings(data_dir=tmp_path)).engine


def test_a_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"the data folder cannot be made \(Not a directory\)"):
        _ = Gateway(Settings(data_dir=tmp_path / "file" / "data")).engine
