"""FHIR dates and times as half-open ranges of microseconds since 1970 in UTC (R4 §3.1.1.4.7).

A date is the whole of what its precision leaves open: ``2024`` is ``[2024-01-01, 2025-01-01)``. Times without a zone
count as UTC, so that the same index serves every caller.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

Range = tuple[int, int]

#: Ends of a period that has no start or no end.
BEGINNING, END_OF_TIME = -(2**62), 2**62

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)(\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970 of an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def instant(value: int) -> str:
    """Render microseconds since 1970 as a FHIR instant with milliseconds in UTC."""
    return (_EPOCH + timedelta(microseconds=value)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_range(text: str) -> Range:
    """Return the range that a FHIR date, dateTime or instant covers; raises ValueError when it is none."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("not a FHIR date or dateTime")
    part = match.groupdict()
    year, month, day = int(part["year"]), int(part["month"] or 1), int(part["day"] or 1)
    if part["hour"] is None:
        low = datetime(year, month, day, tzinfo=UTC)
        if part["day"]:
            return microseconds(low), microseconds(low) + 86_400_000_000
        if part["month"]:
            return microseconds(low), _month_start(year + month // 12, month % 12 + 1)
        return microseconds(low), _month_start(year + 1, 1)
    fraction = (part["fraction"] or "")[:6]
    low = datetime(year, month, day, int(part["hour"]), int(part["minute"]), tzinfo=_zone(part["zone"]))
    # A leap second counts as the last second before it: datetime has no 60.
    start = microseconds(low) + min(int(part["second"] or 0), 59) * 1_000_000 + int(fraction.ljust(6, "0") or 0)
    if part["second"] is None:
        return start, start + 60_000_000
    return start, start + 10 ** (6 - len(fraction))


def _month_start(year: int, month: int) -> int:
    return END_OF_TIME if year > 9999 else microseconds(datetime(year, month, 1, tzinfo=UTC))


def _zone(text: str | None) -> timezone:
    if text in (None, "Z"):
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:6])))
