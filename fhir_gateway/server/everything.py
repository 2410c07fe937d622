"""``Patient/[id]/$everything`` and ``Patient/$everything`` (R4): what is served about one patient, or about all.

Of each type that has a patient, what names the patient, as a search would find it; types that the token does not cover
are left out. Lists (Group) name others too and are not among them. One answer holds it all or is refused: larger
amounts are exported (``Patient/$export?patient=``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.r4.spec import resource_types
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.given import Given, NotDoneHere, wrong
from fhir_gateway.server.interactions import Interactions
from fhir_gateway.server.negotiation import operation_parameters, require_json
from fhir_gateway.server.problems import FHIR_JSON, TooCostly
from fhir_gateway.server.registry import EVERYTHING, SERVED
from fhir_gateway.server.search import Query, bundle

#: Resources of one answer; a patient of many years has some thousands.
MOST = 10_000
_PAGE = 1000
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
#: About who looked at what, not about the patient.
_NOT_OF_PATIENTS = frozenset({"AuditEvent"})


def router(rest: Interactions) -> APIRouter:
    """Routes of the operation, below the FHIR base and before those of the types."""
    routes = APIRouter(tags=["Patient"])

    async def answer(request: Request, patient: str | None) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type, access.resource_id = "$everything", "Patient", patient
        require_json(request)
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        header = request.headers.get("authorization")

        def work() -> bytes:
            letters = "r" if patient else "rs"
            token = admit(rest.verifier, header, access, "Patient", letters, some=True)
            given = Given(pairs, [name for name, _ in EVERYTHING.parameters], ("start", "end", "_count"))
            return _everything(rest, token, patient, given)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def of_one(request: Request, id: str) -> Response:
        return await answer(request, id)

    async def of_all(request: Request) -> Response:
        return await answer(request, None)

    for path, asked in (("/Patient/{id}/$everything", of_one), ("/Patient/$everything", of_all)):
        routes.get(path, **documentation.operation(EVERYTHING))(asked)
        routes.post(path, **documentation.operation(EVERYTHING, body=True))(asked)
    return routes


def compartment() -> list[str]:
    """The served types of which something may be about a patient, beside Patient itself."""
    about = (name for name in SERVED if "patient" in search_parameters(name))
    return sorted(set(about) - _NOT_OF_PATIENTS - {"Patient"})


def _everything(rest: Interactions, token: AccessToken, patient: str | None, given: Given) -> bytes:
    types = _types(given)
    since = given.text("_since")
    if since is not None and not _is_instant(since):
        raise wrong("_since", "not an instant, such as 2026-01-31T12:00:00Z")
    changed: list[Criterion] = [] if since is None else [("_lastUpdated", f"ge{since}")]
    found: list[StoredResource] = []
    patients = rest.catalog("Patient", token, "r")
    persons = [patients.read("Patient", patient)] if patient else _pages(rest, token, "Patient", [])
    for person in persons:
        if "Patient" in types and (since is None or parse_range(person.last_updated)[0] >= parse_range(since)[0]):
            found.append(person)
        for kind in types - {"Patient"}:
            if token.allows(kind, "r", some=True) and token.allows(kind, "s", some=True):
                found += _pages(rest, token, kind, [("patient", f"Patient/{person.id}"), *changed])
        if len(found) > MOST:
            raise TooCostly(f"an answer holds at most {MOST} resources; larger amounts are exported: Patient/$export")
    found.sort(key=lambda one: (one.type != "Patient", one.type, one.id))
    link = f"{rest.base_url}/Patient/{patient}/$everything" if patient else f"{rest.base_url}/Patient/$everything"
    return bundle(rest.base_url, Query("Patient"), found, [], len(found), [("self", link)])


def _is_instant(text: str) -> bool:
    try:
        return bool(_INSTANT.fullmatch(text) and parse_range(text))
    except ValueError:
        return False


def _types(given: Given) -> set[str]:
    """The types that are asked for; all of the compartment without ``_type``."""
    every = {"Patient", *compartment()}
    named = [one.strip() for text in given.texts("_type") for one in text.split(",") if one.strip()]
    if not named:
        return every
    for one in named:
        if one not in resource_types():
            raise wrong("_type", "not a resource type of FHIR R4")
        if one not in every:
            raise NotDoneHere(f"parameter _type: {one} is not among what is served about patients")
    return set(named)


def _pages(rest: Interactions, token: AccessToken, kind: str, criteria: list[Criterion]) -> Iterator[StoredResource]:
    """All matches of a search, page by page."""
    after: str | None = None
    while True:
        query = Query(kind, tuple(criteria), count=_PAGE, count_total=False, after=after)
        page = rest.catalog(kind, token, "s").search(query)
        yield from page.resources
        after = page.after
        if after is None:
            return
