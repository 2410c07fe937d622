"""The instant a job computes as of."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway


def instant(gateway: Gateway, now: datetime | None) -> datetime:
    """``now``, which must have an offset, or the present second in the gateway's zone."""
    if now is None:
        return datetime.now(ZoneInfo(gateway.settings.time_zone)).replace(microsecond=0)
    if now.tzinfo is None:
        raise ConfigurationError("the instant needs an offset")
    return now
