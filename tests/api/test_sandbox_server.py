"""The sandbox over real loopback HTTP: start, the whole export, stop; and folders no server could hold."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from fhir_gateway.auth.assertion import client_assertion, generate_key, public_key_set
from fhir_gateway.errors import ConfigurationError, ResourceError
from fhir_gateway.sandbox.server import SandboxServer
from tests.support.backend_client import ASSERTION_TYPE
from tests.support.ehr_folder import write_folder
from tests.support.waiting import HANG

KEY = generate_key("RS384", "k")


def _export(http: httpx.Client, fhir_url: str, client_id: str) -> dict[str, int]:
    token_url = http.get(f"{fhir_url}/.well-known/smart-configuration").json()["token_endpoint"]
    form = {
        "grant_type": "client_credentials",
        "scope": "system/*.read",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": client_assertion(client_id, token_url, KEY, "RS384"),
    }
    token = http.post(token_url, data=form).raise_for_status().json()
    bearer = {"Authorization": f"Bearer {token['access_token']}"}
    started = http.get(f"{fhir_url}/$export", headers=bearer | {"Prefer": "respond-async"})
    where = started.raise_for_status().headers["content-location"]
    deadline = time.monotonic() + HANG
    while (status := http.get(where, headers=bearer)).status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    counts: dict[str, int] = {}
    for item in status.raise_for_status().json()["output"]:
        file = http.get(item["url"], headers=bearer)
        assert file.headers["content-encoding"] == "gzip"  # httpx asks for it
        counts[item["type"]] = counts.get(item["type"], 0) + len(file.text.splitlines())
    assert http.delete(where, headers=bearer).status_code == 202
    return counts


def test_two_sandboxes_run_side_by_side_and_stop(tmp_path: Path) -> None:
    stored = write_folder(tmp_path / "ehr")
    write_folder(tmp_path / "payer")
    clients = {"gateway": public_key_set(KEY)}
    with (
        SandboxServer(tmp_path / "ehr", clients=clients, name="EHR") as ehr,
        SandboxServer(tmp_path / "payer", clients=clients, name="Payer") as payer,
        httpx.Client(trust_env=False, timeout=HANG) as http,
    ):
        assert ehr.base_url != payer.base_url
        assert http.get(f"{ehr.fhir_url}/metadata").json()["implementation"]["description"] == "EHR"
        for server in (ehr, payer):
            assert _export(http, server.fhir_url, "gateway") == {t: len(rows) for t, rows in stored.items()}
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False, timeout=HANG) as http:
        http.get(f"{ehr.fhir_url}/metadata")


def test_the_command_serves_a_folder(tmp_path: Path) -> None:
    stored = write_folder(tmp_path / "ehr")
    (tmp_path / "jwks.json").write_text(json.dumps(public_key_set(KEY)))
    command = [sys.executable, "-m", "fhir_gateway.sandbox.server", str(tmp_path / "ehr"), "--port", "0"]
    with subprocess.Popen(
        [*command, "--client-jwks", str(tmp_path / "jwks.json")], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = next(line for line in process.stdout if "http://" in line)
            found = re.search(r"http://127\.0\.0\.1:\d+/fhir", said)
            assert found
            with httpx.Client(trust_env=False, timeout=HANG, transport=httpx.HTTPTransport(retries=5)) as http:
                assert _export(http, found[0], "fhir-gateway") == {t: len(rows) for t, rows in stored.items()}
        finally:
            process.terminate()


def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="cannot be used"):
            SandboxServer(tmp_path, clients={}, port=taken.getsockname()[1])


def test_an_empty_folder_has_no_patients_but_answers(tmp_path: Path) -> None:
    with (
        SandboxServer(tmp_path, clients={"gateway": public_key_set(KEY)}) as server,
        httpx.Client(trust_env=False, timeout=HANG) as http,
    ):
        assert _export(http, server.fhir_url, "gateway") == {}


def _truncated(folder: Path) -> None:
    whole = gzip.compress(b'{"resourceType":"Patient","id":"1"}\n' * 1000)
    (folder / "Patient.ndjson.gz").write_bytes(whole[:-20])


def _lines(*lines: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "Patient.ndjson").write_bytes(b"\n".join(lines) + b"\n")


GOOD = b'{"resourceType":"Patient","id":"1"}'


@pytest.mark.parametrize(
    ("write", "where"),
    [
        (_truncated, r"Patient\.ndjson\.gz .*\[gzip\]"),
        (lambda folder: (folder / "Patient.ndjson.gz").write_bytes(b"no gzip"), r"Patient\.ndjson\.gz .*\[gzip\]"),
        (_lines(GOOD, b"", b"{not JSON"), r"Patient\.ndjson:3 \[JSON object\]"),
        (_lines(GOOD, b"[1]"), r"Patient\.ndjson:2 \[resourceType\]"),
        (_lines(b'{"resourceType":"Secret-Type","id":"1"}'), r"Patient\.ndjson:1 \[resourceType\]"),
        (_lines(b'{"resourceType":"Patient"}'), r"Patient\.ndjson:1 \[id\]"),
        (_lines(b'{"resourceType":"Patient","id":"a b"}'), r"Patient\.ndjson:1 \[id\]"),
        (_lines(b'{"resourceType":"Patient","id":"\xff"}'), r"Patient\.ndjson \[utf-8\]"),
    ],
)
def test_a_folder_that_no_server_could_hold_is_refused(
    tmp_path: Path, write: Callable[[Path], object], where: str
) -> None:
    write(tmp_path)
    with pytest.raises(ResourceError, match=where) as caught:
        SandboxServer(tmp_path, clients={})
    assert "Secret" not in str(caught.value)


def test_the_newest_of_two_resources_with_one_id_is_served(tmp_path: Path) -> None:
    for name, day in {"a": 2, "b": 1}.items():
        row = {"resourceType": "Patient", "id": "1", "meta": {"lastUpdated": f"2026-01-0{day}T00:00:00Z"}}
        (tmp_path / f"{name}.ndjson").write_text(json.dumps(row) + "\n")
    with (
        SandboxServer(tmp_path, clients={"gateway": public_key_set(KEY)}) as server,
        httpx.Client(trust_env=False, timeout=HANG) as http,
    ):
        assert _export(http, server.fhir_url, "gateway") == {"Patient": 1}
