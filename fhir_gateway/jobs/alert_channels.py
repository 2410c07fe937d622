"""Who is told of alerts: a channel is checked before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fhir_gateway.alerts.models import AlertChannel, Medium
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.subscriptions.models import check_endpoint


def add_channel(
    gateway: Gateway,
    medium: Medium,
    target: str,
    kinds: Sequence[str],
    contract: str | None,
    by: str,
    now: datetime | None = None,
) -> tuple[AlertChannel, str | None]:
    """A new channel and, of a webhook, the secret that its messages are signed with: it is told once.

    InputError for a target that nobody can be told at, and for kinds that there are not.
    """
    if medium == "webhook":
        check_endpoint(target, public_only=gateway.settings.subscription_endpoints == "public")
    elif target.count("@") != 1 or not target.isprintable() or " " in target:
        raise InputError("mail goes to an address such as care@example.org")
    channel, secret = gateway.alerts.add_channel(medium, target, kinds, contract, by, instant(gateway, now))
    return channel, secret if medium == "webhook" else None
