"""From two sandbox endpoints, an EHR and a payer, into the lake and out again as served persons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import SourceAuthError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_endpoint, pull_files
from fhir_gateway.jobs.since import LAST
from fhir_gateway.sandbox.server.runner import SandboxServer
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from fhir_gateway.sources.outcome import PullProgress

MEMBER_NUMBER = {
    "system": "https://payer.example/member",
    "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MB"}]},
}


def patient(resource_id: str, number: int, **more: Any) -> dict[str, Any]:
    identifiers = [
        {**MEMBER_NUMBER, "value": f"M{number}"},
        {"system": f"https://{resource_id[:3]}.example/mrn", "value": resource_id},
    ]
    return {
        "resourceType": "Patient",
        "id": resource_id,
        "meta": {"lastUpdated": "2025-03-01T00:00:00Z"},
        "identifier": identifiers,
        "gender": "female",
        "birthDate": f"19{number:02d}-01-01",
        **more,
    }


def write(folder: Path, *resources: dict[str, Any]) -> Path:
    folder.mkdir()
    for kind in sorted({one["resourceType"] for one in resources}):
        lines = [json.dumps(one) for one in resources if one["resourceType"] == kind]
        (folder / f"{kind}.ndjson").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def ehr_folder(tmp_path: Path) -> Path:
    clinic = {"resourceType": "Organization", "id": "clinic", "name": "Clinic"}
    doctor = {
        "resourceType": "PractitionerRole",
        "id": "role",
        "practitioner": {"reference": "Practitioner/doctor"},
        "organization": {"reference": "Organization/clinic"},
    }
    patients = [patient(f"ehr{n}", n, managingOrganization={"reference": "Organization/clinic"}) for n in range(10, 22)]
    group = {
        "resourceType": "Group",
        "id": "two",
        "type": "person",
        "actual": True,
        "member": [{"entity": {"reference": f"Patient/ehr{n}"}} for n in (10, 11)],
    }
    weight = {
        "resourceType": "Observation",
        "id": "w1",
        "status": "final",
        "code": {"text": "weight"},
        "subject": {"reference": "Patient/ehr10"},
        "valueQuantity": {"value": 70.10, "unit": "kg"},
    }
    broken = {**weight, "id": "w2", "status": "no such status"}
    return write(tmp_path / "ehr", clinic, doctor, *patients, group, weight, broken)


@pytest.fixture
def payer_folder(tmp_path: Path) -> Path:
    plan = {"resourceType": "Organization", "id": "clinic", "name": "Plan"}  # same id as the EHR's, another thing
    coverages = [
        {
            "resourceType": "Coverage",
            "id": f"cov{n}",
            "status": "active",
            "beneficiary": {"reference": f"Patient/pay{n}"},
            "payor": [{"reference": "Organization/clinic"}],
        }
        for n in range(16, 26)
    ]
    return write(tmp_path / "payer", plan, *(patient(f"pay{n}", n) for n in range(16, 26)), *coverages)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=2))


@pytest.fixture
def ehr(gateway: Gateway, ehr_folder: Path) -> Iterator[SandboxServer]:
    yield from _served(gateway, "ehr", ehr_folder)


@pytest.fixture
def payer(gateway: Gateway, payer_folder: Path) -> Iterator[SandboxServer]:
    yield from _served(gateway, "payer", payer_folder)


def _served(gateway: Gateway, name: str, folder: Path) -> Iterator[SandboxServer]:
    """The sandbox must know our key before it starts, and we its address afterwards."""
    key = SigningKey.of(name, generate_key("ES384"))
    with SandboxServer(folder, clients={"gateway": {"keys": [key.public_jwk()]}}) as server:
        endpoint = Endpoint(name, server.fhir_url, client_id="gateway")
        gateway.endpoints.add(endpoint, key.algorithm, key.key.as_pem(private=True))
        yield server


def served(gateway: Gateway, kind: str) -> dict[str, dict[str, Any]]:
    return {one.id: one.json() for one in gateway.resources.search(kind, count=100).resources}


def test_two_sources_become_one_population(gateway: Gateway, ehr: SandboxServer, payer: SandboxServer) -> None:
    told: list[PullProgress] = []
    first = pull_endpoint(gateway, "ehr", progress=told.append)
    assert first.kind == "bulk"
    assert first.complete
    assert first.ledger.balanced
    assert first.quarantined == 1
    assert first.persons == 12
    counts = {entry.resource_type: entry for entry in first.ledger.entries}
    assert counts["Observation"].manifest_count == counts["Observation"].lines_read == 2
    assert {one.phase for one in told} >= {"discover", "export", "download", "commit", "publish"}
    second = pull_endpoint(gateway, "payer")
    assert second.ledger.balanced
    assert second.persons == 16  # six of the payer's ten members are known from the EHR
    patients = served(gateway, "Patient")
    assert len(patients) == 16
    both = next(one for one in patients.values() if {**MEMBER_NUMBER, "value": "M16"} in one["identifier"])
    assert {one["value"] for one in both["identifier"]} == {"M16", "ehr16", "pay16"}
    assert both["managingOrganization"] == {"reference": "Organization/ehr-clinic"}
    organizations = served(gateway, "Organization")
    assert {name: one["name"] for name, one in organizations.items()} == {
        "gateway": "FHIR Gateway",
        "ehr-clinic": "Clinic",
        "payer-clinic": "Plan",
    }
    coverage = served(gateway, "Coverage")["payer-cov16"]
    assert coverage["beneficiary"] == {"reference": f"Patient/{both['id']}"}
    assert coverage["payor"] == [{"reference": "Organization/payer-clinic"}]
    assert served(gateway, "PractitionerRole")["ehr-role"]["practitioner"] == {"reference": "Practitioner/ehr-doctor"}
    assert not any((gateway.staging_folder).iterdir())


def test_pulling_again_changes_nothing(gateway: Gateway, ehr: SandboxServer) -> None:
    pull_endpoint(gateway, "ehr")
    before = gateway.resources.search("Patient", count=100).resources
    again = pull_endpoint(gateway, "ehr")
    assert again.ledger.balanced
    assert sum(entry.rows_stored + entry.rows_replaced for entry in again.ledger.entries) == 0
    assert set(again.published.values()) == {0}
    assert gateway.resources.search("Patient", count=100).resources == before


def test_incremental_pull_goes_on_from_the_last_complete_one(gateway: Gateway, ehr: SandboxServer) -> None:
    full = pull_endpoint(gateway, "ehr", types=("Patient",))
    assert full.transaction_time is not None
    partial = pull_endpoint(gateway, "ehr", types=("Patient",), since=LAST)
    assert sum(entry.lines_read for entry in partial.ledger.entries) == 0
    assert partial.persons == 12


def test_group_pull_and_search_pull_bring_the_same_resources(gateway: Gateway, ehr: SandboxServer) -> None:
    group = pull_endpoint(gateway, "ehr", group="two", types=("Patient",))
    assert group.persons == 2
    search = pull_endpoint(gateway, "ehr", mode="search", types=("Patient", "Observation"))
    assert search.kind == "search"
    assert search.persons == 12
    assert gateway.lake.read("Observation").num_rows == 1


def test_the_same_from_files(gateway: Gateway, ehr_folder: Path, ehr: SandboxServer) -> None:
    over_http = pull_endpoint(gateway, "ehr")
    from_files = pull_files(gateway, [ehr_folder], "ehr")
    assert sum(entry.rows_stored + entry.rows_replaced for entry in from_files.ledger.entries) == 0
    assert from_files.quarantined == over_http.quarantined == 1


def test_a_kill_before_the_commit_costs_no_second_download(
    gateway: Gateway, ehr: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = gateway.lake

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lake, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        pull_endpoint(gateway, "ehr")
    monkeypatch.undo()
    interrupted = gateway.pulls.recent()[0]
    assert interrupted.state == "staged"
    ehr.stop()  # nothing is asked of it any more
    report = pull_endpoint(gateway, "ehr")
    assert report.pull_id == interrupted.id
    assert report.persons == 12
    assert gateway.pulls.get(report.pull_id).state == "committed"


def test_a_kill_while_downloading_goes_on_with_the_same_export(
    gateway: Gateway, ehr: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fhir_gateway.sources.download import Downloader

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Downloader, "all", killed)
    with pytest.raises(KeyboardInterrupt):
        pull_endpoint(gateway, "ehr")
    monkeypatch.undo()
    interrupted = gateway.pulls.recent()[0]
    assert list(gateway.pulls.exports(interrupted.id)) == [""]
    report = pull_endpoint(gateway, "ehr")
    assert report.pull_id == interrupted.id
    assert report.persons == 12
    assert gateway.pulls.exports(report.pull_id) == {}


def test_a_key_that_is_not_registered_is_named(gateway: Gateway, ehr: SandboxServer) -> None:
    gateway.endpoints.add(Endpoint("stranger", ehr.fhir_url, client_id="gateway"))
    with pytest.raises(SourceAuthError, match="must be in the JWK Set registered there"):
        pull_endpoint(gateway, "stranger")
    assert gateway.lake.version == 0
