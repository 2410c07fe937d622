"""Words of alerts, and what one is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/alert"
Medium = Literal["webhook", "mail"]
#: Kinds of alerts with what people read. One of an endpoint is of no person and no contract: who is limited to some
#: does not see it.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "admission": "Admitted to hospital",
        "discharge": "Discharged from hospital",
        "emergency-visit": "Visit in an emergency department",
        "gap-opened": "A gap in care opened",
        "gap-closed": "A gap in care closed",
        "threshold": "A metric of a contract crossed a threshold",
        "endpoint-failed": "A source could not be pulled",
    }
)
ENCOUNTER_KINDS = ("admission", "discharge", "emergency-visit")
GAP_KINDS = ("gap-opened", "gap-closed")


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that happened. ``key`` tells it from every other of its kind: the same key is the same alert."""

    kind: str
    key: str
    text: str
    noted_at: str
    member: str | None = None
    contract: str | None = None
    about: str | None = None
    day: str | None = None
    known_as: str | None = None  # the id of one that was read

    @property
    def id(self) -> str:
        """Id that follows from kind and key."""
        return self.known_as or hashlib.sha256(f"{self.kind}|{self.key}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class AlertChannel:
    """Who is told; ``target`` is an URL or an address, ``kinds`` empty for all, ``contract`` None for everybody's."""

    id: str
    medium: Medium
    target: str
    kinds: tuple[str, ...]
    contract: str | None
    state: str
    failures: int
    failing_since: int | None
    due: int
    error: str | None


def resource_id(alert_id: str) -> str:
    """Id of the CommunicationRequest of an alert."""
    return f"alert-{alert_id}"


def communication_request(alert: Alert) -> dict[str, Any]:
    """The CommunicationRequest that says what happened, for those who read or subscribe."""
    found: dict[str, Any] = {
        "resourceType": "CommunicationRequest",
        "id": resource_id(alert.id),
        "status": "active",
        "category": [{"coding": [{"system": SYSTEM, "code": code} for code in ("alert", alert.kind)]}],
        "priority": "asap" if alert.kind in ENCOUNTER_KINDS else "routine",
        "payload": [{"contentString": alert.text}],
        "authoredOn": datetime.fromisoformat(alert.noted_at).isoformat(timespec="seconds"),
    }
    if alert.member is not None:
        found["subject"] = {"reference": f"Patient/{alert.member}"}
    if alert.about is not None:
        found["about"] = [{"reference": alert.about}]
    if alert.day is not None:
        found["occurrenceDateTime"] = alert.day
    return found
