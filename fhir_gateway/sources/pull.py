"""One pull of one endpoint: by Bulk Data where it is offered, by search where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx

from fhir_gateway.errors import ConfigurationError, SourceError
from fhir_gateway.sources.bulk import (
    BulkExport,
    ExportFailed,
    ExportNotOffered,
    ExportRequest,
    ExportState,
)
from fhir_gateway.sources.connect import Source, open_source
from fhir_gateway.sources.endpoint import CredentialNow, Endpoint
from fhir_gateway.sources.finished import Export
from fhir_gateway.sources.hydrate import Known, hydrate
from fhir_gateway.sources.manifest import earliest
from fhir_gateway.sources.models import StagedPull
from fhir_gateway.sources.outcome import Progress, PullOutcome, SourceIssue
from fhir_gateway.sources.parts import plan
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.search import WITHOUT_PATIENT, SearchPull
from fhir_gateway.sources.vendors import Level, Mode, VendorProfile

SEARCH_TYPES = (
    "Patient",
    "Organization",
    "Practitioner",
    "PractitionerRole",
    "Location",
    "Coverage",
    "Encounter",
    "Condition",
    "Observation",
    "Procedure",
    "DiagnosticReport",
    "Immunization",
    "AllergyIntolerance",
    "Medication",
    "MedicationRequest",
    "MedicationAdministration",
    "MedicationDispense",
    "DeviceRequest",
    "ServiceRequest",
    "Device",
    "Claim",
    "ExplanationOfBenefit",
)
"""What a search pull asks for when the caller names no types, as far as the CapabilityStatement lists it."""
LIST_REFUSED = frozenset({400, 404, 405, 415, 422, 501})
"""Answers to a kick-off with a list of patients by a server that takes none."""


async def pull(
    endpoint: Endpoint,
    credential: CredentialNow | None,
    folder: Path,
    *,
    pull_id: str,
    types: tuple[str, ...] = (),
    since: str | None = None,
    group: str | None = None,
    patients: tuple[str, ...] = (),
    type_filters: tuple[str, ...] = (),
    mode: Mode | None = None,
    resume: ExportState | Mapping[str, ExportState] | None = None,
    on_state: Callable[[ExportState], None] | None = None,
    known: Known | None = None,
    progress: Progress | None = None,
    accept_partial: bool = False,
    client: httpx.AsyncClient | None = None,
    clock: Clock | None = None,
    profile: VendorProfile | None = None,
) -> PullOutcome:
    """Bring an endpoint's resources to files in ``folder``.

    ``mode`` None takes the best way that vendor and endpoint offer: the first of the profile's modes; search when the
    endpoint lists no export or answers the kick-off with 404, 405 or 501; search when the server gave an export up or
    never finished it or takes no list of patients for a Group over its limit, if searches need no patient or a Group or
    ``patients`` say whom. ``resume`` goes on with earlier exports; ``on_state`` is told each poll URL before its first
    poll and must store it. A file that cannot be had fails the pull (`SourceError`; what arrived is kept for the next
    try with the same folder) unless ``accept_partial``. Resources that were referred to and left out are fetched unless
    ``known`` says we have them.
    """
    began = time.monotonic()
    states = {resume.part: resume} if isinstance(resume, ExportState) else dict(resume or {})
    async with open_source(
        endpoint, credential, types=types, client=client, clock=clock, progress=progress, profile=profile
    ) as source:
        group = group or endpoint.group or source.profile.default_group
        request = ExportRequest("group", group, types, since, type_filters, patients)
        chosen = mode or await _best_mode(source, bool(states))
        outcome: PullOutcome | None = None
        if chosen == "bulk":
            try:
                request = replace(request, level=await _level(source, group))
                outcome = await _bulk(source, request, states, folder, pull_id, on_state, accept_partial)
            except ExportNotOffered:
                if mode == "bulk" or "search" not in source.profile.modes:
                    raise
            except ExportFailed as error:
                if mode == "bulk" or not _may_search(source, request):
                    raise
                source.session.report("export", f"searching instead: {error.message}")
        if outcome is None:
            if type_filters:
                raise ConfigurationError("type filters are for Bulk Data exports; this pull goes by search")
            outcome = await _search(source, folder, request, pull_id)
        found = await hydrate(source.session, outcome.staged.files, folder / "referenced", known, types)
        issues = (*outcome.issues, *found.issues, *_since_issues(source, since), *_scope_issues(source))
        return replace(
            outcome,
            staged=replace(outcome.staged, files=outcome.staged.files + found.files),
            issues=issues,
            seconds=time.monotonic() - began,
            dangling=found.dangling,
        )


async def _bulk(
    source: Source,
    request: ExportRequest,
    states: Mapping[str, ExportState],
    folder: Path,
    pull_id: str,
    on_state: Callable[[ExportState], None] | None,
    accept_partial: bool,
) -> PullOutcome:
    """All exports of the pull, one after the other: many servers allow one job at a time.

    Where there are several, one that the server refuses or gives up costs what it should have brought, and is said to.
    """
    parts = await plan(source, request, folder)
    done: list[Export] = []
    failed: list[SourceError] = []
    issues: list[SourceIssue] = []
    statuses: set[int | None] = set()
    for part in parts:
        export = BulkExport(source.session, part.folder(folder), on_state, accept_partial, part.name)
        try:
            done.append(await export.run(part.request, states.get(part.name)))
        except SourceError as error:
            statuses.add(export.refused)
            if len(parts) == 1 or not (export.refused or isinstance(error, ExportFailed)):
                raise
            failed.append(error)
            issues.append(SourceIssue("error", f"{part.name}: {error.message}"))
    if not done:
        if not request.patients and all(part.request.patients for part in parts) and statuses <= LIST_REFUSED:
            raise ExportFailed(f"the Group is larger than its vendor exports at once, and {failed[0].message}")
        raise failed[0]
    deletions: dict[str, tuple[str, ...]] = {}
    for one in done:
        for kind, ids in one.deletions.items():
            deletions[kind] = tuple(dict.fromkeys(deletions.get(kind, ()) + ids))
    files = tuple(file for one in done for file in one.files)
    # a part without a time makes the whole pull one without
    time_known = all(one.transaction_time for one in done)
    moment = earliest(*(one.transaction_time for one in done)) if time_known else None
    staged = StagedPull(pull_id, source.endpoint.name, "bulk", moment, files)
    issues += [issue for one in done for issue in one.issues]
    return PullOutcome(staged, tuple(issues), deletions, sum(one.bytes for one in done))


async def _search(source: Source, folder: Path, request: ExportRequest, pull_id: str) -> PullOutcome:
    offered = (await source.capabilities()).types
    # where a search must name a patient, what has none comes by the references to it (hydrate)
    refused = WITHOUT_PATIENT if source.profile.search_by == "patient" else frozenset()
    wanted = request.types or tuple(
        kind for kind in SEARCH_TYPES if kind not in refused and kind in (offered or (kind,))
    )
    if not wanted:
        raise SourceError(f"{source.endpoint.base_url}: lists none of the types we search")
    search = SearchPull(source.session, folder)
    files = await search.run(wanted, since=request.since, group=request.group, patients=request.patients)
    size = sum(file.path.stat().st_size for file in files)
    staged = StagedPull(pull_id, source.endpoint.name, "search", search.moment, files)
    issues = list(search.issues)
    if search.moment is None:
        issues.insert(0, SourceIssue("warning", "the server tells no time: the next pull cannot be incremental"))
    return PullOutcome(staged, tuple(issues), bytes=size)


def _may_search(source: Source, request: ExportRequest) -> bool:
    named = request.group is not None or bool(request.patients)
    whole = not request.type_filters and "search" in source.profile.modes
    return whole and (named or source.profile.search_by == "type")


async def _best_mode(source: Source, resuming: bool) -> Mode:
    modes = source.profile.modes
    if resuming or len(modes) == 1:
        return "bulk" if resuming else modes[0]
    if modes[0] == "bulk" and not (await source.capabilities()).export_levels:
        return modes[1]
    return modes[0]


async def _level(source: Source, group: str | None) -> Level:
    """The export level: the Group that is named, else the first that profile and CapabilityStatement both know.

    A CapabilityStatement that lists no level proves nothing (servers export more than they list).
    """
    if group is not None:
        return "group"
    wanted = [level for level in source.profile.levels if level != "group"]
    if not wanted:
        raise ConfigurationError(f"endpoint {source.endpoint.name} exports Groups only: name one")
    stated = (await source.capabilities()).export_levels
    usable = [level for level in wanted if level in stated]
    if stated and not usable:
        raise ConfigurationError(f"endpoint {source.endpoint.name} lists Group exports only: name a Group")
    return usable[0] if usable else wanted[0]


def _since_issues(source: Source, since: str | None) -> list[SourceIssue]:
    if since is None or source.profile.since_trusted:
        return []
    why = source.profile.facts.get("since_trusted", "its vendor's profile says so")
    return [SourceIssue("warning", f"changes since a time are not all shown here, pull in full now and then: {why}")]


def _scope_issues(source: Source) -> list[SourceIssue]:
    """A grant that is narrower than what we asked for is worth a line, since it withholds data silently."""
    tokens = source.session.tokens
    if tokens is None or tokens.granted is None:
        return []
    missing = set((tokens.scope or "").split()) - set(tokens.granted.split())
    if not missing:
        return []
    return [SourceIssue("information", f"asked for {tokens.scope}, granted {tokens.granted}")]
