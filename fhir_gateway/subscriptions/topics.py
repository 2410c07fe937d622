"""What can be subscribed to. A topic is an entry here, and its type is watched (``db.resource_tables.WATCHED``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fhir_gateway.db.search.criteria import Criterion

_ALERT = "https://fhir-gateway.example/fhir/CodeSystem/alert"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its canonical url and the type whose creations and updates it is about."""

    url: str
    resource_type: str
    title: str
    criteria: tuple[Criterion, ...] = ()  # which resources of the type it is about; all of them without


def _of_kinds(*kinds: str) -> tuple[Criterion, ...]:
    return (("category", ",".join(f"{_ALERT}|{one}" for one in kinds)),)


_TOPICS = (
    Topic(
        "http://hl7.org/fhir/us/davinci-atr/SubscriptionTopic/atr-list-change",
        "Group",
        "An attribution list is new or has a new version (ATR 2.1.0).",
    ),
    Topic(
        "https://fhir-gateway.example/fhir/SubscriptionTopic/measure-report",
        "MeasureReport",
        "A stored MeasureReport is new or has a new version: summaries of runs, and what a contract came to.",
    ),
    Topic(
        "https://fhir-gateway.example/fhir/SubscriptionTopic/encounter-alert",
        "CommunicationRequest",
        "Somebody was admitted, discharged, or in an emergency department.",
        _of_kinds("admission", "discharge", "emergency-visit"),
    ),
    Topic(
        "https://fhir-gateway.example/fhir/SubscriptionTopic/gap-alert",
        "CommunicationRequest",
        "A gap in care opened or closed between two runs of a measure.",
        _of_kinds("gap-opened", "gap-closed"),
    ),
    Topic(
        "https://fhir-gateway.example/fhir/SubscriptionTopic/contract-alert",
        "CommunicationRequest",
        "A metric of a contract crossed a threshold.",
        _of_kinds("threshold"),
    ),
    Topic(
        "https://fhir-gateway.example/fhir/SubscriptionTopic/endpoint-alert",
        "CommunicationRequest",
        "A source could not be pulled; for those who see everything.",
        _of_kinds("endpoint-failed"),
    ),
)
TOPICS: Mapping[str, Topic] = MappingProxyType({one.url: one for one in _TOPICS})
