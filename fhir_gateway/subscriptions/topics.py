"""What can be subscribed to. A topic is an entry here, and its type is watched (``db.resource_tables.WATCHED``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its canonical url and the type whose creations and updates it is about."""

    url: str
    resource_type: str
    title: str


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
)
TOPICS: Mapping[str, Topic] = MappingProxyType({one.url: one for one in _TOPICS})
