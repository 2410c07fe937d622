"""Files on an S3 that is not ours (moto's server): a prefix, one object, what is not there.

``make test-third-party`` installs it and runs this; without it the tests are skipped and say so.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError, InputError, SourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files
from tests.support.object_storage import SIGNED, environment, make_bucket, moto, needs_moto
from tests.support.waiting import HANG

pytestmark = needs_moto


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def bucket(storage: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with an export of two files, and the environment that leads there."""
    for name, value in environment(storage).items():
        monkeypatch.setenv(name, value)
    make_bucket(storage, "exports")
    _put(storage, "exports/2025/Patient.ndjson", _line("one") + b"\n" + _line("two"))
    _put(storage, "exports/2025/more/Patient.json", _line("three"))
    _put(storage, "exports/2025/readme.txt", b"not data")
    return "s3://exports"


def _put(storage: str, key: str, content: bytes) -> None:
    assert httpx.put(f"{storage}/{key}", content=content, headers=SIGNED, timeout=HANG).status_code == 200


def _line(identity: str) -> bytes:
    return json.dumps({"resourceType": "Patient", "id": identity, "gender": "unknown"}).encode()


def test_a_prefix_and_an_object(bucket: str, tmp_path: Path) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path, lake_buckets=1))
    report = pull_files(gateway, [f"{bucket}/2025/"], "archive")
    assert report.ledger.balanced
    assert sorted(gateway.lake.read("Patient", ["id"])["id"].to_pylist()) == ["one", "three", "two"]
    again = pull_files(gateway, [f"{bucket}/2025/Patient.ndjson"], "archive")
    assert sum(entry.rows_unchanged for entry in again.ledger.entries) == 2


def test_what_is_not_there_or_not_to_be_opened(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path, lake_buckets=1))
    with pytest.raises(InputError, match="no such object"):
        pull_files(gateway, [f"{bucket}/2019/"], "archive")
    with pytest.raises(ConfigurationError, match="no credentials"):
        pull_files(gateway, ["s3://key:secret@exports/2025"], "archive")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="refuses or fails"):
        pull_files(gateway, [f"{bucket}/2025"], "archive")


def test_archives_on_storage(bucket: str, storage: str, tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Patient.ndjson", _line("zipped"))
    _put(storage, "exports/zipped/export.zip", path.read_bytes())
    gateway = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=1))
    pull_files(gateway, [f"{bucket}/zipped"], "archive")
    assert gateway.lake.read("Patient", ["id"])["id"].to_pylist() == ["zipped"]
