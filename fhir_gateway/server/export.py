"""Bulk Data ``$export`` (3.0.0; also 1.0.1 and 2.0.0 clients) of the system, of all patients, and of a list.

What is asked is checked here, before it is accepted; the work is in :mod:`fhir_gateway.jobs.exports`. Parameters that
are not followed are refused, or ignored with an outcome in the error file when the client says ``handling=lenient``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.exports import individual
from fhir_gateway.jobs.exports.models import Level, Wanted
from fhir_gateway.jobs.exports.organized import ANCHOR
from fhir_gateway.jobs.exports.sources import types_of
from fhir_gateway.jobs.exports.stored import known_patients
from fhir_gateway.r4.spec import resource_types
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.given import NotDoneHere, wrong
from fhir_gateway.server.negotiation import operation_parameters, preferences, require_json
from fhir_gateway.server.problems import InsufficientScope, MissingToken, UnknownResource
from fhir_gateway.server.registry import EXPORT, GROUP_EXPORT, PATIENT_EXPORT, RESULT_PARAMETERS, Operation
from fhir_gateway.server.respond_async import RespondAsync

_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_PATIENT = re.compile(r"(?:.*/)?Patient/([A-Za-z0-9.-]{1,64})", re.ASCII)
_ELEMENT = re.compile(r"([A-Z][A-Za-z]+\.)?[a-z][A-Za-z]*", re.ASCII)
#: Associated data there is: Provenance, of which all is sent that either of these means.
_ASSOCIATED = frozenset({"LatestProvenanceResources", "RelevantProvenanceResources"})


@dataclass
class Reading:
    """Parameters of a call while they are read: values by name, and what is ignored because the client is lenient."""

    pairs: Sequence[tuple[str, Any]]
    known: frozenset[str]
    lenient: bool
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    values: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.pairs:
            if name in self.known:
                self.values.setdefault(name, []).append(value)
            else:
                error = InputError("a parameter is not known here", location=Location(path=name[:64], rule="unknown"))
                self.refuse(error)

    def refuse(self, error: InputError) -> None:
        """Raise the error, or note that something is ignored when the client is lenient."""
        if not self.lenient:
            raise error
        self.notes.append(("warning", error.issue_type, f"ignored: {error.message}"))

    def texts(self, name: str) -> list[str]:
        """All values of a parameter."""
        found = []
        for value in self.values.get(name, ()):
            text = value.get("reference") if isinstance(value, dict) else value
            if not isinstance(text, str) or not text:
                raise wrong(name, "not a text value")
            found.append(text)
        return found

    def listed(self, name: str) -> list[str]:
        """All values of a parameter whose values are lists by comma, each once."""
        parts = (part.strip() for text in self.texts(name) for part in text.split(","))
        return list(dict.fromkeys(part for part in parts if part))

    def one(self, name: str) -> str | None:
        """The value of a parameter that is not repeated."""
        found = self.texts(name)
        if len(found) > 1:
            raise wrong(name, "more than once")
        return found[0] if found else None

    def instant(self, name: str) -> int | None:
        """An instant in microseconds."""
        text = self.one(name)
        if text is None:
            return None
        text = text.replace(" ", "+")  # an unescaped + of a zone arrives as a blank
        try:
            if _INSTANT.fullmatch(text):
                return parse_range(text)[0]
        except ValueError:
            pass
        raise wrong(name, "not an instant, such as 2026-01-31T12:00:00Z")


COMMON = frozenset({"_outputFormat", "_since", "_until", "_type", "_typeFilter"})
KNOWN = COMMON | {"_elements", "allowPartialManifests", "includeAssociatedData", "organizeOutputBy", "patient"}


def router(gateway: Gateway, respond_async: RespondAsync) -> APIRouter:
    """Routes of the three operations, below the FHIR base and before those of the types."""
    doors = Exports(gateway, respond_async)
    routes = APIRouter(tags=["bulk export"])
    doors.add(routes, "/$export", EXPORT, "system", bulk)
    doors.add(routes, "/Patient/$export", PATIENT_EXPORT, "patient", bulk)
    doors.add(routes, "/Group/{id}/$export", GROUP_EXPORT, "group", bulk)
    return routes


@dataclass(frozen=True, slots=True)
class Call:
    """A kick-off: who asks for what level of what list, by which method."""

    gateway: Gateway
    token: AccessToken
    level: Level
    group: str | None
    method: str

    @property
    def store(self) -> ResourceStore:
        """Served resources as the caller sees them."""
        return self.gateway.resources.seen_by(self.token.audience)

    def may(self, resource_type: str) -> bool:
        """Whether the caller may read and search some resources of a type."""
        return all(self.token.allows(resource_type, letter, some=True) for letter in "rs")


Read = Callable[[Call, Sequence[tuple[str, Any]], bool], Wanted]


class Exports:
    """The doors of exports of one gateway."""

    def __init__(self, gateway: Gateway, respond_async: RespondAsync) -> None:
        self._gateway, self._respond_async = gateway, respond_async

    def add(self, routes: APIRouter, path: str, operation: Operation, level: Level, read: Read) -> None:
        """Routes for GET and POST."""

        async def kick_off(request: Request) -> Response:
            return await self._kick_off(request, operation, level, read)

        described = documentation.kick_off(operation)
        routes.add_api_route(path, kick_off, methods=["GET"], **described)
        routes.add_api_route(path, kick_off, methods=["POST"], **documentation.kick_off(operation, body=True))

    async def _kick_off(self, request: Request, operation: Operation, level: Level, read: Read) -> Response:
        group = request.path_params.get("id")
        access = access_of(request)
        access.interaction, access.resource_id = f"${operation.code}", group
        access.resource_type = None if level == "system" else level.capitalize()
        require_json(request)
        header = request.headers.get("authorization")
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        preferred = preferences(request)
        lenient = preferred.lenient

        def work() -> Response:
            if not header:
                raise MissingToken("a bearer token is needed")
            token = self._gateway.authorization.verify(header)
            access.identify(token.client_id, token.purpose)
            if not preferred.respond_async:
                where = Location(path="Prefer", rule="respond-async")
                raise InputError("an export is answered later: send Prefer: respond-async", location=where)
            if group is not None:
                admit(self._gateway.authorization, header, access, "Group", "r", some=True)
            call = Call(self._gateway, token, level, group, request.method)
            if group is not None:
                _visible(call, group)
            wanted = read(call, pairs, lenient)
            return self._respond_async.accept(request, token, operation.code, wanted.payload())

        return await run_in_threadpool(work)


def bulk(call: Call, pairs: Sequence[tuple[str, Any]], lenient: bool) -> Wanted:
    """What an ``$export`` asks for; InputError, or InsufficientScope for a type that the token does not cover."""
    reading = Reading(pairs, KNOWN, lenient)
    common(reading)
    types = _associated(call, reading, _types(call, reading))
    return Wanted(
        level=call.level,
        types=tuple(types),
        group=call.group,
        since=reading.instant("_since"),
        until=reading.instant("_until"),
        filters=filters(call, reading, reading.texts("_typeFilter"), types),
        elements=tuple(_elements(reading)),
        patients=_patients(call, reading),
        organized=_organized(reading),
        notes=tuple(reading.notes),
    )


def common(reading: Reading) -> None:
    """Parameters that say how, not what."""
    output = reading.one("_outputFormat")
    if output is not None and output.replace(" ", "+") not in _FORMATS:
        raise wrong("_outputFormat", "only application/fhir+ndjson is written")
    for value in reading.values.get("allowPartialManifests", ()):
        if value not in (True, False, "true", "false"):  # followed by having none: a server may
            raise wrong("allowPartialManifests", "true or false")


def _visible(call: Call, group: str) -> None:
    try:
        call.store.read("Group", group)
    except NotFoundError:
        raise UnknownResource("there is no such Group") from None


def _types(call: Call, reading: Reading) -> list[str]:
    """The types that are exported: those asked for, or all that the token covers."""
    here = types_of(call.level)
    asked = reading.listed("_type")
    if not asked:
        return covered(call, here)
    types = []
    for one in asked:
        if one in here:
            types.append(one)
            continue
        known = "not exported here on this level" if one in resource_types() else "not a resource type of FHIR R4"
        reading.refuse(InputError(f"a type is {known}", location=Location(path="_type", rule="value")))
    if not types:
        raise wrong("_type", "none of the types is exported here on this level")
    return permitted(call, types)


def _associated(call: Call, reading: Reading, types: list[str]) -> list[str]:
    """The types, and Provenance when it is asked for beside them."""
    asked = reading.listed("includeAssociatedData")
    if set(asked) - _ASSOCIATED:
        path = Location(path="includeAssociatedData", rule="value")
        reading.refuse(
            NotDoneHere(f"parameter includeAssociatedData: {' or '.join(sorted(_ASSOCIATED))}", location=path)
        )
    wanted = bool(_ASSOCIATED & set(asked)) and "Provenance" not in types
    return [*types, *permitted(call, ["Provenance"])] if wanted else types


def covered(call: Call, types: Sequence[str]) -> list[str]:
    """Those of some types that the token covers; InsufficientScope when it covers none."""
    found = [one for one in types if call.may(one)]
    if not found:
        raise InsufficientScope("the token covers none of the types that are exported here")
    return found


def permitted(call: Call, types: Sequence[str]) -> list[str]:
    """The types, all of which the token must cover."""
    short = [f"system/{one}.rs" for one in types if not call.may(one)]
    if short:
        raise InsufficientScope(f"the token needs {' '.join(short)}")
    return list(types)


def filters(
    call: Call, reading: Reading, texts: Sequence[str], types: Sequence[str]
) -> dict[str, tuple[tuple[Criterion, ...], ...]]:
    """Criteria by type: one search for each value, alternatives when a type has several."""
    found: dict[str, list[tuple[Criterion, ...]]] = {}
    for text in texts:
        kind, mark, query = text.partition("?")
        if not mark or kind not in types:
            rule = "not one of the types that are exported" if mark else "not a search such as Patient?gender=female"
            reading.refuse(wrong("_typeFilter", rule))
            continue
        criteria = tuple(parse_qsl(query, keep_blank_values=True))
        try:
            _checked(call, kind, criteria)
        except InputError as error:
            reading.refuse(InputError(f"parameter _typeFilter: {error.message}", location=Location(path="_typeFilter")))
            continue
        found.setdefault(kind, []).append(criteria)
    return {kind: tuple(alternatives) for kind, alternatives in found.items()}


def _checked(call: Call, kind: str, criteria: tuple[Criterion, ...]) -> None:
    """Refuse what is no plain search on one type."""
    if not criteria:
        raise InputError("a search has no criteria")
    for name, _ in criteria:
        if name in RESULT_PARAMETERS or name.startswith(("_include", "_revinclude", "_has")) or "." in name:
            raise InputError("criteria of one type only: no results parameters, includes or chains")
    if kind == "MeasureReport":
        individual.check(criteria)
    call.store.selecting(kind, [criteria])


def _organized(reading: Reading) -> bool:
    """Whether output is organized by patient, the one way there is here."""
    by = reading.one("organizeOutputBy")
    if by not in (None, ANCHOR):
        reading.refuse(
            NotDoneHere(f"parameter organizeOutputBy: only {ANCHOR}", location=Location(path="organizeOutputBy"))
        )
    return by == ANCHOR


def _elements(reading: Reading) -> list[str]:
    found = reading.listed("_elements")
    if not all(_ELEMENT.fullmatch(one) for one in found):
        raise wrong("_elements", "root elements only, such as id or Patient.name")
    return found


def _patients(call: Call, reading: Reading) -> tuple[str, ...] | None:
    """Patients that the export is about; None is everybody of the level."""
    texts = reading.texts("patient")
    if not texts:
        return None
    if call.method != "POST" or call.level == "system":
        reading.refuse(wrong("patient", "in the body of a POST only, for patients or a list"))
        return None
    found, unknown = patients(call, texts)
    if unknown:
        reading.refuse(wrong("patient", f"{unknown} of the patients are not here, or not on the list"))
    return found


def patients(call: Call, texts: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Ids of patients that are there for the caller (on the list, if there is one), and how many others were named."""
    matches = [_PATIENT.fullmatch(text) for text in texts]
    named = list(dict.fromkeys(match[1] for match in matches if match))
    known = known_patients(call.gateway, call.store, named, call.group)
    wrong_ones = sum(match is None for match in matches) + len(named) - len(known)
    return tuple(one for one in named if one in known), wrong_ones
