"""``Measure/$care-gaps`` and ``Measure/[id]/$care-gaps``: gaps in care (DEQM US 5.0.0, UV 1.0.0, names of 3.0.0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from fastapi import APIRouter

from fhir_gateway.jobs.measure_requests import MeasureRequest
from fhir_gateway.measures.gap import GapStatus, has_gaps
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.server import deqm
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.operations import Asked, Later, Operations, Routes
from fhir_gateway.server.registry import CARE_GAPS

STATUSES = get_args(GapStatus)
_KNOWN = (
    *deqm.PERIOD,
    *deqm.SELECTORS,
    *deqm.PROGRAMS,
    *deqm.WHOM,
    *deqm.UV_PROVIDER,
    "topic",
    "status",
    "practitioner",
    "organization",
    "organizationResource",
    "isDocument",
)
#: Who it is about has to be said by one of these.
_ABOUT = frozenset({"subject", "subjectGroup", "organization", "organizationResource", *deqm.PROGRAMS, "provider"})


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on the type and on one Measure."""

    def work(asked: Asked) -> Mapping[str, Any] | Later:
        return deqm.answered(asked, read(asked), CARE_GAPS.code)

    return Routes(operations, CARE_GAPS, {"Measure": "r", "MeasureReport": "r"}, work).on_type().on_instance().router


def read(asked: Asked) -> MeasureRequest:
    """The request of a call; InputError or NotFoundError."""
    given = Given(asked.pairs, _KNOWN, deqm.REFUSED)
    given.period()
    given.one_of("subject", "subjectGroup", "organization")
    given.reference("subject", "Patient", "Group")
    if not given.names & _ABOUT:
        needed = "the practitioner's organization" if "practitioner" in given.names else "a subject or an organization"
        raise wrong("subject", f"{needed} is needed")
    statuses = given.texts("status")
    if not statuses:
        raise wrong("status", f"required, one or more of {', '.join(STATUSES)}")
    if not set(statuses) <= set(STATUSES):
        raise wrong("status", f"not one of {', '.join(STATUSES)}")
    named = asked.measure_id is not None or bool(given.names & {*deqm.SELECTORS, *deqm.PROGRAMS})
    packages = deqm.measures_of(given, asked, optional=True)
    usable = [package for package in packages if _has_gaps(package)]
    if named and not usable:
        raise wrong("measure", "gaps are defined for proportions and ratios of counts")
    request = deqm.request_of(given, asked, usable, bare=False)
    return replace(
        request,
        provider=deqm.provider_of(request),
        statuses=tuple(dict.fromkeys(statuses)),
        document=given.flag("isDocument", True),
    )


def _has_gaps(package: MeasurePackage) -> bool:
    return any(
        has_gaps(group.scoring, (population.code for population in group.populations))
        for group in package.definition.groups
    )
