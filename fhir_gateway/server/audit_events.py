"""AuditEvent: the rows of the audit trail as FHIR resources, to read and search, never to change.

The trail is the table ``audit_event``; a resource is rendered from its row when asked for. Who may look: a token needs
``system/AuditEvent`` by name, a wildcard does not count; a client that is registered for everybody's data sees every
access, any other its own (docs/adr/0154). Search restrictions of the scope hold as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Engine, Row

from fhir_gateway.db.audience import CLIENTS, EVERYONE, Audience
from fhir_gateway.db.engine import snapshot
from fhir_gateway.db.resources import StoredResource, Versions
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.dates import instant, microseconds, parse_range
from fhir_gateway.db.search.paging import decode, encode
from fhir_gateway.db.search.values import reference_parts
from fhir_gateway.errors import InputError
from fhir_gateway.server.audit import EVERYONE_IN_REACH, audit_events
from fhir_gateway.server.catalog import Found
from fhir_gateway.server.problems import UnknownResource
from fhir_gateway.server.search import Query

TYPE = "AuditEvent"
#: System of client ids, and of what the trail calls an interaction (defined in ``profiles/``).
CLIENT_SYSTEM = "https://fhir-gateway.example/clients"
INTERACTION_SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/interaction"

_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_KIND = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_RESTFUL = "http://hl7.org/fhir/restful-interaction"
_ENTITY = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
_ACTION = "http://hl7.org/fhir/audit-event-action"
_OUTCOME = "http://hl7.org/fhir/audit-event-outcome"
#: What was shown at the prompt (cli.audited).
COMMAND = "command"
#: Requests to the authorization server; everything else is REST.
_AUTHENTICATION = ("token", "introspect", "revoke", "register")
_STANDARD = frozenset(
    "read vread update patch delete history-instance history-type history-system create search-type search-system "
    "capabilities transaction batch".split()
)
_ACTIONS: dict[str, tuple[str, ...]] = {
    "C": ("create", "register", "endpoint-create", "client-create"),
    "R": (
        COMMAND,
        *("read", "vread", "history-instance", "history-type", "history-system", "capabilities"),
        *("endpoint-read", "client-read"),
    ),
    "U": ("update", "patch", "endpoint-update", "client-update"),
    "D": ("delete", "endpoint-delete", "client-delete"),
}
#: First status of each outcome: success, minor failure, serious failure.
_OUTCOMES = {"0": (0, 400), "4": (400, 500), "8": (500, 1000)}
_COMMA, _BAR = re.compile(r"(?<!\\),"), re.compile(r"(?<!\\)\|")
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb)?(.+)", re.DOTALL)
_SORTED = {"date": audit_events.c.recorded, "_lastUpdated": audit_events.c.recorded, "_id": audit_events.c.id}
Condition = sa.ColumnElement[bool]


class AuditCatalog:
    """The audit trail as a catalog of one type, as ``audience`` may see it."""

    def __init__(self, engine: Engine, audience: Audience = EVERYONE) -> None:
        self._engine = engine
        self._audience = audience

    def seen_by(self, audience: Audience, searchable: Callable[[str], bool] | None = None) -> AuditCatalog:
        """The accesses that the audience may see: all of them, or its own."""
        return AuditCatalog(self._engine, audience)

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """One entry; raises UnknownResource."""
        if not (resource_id.isascii() and resource_id.isdigit() and len(resource_id) < 19):
            raise UnknownResource(f"there is no such {TYPE}")
        chosen = sa.select(audit_events).where(audit_events.c.id == int(resource_id), *self._visible())
        with snapshot(self._engine) as connection:
            row = connection.execute(chosen).first()
        if row is None:
            raise UnknownResource(f"there is no such {TYPE}")
        return _stored(row)

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """The only version of an entry; raises UnknownResource."""
        entry = self.read(resource_type, resource_id)
        if version != 1:
            raise UnknownResource(f"there is no such version of a {TYPE}")
        return entry

    def history(
        self,
        resource_type: str,
        resource_id: str,
        since: int | None,
        at: tuple[int, int] | None,
        count: int,
        after: str | None,
    ) -> Versions:
        """The only version of an entry, where it falls into the time asked for."""
        entry = self.read(resource_type, resource_id)
        recorded = parse_range(entry.last_updated)[0]
        inside = (since is None or recorded >= since) and (at is None or recorded < at[1])
        return Versions((entry,) if inside and count else (), None)

    def search(self, query: Query) -> Found:
        """One page in the order of recording, or as ``_sort`` says."""
        where = [*self._visible(), *(_condition(name, value) for name, value in query.criteria)]
        name, descending = (query.sort or "_id").lstrip("-"), (query.sort or "").startswith("-")
        if name not in _SORTED:
            raise InputError(f"{TYPE} is sorted by {', '.join(sorted(_SORTED))}")
        order = _SORTED[name]
        statement = sa.select(audit_events).where(*where)
        newest: int | None = None
        if query.after is not None:
            value, newest, last = _last(query.after, query.sort, order)
            place = sa.tuple_(order, audit_events.c.id)
            behind = sa.tuple_(sa.literal(value, order.type), sa.literal(last))
            statement = statement.where(place < behind if descending else place > behind)
            # Each page is an access as well: without an end a client that looks at its own would never come to it.
            statement = statement.where(audit_events.c.id <= newest)
        ends = (order.desc(), audit_events.c.id.desc()) if descending else (order, audit_events.c.id)
        counted = sa.select(sa.func.count()).select_from(audit_events).where(*where)
        with snapshot(self._engine) as connection:
            total = connection.scalar(counted) if query.count_total else query.total
            rows = connection.execute(statement.order_by(*ends).limit(query.count + 1)).all() if query.count else []
            if newest is None:
                newest = connection.scalar(sa.select(sa.func.max(audit_events.c.id))) or 0
        following = None
        if len(rows) > query.count:
            end = rows[query.count - 1]
            at = end.id if name == "_id" else microseconds(_aware(end.recorded))
            following = encode(query.sort, [at, newest], end.id)
        return Found(tuple(map(_stored, rows[: query.count])), total, following)

    def _visible(self) -> list[Condition]:
        found: list[Condition] = []
        if not self._audience.everybody:
            found.append(audit_events.c.client_id == self._audience.viewer)
        for alternatives in self._audience.restriction(TYPE):
            met = [sa.and_(*(_condition(name, value) for name, value in one)) for one in alternatives]
            found.append(sa.or_(*met))
        return found


def entries(
    engine: Engine, criteria: Sequence[Criterion], count: int, before: int | None = None
) -> list[dict[str, Any]]:
    """The newest entries that meet search criteria, newest first, as rows for the operator; those ``before`` an id."""
    where = [_condition(name, value) for name, value in criteria]
    if before is not None:
        where.append(audit_events.c.id < before)
    chosen = sa.select(audit_events).where(*where).order_by(audit_events.c.id.desc()).limit(count)
    with snapshot(engine) as connection:
        return [
            {str(name): value for name, value in row._mapping.items()}
            | {"recorded": _aware(row.recorded).isoformat(timespec="milliseconds")}
            for row in connection.execute(chosen)
        ]


def _condition(name: str, value: str) -> Condition:
    """One search criterion on the columns; raises InputError."""
    code, _, modifier = name.partition(":")
    if modifier not in ("", "identifier" if code == "agent" else ""):
        raise InputError(f"search parameter {code} of {TYPE} has no modifier :{modifier}")
    if code not in _CONDITIONS:
        raise InputError(f"{TYPE} has no search parameter {name}")
    parts = [re.sub(r"\\([,$\\])", r"\1", part) for part in _COMMA.split(value) if part]
    if not parts:
        raise InputError(f"search parameter {code} has no value")
    if code == "agent" and not modifier:
        return sa.false()  # clients are no resources: agent:identifier, or altid
    return sa.or_(*(_CONDITIONS[code](part) for part in parts))


def _coded(text: str, system: str | None) -> str | None:
    """The code of a token value; None when it is of another system."""
    of_system, *code = [part.replace("\\|", "|") for part in _BAR.split(text, maxsplit=1)]
    if not code:
        return of_system
    return code[0] if of_system == (system or "") else None


def _column(column: sa.Column[Any], system: str | None) -> Callable[[str], Condition]:
    return lambda text: column == _coded(text, system)


def _type(text: str) -> Condition:
    authentication = audit_events.c.interaction.in_(_AUTHENTICATION)
    if _coded(text, _DICOM) == "110114":
        return authentication
    prompt = audit_events.c.interaction == COMMAND
    if _coded(text, _DICOM) == "110112":
        return prompt
    return sa.not_(sa.or_(authentication, prompt)) if _coded(text, _KIND) == "rest" else sa.false()


def _subtype(text: str) -> Condition:
    column = audit_events.c.interaction
    standard = _coded(text, _RESTFUL)
    if standard == "operation":
        return column.startswith("$", autoescape=True)
    if standard in _STANDARD:
        return column == standard
    return column == _coded(text, INTERACTION_SYSTEM)


def _action(text: str) -> Condition:
    letter = _coded(text, _ACTION)
    if letter == "E":
        return audit_events.c.interaction.not_in([one for some in _ACTIONS.values() for one in some])
    return audit_events.c.interaction.in_(_ACTIONS.get(letter or "", ()))


def _outcome(text: str) -> Condition:
    first, last = _OUTCOMES.get(_coded(text, _OUTCOME) or "", (0, 0))
    return sa.and_(audit_events.c.status >= first, audit_events.c.status < last)


def _patient(text: str) -> Condition:
    """What held a person's data, or may have: entries that say ``everybody in reach`` are among them."""
    kind, identity = reference_parts(text, None)
    if kind not in (None, "Patient") or not re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", identity):
        return sa.false()
    return sa.or_(
        sa.and_(audit_events.c.resource_type == "Patient", audit_events.c.resource_id == identity),
        audit_events.c.persons.contains(f",{identity},", autoescape=True),
        audit_events.c.persons == EVERYONE_IN_REACH,
    )


def _entity(text: str) -> Condition:
    kind, identity = reference_parts(text, None)
    if kind == "Patient":
        return _patient(text)
    found = audit_events.c.resource_id == identity
    return found if kind is None else sa.and_(found, audit_events.c.resource_type == kind)


def _address(text: str) -> Condition:
    return audit_events.c.address.startswith(text, autoescape=True)


def _date(text: str) -> Condition:
    """``recorded`` is kept with microseconds, and stands for its whole millisecond."""
    match = _PREFIX.fullmatch(text.replace(" ", "+"))
    try:
        start, end = map(_moment, parse_range(match[2] if match else ""))
    except (ValueError, OverflowError) as error:
        raise InputError("search parameter date needs a date, with an optional prefix such as ge") from error
    column = audit_events.c.recorded
    inside = sa.and_(column >= start, column < end)
    prefix = (match[1] if match else None) or "eq"
    by_prefix: dict[str, Condition] = {
        "eq": inside,
        "ne": sa.not_(inside),
        "gt": column >= end,
        "sa": column >= end,
        "lt": column < start,
        "eb": column < start,
        "ge": column >= start,
        "le": column < end,
    }
    return by_prefix[prefix]


def _identity(text: str) -> Condition:
    return audit_events.c.id == int(text) if text.isascii() and text.isdigit() and len(text) < 19 else sa.false()


_CONDITIONS: dict[str, Callable[[str], Condition]] = {
    "_id": _identity,
    "_lastUpdated": _date,
    "action": _action,
    "address": _address,
    "agent": _column(audit_events.c.client_id, CLIENT_SYSTEM),
    "altid": _column(audit_events.c.client_id, None),
    "date": _date,
    "entity": _entity,
    "outcome": _outcome,
    "patient": _patient,
    "subtype": _subtype,
    "type": _type,
}


def _moment(value: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)  # SQLite knows no zones


def _last(after: str, sort: str | None, order: sa.Column[Any]) -> tuple[Any, int, int]:
    """Where a page begins: the value sorted by, the newest entry that there was at the first page, and the last id."""
    number = sa.column("value", sa.BigInteger)
    (value, newest), last = decode(after, sort, [number, number])
    return (value if order is audit_events.c.id else _moment(value)), newest, last


def _stored(row: Row[Any]) -> StoredResource:
    updated = instant(microseconds(_aware(row.recorded)))
    return StoredResource(TYPE, str(row.id), 1, updated, False, orjson.dumps(render(row, updated)))


def render(row: Row[Any], recorded: str) -> dict[str, Any]:
    """The AuditEvent of a row."""
    interaction: str = row.interaction
    event: dict[str, Any] = {
        "resourceType": TYPE,
        "id": str(row.id),
        "meta": {"versionId": "1", "lastUpdated": recorded},
        "type": {"system": _KIND, "code": "rest", "display": "RESTful Operation"},
        "subtype": [{"system": INTERACTION_SYSTEM, "code": interaction}],
        "action": next((letter for letter, those in _ACTIONS.items() if interaction in those), "E"),
        "recorded": recorded,
        "outcome": next((code for code, (_, last) in _OUTCOMES.items() if row.status < last), "8"),
        "outcomeDesc": f"HTTP {row.status}" + (f": {row.reason}" if row.reason else ""),
        "agent": [_agent(row)],
        "source": {
            "observer": {"display": "FHIR gateway"},
            "type": [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "4"}],
        },
        "entity": _entities(row),
    }
    if interaction in _AUTHENTICATION:
        event["type"] = {"system": _DICOM, "code": "110114", "display": "User Authentication"}
    elif interaction == COMMAND:
        event["type"] = {"system": _DICOM, "code": "110112", "display": "Query"}
    elif interaction in _STANDARD or interaction.startswith("$"):
        code = interaction if interaction in _STANDARD else "operation"
        event["subtype"].insert(0, {"system": _RESTFUL, "code": code})
    if row.purpose:
        reason = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": row.purpose}
        event["purposeOfEvent"] = [{"coding": [reason]}]
    return event


def _agent(row: Row[Any]) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "type": {"coding": [{"system": _DICOM, "code": "110153", "display": "Source Role ID"}]},
        "requestor": True,
    }
    if row.client_id:
        agent |= {"who": {"identifier": {"system": CLIENT_SYSTEM, "value": row.client_id}}, "altId": row.client_id}
    else:
        agent["who"] = {"display": "nobody that could be authenticated"}
    if row.address:
        agent["network"] = {"address": row.address, "type": "2"}
    return agent


def _entities(row: Row[Any]) -> list[dict[str, Any]]:
    """What was asked (with the names of the parameters), the request, and whose data the answer held."""
    asked: dict[str, Any] = {"type": {"system": _ENTITY, "code": "2", "display": "System Object"}}
    if row.resource_type == CLIENTS and row.resource_id:
        asked["what"] = {"identifier": {"system": CLIENT_SYSTEM, "value": row.resource_id}}
    elif row.resource_type and row.resource_id and re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", row.resource_id):
        version = f"/_history/{row.resource_version}" if row.resource_version else ""
        asked["what"] = {"reference": f"{row.resource_type}/{row.resource_id}{version}"}
    asked["role"] = {"system": _ROLE, "code": "24", "display": "Query"}
    names = [{"type": "parameter", "valueString": one} for one in (row.parameters or "").split(",") if one]
    if row.resource_type:
        names.insert(0, {"type": "resource-type", "valueString": row.resource_type})
    asked |= {"detail": names} if names else {}
    request = {
        "what": {"identifier": {"value": row.request_id}},
        "type": {"system": _ENTITY, "code": "4", "display": "Other"},
        "description": "X-Request-Id",
    }
    person = {"type": {"system": _ENTITY, "code": "1", "display": "Person"}}
    person["role"] = {"system": _ROLE, "code": "1", "display": "Patient"}
    if row.persons == EVERYONE_IN_REACH:
        return [asked, request, person | {"description": "everybody whom the client may see"}]
    concerned = [one for one in (row.persons or "").split(",") if one]
    return [asked, request, *(person | {"what": {"reference": f"Patient/{one}"}} for one in concerned)]
