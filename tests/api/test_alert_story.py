"""Everything that is an alert, told by webhook, by mail and to subscribers of FHIR: each once, each to who may hear."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.config import Settings, Threshold
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.alert_delivery import deliver as deliver_alerts
from fhir_gateway.jobs.alerts import find
from fhir_gateway.jobs.deliveries import deliver, spread
from fhir_gateway.jobs.patience import Patience
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.rest_hook import RestHook
from fhir_gateway.jobs.settle import settle
from fhir_gateway.sandbox.population import generate
from fhir_gateway.server.app import create_app
from tests.support.results import proportion
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract
from tests.support.subscriber import Subscriber

pytestmark = pytest.mark.anyio
TOPIC = "https://fhir-gateway.example/fhir/SubscriptionTopic/"
TOPICS = ("encounter-alert", "gap-alert", "contract-alert", "endpoint-alert")
QUICK = Patience(pause=0.02, first=0.02, longest=0.05, error_after=2, give_up=60)
SPRING, AFTER = datetime(2025, 8, 1, tzinfo=UTC), datetime(2026, 4, 1, 12, tzinfo=UTC)
CONTRACT = "savings-2025"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=60, seed=5, year=2025)
    return folder


class Told:
    """A gateway with a contract that was settled half a year ago, a mailbox, and receivers of everything."""

    def __init__(self, gateway: Gateway, contract: str, http: httpx.AsyncClient, folder: Path) -> None:
        self.gateway, self.contract, self.http, self.folder = gateway, contract, http, folder
        self.hook = RestHook(public_only=False)
        self.mails: list[EmailMessage] = []

    async def subscribe(self, endpoint: str, headers: dict[str, str], topic: str) -> None:
        extension = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
        channel = {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"}
        content = {"_payload": {"extension": [{"url": extension, "valueCode": "id-only"}]}}
        body = {"resourceType": "Subscription", "status": "requested", "reason": "test", "criteria": TOPIC + topic}
        media = {"Content-Type": "application/fhir+json"}
        answer = await self.http.post(
            "/fhir/Subscription", json=body | {"channel": channel | content}, headers=headers | media
        )
        assert answer.status_code == 201, answer.text

    def look(self) -> list[str]:
        """Find what is new and tell everybody; kinds of the alerts."""
        found = find(self.gateway, AFTER)
        deliver_alerts(self.gateway, self.hook, QUICK, lambda settings, mail: self.mails.append(mail))
        spread(self.gateway)
        for one in self.gateway.subscriptions.at_work():
            deliver(self.gateway, self.hook, one.id, QUICK)
        return sorted(one.kind for one in found)

    def send(self, *resources: dict[str, Any]) -> None:
        file = self.folder / "sent.ndjson"
        file.write_text("\n".join(map(json.dumps, resources)), encoding="utf-8")
        pull_files(self.gateway, [file], "ehr")

    def evaluated(self, day: int, met: list[int]) -> None:
        """Keep a run of a proportion over the first three members; whose numerator is 0 has an open gap."""
        members = self.gateway.lake.members().slice(0, 3).cast(pa.string())
        at = datetime(2026, 3, day, tzinfo=UTC)
        self.gateway.results.save(proportion(members.to_pylist(), met, title="Screening", evaluated_at=at))


@pytest.fixture
async def told(population: Path, tmp_path: Path) -> AsyncIterator[Told]:
    before = pull_population(population, tmp_path / "data", lake_buckets=2)
    savings = {
        "kind": "shared_savings",
        "id": "ss",
        "pool": "total cost",
        "rate": "0.5",
        "target": {"kind": "pmpm", "amount": "2000"},
    }
    stated = contract_terms(
        CONTRACT, tins_of(population), hcp_lan="3B", arrangements=[savings],
        calendar={"interim": "semiannual", "interim_share": "0.5"},
    )  # fmt: skip
    contract = write_contract(tmp_path, stated)
    half = settle(before, contract, now=SPRING, interim=date(2025, 6, 30)).settlement
    assert half.total > 0
    line = next(one for one in reversed(half.lines) if one.value == half.total)
    before.engine.dispose()
    assert line.value is not None
    threshold = Threshold(contract=CONTRACT, line=line.id, value=line.value + Decimal("0.01"))
    gateway = Gateway(
        Settings(
            data_dir=tmp_path / "data",
            lake_buckets=2,
            public_url=PUBLIC_URL,
            encryption_key=SecretStr(Fernet.generate_key().decode()),
            subscription_endpoints="any",
            alert_thresholds=(threshold,),
        )
    )
    spread(gateway)
    async with client_for(create_app(gateway)) as http:
        made = Told(gateway, contract, http, tmp_path)
        yield made
        made.hook.close()
    gateway.engine.dispose()


@pytest.fixture
def webhook() -> Iterator[Subscriber]:
    with Subscriber() as found:
        yield found


@pytest.fixture
def receivers() -> Iterator[dict[str, Subscriber]]:
    with Subscriber() as one, Subscriber() as two, Subscriber() as three, Subscriber() as four:
        yield dict(zip(TOPICS, (one, two, three, four), strict=True))


def encounter(gateway: Gateway, name: str, kind: str, status: str, end: str | None = None) -> dict[str, Any]:
    rows = gateway.lake.read("Patient", ["id"])
    patient = next(row["id"] for row in rows.to_pylist() if row["_source"] == "ehr")
    return {
        "resourceType": "Encounter",
        "id": name,
        "status": status,
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": kind},
        "subject": {"reference": f"Patient/{patient}"},
        "period": {"start": "2026-03-30T10:00:00Z"} | ({"end": f"{end}T12:00:00Z"} if end else {}),
    }


async def test_each_kind_reaches_webhook_mail_and_subscribers(
    told: Told, webhook: Subscriber, receivers: dict[str, Subscriber]
) -> None:
    gateway = told.gateway
    operator = await enter(told.http, gateway, "operator", "system/*.cruds")
    for topic, receiver in receivers.items():
        await told.subscribe(receiver.url, operator, topic)
    gateway.alerts.add_channel("webhook", webhook.url, [], None, "test", AFTER)
    gateway.alerts.add_channel("mail", "care@example.org", [], None, "test", AFTER)
    told.evaluated(1, [1, 0, 0])
    assert told.look() == []  # what was there before is known
    assert [one.type for receiver in receivers.values() for one in receiver.taken] == ["handshake"] * 4

    emergency = encounter(gateway, "er", "EMER", "finished", "2026-03-30")
    told.send(emergency, encounter(gateway, "in", "IMP", "in-progress"))
    assert told.look() == ["admission", "emergency-visit"]
    told.send(encounter(gateway, "in", "IMP", "finished", "2026-04-01"))
    assert told.look() == ["discharge"]
    told.evaluated(20, [0, 1, 0])
    assert told.look() == ["gap-closed", "gap-opened"]
    settle(gateway, told.contract, now=AFTER)
    assert told.look() == ["threshold"]
    row = gateway.pulls.start("x-1", "payer", "pull", {})
    gateway.pulls.update(row.id, state="failed")
    assert told.look() == ["endpoint-failed"]
    assert told.look() == []

    hooked = [one for taken in webhook.taken for one in taken.body["alerts"]]
    order = ["admission", "emergency-visit", "discharge", "gap-opened", "gap-closed", "threshold", "endpoint-failed"]
    assert [one["kind"] for one in hooked] == order
    assert len({one["id"] for one in hooked}) == len(order)
    assert all("X-Gateway-Signature" in one.headers for one in webhook.taken)
    counted = [line for mail in told.mails for line in mail.get_content().splitlines() if ": " in line]
    assert sorted(counted) == sorted(f"{kind}: 1" for kind in order)

    expected = {
        "encounter-alert": order[:3],
        "gap-alert": order[3:5],
        "contract-alert": ["threshold"],
        "endpoint-alert": ["endpoint-failed"],
    }
    for topic, receiver in receivers.items():
        events = [event for taken in receiver.of("event-notification") for event in taken.status["events"]]
        resources = [await told.http.get(_path(event["focus"]), headers=operator) for event in events]
        kinds = [one.json()["category"][0]["coding"][1]["code"] for one in resources]
        assert sorted(kinds) == sorted(expected[topic]), topic


def _path(reference: str) -> str:
    return reference if reference.startswith("http") else f"/fhir/{reference}"


async def test_who_is_limited_hears_of_no_source_and_of_no_other_contract(
    told: Told, receivers: dict[str, Subscriber]
) -> None:
    gateway = told.gateway
    mine = await enter(told.http, gateway, "mine", "system/*.cruds", grants=[f"contract:{CONTRACT}"])
    others = await enter(told.http, gateway, "others", "system/*.cruds", grants=["contract:other"])
    told_mine, told_others = receivers["contract-alert"], receivers["gap-alert"]
    for receiver, headers in ((told_mine, mine), (told_others, others)):
        for topic in ("contract-alert", "endpoint-alert"):
            await told.subscribe(receiver.url, headers, topic)
    assert told.look() == []
    settle(gateway, told.contract, now=AFTER)
    row = gateway.pulls.start("x-1", "payer", "pull", {})
    gateway.pulls.update(row.id, state="failed")
    assert told.look() == ["endpoint-failed", "threshold"]
    [event] = [event for taken in told_mine.of("event-notification") for event in taken.status["events"]]
    found = (await told.http.get(_path(event["focus"]), headers=mine)).json()
    assert found["category"][0]["coding"][1]["code"] == "threshold"
    assert told_others.of("event-notification") == []
    seen = [await told.http.get("/fhir/CommunicationRequest?category=alert", headers=one) for one in (mine, others)]
    assert [len(one.json().get("entry", [])) for one in seen] == [1, 0]
