"""A Subscription as this server understands it (R5 backport 1.1.0 to R4, channel ``rest-hook``), checked on arrival.

What the sender must keep secret, the values of ``channel.header``, is taken out of the resource; it is served with
:data:`HIDDEN` in their place, and an update that has this keeps what it was.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.db.search.matching import evaluable
from fhir_gateway.errors import InputError, Location
from fhir_gateway.subscriptions.topics import TOPICS, Topic

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
HIDDEN = "[hidden]"
Content = Literal["empty", "id-only", "full-resource"]
CONTENTS: tuple[Content, ...] = ("empty", "id-only", "full-resource")
STATUSES = ("requested", "active", "error", "off")
#: Events in one notification when the subscriber does not say (``backport-max-count``), and at most.
DEFAULT_COUNT, MOST_EVENTS = 20, 100
#: Seconds that a receiver has (``backport-timeout``).
DEFAULT_TIMEOUT, LONGEST_TIMEOUT = 30, 60
#: Seconds; a receiver that wants to hear that nothing happened hears it no more often.
SHORTEST_HEARTBEAT = 10
_MOST_HEADERS, _LONGEST_HEADER = 10, 4096
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
#: Headers that are ours to set, or that would bend the request.
_OURS = frozenset(
    "host content-type content-length transfer-encoding connection expect te trailer upgrade keep-alive "
    "proxy-authorization proxy-connection content-encoding".split()
)
_FORMATS = ("application/fhir+json", "application/json")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a subscriber asks for. Each of ``filters`` is a set of search criteria; all must be met."""

    topic: str
    endpoint: str
    content: Content = "id-only"
    filters: tuple[tuple[Criterion, ...], ...] = ()
    heartbeat: int | None = None
    timeout: int = DEFAULT_TIMEOUT
    max_count: int = DEFAULT_COUNT
    end: str | None = None

    @property
    def resource_type(self) -> str:
        """The type that the topic is about."""
        return TOPICS[self.topic].resource_type

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """All criteria of all filters."""
        return tuple(one for group in self.filters for one in group)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From :meth:`to_dict`, which may have become lists on the way."""
        filters = tuple(tuple((name, value) for name, value in group) for group in values["filters"])
        return cls(**{**values, "filters": filters})


@dataclass(frozen=True, slots=True)
class Asked:
    """A Subscription that was sent: its terms, the lines of its headers, whether it is to be at work, the resource."""

    terms: Terms
    headers: tuple[tuple[str, str], ...]
    off: bool
    resource: dict[str, Any]


def read_subscription(resource: Mapping[str, Any], *, public_only: bool, now: datetime) -> Asked:
    """Check a Subscription; InputError names the element and the rule, never a value.

    With ``public_only`` the endpoint must be https at no address of a private network.
    """
    if resource.get("resourceType") != "Subscription":
        raise _wrong("resourceType", "not a Subscription")
    channel = resource.get("channel")
    if not isinstance(channel, dict):
        raise _wrong("channel", "required")
    status = resource.get("status")
    if status not in STATUSES or status == "error":
        raise _wrong("status", "requested, active or off")
    if not isinstance(resource.get("reason"), str) or not resource["reason"]:
        raise _wrong("reason", "required")
    topic = TOPICS.get(str(resource.get("criteria")))
    if topic is None:
        raise _wrong("criteria", "the canonical of a topic that the CapabilityStatement names")
    if channel.get("type") != "rest-hook":
        raise _wrong("channel.type", "only rest-hook is served")
    endpoint = check_endpoint(channel.get("endpoint"), public_only=public_only)
    terms = Terms(
        topic.url,
        endpoint,
        _content(channel),
        tuple(_filters(resource, topic)),
        _number(channel, "heartbeat-period", "valueUnsignedInt", SHORTEST_HEARTBEAT, 31_536_000),
        _number(channel, "timeout", "valueUnsignedInt", 1, 86_400, LONGEST_TIMEOUT) or DEFAULT_TIMEOUT,
        _number(channel, "max-count", "valuePositiveInt", 1, 2**31, MOST_EVENTS) or DEFAULT_COUNT,
        _end(resource.get("end"), now),
    )
    headers = tuple(_headers(channel.get("header", ())))
    shown = {**channel, "header": [f"{name}: {HIDDEN}" for name, _ in headers]} if headers else channel
    return Asked(terms, headers, status == "off", {**resource, "channel": shown})


def check_endpoint(endpoint: Any, *, public_only: bool) -> str:
    """A URL that notifications may be sent to; addresses behind names are looked at when they are sent."""
    path = "channel.endpoint"
    if not isinstance(endpoint, str) or len(endpoint) > 2000 or not endpoint.isascii() or not endpoint.isprintable():
        raise _wrong(path, "a URL")
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _wrong(path, "a URL") from None
    if parts.scheme not in (("https",) if public_only else ("https", "http")) or not host:
        raise _wrong(path, "an https URL")
    if parts.username is not None or parts.password is not None or parts.fragment or " " in endpoint:
        raise _wrong(path, "without user, password and fragment")
    if public_only:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host:
                raise _wrong(path, "not in a private network") from None
        else:
            if not is_public(address):
                raise _wrong(path, "not in a private network")
    return endpoint


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """True for an address of the public Internet; an IPv4 address inside IPv6 counts as itself."""
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def _wrong(element: str, rule: str) -> InputError:
    path = f"Subscription.{element}"
    return InputError(rule, location=Location(path=path, rule="subscription"))


def _extensions(holder: Any, name: str) -> list[Mapping[str, Any]]:
    found = holder.get("extension", ()) if isinstance(holder, dict) else ()
    return [one for one in found if isinstance(one, dict) and one.get("url") == BACKPORT + name]


def _content(channel: Mapping[str, Any]) -> Content:
    """How much of a resource is sent: what the extension says, without one the ids."""
    payload = channel.get("payload")
    stated = [one.get("valueCode") for one in _extensions(channel.get("_payload"), "backport-payload-content")]
    if payload is not None and payload not in _FORMATS:
        raise _wrong("channel.payload", "only application/fhir+json")
    if not stated:
        return "id-only" if payload is not None else "empty"
    if len(stated) > 1 or stated[0] not in CONTENTS:
        raise _wrong("channel.payload", "payload content is empty, id-only or full-resource")
    if payload is None and stated[0] != "empty":
        raise _wrong("channel.payload", "application/fhir+json")
    found: Content = stated[0]
    return found


def _number(
    channel: Mapping[str, Any], name: str, member: str, least: int, most: int, cap: int | None = None
) -> int | None:
    found = _extensions(channel, f"backport-{name}")
    if not found:
        return None
    value = found[0].get(member)
    if len(found) > 1 or not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(f"channel.extension({name})", f"{least} to {most}")
    return value if cap is None else min(value, cap)


def _filters(resource: Mapping[str, Any], topic: Topic) -> Iterator[tuple[Criterion, ...]]:
    """``Type?name=value&...``, or ``Type/id`` as ATR writes it."""
    for one in _extensions(resource.get("_criteria"), "backport-filter-criteria"):
        text = one.get("valueString")
        where = "criteria.extension(filter-criteria)"
        if not isinstance(text, str) or len(text) > 2000:
            raise _wrong(where, "a search")
        kind, mark, query = text.partition("?")
        if not mark:
            kind, mark, query = text.partition("/")
            if not re.fullmatch(r"[A-Za-z0-9.-]{1,64}", query):
                raise _wrong(where, f"a search such as {topic.resource_type}?name=value, or {topic.resource_type}/id")
            query = f"_id={query}"
        criteria = tuple(parse_qsl(query, keep_blank_values=True, max_num_fields=20))
        if kind not in ("", topic.resource_type) or not criteria:
            raise _wrong(where, f"a search of {topic.resource_type}")
        if not all(value for _, value in criteria) or not evaluable(topic.resource_type, criteria):
            raise _wrong(where, "a parameter, modifier or value that a single resource does not tell")
        yield criteria


def _headers(lines: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(lines, list | tuple) or len(lines) > _MOST_HEADERS:
        raise _wrong("channel.header", f"at most {_MOST_HEADERS} lines")
    for line in lines:
        match = _HEADER.fullmatch(line) if isinstance(line, str) and len(line) <= _LONGEST_HEADER else None
        if match is None:
            raise _wrong("channel.header", "a line such as Authorization: Bearer ...")
        if match[1].lower() in _OURS:
            raise _wrong("channel.header", "this header is not the subscriber's to set")
        yield match[1], match[2]


def _end(end: Any, now: datetime) -> str | None:
    if end is None:
        return None
    try:
        low, _ = parse_range(end) if isinstance(end, str) else (0, 0)
    except ValueError:
        raise _wrong("end", "an instant") from None
    if low <= now.timestamp() * 1_000_000:
        raise _wrong("end", "in the future")
    found: str = end
    return found
