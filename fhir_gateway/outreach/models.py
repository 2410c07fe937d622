"""Words and shapes of outreach."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import pyarrow as pa

SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/outreach"
State = Literal["open", "contacted", "declined", "done", "expired", "withdrawn"]
#: From which state people may go where; everything else follows from data.
BY_PEOPLE: Mapping[State, tuple[State, ...]] = MappingProxyType(
    {"open": ("contacted", "declined"), "contacted": ("contacted", "declined", "open"), "declined": ("open",)}
)
#: States in which something is left to do.
LEFT: tuple[State, ...] = ("open", "contacted")
#: Codes of reasons with the points that each adds to a person's rank, and what people read.
REASONS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "follow-up-discharge": (50, "Discharged and not seen since"),
        "rising-risk": (40, "Risk is high or rising"),
        "follow-up-emergency": (30, "In an emergency department and not seen since"),
        "care-gap": (10, "A gap in care is open"),
        "coding-gap": (10, "A condition known before was not seen this year"),
        "missed-visit": (10, "No visit in the office for a long time"),
    }
)
#: Rank from which a person is urgent, or to be called soon.
PRIORITIES = (("urgent", 80), ("asap", 40), ("routine", 0))

#: One reason of one person. ``detail`` tells reasons of a kind apart and stays the same from run to run; ``scope`` is
#: what was looked at to find it; after ``until`` it is too late.
ITEMS = pa.schema(
    [
        ("member", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("scope", pa.string()),
        ("text", pa.string()),
        ("until", pa.date32()),
    ]
)
#: How a person is reached: the best telephone and e-mail by rank and use, the preferred language, and names.
CONTACTS = pa.schema(
    [
        ("member", pa.string()),
        ("family", pa.string()),
        ("given", pa.string()),
        ("birth_date", pa.string()),
        ("phone", pa.string()),
        ("sms", pa.string()),
        ("email", pa.string()),
        ("language", pa.string()),
    ]
)
#: Who may not be called, and why: ``deceased``, ``consent`` or ``do-not-contact``.
EXCLUDED = pa.schema([("member", pa.string()), ("why", pa.string())])
