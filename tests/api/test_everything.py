"""``$everything``: what is served about a patient, for whom, and when it is too much."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.server import everything
from fhir_gateway.server.app import create_app


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Iterator[None]:
    yield
    shutil.rmtree(gateway().settings.data_dir)
    gateway().engine.dispose()


@cache
def gateway() -> Gateway:
    """Two patients with coverage and a report each; the list of a practice has the first."""
    key = SecretStr(Fernet.generate_key().decode())
    folder = Path(tempfile.mkdtemp())
    found = Gateway(Settings(data_dir=folder, encryption_key=key, public_url=PUBLIC_URL))
    resources: list[dict[str, Any]] = []
    for one in ("p1", "p2"):
        resources += [
            {"resourceType": "Patient", "id": one},
            {"resourceType": "Coverage", "id": f"c-{one}", "beneficiary": {"reference": f"Patient/{one}"}},
            {
                "resourceType": "MeasureReport",
                "id": f"r-{one}",
                "status": "complete",
                "type": "individual",
                "measure": "https://measure.example/m|1",
                "subject": {"reference": f"Patient/{one}"},
                "period": {"start": "2025-01-01", "end": "2025-12-31"},
            },
        ]
    group = {"resourceType": "Group", "id": "list", "type": "person", "actual": True}
    group["member"] = [{"entity": {"reference": "Patient/p1"}}]
    found.resources.put_many([*resources, labelled(group, label("organization", "111"))])
    return found


def ask(path: str, scope: str = "system/*.rs", grants: list[str] | None = None) -> httpx.Response:
    name = f"client-{uuid.uuid4().hex}"

    async def asked() -> httpx.Response:
        async with client_for(create_app(gateway())) as http:
            return await http.get(f"/fhir/{path}", headers=await enter(http, gateway(), name, scope, grants=grants))

    return asyncio.run(asked())


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    told = response.json()
    found = [entry["resource"]["id"] for entry in told.get("entry", ())]
    assert told["total"] == len(found)
    return found


def test_everything_of_one_and_of_all() -> None:
    assert ids(ask("Patient/p1/$everything")) == ["p1", "c-p1", "r-p1"]
    assert sorted(ids(ask("Patient/$everything"))) == ["c-p1", "c-p2", "p1", "p2", "r-p1", "r-p2"]


def test_types_and_since_narrow_it() -> None:
    assert ids(ask("Patient/p1/$everything?_type=Coverage,Patient")) == ["p1", "c-p1"]
    assert ids(ask("Patient/p1/$everything?_since=2100-01-01T00:00:00Z")) == []
    assert len(ids(ask("Patient/p1/$everything?_since=2020-01-01T00:00:00%2B02:00"))) == 3


def test_it_is_what_the_client_sees_and_its_token_covers() -> None:
    assert ids(ask("Patient/p1/$everything", grants=["organization:111"])) == ["p1", "c-p1", "r-p1"]
    assert ask("Patient/p2/$everything", grants=["organization:111"]).status_code == 404
    assert ids(ask("Patient/$everything", grants=["organization:111"])) == ["p1", "c-p1", "r-p1"]
    assert ids(ask("Patient/$everything", grants=["organization:999"])) == []
    assert ids(ask("Patient/p1/$everything", "system/Patient.rs system/Coverage.rs")) == ["p1", "c-p1"]
    assert ask("Patient/p1/$everything", "system/Coverage.rs").status_code == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("Patient/nobody/$everything", 404),
        ("Patient/p1/$everything?_since=yesterday", 400),
        ("Patient/p1/$everything?_since=2025-02-30T00:00:00Z", 400),
        ("Patient/p1/$everything?_type=Crowd", 400),
        ("Patient/p1/$everything?_type=Group", 400),
        ("Patient/p1/$everything?start=2025-01-01", 400),
        ("Patient/p1/$everything?nonsense=1", 400),
    ],
)
def test_what_is_wrong_is_a_4xx(query: str, status: int) -> None:
    response = ask(query)
    assert response.status_code == status, response.text
    assert response.json()["resourceType"] == "OperationOutcome"


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "MOST", 4)
    assert len(ids(ask("Patient/p1/$everything"))) == 3
    response = ask("Patient/$everything")
    assert response.status_code == 400
    assert response.json()["issue"][0]["code"] == "too-costly"
