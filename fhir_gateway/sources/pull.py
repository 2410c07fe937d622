"""One pull of one endpoint: by Bulk Data where it is offered, by search where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from fhir_gateway.errors import ConfigurationError, SourceError
from fhir_gateway.sources.bulk import BulkExport, ExportNotOffered, ExportRequest, ExportState
from fhir_gateway.sources.connect import Source, open_source
from fhir_gateway.sources.endpoint import Credential, Endpoint
from fhir_gateway.sources.models import StagedPull
from fhir_gateway.sources.outcome import Progress, PullOutcome, SourceIssue
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.search import SearchPull
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


async def pull(
    endpoint: Endpoint,
    credential: Credential | None,
    folder: Path,
    *,
    pull_id: str,
    types: tuple[str, ...] = (),
    since: str | None = None,
    group: str | None = None,
    type_filters: tuple[str, ...] = (),
    mode: Mode | None = None,
    resume: ExportState | None = None,
    on_state: Callable[[ExportState], None] | None = None,
    progress: Progress | None = None,
    accept_partial: bool = False,
    client: httpx.AsyncClient | None = None,
    clock: Clock | None = None,
    profile: VendorProfile | None = None,
) -> PullOutcome:
    """Bring an endpoint's resources to files in ``folder``.

    ``mode`` None takes the best way that vendor and endpoint offer. ``resume`` goes on with an earlier export;
    ``on_state`` is told the poll URL before the first poll and must store it. A file that cannot be had fails the pull
    (`SourceError`; what arrived is kept for the next try with the same folder) unless ``accept_partial``.
    """
    began = time.monotonic()
    async with open_source(
        endpoint, credential, types=types, client=client, clock=clock, progress=progress, profile=profile
    ) as source:
        outcome: PullOutcome | None = None
        chosen = mode or await _best_mode(source, resume)
        if chosen == "bulk":
            level = await _level(source, group)
            request = ExportRequest(level, group, types, since, type_filters)
            export = BulkExport(source.session, folder, on_state, accept_partial)
            try:
                outcome = await _bulk(source, export, request, resume, pull_id)
            except ExportNotOffered:
                if mode == "bulk" or "search" not in source.profile.modes:
                    raise
        if outcome is None:
            if type_filters:
                raise ConfigurationError("type filters are for Bulk Data exports; this pull goes by search")
            outcome = await _search(source, folder, types, since, group, pull_id)
        issues = (*outcome.issues, *_scope_issues(source))
        return PullOutcome(outcome.staged, issues, outcome.deletions, outcome.bytes, time.monotonic() - began)


async def _bulk(
    source: Source, export: BulkExport, request: ExportRequest, resume: ExportState | None, pull_id: str
) -> PullOutcome:
    done = await export.run(request, resume)
    staged = StagedPull(pull_id, source.endpoint.name, "bulk", done.transaction_time, done.files)
    return PullOutcome(staged, done.issues, done.deletions, done.bytes)


async def _search(
    source: Source, folder: Path, types: tuple[str, ...], since: str | None, group: str | None, pull_id: str
) -> PullOutcome:
    # a search has no transactionTime, and our clock is not the server's: the next pull is a full one
    issues = [SourceIssue("warning", "pulled by search: the next pull cannot be incremental")]
    offered = (await source.capabilities()).types
    wanted = types or tuple(kind for kind in SEARCH_TYPES if not offered or kind in offered)
    if not wanted:
        raise SourceError(f"{source.endpoint.base_url}: lists none of the types we search")
    search = SearchPull(source.session, folder)
    files = await search.run(wanted, since=since, group=group)
    size = sum(file.path.stat().st_size for file in files)
    staged = StagedPull(pull_id, source.endpoint.name, "search", None, files)
    return PullOutcome(staged, (*issues, *search.issues), bytes=size)


async def _best_mode(source: Source, resume: ExportState | None) -> Mode:
    modes = source.profile.modes
    if resume is not None or len(modes) == 1:
        return "bulk" if resume is not None else modes[0]
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


def _scope_issues(source: Source) -> list[SourceIssue]:
    """A grant that is narrower than what we asked for is worth a line, since it withholds data silently."""
    tokens = source.session.tokens
    if tokens is None or tokens.granted is None:
        return []
    missing = set((tokens.scope or "").split()) - set(tokens.granted.split())
    if not missing:
        return []
    return [SourceIssue("information", f"asked for {tokens.scope}, granted {tokens.granted}")]
