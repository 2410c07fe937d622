"""``Group/[id]/$davinci-data-export`` (Da Vinci ATR 2.1.0): a list with its members, their coverage and providers.

The same work as a Group ``$export`` with other rules: what is a member's must be asked for, patients who are not on
the list are ignored and named in the error file, and ``_typeFilter`` is a list by comma.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.exports.models import Wanted
from fhir_gateway.jobs.exports.sources import types_of
from fhir_gateway.server.export import COMMON, Call, Exports, Reading, common, covered, filters, patients, permitted
from fhir_gateway.server.given import NotDoneHere, wrong
from fhir_gateway.server.registry import DAVINCI_DATA_EXPORT
from fhir_gateway.server.respond_async import RespondAsync

_KNOWN = COMMON | {"exportType", "patient", "resourceTypes"}
_ATR = "hl7.fhir.us.davinci-atr"
_PDEX = "hl7.fhir.us.davinci-pdex#"
#: Provider access of PDex: everything of the members, or what changed.
_PROVIDER_ACCESS = frozenset({f"{_PDEX}provider-{name}" for name in ("delta", "download", "snapshot")})
_MANDATORY = ("Group", "Patient", "Coverage")
_LINKED = ("RelatedPerson", "Practitioner", "PractitionerRole", "Organization", "Location")
#: Commas between searches, not those within one (alternatives).
_BETWEEN = re.compile(r",(?=[A-Z][A-Za-z]+\?)")


def router(gateway: Gateway, respond_async: RespondAsync) -> APIRouter:
    """Routes of the operation, below the FHIR base and before those of the types."""
    routes = APIRouter(tags=["bulk export"])
    Exports(gateway, respond_async).add(
        routes, "/Group/{id}/$davinci-data-export", DAVINCI_DATA_EXPORT, "group", roster
    )
    return routes


def roster(call: Call, pairs: Sequence[tuple[str, Any]], lenient: bool) -> Wanted:
    """What a call asks for; InputError, or InsufficientScope for a type that the token does not cover."""
    reading = Reading(pairs, _KNOWN, lenient)
    common(reading)
    types = _types(call, reading, reading.one("exportType") or _ATR)
    searches = [one for text in reading.texts("_typeFilter") for one in _BETWEEN.split(text)]
    named = reading.texts("patient")
    chosen, unknown = patients(call, named) if named else (None, 0)
    notes = [("warning", "not-found", "ignored: a patient who is not on the list")] * unknown
    return Wanted(
        level="group",
        types=tuple(types),
        group=call.group,
        since=reading.instant("_since"),
        until=reading.instant("_until"),
        filters=filters(call, reading, searches, types),
        patients=chosen,
        roster=True,
        notes=(*reading.notes, *notes),
    )


def _types(call: Call, reading: Reading, export_type: str) -> list[str]:
    asked = _asked(reading)
    here = types_of("group")
    if export_type in _PROVIDER_ACCESS:
        if export_type.endswith("delta") and reading.one("_since") is None:
            raise wrong("_since", "a delta needs it")
        if not asked:
            return covered(call, here)
        if set(asked) - set(here):
            raise wrong("_type", "a type is not exported here for a list")
        return permitted(call, asked)
    if export_type != _ATR:
        raise NotDoneHere(f"parameter exportType: {_ATR} and provider access of PDex are supported here")
    if not asked:
        rest = [one for one in _LINKED if one in here and call.may(one)]
        return [*permitted(call, _MANDATORY), *rest]
    if set(asked) - {*_MANDATORY, *_LINKED}:
        raise wrong("_type", f"of a list {', '.join((*_MANDATORY, *_LINKED))} are exported")
    if missing := [one for one in _MANDATORY if one not in asked]:
        raise wrong("_type", f"lacks {', '.join(missing)}")
    return permitted(call, [one for one in asked if one in here])


def _asked(reading: Reading) -> list[str]:
    """Types by ``_type``, or by the name and spelling of the guide's own examples."""
    spelled = {one.lower(): one for one in (*_MANDATORY, *_LINKED)}
    older = [spelled.get(one.lower(), one) for one in reading.listed("resourceTypes")]
    return list(dict.fromkeys([*reading.listed("_type"), *older]))
