"""A FHIR server and an authorization server that are not ours: sekmet-fhir (PyPI) and oidc-provider (npm).

``make test-third-party`` installs both and runs this. Without node or ``tests/support/npm/node_modules`` the tests are
skipped and say so.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.sources.check import check_endpoint
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from tests.support.serving import free_port
from tests.support.waiting import HANG

NPM = Path(__file__).parents[1] / "support" / "npm"
SEKMET = Path(__file__).parents[2] / ".third-party" / "bin" / "sekmet"
PATIENTS = 4
SCOPES = ["system/*.read"]

pytestmark = [
    pytest.mark.skipif(not SEKMET.exists(), reason="sekmet-fhir is not installed: make test-third-party"),
    pytest.mark.skipif(
        shutil.which("node") is None or not (NPM / "node_modules" / "oidc-provider").exists(),
        reason="node or oidc-provider is not installed: make test-third-party",
    ),
]


@dataclass
class ThirdParty:
    """The base URL behind the guard, and the key that the authorization server knows."""

    base: str
    key: SigningKey


@contextmanager
def _running(*command: str | Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module", params=["ES384", "RS384"])
def third_party(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThirdParty]:
    """sekmet-fhir with patients it made up itself, behind a guard that wants tokens of oidc-provider."""
    folder = tmp_path_factory.mktemp("third-party")
    key = SigningKey.of("sekmet", generate_key(request.param))
    port = free_port()
    with ExitStack() as stack:
        node = stack.enter_context(_running("node", NPM / "authorization_server.mjs", stderr=subprocess.DEVNULL))
        assert node.stdin is not None
        assert node.stdout is not None
        client = {"id": "gateway", "alg": key.algorithm, "jwks": {"keys": [key.public_jwk()]}}
        settings = {"client": client, "upstream": f"http://127.0.0.1:{port}", "scopes": SCOPES, "life": 5}
        node.stdin.write(json.dumps(settings) + "\n")
        node.stdin.flush()
        base = f"{json.loads(node.stdout.readline())['guard']}/fhir"
        config = folder / "settings.yaml"
        config.write_text(
            json.dumps(
                {
                    "base_url": base,
                    "host": "127.0.0.1",
                    "port": port,
                    "data_dir": str(folder / "data"),
                    "own_private_key_path": str(folder / "sekmet.pem"),
                    "simulator": {"enabled": False},
                }
            )
        )
        log = stack.enter_context((folder / "sekmet.log").open("w"))
        common = {"cwd": folder, "stderr": log}
        seeding = [str(SEKMET), "seed", "--count", str(PATIENTS), "--config", str(config)]
        subprocess.run(seeding, check=True, timeout=HANG, stdout=log, **common)
        stack.enter_context(_running(SEKMET, "serve", "--config", config, **common))
        _wait(f"http://127.0.0.1:{port}/fhir/metadata")
        yield ThirdParty(base, key)


def _wait(url: str) -> None:
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=HANG).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(url)


@pytest.fixture
def gateway(third_party: ThirdParty, tmp_path: Path) -> Gateway:
    """A gateway that knows the endpoint."""
    made = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=2))
    key = third_party.key
    made.endpoints.add(
        Endpoint("sekmet", third_party.base, client_id="gateway"), key.algorithm, key.key.as_pem(private=True)
    )
    return made


def _stored(gateway: Gateway) -> dict[str, list[str]]:
    return {kind: sorted(gateway.lake.read(kind, ["id"])["id"].to_pylist()) for kind in gateway.lake.types()}


def test_bulk_and_search_bring_the_same(gateway: Gateway, third_party: ThirdParty, tmp_path: Path) -> None:
    bulk = pull_endpoint(gateway, "sekmet", mode="bulk")
    assert bulk.kind == "bulk"
    assert bulk.ledger.balanced
    assert bulk.complete
    by_bulk = _stored(gateway)
    assert len(by_bulk["Patient"]) == PATIENTS
    assert len(by_bulk) > 5
    other = Gateway(Settings(data_dir=tmp_path / "other", lake_buckets=2))
    key = third_party.key
    endpoint = Endpoint("sekmet", third_party.base, client_id="gateway")
    other.endpoints.add(endpoint, key.algorithm, key.key.as_pem(private=True))
    search = pull_endpoint(other, "sekmet", mode="search", types=tuple(by_bulk))
    assert search.kind == "search"
    assert search.ledger.balanced
    by_search = _stored(other)
    assert by_search == by_bulk


def test_an_incremental_export_after_a_full_one(gateway: Gateway) -> None:
    full = pull_endpoint(gateway, "sekmet")
    assert full.transaction_time is not None
    again = pull_endpoint(gateway, "sekmet", since="last")
    assert again.ledger.balanced
    assert sum(entry.rows_stored + entry.rows_replaced for entry in again.ledger.entries) == 0


async def _check(gateway: Gateway) -> list[str]:
    found = await check_endpoint(
        gateway.endpoints.get("sekmet"), gateway.endpoints.credential("sekmet"), "http://127.0.0.1:8000"
    )
    return [f"{one.name}: {one.detail}" for one in found if one.result == "failed"]


def test_check_finds_nothing_wrong(gateway: Gateway) -> None:
    assert asyncio.run(_check(gateway)) == []


def test_a_stranger_is_refused_by_the_authorization_server(gateway: Gateway, third_party: ThirdParty) -> None:
    gateway.endpoints.add(Endpoint("stranger", third_party.base, client_id="gateway"))
    found = asyncio.run(
        check_endpoint(
            gateway.endpoints.get("stranger"), gateway.endpoints.credential("stranger"), "http://127.0.0.1:8000"
        )
    )
    assert [one.name for one in found if one.result == "failed"] in (["kid"], ["alg"])
