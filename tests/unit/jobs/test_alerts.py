"""Alerts: once per event, from whatever source; gaps between runs; webhooks and mail until they were taken."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import AuthResult
from pydantic import SecretStr

from fhir_gateway.alerts.models import Alert, communication_request
from fhir_gateway.config import Settings
from fhir_gateway.db.search.matching import matches
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.alert_delivery import deliver, message, send_mail, signature
from fhir_gateway.jobs.alerts import find, wanted
from fhir_gateway.jobs.patience import Patience
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.rest_hook import DeliveryError, RestHook
from fhir_gateway.subscriptions.topics import TOPICS
from tests.support.certificates import certificate
from tests.support.results import proportion

NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)
MBI = "http://hl7.org/fhir/sid/us-mbi"


def person() -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": "1",
        "birthDate": "1950-01-01",
        "gender": "female",
        "name": [{"family": "Secretname", "given": ["Ann"]}],
        "identifier": [{"system": MBI, "value": "1EG4TE5MK73"}],
    }


def encounter(name: str, kind: str, start: str, end: str | None = None, status: str = "finished") -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": name,
        "status": status,
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": kind},
        "subject": {"reference": "Patient/1"},
        "period": {"start": f"{start}T10:00:00Z"} | ({"end": f"{end}T12:00:00Z"} if end else {}),
    }


class Lake:
    """A gateway that is sent more and more."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.sent = folder, 0
        self.gateway = Gateway(Settings(data_dir=folder / "data", lake_buckets=1, **settings))

    def send(self, *resources: dict[str, Any], source: str = "ehr") -> list[str]:
        """Take resources in and look; the kinds of the alerts that it gave."""
        self.sent += 1
        file = self.folder / f"sent-{self.sent}.ndjson"
        file.write_text("\n".join(map(json.dumps, [person(), *resources])))
        pull_files(self.gateway, [file], source)
        return [one.kind for one in find(self.gateway, NOW)]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    made = Lake(tmp_path)
    yield made
    made.gateway.engine.dispose()


def test_the_first_look_tells_nothing(lake: Lake) -> None:
    assert lake.send(encounter("a", "IMP", "2025-06-28", "2025-06-29")) == []
    assert find(lake.gateway, NOW) == []


def test_a_stay_is_told_when_it_begins_and_when_it_ends(lake: Lake) -> None:
    lake.send()
    assert lake.send(encounter("a", "EMER", "2025-06-28", status="in-progress")) == ["emergency-visit"]
    assert lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress")) == ["admission"]
    assert lake.send(encounter("a", "IMP", "2025-06-28", status="onleave")) == []
    assert lake.send(encounter("a", "IMP", "2025-06-28", "2025-06-30")) == ["discharge"]
    assert lake.send(encounter("a", "IMP", "2025-06-28", "2025-06-30") | {"serviceType": {"text": "x"}}) == []


def test_two_sources_of_one_event_are_one_alert(lake: Lake) -> None:
    lake.send()
    lake.send(source="hie")
    assert lake.send(encounter("a", "IMP", "2025-06-27", status="in-progress")) == ["admission"]
    # the other source has it a day later, and knows the end first
    assert lake.send(encounter("x", "IMP", "2025-06-27", "2025-06-29"), source="hie") == ["discharge"]
    assert lake.send(encounter("a", "IMP", "2025-06-27", "2025-06-29")) == []
    assert lake.send(encounter("b", "EMER", "2025-06-30"), encounter("c", "EMER", "2025-06-29")) == [
        "emergency-visit", "emergency-visit"
    ]  # fmt: skip


def test_what_is_old_cancelled_or_planned_is_no_alert(lake: Lake) -> None:
    lake.send()
    assert lake.send(
        encounter("old", "IMP", "2025-05-01", "2025-05-02"),
        encounter("planned", "IMP", "2025-06-30", status="planned"),
        encounter("cancelled", "EMER", "2025-06-30", status="cancelled"),
        encounter("office", "AMB", "2025-06-30"),
    ) == []  # fmt: skip


def test_alerts_are_served_once_and_without_names(lake: Lake) -> None:
    lake.send()
    lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"))
    find(lake.gateway, NOW)
    [served] = lake.gateway.resources.search("CommunicationRequest", [("category", "admission")]).resources
    assert served.version == 1
    assert served.json()["about"] == [{"reference": "Encounter/ehr-a"}]
    assert lake.gateway.validator.validate(served.json()).valid
    assert "Secretname" not in served.body.decode()


class Taken(RestHook):
    """A webhook that fails as often as it is told, and keeps what it takes."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(public_only=True)
        self.failures, self.sent = failures, list[tuple[list[tuple[str, str]], bytes, str]]()

    def send(
        self, endpoint: str, headers: Any, body: bytes, timeout: float, content_type: str = "application/fhir+json"
    ) -> None:
        if self.failures:
            self.failures -= 1
            raise DeliveryError("the endpoint answered 503")
        self.sent.append((list(headers), body, content_type))


def channel(lake: Lake, **more: Any) -> tuple[str, str]:
    given = {"medium": "webhook", "target": "https://care.example.org/hook", "kinds": [], "contract": None} | more
    made, secret = lake.gateway.alerts.add_channel(**given, by="test", at=NOW)
    return made.id, secret


def test_a_webhook_is_told_signed_and_once(lake: Lake) -> None:
    assert not wanted(lake.gateway)
    _, secret = channel(lake)
    assert wanted(lake.gateway)
    lake.send()
    lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"))
    hook = Taken()
    assert deliver(lake.gateway, hook) == 1
    assert deliver(lake.gateway, hook) == 0
    [(headers, body, content_type)] = hook.sent
    assert content_type == "application/json"
    [alert] = json.loads(body)["alerts"]
    assert (alert["kind"], alert["day"], alert["about"]) == ("admission", "2025-06-28", "Encounter/ehr-a")
    [(name, value)] = headers
    stamp, given = (part.partition("=")[2] for part in value.split(","))
    expected = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert (name, given) == ("X-Gateway-Signature", expected)
    assert signature(secret.encode(), stamp, body) == value
    assert b"Secretname" not in body


def test_a_webhook_that_fails_is_told_later(lake: Lake) -> None:
    name, _ = channel(lake)
    lake.send()
    lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"))
    hook, patience = Taken(failures=3), Patience(first=0.0, longest=0.0)
    for state, failures in (("active", 1), ("active", 2), ("error", 3)):
        assert deliver(lake.gateway, hook, patience) == 0
        now = lake.gateway.alerts.channel(name)
        assert (now.state, now.failures, now.error) == (state, failures, "the endpoint answered 503")
    assert deliver(lake.gateway, hook, patience) == 1
    now = lake.gateway.alerts.channel(name)
    assert (now.state, now.failures, now.error) == ("active", 0, None)


def test_a_channel_hears_of_its_kinds_and_of_its_contract(lake: Lake) -> None:
    visits, _ = channel(lake, kinds=["emergency-visit"])
    other, _ = channel(lake, contract="other")
    lake.send()
    lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"), encounter("b", "EMER", "2025-06-28"))
    assert [one.kind for _, one in lake.gateway.alerts.waiting(visits, 10)] == ["emergency-visit"]
    assert lake.gateway.alerts.waiting(other, 10) == []
    with pytest.raises(InputError):
        channel(lake, kinds=["nonsense"])
    lake.gateway.alerts.remove_channel(visits)
    with pytest.raises(NotFoundError):
        lake.gateway.alerts.channel(visits)


def test_a_target_is_not_kept_in_clear(lake: Lake) -> None:
    channel(lake, target="https://care.example.org/secret-path")
    stored = (lake.folder / "data" / "control.db").read_bytes()
    assert b"secret-path" not in stored


def test_a_webhook_into_a_private_network_is_not_reached(lake: Lake) -> None:
    name, _ = channel(lake, target="https://localhost/hook")
    lake.send()
    lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"))
    hook = RestHook(public_only=True)
    assert deliver(lake.gateway, hook) == 0
    hook.close()
    assert "private network" in (lake.gateway.alerts.channel(name).error or "")


def alert(number: int, kind: str = "admission") -> Alert:
    return Alert(kind, f"k{number}", "Admitted to hospital, 2025-06-28", NOW.isoformat(), member="p1")


def test_a_mail_counts_and_names_nobody(lake: Lake) -> None:
    mail = message([alert(1), alert(2), alert(3, "gap-opened")], "care@example.org", lake.gateway.settings)
    assert mail["Subject"] == "3 alerts"
    text = mail.get_content()
    assert "admission: 2" in text
    assert "/fhir/CommunicationRequest?category=alert" in text
    assert "p1" not in text
    assert "2025-06-28" not in text


class Mailbox:
    """Keeps what is left, and what was said before; refuses ``refusals`` messages first."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals, self.taken = refusals, list[EmailMessage]()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refusals:
            self.refusals -= 1
            return "451 later"
        self.taken.append(message_from_bytes(envelope.content, _class=EmailMessage, policy=default))
        return "250 taken"


@contextmanager
def mail_server(mailbox: Mailbox, trust: ssl.SSLContext | None = None) -> Iterator[int]:
    """A mail server on loopback, its port; with ``trust`` only who begins TLS and says user and password is heard."""

    def known(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"user", b"pass word"))

    given: dict[str, Any] = {"tls_context": trust, "require_starttls": trust is not None}
    if trust is not None:
        given |= {"authenticator": known, "auth_required": True}
    controller = UnthreadedController(mailbox, hostname="127.0.0.1", port=0, loop=asyncio.new_event_loop(), **given)
    controller.begin()
    assert controller.server is not None
    thread = threading.Thread(target=controller.loop.run_forever)
    thread.start()
    try:
        yield controller.server.sockets[0].getsockname()[1]
    finally:
        controller.loop.call_soon_threadsafe(controller.loop.stop)
        thread.join()
        controller.end()
        controller.loop.close()


def mail_settings(port: int, kind: str = "smtp", user: str = "") -> Settings:
    return Settings(smtp_url=SecretStr(f"{kind}://{user}localhost:{port}"), smtp_from="gateway@example.org")


def test_a_mail_is_left_at_the_server() -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        settings = mail_settings(port)
        send_mail(settings, message([alert(1), alert(2)], "care@example.org", settings))
    [mail] = mailbox.taken
    assert (mail["From"], mail["To"], mail["Subject"]) == ("gateway@example.org", "care@example.org", "2 alerts")
    assert "admission: 2" in mail.get_content()


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server on localhost shows, and what this process then trusts."""
    file = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return context


def test_a_mail_goes_under_tls_with_user_and_password(shown: ssl.SSLContext) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox, shown) as port:
        for kind, user in (("smtp", ""), ("smtp+starttls", ""), ("smtp+starttls", "user:wrong@")):
            settings = mail_settings(port, kind, user)
            with pytest.raises(DeliveryError) as refused:
                send_mail(settings, message([alert(1)], "care@example.org", settings))
            assert "wrong" not in str(refused.value)
            assert "care@" not in str(refused.value)
        settings = mail_settings(port, "smtp+starttls", "user:pass%20word@")
        send_mail(settings, message([alert(1)], "care@example.org", settings))
    assert len(mailbox.taken) == 1


def test_a_server_that_nobody_vouches_for_gets_no_mail(shown: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    mailbox = Mailbox()
    with mail_server(mailbox, shown) as port:
        settings = mail_settings(port, "smtp+starttls", "user:pass%20word@")
        with pytest.raises(DeliveryError, match="SSLCertVerificationError"):
            send_mail(settings, message([alert(1)], "care@example.org", settings))
    assert mailbox.taken == []


def test_a_mail_that_is_refused_is_sent_later(tmp_path: Path) -> None:
    mailbox = Mailbox(refusals=2)
    with mail_server(mailbox) as port:
        lake = Lake(tmp_path, smtp_url=SecretStr(f"smtp://localhost:{port}"))
        name, _ = channel(lake, medium="mail", target="care@example.org", kinds=["admission"])
        lake.send()
        lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"), encounter("b", "EMER", "2025-06-28"))
        hook, patience = Taken(), Patience(first=0.0, longest=0.0)
        assert [deliver(lake.gateway, hook, patience) for _ in range(4)] == [0, 0, 1, 0]
        assert lake.gateway.alerts.channel(name).failures == 0
    [mail] = mailbox.taken
    assert mail["Subject"] == "1 alerts"
    assert hook.sent == []
    lake.gateway.engine.dispose()


def test_without_a_mail_server_nothing_is_lost(lake: Lake) -> None:
    name, _ = channel(lake, medium="mail", target="care@example.org")
    lake.send()
    lake.send(encounter("a", "IMP", "2025-06-28", status="in-progress"))
    hook = Taken()
    assert deliver(lake.gateway, hook) == 0
    hook.close()
    assert lake.gateway.alerts.channel(name).error == "no mail server: set smtp_url"
    assert len(lake.gateway.alerts.waiting(name, 10)) == 1


def test_a_pull_that_failed_is_told(lake: Lake) -> None:
    lake.send()
    row = lake.gateway.pulls.start("x-1", "payer", "pull", {})
    lake.gateway.pulls.update(row.id, state="failed")
    assert [one.kind for one in find(lake.gateway, NOW)] == ["endpoint-failed"]
    assert find(lake.gateway, NOW) == []


def gaps(lake: Lake, evaluated: datetime, numerator: list[int]) -> None:
    """Keep a run of a proportion over three members; whose numerator is 0 has an open gap."""
    made = proportion(["pa", "pb", "pc"], numerator, title="Screening", evaluated_at=evaluated)
    lake.gateway.results.save(made)


def test_gaps_that_opened_and_closed_between_two_runs(lake: Lake) -> None:
    lake.send()
    gaps(lake, datetime(2025, 6, 1, tzinfo=UTC), [1, 0, 0])
    assert find(lake.gateway, NOW) == []
    gaps(lake, datetime(2025, 6, 29, tzinfo=UTC), [0, 1, 0])
    later = datetime(2026, 1, 1, tzinfo=UTC)
    assert [(one.kind, one.member) for one in find(lake.gateway, later)] == [("gap-opened", "pa"), ("gap-closed", "pb")]
    assert find(lake.gateway, later) == []


def test_topics_are_about_their_kinds_alone(lake: Lake) -> None:
    base = "https://fhir-gateway.example/fhir/SubscriptionTopic/"
    for kind, topic in (
        ("admission", "encounter-alert"),
        ("gap-opened", "gap-alert"),
        ("threshold", "contract-alert"),
        ("endpoint-failed", "endpoint-alert"),
    ):
        resource = communication_request(alert(1, kind))
        found = [
            one.url
            for one in TOPICS.values()
            if one.resource_type == "CommunicationRequest" and matches(resource, one.criteria, None, NOW)
        ]
        assert found == [base + topic]
