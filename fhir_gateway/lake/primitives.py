"""Formats of the FHIR R4 primitives (https://hl7.org/fhir/R4/datatypes.html), as regular expressions and bounds.

The expressions use only what both Python's ``re`` and a linear-time engine understand (no look-around, no ambiguous
repetition), so the fast check and the explanation share them. Dates are those of the calendar: 2023-02-30 is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_MONTH_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_FULL_DATE = rf"(?:{_YEAR}-{_MONTH_DAY}|{_LEAP}-02-29)"
_DATE = rf"(?:{_FULL_DATE}|{_YEAR}(?:-(?:0[1-9]|1[0-2]))?)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_ID = r"[A-Za-z0-9\-.]{1,64}"
_CODE = r"[^\s]+(?:\s[^\s]+)*"

#: Regular expression that the whole text of a primitive must match; types not listed need only be non-empty.
PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "id": _ID,
        "code": _CODE,
        "uri": r"\S+",
        "url": r"\S+",
        "canonical": r"\S+",
        "oid": r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+",
        "uuid": r"urn:uuid:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        "date": _DATE,
        "dateTime": rf"(?:{_FULL_DATE}T{_TIME}{_ZONE}|{_DATE})",
        "instant": rf"{_FULL_DATE}T{_TIME}{_ZONE}",
        "time": _TIME,
        "base64Binary": r"[ \t\r\n]*(?:[0-9A-Za-z+/=]{4}[ \t\r\n]*)+",
    }
)

#: ``Reference.reference`` is a URL, absolute or relative, or ``#id`` of a contained resource. Published data names
#: targets with more than 64 characters or without a type; that is a dangling reference, not a malformed resource.
REFERENCE_PATTERN = r"\S+"

#: Inclusive bounds of the integer primitives (32 bits).
INTEGER_BOUNDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"integer": (-(2**31), 2**31 - 1), "unsignedInt": (0, 2**31 - 1), "positiveInt": (1, 2**31 - 1)}
)

#: Decimals have at most 20 digits before the point: what a column holds (28 digits, 8 of them after the point).
DECIMAL_BOUND = 10**20


@cache
def pattern(fhir_type: str) -> re.Pattern[str] | None:
    """Compiled pattern of a primitive for ``fullmatch``; None when any non-empty text will do."""
    text = REFERENCE_PATTERN if fhir_type == "Reference.reference" else PATTERNS.get(fhir_type)
    return re.compile(text) if text else None
