"""What a sender pushes, judged by the profiles that it declares: off, recorded, refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.conformance.guides import add_guide
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app

PROFILE = {
    "resourceType": "StructureDefinition",
    "url": "https://guide.example/StructureDefinition/named-patient",
    "type": "Patient",
    "derivation": "constraint",
    "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
    "differential": {"element": [{"id": "Patient.name", "path": "Patient.name", "min": 1}]},
}
KEEPS = {"resourceType": "Patient", "id": "a", "meta": {"profile": [PROFILE["url"]]}, "name": [{"family": "A"}]}
BREAKS = {"resourceType": "Patient", "id": "b", "meta": {"profile": [PROFILE["url"]]}, "gender": "male"}
SILENT = {"resourceType": "Patient", "id": "c", "gender": "male"}


def pushed(folder: Path, setting: Literal["off", "record", "refuse"], *resources: dict[str, Any]) -> httpx.Response:
    source = folder / "guide"
    source.mkdir()
    (source / "StructureDefinition-named-patient.json").write_text(json.dumps(PROFILE))
    add_guide(source, folder / "data" / "guides", "guide.example#1.0.0")
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(
        Settings(data_dir=folder / "data", encryption_key=key, public_url=PUBLIC_URL, validate_pushed=setting)
    )

    async def sent() -> httpx.Response:
        client_key = register(gateway, "sender", "system/*.cu")
        async with client_for(create_app(gateway)) as http:
            headers = await authorize(http, "sender", client_key, "system/*.cu")
            body = "\n".join(map(json.dumps, resources)).encode()
            headers = {**headers, "Content-Type": "application/fhir+ndjson"}
            return await http.post("/fhir/$import", content=body, headers=headers)

    response = asyncio.run(sent())
    gateway.engine.dispose()
    return response


def said(response: httpx.Response) -> list[str]:
    (outcome,) = (one["resource"] for one in response.json()["parameter"] if one["name"] == "outcome")
    return [issue["diagnostics"] for issue in outcome["issue"] if issue["severity"] != "information"]


def test_profiles_are_not_looked_at_unless_asked_for(tmp_path: Path) -> None:
    response = pushed(tmp_path, "off", KEEPS, BREAKS)
    assert response.status_code == 200
    assert said(response) == []


def test_broken_promises_are_told_and_what_breaks_them_is_stored(tmp_path: Path) -> None:
    response = pushed(tmp_path, "record", KEEPS, BREAKS, SILENT)
    assert response.status_code == 200
    (told,) = said(response)
    assert "Patient.name: cardinality" in told
    assert PROFILE["url"] in told
    ledger = next(one for one in response.json()["parameter"] if one["name"] == "ledger")
    assert {"name": "rows-stored", "valueInteger": 3} in ledger["part"]


@pytest.mark.parametrize(("second", "status"), [(BREAKS, 422), (SILENT, 200)])
def test_broken_promises_are_refused_when_the_operator_says_so(
    tmp_path: Path, second: dict[str, Any], status: int
) -> None:
    response = pushed(tmp_path, "refuse", KEEPS, second)
    assert response.status_code == status
    if status == 422:
        assert response.json()["issue"][0]["expression"] == ["Patient.name"]
        assert response.json()["issue"][-1]["diagnostics"] == "nothing was stored"
