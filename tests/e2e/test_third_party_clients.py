"""Clients that are not ours: sekmet-fhir, smart-fetch, fhirpy, fhirclient (PyPI) and fhir-kit-client (npm).

All through real tokens of our authorization server.

``make test-third-party`` installs them and runs this; without them the tests are skipped and say so.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhirpy import SyncFHIRClient
from joserfc import jwt
from joserfc.jwk import ECKey
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.server.serve import GatewayServer
from tests.support.serving import free_port
from tests.support.waiting import HANG

ROOT = Path(__file__).parents[2]
NPM = ROOT / "tests" / "support" / "npm"
SEKMET = ROOT / ".third-party" / "bin" / "sekmet"
CLIENTS = ROOT / ".clients" / "bin"
PATIENTS = 5
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"

pytestmark = pytest.mark.skipif(
    not SEKMET.exists() or not CLIENTS.exists(), reason="the clients are not installed: make test-third-party"
)


@dataclass
class Door:
    """A gateway that listens, with a client that may do everything."""

    base: str
    key: ECKey
    pem: Path

    def assertion(self) -> str:
        """A signed assertion of the client."""
        claims = {
            "iss": "visitor",
            "sub": "visitor",
            "aud": self.base.removesuffix("/fhir") + "/auth/token",
            "exp": int(time.time()) + 240,
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode({"alg": "ES384", "kid": self.key.kid, "typ": "JWT"}, claims, self.key, algorithms=["ES384"])

    def token(self) -> str:
        """An access token."""
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.cruds",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": self.assertion(),
        }
        answered = httpx.post(self.base.removesuffix("/fhir") + "/auth/token", data=form, timeout=HANG)
        return str(answered.raise_for_status().json()["access_token"])


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("clients")
    port = free_port()
    settings = Settings(
        data_dir=folder / "data",
        encryption_key=SecretStr(Fernet.generate_key().decode()),
        public_url=f"http://127.0.0.1:{port}",
        lake_buckets=2,
    )
    gateway = Gateway(settings)
    fill(gateway, folder)
    key = ECKey.generate_key("P-384", {"use": "sig", "alg": "ES384"})
    key = ECKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})
    jwks = {"keys": [key.as_dict(private=False)]}
    gateway.authorization.register_client("visitor", scopes="system/*.cruds", jwks=jwks)
    pem = folder / "key.pem"
    pem.write_bytes(key.as_pem(private=True))
    (folder / "key.jwks").write_text(json.dumps({"keys": [{**key.as_dict(private=True), "key_ops": ["sign"]}]}))
    with Worker(gateway, background=True), GatewayServer(gateway, port=port):
        yield Door(f"http://127.0.0.1:{port}/fhir", key, pem)


def fill(gateway: Gateway, folder: Path) -> None:
    """Some patients with an observation each, as an endpoint would send them, and a measure."""
    lines = []
    for number in range(PATIENTS):
        subject = {"reference": f"Patient/p{number}"}
        code = {"coding": [{"system": "http://loinc.org", "code": "4548-4"}]}
        lines.append({"resourceType": "Patient", "id": f"p{number}", "name": [{"family": f"Family{number}"}]})
        lines.append(
            {
                "resourceType": "Observation",
                "id": f"o{number}",
                "status": "final",
                "category": [{"coding": [{"system": CATEGORY, "code": "laboratory"}]}],
                "code": code,
                "subject": subject,
            }
        )
    path = folder / "upload.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pull_files(gateway, [path], "ehr")
    url = "http://measures.example/Measure/one"
    gateway.resources.put({"resourceType": "Measure", "id": "one", "url": url, "status": "active"})


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The finished command, whatever became of it."""
    words = [str(part) for part in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=HANG, check=False, **options)


@pytest.mark.parametrize("scenario", ["conformance_smoke", "bulk_export_group"])
def test_scenarios_of_sekmet_pass(door: Door, tmp_path: Path, scenario: str) -> None:
    auth = {
        "type": "smart",
        "client_id": "visitor",
        "private_key_path": str(door.pem),
        "kid": door.key.kid,
        "alg": "ES384",
        "scope": "system/*.cruds",
    }
    settings = {
        "base_url": "http://127.0.0.1:1/fhir",
        "data_dir": str(tmp_path / "data"),
        "own_private_key_path": str(tmp_path / "own.pem"),
        "simulator": {"enabled": False},
        "peers": {"gateway": {"base_url": door.base, "auth": auth}},
    }
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(settings))
    done = run(SEKMET, "scenario", "run", scenario, "--peer", "gateway", "--no-serve", "--config", config, cwd=tmp_path)
    (report,) = (tmp_path / "reports").rglob("*.json")
    found = json.loads(report.read_text())
    results = found if isinstance(found, list) else found.get("results", [found])
    steps = [(step["name"], step["status"], step["message"]) for result in results for step in result["steps"]]
    assert len(steps) > 5, done.stdout
    assert [step for step in steps if step[1] not in ("passed", "skipped")] == []
    assert done.returncode == 0, done.stdout


def test_smart_fetch_exports_and_hydrates(door: Door, tmp_path: Path) -> None:
    done = run(
        CLIENTS / "smart-fetch",
        "export",
        "--fhir-url",
        door.base,
        "--smart-client-id",
        "visitor",
        "--smart-key",
        door.pem.with_name("key.jwks"),
        "--type",
        "Patient,Observation",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, int] = {}
    for path in sorted((tmp_path / "out").rglob("*.ndjson.gz")):
        if not path.is_symlink():
            with gzip.open(path, "rt") as text:
                for line in text:
                    kind = json.loads(line)["resourceType"]
                    found[kind] = found.get(kind, 0) + 1
    assert found["Patient"] >= PATIENTS
    assert found["Observation"] >= PATIENTS


def test_fhirpy_searches_by_pages(door: Door) -> None:
    client = SyncFHIRClient(door.base, authorization=f"Bearer {door.token()}")
    patients = client.resources("Patient").limit(2).fetch_all()
    assert len({one["id"] for one in patients}) >= PATIENTS
    one = client.resources("Patient").search(family="family3").first()
    observations = client.resources("Observation").search(patient=one["id"]).fetch_all()
    assert [found["subject"]["reference"] for found in observations] == [f"Patient/{one['id']}"]


def test_fhirclient_reads_and_searches(door: Door) -> None:
    script = ROOT / "tests" / "support" / "clients" / "with_fhirclient.py"
    done = run(CLIENTS / "python", script, door.base, "visitor", door.assertion())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(set(found["patients"])) >= PATIENTS
    assert found["read"] == found["patients"][0]
    assert found["measures"] == 1


@pytest.mark.skipif(
    shutil.which("node") is None or not (NPM / "node_modules" / "fhir-kit-client").exists(),
    reason="node or fhir-kit-client is not installed: make test-third-party",
)
def test_fhir_kit_client_reads_pages_and_batches(door: Door) -> None:
    said = json.dumps({"base": door.base, "assertion": door.assertion()})
    done = run("node", NPM / "client.mjs", input=said + "\n")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"fhirVersion": "4.0.1", "pages": [2, 2], "read": True, "versions": 1, "batch": "200 OK"}
