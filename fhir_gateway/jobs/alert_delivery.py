"""Telling channels of alerts: webhooks with a signature, mails with a link; until each was taken."""

from __future__ import annotations

import hashlib
import hmac
import logging
import smtplib
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import orjson

from fhir_gateway.alerts.models import Alert, AlertChannel, resource_id
from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError, ConflictError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.alerts import find, wanted
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.patience import Patience, Rounds, is_due, now_ms
from fhir_gateway.jobs.rest_hook import DeliveryError, RestHook

_log = logging.getLogger("fhir_gateway.alerts")
#: Alerts in one message.
MOST = 50
#: Seconds that a receiver has.
TIMEOUT = 30
SIGNATURE = "X-Gateway-Signature"
SendMail = Callable[[Settings, EmailMessage], None]


def deliver(gateway: Gateway, hook: RestHook, patience: Patience | None = None, mail: SendMail | None = None) -> int:
    """Send to every channel what waits for it and is due; how many alerts were taken."""
    taken = 0
    for channel in gateway.alerts.channels():
        if channel.state != "off" and is_due(channel.due, now_ms()):
            try:
                with hold(gateway, f"alerts-{channel.id}"):
                    taken += _send(gateway, hook, channel, patience or Patience(), mail or send_mail)
            except (ConflictError, NotFoundError):
                continue  # somebody else is at it, or has removed it
    return taken


def _send(gateway: Gateway, hook: RestHook, channel: AlertChannel, patience: Patience, mail: SendMail) -> int:
    taken = 0
    while waiting := gateway.alerts.waiting(channel.id, MOST):
        alerts = [one for _, one in waiting]
        try:
            if channel.medium == "webhook":
                body = webhook_body(alerts, gateway.settings.public_url)
                stamp = str(int(datetime.now(UTC).timestamp()))
                header = (SIGNATURE, signature(gateway.alerts.secret(channel.id), stamp, body))
                hook.send(channel.target, [header], body, TIMEOUT, "application/json")
            else:
                mail(gateway.settings, message(alerts, channel.target, gateway.settings))
        except (DeliveryError, InputError) as error:
            _failed(gateway, channel, str(error), patience)
            return taken
        gateway.alerts.delivered([number for number, _ in waiting])
        taken += len(waiting)
    if channel.failures:
        gateway.alerts.note(channel.id, state="active", failures=0, failing_since=None, due=0, error=None)
    return taken


def _failed(gateway: Gateway, channel: AlertChannel, reason: str, patience: Patience) -> None:
    after = patience.after(channel.state, channel.failures, channel.failing_since)
    _log.warning("channel %s: %s, attempt %d, %s", channel.id, reason, after.failures, after.state)
    gateway.alerts.note(channel.id, **asdict(after), error=reason[:200])


def webhook_body(alerts: Sequence[Alert], public_url: str) -> bytes:
    """What a webhook is sent: references and days, no names."""
    base = public_url.rstrip("/")
    told = [
        {
            "id": one.id,
            "kind": one.kind,
            "text": one.text,
            "day": one.day,
            "noted": one.noted_at,
            "patient": None if one.member is None else f"Patient/{one.member}",
            "about": one.about,
            "contract": one.contract,
            "resource": f"{base}/fhir/CommunicationRequest/{resource_id(one.id)}",
        }
        for one in alerts
    ]
    return orjson.dumps({"alerts": told})


def signature(secret: bytes, stamp: str, body: bytes) -> str:
    """``t=<epoch seconds>,v1=<HMAC-SHA-256 of "t.body" in hex>``: a receiver compares, and refuses old ones."""
    digest = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def message(alerts: Sequence[Alert], address: str, settings: Settings) -> EmailMessage:
    """A mail that counts alerts by kind and says where they are; nothing of a patient is in it."""
    counts = Counter(one.kind for one in alerts)
    mail = EmailMessage()
    mail["Subject"] = f"{len(alerts)} alerts"
    mail["From"], mail["To"] = settings.smtp_from, address
    lines = [f"{kind}: {count}" for kind, count in sorted(counts.items())]
    link = f"{settings.public_url.rstrip('/')}/fhir/CommunicationRequest?category=alert&_sort=-_lastUpdated"
    mail.set_content("\n".join([*lines, "", link, ""]))
    return mail


def send_mail(settings: Settings, mail: EmailMessage) -> None:
    """Hand a mail to the server of the settings; DeliveryError when it is not taken."""
    if settings.smtp_url is None:
        raise DeliveryError("no mail server: set smtp_url")
    parts = urlsplit(settings.smtp_url.get_secret_value())
    host, secure = parts.hostname or "", parts.scheme == "smtps"
    if parts.scheme not in ("smtp", "smtps", "smtp+starttls") or not host:
        raise ConfigurationError("smtp_url begins with smtp://, smtp+starttls:// or smtps:// and names a host")
    trust = ssl.create_default_context()
    try:
        opened = (
            smtplib.SMTP_SSL(host, parts.port or 465, timeout=TIMEOUT, context=trust)
            if secure
            else smtplib.SMTP(host, parts.port or 25, timeout=TIMEOUT)
        )
        with opened as server:
            if parts.scheme == "smtp+starttls":
                server.starttls(context=trust)
            if parts.username is not None:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(mail)
    except (OSError, smtplib.SMTPException) as error:  # its words may repeat the address
        raise DeliveryError(f"the mail server did not take it ({type(error).__name__})") from None


class AlertWatch(Rounds):
    """Looks for alerts and tells channels from this process while a ``with`` block lasts."""

    def __init__(self, gateway: Gateway, pause: float = 5.0) -> None:
        super().__init__("alerts", pause, _log)
        self._gateway = gateway
        self._hook = RestHook(public_only=gateway.settings.subscription_endpoints == "public")

    def round(self) -> None:
        """Find what is new, tell who is due."""
        if wanted(self._gateway):
            find(self._gateway)
            deliver(self._gateway, self._hook)

    def close(self) -> None:
        """Let go of connections."""
        self._hook.close()
