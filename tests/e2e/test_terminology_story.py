"""The ``terminology`` commands, from a package without value sets to a locked one, with a server behind SMART."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.sandbox.server.runner import SandboxServer
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key

MEASURE = Path(__file__).parents[2] / "measures" / "ed-visits-per-1000"
CLASSES = "https://fhir-gateway.example/fhir/ValueSet/emergency-class"
LOCAL = "urn:clinic:visits"
RUNNER = CliRunner()


class ValueSets:
    """``$expand`` of the measure's value sets, page by page, for those who have a token of the sandbox."""

    def __init__(self) -> None:
        files = sorted(MEASURE.glob("valueset-*.json"))
        self.resources = {one["url"]: one for one in (json.loads(path.read_text()) for path in files)}
        self.asked: list[str] = []

    def codes(self, url: str) -> list[dict[str, Any]]:
        include = self.resources[url]["compose"]["include"]
        return [{"system": one["system"], **concept} for one in include for concept in one["concept"]]

    async def expand(self, request: Request) -> JSONResponse:
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return JSONResponse({"resourceType": "OperationOutcome", "issue": []}, 401)
        url = request.query_params["url"]
        offset, count = (int(request.query_params[name]) for name in ("offset", "count"))
        if url not in self.resources:
            return JSONResponse({"resourceType": "OperationOutcome", "issue": []}, 404)
        self.asked.append(url)
        codes = self.codes(url)
        expansion = {"total": len(codes), "offset": offset, "contains": codes[offset : offset + count]}
        about = {name: self.resources[url][name] for name in ("resourceType", "url", "version", "status")}
        return JSONResponse({**about, "expansion": expansion})


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path / "data"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The measure without value sets and without the lock of its content."""
    ignored = shutil.ignore_patterns("valueset-*", "package.lock.json")
    return Path(shutil.copytree(MEASURE, tmp_path / "measure", ignore=ignored))


@pytest.fixture
def value_sets(gateway: Gateway, tmp_path: Path) -> Iterator[ValueSets]:
    """A terminology server behind SMART Backend Services, registered as ``tx``."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "Patient.ndjson").write_text(json.dumps({"resourceType": "Patient", "id": "1"}))
    key = SigningKey.of("tx", generate_key("ES384"))
    found = ValueSets()
    with SandboxServer(folder, clients={"gateway": {"keys": [key.public_jwk()]}}) as server:
        server.app.router.routes.insert(0, Route("/fhir/ValueSet/$expand", found.expand))
        endpoint = Endpoint("tx", server.fhir_url, client_id="gateway")
        gateway.endpoints.add(endpoint, key.algorithm, key.key.as_pem(private=True))
        yield found


def run(gateway: Gateway, *words: object, code: int = 0) -> Any:
    folder = str(gateway.settings.data_dir)
    done = RUNNER.invoke(app, ["--json", "--data-dir", folder, "terminology", *map(str, words)])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else str(done.exception)


def test_expanded_by_a_server_dated_and_locked(gateway: Gateway, package: Path, value_sets: ValueSets) -> None:
    assert run(gateway, "list") == []
    told = run(gateway, "expand", "tx", CLASSES, "--from", "2025-01-01")
    assert [one.partition("|")[0].partition(" ")[2] or one.partition("|")[0] for one in told["stored"]] == [CLASSES]
    assert value_sets.asked == [CLASSES]
    # the rest that the package lacks, and again: nothing new
    assert len(run(gateway, "expand", "tx", "--missing", package)["stored"]) == len(value_sets.resources) - 1
    assert "name value sets" in str(run(gateway, "expand", "tx", code=1))
    assert len(run(gateway, "expand", "tx", CLASSES)["unchanged"]) == 1
    listed = {row["resource"].partition("|")[0]: row for row in run(gateway, "list", "--on", "2024-12-31")}
    assert listed.keys() == value_sets.resources.keys()
    assert not listed[CLASSES]["in_force"]
    assert {url: row["codes"] for url, row in listed.items()} == {url: len(value_sets.codes(url)) for url in listed}

    run(gateway, "date", CLASSES)
    (row,) = run(gateway, "list", CLASSES, "--on", "1999-01-01")
    assert (row["in_force"], row["from"], row["to"]) == (True, None, None)
    assert "stored under" in str(run(gateway, "date", "http://nobody", code=1))

    run(gateway, "lock", package, "--on", "2025-01-01")
    locked = json.loads((package / "terminology.lock.json").read_text())
    assert {name.partition("|")[0].partition(" ")[2] for name in locked["resources"]} == value_sets.resources.keys()


def test_imported_looked_up_and_covered(gateway: Gateway, package: Path, tmp_path: Path) -> None:
    done = run(gateway, "import", *sorted(MEASURE.glob("valueset-*.json")))
    assert len(done["stored"]) == 3
    concepts = [{"code": "EDV"}]
    system = {"resourceType": "CodeSystem", "url": LOCAL, "version": "1", "content": "complete", "concept": concepts}
    (tmp_path / "system.json").write_text(json.dumps({**system, "status": "active"}))
    run(gateway, "import", tmp_path / "system.json", "--from", "2025-01-01", "--to", "2025-12-31")
    assert run(gateway, "lookup", LOCAL, "EDV", "--on", "2025-06-01")["valid"]
    assert not run(gateway, "lookup", LOCAL, "other", "--on", "2025-06-01")["valid"]
    assert "in force" in str(run(gateway, "lookup", LOCAL, "EDV", "--on", "2026-06-01", code=1))
    (tmp_path / "system.json").write_text(json.dumps({**system, "status": "active", "concept": []}))
    assert "other content" in str(run(gateway, "import", tmp_path / "system.json", code=1))
    assert len(run(gateway, "import", tmp_path / "system.json", "--replace")["replaced"]) == 1
    rows = run(gateway, "coverage", package, "--on", "2025-01-01")
    assert {row["lacking"] for row in rows} <= {True}  # there is no data at all
