"""Stories of ``Claim/$check`` and ``ExplanationOfBenefit/$denials``: what clients learn, and what stays hidden."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.claim_edits.outcome import SYSTEM
from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.server.app import create_app
from tests.support.claim_story import story
from tests.support.claims import Claim, line, professional

pytestmark = pytest.mark.anyio
ALL = "system/*.rs system/AuditEvent.rs"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder = tmp_path_factory.mktemp("claims")
    settings = Settings(
        data_dir=folder / "data",
        lake_buckets=2,
        database_url=SecretStr("sqlite://"),
        encryption_key=SecretStr(Fernet.generate_key().decode()),
        public_url=PUBLIC_URL,
    )
    made = Gateway(settings)
    sent = folder / "sent.ndjson"
    sent.write_text("".join(json.dumps(one) + "\n" for one in story()))
    pull_files(made, [sent], "ehr")
    person = made.persons.lookup("ehr", pa.array(["p1"]))[0].as_py()
    members = [{"entity": {"reference": f"Patient/{person}"}}]
    listed = {"resourceType": "Group", "id": "aco", "type": "person", "actual": True, "member": members}
    made.resources.put_many([labelled(listed, label("contract", "aco"))])
    return made


@pytest.fixture(scope="module")
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_for(create_app(gateway)) as client:
        yield client


@pytest.fixture
def person(gateway: Gateway) -> str:
    found: str = gateway.persons.lookup("ehr", pa.array(["p1"]))[0].as_py()
    return found


def again(person: str, identifier: str = "new") -> Claim:
    """A claim for what was billed before."""
    claim = professional(line(1, "93000", "2025-05-01", "50.00"), identifier=identifier, created="2025-07-01")
    coverage = {"reference": "Coverage/ehr-cov1"}
    return claim | {
        "patient": {"reference": f"Patient/{person}"},
        "provider": {"reference": "Organization/ehr-org"},
        "insurance": [{"sequence": 1, "focal": True, "coverage": coverage}],
    }


def read(answer: httpx.Response) -> list[tuple[str | None, bool, set[str]]]:
    """Of each claim its id, whether it is clean, and the edits that say something."""
    assert answer.status_code == 200, answer.text
    found = []
    for one in answer.json()["parameter"]:
        if one["name"] == "claim":
            parts = {part["name"]: part for part in one["part"]}
            codes = {
                coding["code"]
                for issue in parts["outcome"]["resource"]["issue"]
                for coding in issue.get("details", {}).get("coding", ())
                if coding["system"] == SYSTEM
            }
            found.append((parts.get("id", {}).get("valueString"), parts["clean"]["valueBoolean"], codes))
    return found


def unchecked(answer: httpx.Response) -> str:
    return " ".join(
        issue["details"]["text"]
        for one in answer.json()["parameter"]
        if one["name"] == "claim"
        for issue in next(part for part in one["part"] if part["name"] == "outcome")["resource"]["issue"]
        if issue["code"] == "not-supported"
    )


async def test_a_claim_is_checked_beside_what_was_billed(
    http: httpx.AsyncClient, gateway: Gateway, person: str
) -> None:
    caller = await enter(http, gateway, "biller", ALL)
    answer = await http.post("/fhir/Claim/$check", headers=caller, json=again(person))
    ((name, clean, edits),) = read(answer)
    assert (name, clean, "duplicate-service" in edits) == ("new", False, True)
    assert "npi-missing" not in edits  # by the reference
    assert "earlier claims" not in unchecked(answer)
    assert person not in answer.text
    trail = (await http.get("/fhir/AuditEvent?altid=biller", headers=caller)).text
    assert "$check" in trail
    assert f"Patient/{person}" in trail


async def test_bundles_and_lines_answer_for_each_claim(http: httpx.AsyncClient, gateway: Gateway, person: str) -> None:
    caller = await enter(http, gateway, "lines", ALL)
    claims = [again("nobody", "a"), again(person, "b"), again(person, "c") | {"total": {"value": 1}}]
    del claims[0]["id"]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in claims]}
    whole = await http.post("/fhir/Claim/$check?submitted=2025-08-01", headers=caller, json=bundle)
    ndjson = "\n".join(json.dumps(one) for one in claims)
    lines = await http.post(
        "/fhir/Claim/$check?submitted=2025-08-01",
        headers=caller | {"Content-Type": "application/fhir+ndjson"},
        content=ndjson,
    )
    assert read(whole) == read(lines)
    assert [(name, clean) for name, clean, _ in read(whole)] == [("#1", True), ("b", False), ("c", False)]
    only = await http.post("/fhir/Claim/$check?edit=money", headers=caller, json=bundle)
    assert [clean for _, clean, _ in read(only)] == [True, True, False]


async def test_who_may_not_see_the_patient_learns_nothing(
    http: httpx.AsyncClient, gateway: Gateway, person: str
) -> None:
    inside = await enter(http, gateway, "aco-biller", ALL, grants=["contract:aco"])
    outside = await enter(http, gateway, "other-biller", ALL, grants=["contract:other"])
    seen = await http.post("/fhir/Claim/$check", headers=inside, json=again(person))
    hidden = await http.post("/fhir/Claim/$check", headers=outside, json=again(person))
    stranger = await http.post("/fhir/Claim/$check", headers=outside, json=again("p0000000000000000"))
    assert "duplicate-service" in read(seen)[0][2]
    assert read(hidden) == read(stranger)
    assert "duplicate-service" not in read(hidden)[0][2]
    assert "earlier claims" in unchecked(hidden)
    narrow = await enter(http, gateway, "claims-only", "system/Claim.rs")
    answer = await http.post("/fhir/Claim/$check", headers=narrow, json=again(person))
    assert "duplicate-service" not in read(answer)[0][2]
    restricted = await enter(http, gateway, "some-claims", f"system/Claim.rs?patient=Patient/{person}")
    assert (await http.post("/fhir/Claim/$check", headers=restricted, json=again(person))).status_code == 403
    assert (await http.post("/fhir/Claim/$check", json=again(person))).status_code == 401


async def test_mistakes_are_named(http: httpx.AsyncClient, gateway: Gateway, person: str) -> None:
    caller = await enter(http, gateway, "mistaken", ALL)

    async def refused(query: str = "", **body: Any) -> tuple[int, str]:
        answer = await http.post(f"/fhir/Claim/$check{query}", headers=caller, **body)
        return answer.status_code, answer.text

    good = again(person)
    assert (await refused(json={"resourceType": "Patient"}))[0] == 400
    assert (await refused(json={"resourceType": "Bundle", "type": "collection"}))[0] == 400
    status, text = await refused(json=good | {"status": 7})
    assert (status, "Claim.status" in text) == (422, True)
    assert (await refused("?submitted=soon", json=good))[0] == 400
    assert (await refused("?edit=no-such-edit", json=good))[0] == 400
    assert (await refused("?mode=create", json=good))[0] == 400
    many = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": good}] * 1001}
    assert (await refused(json=many))[0] in (400, 403, 413, 422)
    assert (await refused(content="nothing", params={}))[0] == 415


async def test_denials_of_those_whom_the_client_sees(http: httpx.AsyncClient, gateway: Gateway) -> None:
    inside = await enter(http, gateway, "aco-reader", ALL, grants=["contract:aco"])
    outside = await enter(http, gateway, "other-reader", ALL, grants=["contract:other"])
    path = "/fhir/ExplanationOfBenefit/$denials"

    def overall(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        (row,) = [one for one in answer.json()["parameter"] if one["name"] == "overall"]
        return {part["name"]: value for part in row["part"] for name, value in part.items() if name != "name"}

    seen = await http.get(f"{path}?by=payer&start=2025-01-01&end=2025-12-31", headers=inside)
    assert overall(seen) | {"claims": 3, "denied_at_first": 2, "overturned": 1, "denied_amount": 175.0} == overall(seen)
    assert "Payer One" in seen.text
    hidden = await http.get(path, headers=outside)
    assert overall(hidden)["claims"] == 0
    assert "93000" not in hidden.text
    body = {"resourceType": "Parameters", "parameter": [{"name": "by", "valueCode": "month"}]}
    posted = await http.post(path, headers=inside, json=body)
    assert "2025-06" in posted.text
    assert (await http.get(f"{path}?by=weather", headers=inside)).status_code == 400
    assert (await http.get(f"{path}?start=soon", headers=inside)).status_code == 400
    short = await enter(http, gateway, "eobs-only", "system/ExplanationOfBenefit.rs")
    assert (await http.get(path, headers=short)).status_code == 403
