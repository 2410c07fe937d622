"""What the operations of DEQM have in common at the door: which family of shapes, which measures, whom, by whom.

US 5.0.0 and UV 1.0.0 are told apart by how a client asks: parameters and report types that only one of them has
decide; a call on a Measure instance is of the US realm, since the universal one has none; what neither tells is
answered in the family of the settings (ADR 0159).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fhir_gateway.jobs.measure_answers import ANSWERS
from fhir_gateway.jobs.measure_requests import Asking, MeasureRequest, nothing_to_check, require
from fhir_gateway.jobs.selection import Selection, distinct
from fhir_gateway.jobs.subjects import SUBJECTS
from fhir_gateway.measures.dialect import Family
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.r4.spec import resource_types
from fhir_gateway.server.given import Given, read_reference, wrong
from fhir_gateway.server.operations import Asked, Later

PERIOD = ("periodStart", "periodEnd")
SELECTORS = ("measureId", "measureIdentifier", "measureUrl", "measure")
PROGRAMS = ("program", "programIdentifier", "programUrl")
WHOM = ("subject", "subjectGroup")
UV_PROVIDER = ("provider", "providerResource", "location")
#: Parameters of the operations that this server does not follow.
REFUSED = ("lastReceivedOn", "manifest", "measureResource", "parameters")
_PROVIDER_TYPES = ("Organization", "Practitioner", "PractitionerRole")

#: Parameters that one family alone has.
_OF_UV = frozenset(UV_PROVIDER)
_OF_US = frozenset(
    {"measureId", "measureIdentifier", "measure", "practitioner", "organization", "organizationResource", "reporter"}
) | {*PROGRAMS, "topic"}
_REPORT_TYPES: Mapping[str, Family] = {"subject": "us", "population": "us", "individual": "uv", "summary": "uv"}


def family_of(given: Given, asked: Asked) -> Family:
    """The family a call is of; InputError when its parameters are of both."""
    of_uv, of_us = given.names & _OF_UV, given.names & _OF_US
    if of_uv and (of_us or asked.measure_id is not None):
        name = min(of_us) if of_us else "a Measure instance"
        raise wrong(min(of_uv), f"of DEQM UV, together with {name} of DEQM US")
    if of_uv:
        return "uv"
    if of_us or asked.measure_id is not None:
        return "us"
    told = _REPORT_TYPES.get(given.texts("reportType")[0]) if given.texts("reportType") else None
    return told or asked.gateway.settings.deqm_family


def measures_of(given: Given, asked: Asked, *, optional: bool = False) -> list[MeasurePackage]:
    """The measures of a call, each once; NotFoundError for one that is not here.

    A call on the type names at least one, unless it is ``optional``: then all that are about its topics are meant.
    """
    selection = Selection(asked.gateway, asked.store)
    named = [name for name in (*SELECTORS, *PROGRAMS, "topic") if name in given.names]
    if asked.measure_id is not None:
        if named:
            raise wrong(named[0], "the operation was called on a Measure already")
        return [selection.of_id(asked.measure_id)]
    given.one_of(*PROGRAMS)
    found = [selection.of_id(text.removeprefix("Measure/")) for text in given.texts("measureId")]
    found += [selection.of_canonical(text) for text in given.texts("measureUrl")]
    found += [selection.of_identifier(text) for text in given.texts("measureIdentifier")]
    found += [selection.of_reference(text) for text in given.texts("measure")]
    for name in PROGRAMS:
        for text in given.texts(name):
            found += selection.of_program(text)
    if given.texts("topic") or (optional and not named):
        found += selection.on_topics(given.texts("topic"))
    if not found and not optional:
        raise wrong("measureUrl", f"a measure is needed: {', '.join(SELECTORS)}")
    return distinct(found)


def request_of(given: Given, asked: Asked, packages: Iterable[MeasurePackage], *, bare: bool = True) -> MeasureRequest:
    """The request for these measures: period, subjects, who reports; ``bare`` ids of patients are understood."""
    given.one_of(*WHOM)
    given.one_of("organization", "organizationResource")
    given.one_of("provider", "providerResource")
    start, end = given.period()
    subject = given.reference("subject", *SUBJECTS, bare="Patient" if bare else None)
    practitioner = given.reference("practitioner", "Practitioner", "PractitionerRole", bare="Practitioner")
    organization = given.reference("organization", "Organization", bare="Organization")
    provider = given.reference("provider", *_PROVIDER_TYPES)
    reporter = given.reference("reporter", *_PROVIDER_TYPES) or organization or provider
    if practitioner is not None and subject is not None and subject[0] == "Patient":
        raise wrong("practitioner", "not together with a single subject")
    for pair in (reporter, practitioner):
        if pair is not None:
            require(asked.store, pair)
    zone = asked.now.tzinfo
    return MeasureRequest(
        measures=tuple(f"{one.url}|{one.version}" for one in packages),
        period=(start.isoformat(), end.isoformat()),
        now=asked.now.isoformat(),
        zone=str(zone),
        family=family_of(given, asked),
        subject=subject,
        group=given.resource("subjectGroup", "Group"),
        provider=practitioner,
        reporter=reporter,
        reporter_resource=given.resource("organizationResource", "Organization")
        or given.resource("providerResource", *_PROVIDER_TYPES),
        locations=tuple("/".join(read_reference("location", one, "Location")) for one in given.texts("location")),
        readable=_readable(asked),
    )


def provider_of(request: MeasureRequest) -> tuple[str, str] | None:
    """Whose patients are meant: the practitioner's; when nobody is named otherwise, those of the one who reports."""
    if request.provider is None and request.subject is None and request.group is None:
        return request.reporter
    return request.provider


def answered(asked: Asked, request: MeasureRequest, kind: str) -> Mapping[str, Any] | Later:
    """The answer to a request: made while the client waits, or later, when it prefers that or there is much to do."""
    asking = Asking(asked.gateway, request, asked.token.audience)
    many = asking.count() > asked.gateway.settings.operation_members  # what is not here is refused now
    if many or asked.respond_async:
        return Later(kind, request.to_json())
    return ANSWERS[kind](asking, nothing_to_check)


def _readable(asked: Asked) -> tuple[str, ...] | None:
    """Types that the caller's scopes let come along."""
    if asked.may_read("*"):
        return None
    return tuple(kind for kind in resource_types() if asked.may_read(kind))
