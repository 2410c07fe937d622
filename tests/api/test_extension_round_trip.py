"""What no profile of ours knows comes out as it went in: extensions, wherever they are, and the digits of decimals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio

NESTED = {
    "url": "https://nobody.example/extension",
    "extension": [
        {"url": "amount", "valueDecimal": "@"},
        {"url": "who", "valueReference": {"reference": "#contained", "display": "é"}},
    ],
}
PATIENT = {
    "resourceType": "Patient",
    "id": "a",
    "extension": [NESTED],
    "name": [{"family": "Ash", "_family": {"extension": [{"url": "https://nobody.example/f", "valueCode": "x"}]}}],
    "birthDate": "1950-01-01",
    "_birthDate": {"extension": [{"url": "https://nobody.example/t", "valueDateTime": "1950-01-01T01:02:03Z"}]},
}
OBSERVATION = {
    "resourceType": "Observation",
    "id": "o",
    "modifierExtension": [{"url": "https://nobody.example/m", "valueBoolean": True}],
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "4548-4", "extension": [NESTED]}]},
    "subject": {"reference": "Patient/a", "extension": [{"url": "https://nobody.example/s", "valueInteger": 7}]},
    "component": [{"code": {"text": "c"}, "_valueString": {"extension": [NESTED]}}],
}


def text(resource: dict[str, Any]) -> str:
    return json.dumps(resource).replace('"@"', "1.500")


def extensions(value: Any, path: str = "") -> dict[str, Any]:
    """Every extension of a resource by where it is."""
    found: dict[str, Any] = {}
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("extension", "modifierExtension"):
                found[f"{path}.{name}"] = inner
            else:
                found |= extensions(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found |= extensions(inner, f"{path}[{number}]")
    return found


async def test_extensions_come_out_as_they_went_in(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text(f"{text(PATIENT)}\n{text(OBSERVATION)}\n")
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(Settings(data_dir=tmp_path / "data", encryption_key=key, public_url=PUBLIC_URL, lake_buckets=1))
    report = pull_files(gateway, [tmp_path / "in.ndjson"], "ehr")
    assert report.quarantined == 0
    for resource in (PATIENT, OBSERVATION):
        assert gateway.lake.read(str(resource["resourceType"]), ["_raw"])["_raw"].to_pylist() == [text(resource)]
    reader = register(gateway, "reader", "system/*.rs")
    async with client_for(create_app(gateway)) as http:
        headers = await authorize(http, "reader", reader, "system/*.rs")
        for resource in (PATIENT, OBSERVATION):
            answer = await http.get(f"/fhir/{resource['resourceType']}", headers=headers)
            (served,) = [one["resource"] for one in answer.json()["entry"]]
            sent = extensions(json.loads(text(resource)))
            assert len(sent) >= 3
            assert extensions(served) == sent
            for query in ("", "?_pretty=true", "?_elements=extension,code,component"):
                text_of = (
                    await http.get(f"/fhir/{resource['resourceType']}/{served['id']}{query}", headers=headers)
                ).text
                assert '"valueDecimal":1.500' in text_of.replace(" ", "")
            assert '"valueDecimal":1.500' in answer.text
