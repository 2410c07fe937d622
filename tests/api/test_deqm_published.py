"""The operations over published packages and their test patients: counts are those that their stewards expect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.r4.models import validate
from fhir_gateway.server.app import create_app
from tests.measures.published import read_cases, rename

pytestmark = [pytest.mark.anyio, pytest.mark.shared]

NAMES = ["CMS130FHIRColorectalCancerScrn", "CMS122FHIRDiabetesAssessGT9Pct"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_published_measures_by_every_operation(shared: Path, tmp_path: Path) -> None:
    settings = Settings(
        database_url=SecretStr("sqlite://"),
        encryption_key=SecretStr(Fernet.generate_key().decode()),
        public_url=PUBLIC_URL,
        data_dir=tmp_path / "data",
        lake_buckets=2,
    )
    cases = []
    for name in NAMES:
        folder = shared / "data" / "ecqm" / "dqm2025" / name
        shutil.copytree(folder, tmp_path / "data" / "measures" / name)
        cases += [(name, case) for case in read_cases(folder)[::3]]
    gateway = Gateway(settings)
    sent = tmp_path / "sent"
    sent.mkdir()
    lines = [json.dumps(one) for number, (_, case) in enumerate(cases) for one in rename(case, number)]
    (sent / "all.ndjson").write_text("\n".join(lines))
    pull_files(gateway, [sent], "ehr")
    persons = gateway.persons.lookup("ehr", pa.array([f"case-{n}" for n in range(len(cases))])).to_pylist()
    urls = {name: gateway.measures.packages()[index].url for index, name in enumerate(sorted(NAMES))}
    stated = cases[0][1]["measurementPeriod"]
    period = {"periodStart": stated["start"][:10], "periodEnd": stated["end"][:10]}
    key = register(gateway, "kit", "system/*.rs")
    async with client_for(create_app(gateway)) as http:
        http.headers.update(await authorize(http, "kit", key, "system/*.rs"))

        async def asked(operation: str, **more: Any) -> list[dict[str, Any]]:
            answer = await http.get(f"/fhir/Measure/{operation}", params=period | more)
            assert answer.status_code == 200, answer.text
            found = [one["resource"] for one in answer.json().get("parameter", ())]
            for bundle in found:
                validate(bundle)
            return found

        for person, (name, case) in list(zip(persons, cases, strict=True))[::2]:
            (expected,) = case["expected"]["groups"][:1]
            found = await asked("$evaluate", measureUrl=urls[name], subject=person)
            if not expected["population"]["initial-population"]:
                assert found == []
                continue
            (bundle,) = found
            report = bundle["entry"][0]["resource"]
            counts = {one["code"]["coding"][0]["code"]: one["count"] for one in report["group"][0]["population"]}
            assert {code: counts[code] for code in expected["population"]} == expected["population"], case["title"]
        both = list(urls.values())
        collected = await asked("$collect-data", measureUrl=both)
        assert len(collected) == len(persons)
        statuses = ["open-gap", "prospective-gap"]
        gaps = await asked("$care-gaps", measureUrl=both, status=statuses, subject=f"Patient/{persons[0]}")
        assert len(gaps) <= 1
        library = (await http.get("/fhir/Measure/$data-requirements", params={"measureUrl": urls[NAMES[0]]})).json()
        assert len(library["dataRequirement"]) == 41
