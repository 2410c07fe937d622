"""Exports through real sockets: another gateway pulls from us, and kill -9 in the middle costs a client nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest

from fhir_gateway.auth.assertion import client_assertion, public_key_set
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.jobs.since import LAST
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.reports import summary
from fhir_gateway.server.serve import GatewayServer
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from tests.support.backend_client import ASSERTION_TYPE
from tests.support.measures import result_of
from tests.support.moments import HELD
from tests.support.serving import free_port, serving
from tests.support.waiting import HANG, until

REPORTER = {"reference": "Organization/gateway"}
PEOPLE = 60


def a_run(number: int, size: int) -> MeasureResult:
    """A run of one of our measures over people who were made up."""
    whole = result_of("diabetes-hba1c-poor-control")
    random = np.random.default_rng(number)
    group = whole.groups[0]
    counts = [(random.random(size) < 0.7).astype(np.int16) for _ in group.populations]
    counts[0][:] = 1
    populations = tuple(
        replace(one, counts=found, raw=found) for one, found in zip(group.populations, counts, strict=True)
    )
    group = replace(group, populations=populations, stratifiers=())
    members = pa.array([f"p{one:016x}" for one in range(size)])
    return replace(
        whole, url=f"http://measures.example/Measure/M{number}", members=members, groups=(group,), supplemental=()
    )


def fill(gateway: Gateway, size: int = PEOPLE, runs: int = 2) -> list[str]:
    """Persons with coverage on a list, and reports."""
    resources: list[dict[str, Any]] = [{"resourceType": "Organization", "id": "gateway", "name": "Us"}]
    for number in range(min(size, PEOPLE)):
        person = {"reference": f"Patient/p{number:016x}"}
        name = [{"family": f"F{number}", "given": ["A"]}]
        resources.append({"resourceType": "Patient", "id": f"p{number:016x}", "gender": "female", "name": name})
        coverage = {"resourceType": "Coverage", "id": f"c{number}", "status": "active", "beneficiary": person}
        resources.append(coverage | {"payor": [REPORTER]})
    entries = [{"entity": {"reference": f"Patient/p{number:016x}"}} for number in range(10)]
    resources.append({"resourceType": "Group", "id": "aco", "type": "person", "actual": True, "member": entries})
    made = []
    for number in range(runs):
        result = a_run(number, size)
        made.append(gateway.results.save(result))
        resources.append(summary(result, REPORTER))
    gateway.resources.put_many(resources)
    return made


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[tuple[Gateway, str, SigningKey]]:
    """A gateway that serves, with a worker, and the key of its client."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    gateway = Gateway(Settings(data_dir=tmp_path / "ours", public_url=url, export_file_resources=25))
    fill(gateway)
    key = SigningKey.of("payer", generate_key("ES384"))
    gateway.authorization.register_client("them", scopes="system/*.read", jwks={"keys": [key.public_jwk()]})
    with Worker(gateway, background=True), GatewayServer(gateway, port=port):
        yield gateway, f"{url}/fhir", key


def test_another_gateway_pulls_from_us(tmp_path: Path, ours: tuple[Gateway, str, SigningKey]) -> None:
    gateway, url, key = ours
    theirs = Gateway(Settings(data_dir=tmp_path / "theirs", lake_buckets=2))
    theirs.endpoints.add(Endpoint("payer", url, client_id="them"), key.algorithm, key.key.as_pem(private=True))
    report = pull_endpoint(theirs, "payer", mode="bulk")
    assert report.ledger.balanced
    assert report.complete
    assert report.quarantined == 0
    counts = {entry.resource_type: entry for entry in report.ledger.entries}
    assert counts["MeasureReport"].manifest_count == counts["MeasureReport"].rows_stored == 2 * PEOPLE + 2
    assert counts["Patient"].rows_stored == PEOPLE
    assert report.persons == PEOPLE
    assert not list((gateway.data_folder / "requests").iterdir())  # the client said that it was done
    gateway.resources.delete("Coverage", "c3")
    gateway.resources.put({"resourceType": "Patient", "id": f"p{5:016x}", "name": [{"family": "Changed"}]})
    again = pull_endpoint(theirs, "payer", mode="bulk", since=LAST)
    assert again.ledger.balanced
    assert theirs.lake.read("Coverage").num_rows == PEOPLE - 1


def test_another_gateway_pulls_a_list(tmp_path: Path, ours: tuple[Gateway, str, SigningKey]) -> None:
    _, url, key = ours
    theirs = Gateway(Settings(data_dir=tmp_path / "theirs", lake_buckets=2))
    theirs.endpoints.add(Endpoint("payer", url, client_id="them"), key.algorithm, key.key.as_pem(private=True))
    report = pull_endpoint(theirs, "payer", mode="bulk", group="aco")
    assert report.ledger.balanced
    assert report.persons == 10
    assert theirs.lake.read("MeasureReport").num_rows == 20


MOMENTS = {
    "it was accepted": "requests/*",
    "it is planned": "requests/*/plan.json",
    "a part is done": "requests/*/part-0.json",
}
WORK = "fhir_gateway/jobs/exports/"
FILES = {"EXPORT_FILE_RESOURCES": "200"}


@pytest.mark.parametrize(
    ("moment", "end"), [*((one, signal.SIGKILL) for one in MOMENTS), ("it is planned", signal.SIGTERM)]
)
def test_an_end_in_the_middle_costs_the_client_nothing(tmp_path: Path, moment: str, end: signal.Signals) -> None:
    size, port = 500, free_port()
    folder = tmp_path / "data"
    url = f"http://127.0.0.1:{port}"
    gateway = Gateway(Settings(data_dir=folder, public_url=url))
    runs = fill(gateway, size, 6)
    key = generate_key("ES384").as_dict(private=True) | {"kid": "k", "alg": "ES384"}
    gateway.authorization.register_client("them", scopes="system/*.rs", jwks=public_key_set(key))
    gateway.engine.dispose()
    with serving(folder, port, held_at=(MOMENTS[moment], WORK), **FILES) as server:
        token = f"{url}/auth/token"
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.rs",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": client_assertion("them", token, key, "ES384"),
        }
        headers = {"Authorization": f"Bearer {httpx.post(token, data=form, timeout=HANG).json()['access_token']}"}
        asked = {**headers, "Prefer": "respond-async"}
        accepted = httpx.get(f"{url}/fhir/$export?_type=MeasureReport", headers=asked, timeout=HANG)
        assert accepted.status_code == 202
        until((tmp_path / HELD).exists)
        os.kill(server.pid, end)
        server.wait(HANG)
    done = len(list(folder.glob("requests/*/part-*.json")))
    assert done < len(runs), "the kill came too late to show anything"
    with serving(folder, port, **FILES):
        poll = accepted.headers["content-location"]
        until(lambda: httpx.get(poll, headers=headers, timeout=HANG).status_code != 202)
        answer = httpx.get(poll, headers=headers, timeout=HANG)
        assert answer.status_code == 200, answer.text
        files = answer.json()["output"]
        ids: list[str] = []
        for one in files:
            plain = {**headers, "Accept-Encoding": "identity"}
            lines = httpx.get(one["url"], headers=plain, timeout=HANG).content.splitlines()
            assert len(lines) == one["count"] <= 200
            ids += [orjson.loads(line)["id"] for line in lines]
    assert len(ids) == len(set(ids)) == len(runs) * (size + 1)
    assert set(runs) <= set(ids)
