"""The client side of Bulk Data export: kick off, poll, download, delete.

Bulk Data Access 3.0.0 (and 1.0 to 4.0 ballot where they differ), hardened by what servers were seen to do. The poll
URL is handed out before the first poll, so that a restarted process goes on with the same export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode, urljoin

import httpx
import orjson

from fhir_gateway.errors import GatewayError, SourceAuthError, SourceError
from fhir_gateway.sources.deletions import deleted_ids
from fhir_gateway.sources.download import Downloaded, Downloader, opened
from fhir_gateway.sources.endpoint import without_query
from fhir_gateway.sources.finished import Export, finished, write_finished
from fhir_gateway.sources.manifest import Manifest, earliest
from fhir_gateway.sources.models import StagedFile
from fhir_gateway.sources.organized import without_headers
from fhir_gateway.sources.outcome import SourceIssue, outcome_codes, outcome_issues
from fhir_gateway.sources.retry import TRANSIENT_STATUS
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, refusal
from fhir_gateway.sources.vendors import Level

_KICKOFF_RETRY = frozenset({429, 503})
"""Other transient answers to a kick-off may hide an export that did start; a second one would be refused."""
_TRANSIENT_CODES = frozenset({"transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"})
"""Issue codes of a poll that failed while the export lives (Bulk Data Access 3.0.0, response - error status)."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export. ``since`` is a FHIR instant, taken verbatim from an earlier ``transactionTime``.

    ``patients`` (ids) narrow a Group or Patient export; they, and servers of the 4.0 ballot, need a POST.
    """

    level: Level = "system"
    group: str | None = None
    types: tuple[str, ...] = ()
    since: str | None = None
    type_filters: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    def url(self, base_url: str, *, query: bool = True) -> str:
        """The kick-off URL, with its query for a GET; the ``+`` of an offset is percent-encoded."""
        path = {"system": "", "patient": "/Patient", "group": f"/Group/{self.group}"}[self.level]
        url = f"{base_url}{path}/$export"
        return f"{url}?{urlencode(self._pairs(','))}" if query else url

    def parameters(self) -> dict[str, object]:
        """The body of a POST kick-off: a Parameters resource, one parameter for each value."""
        listed: list[dict[str, object]] = [
            {"name": name, "valueInstant" if name == "_since" else "valueString": value}
            for name, value in self._pairs(None)
        ]
        listed += [{"name": "patient", "valueReference": {"reference": f"Patient/{one}"}} for one in self.patients]
        return {"resourceType": "Parameters", "parameter": listed}

    def _pairs(self, separator: str | None) -> list[tuple[str, str]]:
        pairs = [("_outputFormat", "application/fhir+ndjson")]
        if self.types:
            pairs += [("_type", one) for one in ([separator.join(self.types)] if separator else self.types)]
        if self.since:
            pairs.append(("_since", self.since))
        return pairs + [("_typeFilter", item) for item in self.type_filters]


@dataclass(frozen=True, slots=True)
class ExportState:
    """All that a restarted process needs. ``transaction_time`` is the earliest one seen.

    ``part`` names the part of a pull that has several exports; ``kicked_off`` is when the export began, in seconds of
    the epoch: its deadline counts from then, however often this process was restarted.
    """

    status_url: str
    transaction_time: str | None = None
    part: str = ""
    kicked_off: float | None = None


class ExportGone(SourceError):
    """The server no longer knows the export: it must be kicked off anew."""


class ExportFailed(SourceError):
    """The server gave the export up, or it took too long: there is nothing to go on with."""


class ExportNotOffered(SourceError):
    """The endpoint has no such export operation."""


class BulkExport:
    """One export of one endpoint into one folder."""

    def __init__(
        self,
        session: SourceSession,
        folder: Path,
        on_state: Callable[[ExportState], None] | None = None,
        accept_partial: bool = False,
        part: str = "",
    ) -> None:
        """`on_state` must make its argument durable before it returns."""
        self.refused: int | None = None
        """The status with which the server said no to the kick-off."""
        self._part = part
        self._session = session
        self._folder = folder
        self._on_state = on_state
        self._accept_partial = accept_partial

    async def run(self, request: ExportRequest, state: ExportState | None = None) -> Export:
        """Export, or go on with the export of ``state``.

        The job is deleted on the server when every file is here and that is written down: from then on nothing is asked
        of the server again, whatever becomes of this process.
        """
        export = finished(self._folder) if state is not None else None
        if state is None or export is None:
            state, export = await self._through(request, state)
            write_finished(self._folder, export)
        return replace(export, issues=(*export.issues, *await delete_export(self._session, state.status_url)))

    async def _through(self, request: ExportRequest, state: ExportState | None) -> tuple[ExportState, Export]:
        try:
            return await self._finish(state or await self._kick_off(request))
        except ExportGone as error:
            if state is not None and self._left(state) <= 0:
                raise ExportFailed(f"{error.message}, and its time was over") from None
            self._session.report("export", "the export is gone; starting anew")
        # files of the lost export: the next one may give other content under the same names
        for path in self._folder.glob("*.ndjson*"):
            path.unlink()
        return await self._finish(await self._kick_off(request))

    async def _kick_off(self, request: ExportRequest) -> ExportState:
        url = request.url(self._session.endpoint.base_url)
        self._session.report("export", f"{request.level} export{f' of {self._part}' if self._part else ''}")
        response = await self._ask(request, "POST" if request.patients else "GET")
        if response.status_code == 405 and not request.patients:
            response = await self._ask(request, "POST")  # the 4.0 ballot has no GET
        if response.status_code in (404, 405, 501) and request.level != "group":
            raise ExportNotOffered(f"{without_query(url)}: answered {response.status_code}")
        if response.status_code != 202:
            self.refused = response.status_code
            raise refusal(response, "the kick-off with a list of patients" if request.patients else "the kick-off")
        location = response.headers.get("Content-Location")
        if not location:
            raise SourceError(f"{without_query(url)}: accepted without a Content-Location to poll")
        return self._remember(
            ExportState(urljoin(url, location), part=self._part, kicked_off=self._session.clock.now())
        )

    def _left(self, state: ExportState) -> float:
        """Seconds that an export may still take; all of them when its beginning is not known."""
        deadline = self._session.profile.export_deadline
        if state.kicked_off is None:
            return deadline
        return deadline - max(0.0, self._session.clock.now() - state.kicked_off)  # the clock may have been set back

    async def _ask(self, request: ExportRequest, method: Literal["GET", "POST"]) -> httpx.Response:
        base = self._session.endpoint.base_url
        headers = {"Accept": FHIR_JSON, "Prefer": "respond-async"}
        if method == "GET":
            return await self._session.send("GET", request.url(base), headers=headers, statuses=_KICKOFF_RETRY)
        headers["Content-Type"] = FHIR_JSON
        url = request.url(base, query=False)
        return await self._session.send(
            "POST", url, headers=headers, json=request.parameters(), statuses=_KICKOFF_RETRY
        )

    async def _finish(self, state: ExportState) -> tuple[ExportState, Export]:
        manifest = await self._manifest(state.status_url, self._left(state))
        state = self._remember(
            replace(state, transaction_time=earliest(state.transaction_time, manifest.transaction_time))
        )

        async def repoll() -> Manifest:
            nonlocal state
            fresh = await self._manifest(state.status_url, self._session.profile.export_deadline)
            state = self._remember(
                replace(state, transaction_time=earliest(state.transaction_time, fresh.transaction_time))
            )
            return fresh

        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        downloader = Downloader(self._session, self._folder, manifest, repoll)
        results = await downloader.all(manifest.output)
        errors = await downloader.all(manifest.errors, "error.")
        deleted = await downloader.all(manifest.deleted, "deleted.")
        issues = self._losses([*results, *errors, *deleted])
        files = []
        for one in results:
            if isinstance(one, Downloaded):
                counted = one.file.count if self._session.profile.counts_exact else None
                if one.mismatch is not None and self._accept_partial:
                    counted = None  # said in the issues; held against the file it would refuse the pull for ever
                if manifest.organized_by:
                    without_headers(one.path)
                files.append(StagedFile(one.path, one.file.shown, one.file.resource_type, counted))
        for one in errors:
            if isinstance(one, Downloaded):
                with opened(one.path) as lines:
                    issues += outcome_issues(lines, one.file.shown)
        deletions = deleted_ids(one.path for one in deleted if isinstance(one, Downloaded))
        if state.transaction_time is None:
            issues.append(SourceIssue("warning", "no usable transactionTime: the next pull cannot be incremental"))
        if not manifest.output:
            issues.append(SourceIssue("warning", "the export is empty; an unknown Group can look like this"))
        return state, Export(tuple(files), tuple(issues), state.transaction_time, deletions, downloader.bytes)

    def _losses(self, results: list[Downloaded | GatewayError]) -> list[SourceIssue]:
        """Files that did not come fail the pull (those that did are kept for the next try) unless loss is accepted."""
        failed = [one for one in results if isinstance(one, GatewayError)]
        if failed and not self._accept_partial:
            more = f" (and {len(failed) - 1} more files)" if len(failed) > 1 else ""
            kind = SourceAuthError if isinstance(failed[0], SourceAuthError) else type(failed[0])
            raise kind(f"{failed[0].message}{more}; pulling again goes on with the files that are missing")
        issues = [SourceIssue("error", one.message) for one in failed]
        for one in results:
            if isinstance(one, Downloaded) and one.mismatch is not None:
                text = f"{one.mismatch} lines where the manifest says {one.file.count}"
                issues.append(SourceIssue("error", text, one.file.shown, max((one.file.count or 0) - one.mismatch, 0)))
        return issues

    async def _manifest(self, status_url: str, seconds: float) -> Manifest:
        """Poll until the export is complete, with all further pages; each may take so many seconds."""
        manifest = await self._page(status_url, seconds)
        seen = {status_url}
        while manifest.next is not None:
            if manifest.next in seen:
                raise SourceError(f"{without_query(manifest.next)}: manifest pages go round in a circle")
            seen.add(manifest.next)
            manifest = manifest.plus(await self._page(manifest.next, self._session.profile.export_deadline))
        return manifest

    async def _page(self, url: str, seconds: float) -> Manifest:
        """Poll at least once: an export whose time went by while nobody asked may have come to its end."""
        session, profile = self._session, self._session.profile
        deadline = session.clock.monotonic() + seconds
        polls = failures = 0
        while True:
            if polls + failures and session.clock.monotonic() >= deadline:
                await delete_export(session, url)
                raise ExportFailed(
                    f"{without_query(url)}: not finished after {profile.export_deadline:.0f} s; cancelled"
                )
            response = await session.send("GET", url, headers={"Accept": "application/json"}, statuses=frozenset())
            status = response.status_code
            if status == 200:
                try:
                    return Manifest.parse(orjson.loads(response.content), url)
                except orjson.JSONDecodeError:
                    raise SourceError(f"{without_query(url)}: the manifest is not JSON") from None
            if status in (202, 429, 503):
                failures = 0
                polls += 1
                self._say_progress(response)
            elif status in (404, 410):
                raise ExportGone(f"{without_query(url)}: the export is gone ({status})")
            elif (
                status in TRANSIENT_STATUS or _TRANSIENT_CODES & set(outcome_codes(response))
            ) and failures + 1 < profile.max_attempts:
                failures += 1
            else:
                error = refusal(response, "the poll")
                raise error if status in (401, 403) else ExportFailed(error.message)
            await session.clock.sleep(self._pause(response, polls + failures))

    def _pause(self, response: httpx.Response, polls: int) -> float:
        """Between polls: what the server asks for within our cap, else growing up to the profile's interval."""
        if "Retry-After" in response.headers:
            return max(0.1, self._session.wait_for(response, polls))  # 0 is no licence to hammer
        return min(self._session.profile.poll_interval, 0.25 * 2.0 ** min(polls, 16))

    def _say_progress(self, response: httpx.Response) -> None:
        said = response.headers.get("X-Progress", "")[:100]
        if not said and response.status_code != 202:
            said = f"answered {response.status_code}"
        self._session.report("export", said or "in progress")

    def _remember(self, state: ExportState) -> ExportState:
        if self._on_state is not None:
            self._on_state(state)
        return state


async def delete_export(session: SourceSession, status_url: str) -> list[SourceIssue]:
    """Tell the server that its files may go; many allow one job per client and Group. A failure costs nothing."""
    try:
        response = await session.send("DELETE", status_url, headers={"Accept": FHIR_JSON})
    except SourceError as error:
        return [SourceIssue("warning", f"the export job could not be deleted: {error.message}")]
    if response.is_success or response.status_code in (404, 410):
        return []
    return [SourceIssue("warning", f"deleting the export job was answered with {response.status_code}")]
