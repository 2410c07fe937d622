"""Parameters of an operation as a client gave them, checked one by one as an operation asks for them.

They come from the URL (GET, and POST with an empty body), from a Parameters body, or from both. Every ``value[x]``
counts by its value: ids arrive as ``valueString`` and ``valueId`` alike. A mistake names the parameter and the rule.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhir_gateway.errors import InputError, Location
from fhir_gateway.lake.explain import issues

_TIME = r"T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?"
_DATE = re.compile(rf"(\d{{4}})(?:-(\d\d)(?:-(\d\d)(?:{_TIME})?)?)?", re.ASCII)
_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})", re.ASCII)
_BARE_ID = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)


class NotDoneHere(InputError):
    """A parameter of the operation that this server does not follow: refused, since it would change the answer."""

    code, issue_type = "not-supported", "not-supported"


def wrong(name: str, rule: str) -> InputError:
    """The error for a parameter that breaks a rule."""
    return InputError(f"parameter {name}: {rule}", location=Location(path=name))


class Given:
    """The parameters of one call as (name, value) pairs."""

    def __init__(self, pairs: Sequence[tuple[str, Any]], known: Iterable[str], refused: Iterable[str] = ()) -> None:
        """Refuses names that are neither ``known`` nor ``refused``: ignoring one could change whom a report is about.

        ``refused`` are those that the operation has and this server does not follow.
        """
        self._values: dict[str, list[Any]] = {}
        known, refused = frozenset(known), frozenset(refused)
        for name, value in pairs:
            if name in refused:
                raise NotDoneHere(f"parameter {name}: is not supported here", location=Location(path=name))
            if name not in known:
                listed = ", ".join(sorted(known))
                raise InputError(f"a parameter is not one of: {listed}", location=Location(rule="unknown"))
            self._values.setdefault(name, []).append(value)

    @property
    def names(self) -> frozenset[str]:
        """Names of the parameters that were given."""
        return frozenset(self._values)

    def texts(self, name: str) -> list[str]:
        """All values of a parameter that may be repeated; references count by what they say."""
        found = []
        for value in self._values.get(name, ()):
            text = value.get("reference") if isinstance(value, Mapping) else value
            if not isinstance(text, str) or not text.strip():
                raise wrong(name, "not a text value")
            found.append(text)
        return found

    def text(self, name: str) -> str | None:
        """The value of a parameter that is given once, None without it."""
        found = self.texts(name)
        if len(found) > 1:
            raise wrong(name, "more than once")
        return found[0] if found else None

    def flag(self, name: str, default: bool) -> bool:
        """A Boolean parameter, as JSON or as text."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise wrong(name, "more than once")
        if not values:
            return default
        if values[0] in (True, "true"):
            return True
        if values[0] in (False, "false"):
            return False
        raise wrong(name, "neither true nor false")

    def resources(self, name: str, *types: str) -> list[dict[str, Any]]:
        """The resources given under a name, of one of these types."""
        found = []
        for value in self._values.get(name, ()):
            if not isinstance(value, dict) or value.get("resourceType") not in types:
                raise wrong(name, f"not a {' or '.join(types)} resource in a Parameters body")
            # its shape has to be that of R4; what it leaves out that a stored one must have is nobody's business here
            broken = next((one for one in issues(value, contained=True) if one.rule != "required"), None)
            if broken is not None:
                raise InputError(broken.message, location=Location(path=f"{name}: {broken.path}", rule=broken.rule))
            found.append(value)
        return found

    def resource(self, name: str, *types: str) -> dict[str, Any] | None:
        """The one resource given under a name, None without it."""
        found = self.resources(name, *types)
        if len(found) > 1:
            raise wrong(name, "more than once")
        return found[0] if found else None

    def one_of(self, *names: str) -> str | None:
        """Which of parameters that exclude each other was given; None when none was."""
        given = [name for name in names if name in self._values]
        if len(given) > 1:
            raise wrong(given[1], f"not together with {given[0]}")
        return given[0] if given else None

    def reference(self, name: str, *types: str, bare: str | None = None) -> tuple[str, str] | None:
        """(type, id) of a reference to one of ``types``; a ``bare`` id means that type, where it is set."""
        text = self.text(name)
        return None if text is None else read_reference(name, text, *types, bare=bare)

    def period(self) -> tuple[date, date]:
        """First and last day: years and months count as a whole, an instant as its day."""
        start, end = _first_day(self.text("periodStart")), _last_day(self.text("periodEnd"))
        if end < start:
            raise wrong("periodEnd", "before periodStart")
        return start, end


def read_reference(name: str, text: str, *types: str, bare: str | None = None) -> tuple[str, str]:
    """(type, id) of a reference as text; an absolute one counts by its last two parts. Raises InputError."""
    match = _REFERENCE.fullmatch("/".join(text.split("/")[-2:]))
    if match and match[1] in types:
        return match[1], match[2]
    if bare is not None and _BARE_ID.fullmatch(text):
        return bare, text
    raise wrong(name, f"not a reference to {' or '.join(types)}")


def zone_of(headers: Mapping[str, str], default: str) -> ZoneInfo:
    """The zone that periods are meant in: that of the ``Timezone`` header (an IANA name), or the default."""
    name = headers.get("timezone")
    try:
        return ZoneInfo(name or default)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown, no such kind of name, or a folder of zones
        raise InputError("not an IANA time zone", location=Location(path="Timezone", rule="timezone")) from None


def _first_day(text: str | None) -> date:
    year, month, day = _parts("periodStart", text)
    return _date("periodStart", year, month or 1, day or 1)


def _last_day(text: str | None) -> date:
    year, month, day = _parts("periodEnd", text)
    month = month or 12
    if day is None and 1 <= month <= 12 and year >= 1:
        day = monthrange(year, month)[1]
    return _date("periodEnd", year, month, day or 1)


def _parts(name: str, text: str | None) -> tuple[int, int | None, int | None]:
    if text is None:
        raise wrong(name, "required")
    match = _DATE.fullmatch(text)
    if match is None:
        raise wrong(name, "not a FHIR date")
    year, month, day = match.groups()
    return int(year), int(month) if month else None, int(day) if day else None


def _date(name: str, year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        raise wrong(name, "no such day") from None
