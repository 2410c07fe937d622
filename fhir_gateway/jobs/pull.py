"""Pull a source into the lake, and serve who is in it: four steps, each of which may be repeated.

``download`` goes on with the exports that the log of pulls knows and with the files that are there; ``commit`` changes
nothing when the lake has the pull; ``publish`` writes what differs; ``close`` writes down what came of it. So a pull
may die at any instruction and be run again from the first step. All it needs is its row in the log and its folder.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pyarrow.compute as pc

from fhir_gateway.errors import (
    ConfigurationError,
    ConflictError,
    ControlPlaneError,
    GatewayError,
    LedgerError,
    SourceError,
    StorageError,
)
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.persons import link
from fhir_gateway.jobs.publish import publish
from fhir_gateway.jobs.reconcile import reconcile
from fhir_gateway.jobs.since import advance, moment
from fhir_gateway.jobs.staged import arrived, keep, kept
from fhir_gateway.lake.versions import LakeVersion
from fhir_gateway.sources.bulk import ExportFailed, ExportState
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import Ledger, LedgerEntry
from fhir_gateway.sources.outcome import Progress, PullOutcome, PullProgress, SourceIssue
from fhir_gateway.sources.pull import pull
from fhir_gateway.sources.store import SOURCE_NAME
from fhir_gateway.sources.tables import SourcePull
from fhir_gateway.sources.vendors import Mode
from fhir_gateway.telemetry import meters
from fhir_gateway.telemetry.spans import say, traced

Step = Callable[[str, Callable[[], None]], None]
"""Carries out a named step; the durable layer remembers which it carried out."""
UNFINISHED = ("started", "staged")
"""States of a pull that can be gone on with."""
_WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull brought. ``published`` counts the resources served afterwards that are new or changed.

    ``arrived`` says by promised type which files, bytes and lines came; ``notes`` say from when on was asked, and what
    an incremental pull cannot see.
    """

    pull_id: str
    source: str
    kind: str
    lake_version: int
    transaction_time: str | None
    ledger: Ledger
    issues: tuple[SourceIssue, ...]
    notes: tuple[str, ...]
    arrived: Mapping[str, Mapping[str, int]]
    quarantined: int
    persons: int
    published: Mapping[str, int]
    bytes: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Nothing is known to be missing."""
        return not any(issue.severity == "error" for issue in self.issues)


class Selection(TypedDict, total=False):
    """What to pull of an endpoint: everything, where nothing is said. ``since`` is an instant, or ``last``."""

    types: tuple[str, ...]
    since: str | None
    group: str | None
    patients: tuple[str, ...]
    type_filters: tuple[str, ...]
    mode: Mode | None


def pull_endpoint(
    gateway: Gateway,
    name: str,
    *,
    accept_partial: bool = False,
    progress: Progress | None = None,
    **selection: Unpack[Selection],
) -> PullReport:
    """Pull a registered endpoint here and now, or go on with a pull of the same request that was interrupted."""
    row = begin_endpoint(gateway, name, accept_partial=accept_partial, **selection)
    return run(gateway, row.id, progress=progress)


def pull_files(
    gateway: Gateway, paths: Sequence[Path | str], source: str, *, progress: Progress | None = None
) -> PullReport:
    """Take in files, folders and storage URLs of NDJSON, Bundles or resources, as ``source``, here and now."""
    return run(gateway, begin_files(gateway, paths, source, progress=progress).id, progress=progress)


def begin_endpoint(
    gateway: Gateway, name: str, *, accept_partial: bool = False, **selection: Unpack[Selection]
) -> SourcePull:
    """The pull of the same request that was interrupted, else a new one, written down and not yet begun."""
    gateway.endpoints.get(name)
    request = {
        "types": list(selection.get("types", ())),
        "since": selection.get("since"),
        "group": selection.get("group"),
        "patients": list(selection.get("patients", ())),
        "type_filters": list(selection.get("type_filters", ())),
        "mode": selection.get("mode"),
    }
    row = gateway.pulls.unfinished(name, request)
    if row is None:
        asked = moment(gateway, name, request)
        row = gateway.pulls.start(_new_id(name), name, "pull", request)
        row = gateway.pulls.update(row.id, outcome={"since": asked.moment, "notes": list(asked.notes)})
    if row.outcome.get("accept_partial") != accept_partial:
        row = gateway.pulls.update(row.id, outcome={**row.outcome, "accept_partial": accept_partial})
    return row


def begin_files(
    gateway: Gateway, paths: Sequence[Path | str], source: str, *, progress: Progress | None = None
) -> SourcePull:
    """Stage files as a pull, written down and not yet committed.

    The pull's id comes from the files' bytes: the same files taken in again change nothing.
    """
    if not SOURCE_NAME.fullmatch(source):
        raise ConfigurationError("a source's name is 1 to 32 of a-z, 0-9 and '-', not beginning with '-'")
    if progress:
        progress(PullProgress("stage", "reading files"))
    drafts = gateway.staging_folder / _new_id(source)
    drafts.mkdir(parents=True, mode=0o700)
    try:
        staged = stage_files(paths, source, drafts)
        keep(drafts, PullOutcome(staged, bytes=sum(file.path.stat().st_size for file in staged.files)))
        with held(gateway, source):
            folder = gateway.staging_folder / staged.id
            shutil.rmtree(folder, ignore_errors=True)
            drafts.rename(folder)
            return gateway.pulls.start(
                staged.id, source, "files", {"files": [str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths]}
            )
    except BaseException:
        shutil.rmtree(drafts, ignore_errors=True)
        raise


def _new_id(source: str) -> str:
    """An id for a pull of a source that begins now."""
    return f"{source}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def run(
    gateway: Gateway,
    pull_id: str,
    *,
    progress: Progress | None = None,
    step: Step | None = None,
    wait: Callable[[], bool] | None = None,
    check: Callable[[], None] | None = None,
    holding: bool = False,
) -> PullReport:
    """Bring a pull to its end (:func:`bring`) and say what it brought."""
    bring(gateway, pull_id, progress=progress, step=step, wait=wait, check=check, holding=holding)
    return report(gateway, pull_id)


def bring(
    gateway: Gateway,
    pull_id: str,
    *,
    progress: Progress | None = None,
    step: Step | None = None,
    wait: Callable[[], bool] | None = None,
    check: Callable[[], None] | None = None,
    holding: bool = False,
) -> None:
    """Bring a pull to its end from wherever it is. One pull of a source at a time: ConflictError when there is another.

    A source or a storage that fails leaves its pull to be gone on with; any other error of ours ends it. ``step``
    carries out each step, ``wait`` says whether to wait for another pull of the source, ``check`` raises when it is
    time to stop. Who is ``holding`` the source's place already says so.
    """
    row = gateway.pulls.get(pull_id)
    carry = step or (lambda _, work: work())
    with nullcontext() if holding else held(gateway, row.source, wait):
        try:
            carry("download", lambda: _download(gateway, pull_id, progress, check))
            carry("commit", lambda: _commit(gateway, pull_id, progress))
        except GatewayError as error:
            passing = isinstance(error, SourceError | StorageError | ControlPlaneError)
            if not passing or isinstance(error, ExportFailed):
                _end(gateway, pull_id, error)
            raise
        carry("publish", lambda: _publish(gateway, pull_id, progress))
        carry("close", lambda: _close(gateway, pull_id))


def report(gateway: Gateway, pull_id: str) -> PullReport:
    """What a pull brought, as it was written down; ConflictError while it is not committed."""
    row = gateway.pulls.get(pull_id)
    if row.state != "committed":
        raise ConflictError(f"pull {pull_id} is {row.state}, not committed")
    ledger = Ledger(row.id, row.source, tuple(LedgerEntry(**entry) for entry in row.ledger))
    return PullReport(
        pull_id=row.id,
        source=row.source,
        kind=row.kind,
        lake_version=row.outcome["lake_version"],
        transaction_time=row.transaction_time,
        ledger=ledger,
        issues=tuple(SourceIssue(**issue) for issue in row.issues),
        notes=tuple(row.outcome.get("notes", ())),
        arrived=row.outcome["arrived"],
        quarantined=sum(entry.rows_quarantined for entry in ledger.entries),
        persons=row.outcome["persons"],
        published=row.outcome["published"],
        bytes=row.outcome["bytes"],
        seconds=row.outcome["seconds"],
    )


@traced("pull.download")
def _download(gateway: Gateway, pull_id: str, progress: Progress | None, check: Callable[[], None] | None) -> None:
    row = _unfinished(gateway, pull_id)
    folder = gateway.staging_folder / pull_id
    if kept(folder) is not None:
        return
    if row.kind == "files":
        raise SourceError("the staged files are gone; take them in again")
    endpoint = gateway.endpoints.get(row.source)
    asked, since = row.request, row.outcome.get("since")

    def on_state(state: ExportState) -> None:
        gateway.pulls.remember(pull_id, state)

    outcome = asyncio.run(
        _watched(
            pull(
                endpoint,
                (lambda: gateway.endpoints.credential(row.source)) if endpoint.auth != "none" else None,
                folder,
                pull_id=pull_id,
                types=tuple(asked["types"]),
                since=since,
                group=asked["group"],
                patients=tuple(asked.get("patients", ())),
                type_filters=tuple(asked["type_filters"]),
                mode=asked["mode"],
                resume=gateway.pulls.exports(pull_id),
                on_state=on_state,
                # a full pull fetches again what is referred to and not exported: it is to see what is gone
                known=None if since is None else lambda kind, ids: _known(gateway, row.source, kind, ids),
                progress=progress,
                accept_partial=row.outcome.get("accept_partial", False),
            ),
            lambda: (check and check(), _unfinished(gateway, pull_id)),
        )
    )
    keep(folder, outcome)
    gateway.pulls.update(pull_id, state="staged", kind=outcome.staged.kind)


def _known(gateway: Gateway, source: str, kind: str, ids: set[str]) -> set[str]:
    """Those of some resources of a source that are in the lake."""
    rows = gateway.lake.read(kind, ordered=False)
    return ids.intersection(rows.filter(pc.equal(rows["_source"], source))["id"].to_pylist())


async def _watched(work: Coroutine[Any, Any, PullOutcome], check: Callable[[], object]) -> PullOutcome:
    """Do the work, and stop it when `check` raises: a pull may wait for hours, and nobody should have to kill it."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=_WATCH_SECONDS)
        if not task.done():
            try:
                check()
            except BaseException:
                task.cancel()
                await asyncio.wait({task})
                raise
    return task.result()


@traced("pull.commit")
def _commit(gateway: Gateway, pull_id: str, progress: Progress | None) -> None:
    row = _unfinished(gateway, pull_id)
    outcome = _outcome(gateway, pull_id)
    began = time.monotonic()
    told = None if progress is None else commit_progress(progress)
    committed = _version(gateway, pull_id)
    if committed is None:
        compared = reconcile(gateway, row, outcome)
        notes = list(dict.fromkeys([*row.outcome.get("notes", ()), *compared.notes]))
        row = gateway.pulls.update(pull_id, outcome={**row.outcome, "notes": notes})
        meters.committed(gateway.lake.commit(outcome.staged, gateway.persons, told, compared.deletions).entries)
        committed = _version(gateway, pull_id)
    if committed is None:
        raise LedgerError(f"pull {pull_id} made no version of the lake")
    say(source=row.source, lake_version=committed.version, rows=sum(one.lines_read for one in committed.ledger.entries))
    gateway.pulls.update(
        pull_id,
        ledger=[asdict(entry) for entry in committed.ledger.entries],
        outcome={
            **row.outcome,
            "lake_version": committed.version,
            "arrived": {kind or "": asdict(one) for kind, one in arrived(outcome.staged).items()},
            "bytes": outcome.bytes,
            "seconds": outcome.seconds + time.monotonic() - began,
        },
    )


def _version(gateway: Gateway, pull_id: str) -> LakeVersion | None:
    """The lake version that a pull made."""
    return next((version for version in gateway.lake.versions() if version.pull_id == pull_id), None)


@traced("pull.publish")
def _publish(gateway: Gateway, pull_id: str, progress: Progress | None) -> None:
    began = time.monotonic()
    row = gateway.pulls.get(pull_id)
    if gateway.settings.link_persons and any(entry["resource_type"] == "Patient" for entry in row.ledger):
        if progress:
            progress(PullProgress("link", "persons"))
        link(gateway)
        gateway.lake.reassign(gateway.persons)
    published = publish(gateway, progress)
    row = gateway.pulls.get(pull_id)
    gateway.pulls.update(
        pull_id,
        outcome={
            **row.outcome,
            "persons": published.persons,
            "published": published.counts,
            "seconds": row.outcome["seconds"] + time.monotonic() - began,
        },
    )


@traced("pull.close")
def _close(gateway: Gateway, pull_id: str) -> None:
    row = gateway.pulls.get(pull_id)
    folder = gateway.staging_folder / pull_id
    if row.state != "committed":
        outcome = _outcome(gateway, pull_id)
        advance(gateway, row, outcome)
        gateway.pulls.update(
            pull_id,
            state="committed",
            transaction_time=outcome.staged.transaction_time,
            complete=outcome.complete,
            issues=[asdict(issue) for issue in outcome.issues],
        )
    shutil.rmtree(folder, ignore_errors=True)


def _end(gateway: Gateway, pull_id: str, error: GatewayError) -> None:
    """A pull that cannot be gone on with is over; one that was cancelled stays so."""
    if gateway.pulls.get(pull_id).state in UNFINISHED:
        gateway.pulls.update(pull_id, state="failed", issues=[asdict(SourceIssue("error", str(error)))])
    shutil.rmtree(gateway.staging_folder / pull_id, ignore_errors=True)


def _outcome(gateway: Gateway, pull_id: str) -> PullOutcome:
    outcome = kept(gateway.staging_folder / pull_id)
    if outcome is None:
        raise SourceError(f"what pull {pull_id} downloaded is gone; pull again")
    return outcome


def _unfinished(gateway: Gateway, pull_id: str) -> SourcePull:
    row = gateway.pulls.get(pull_id)
    if row.state not in UNFINISHED:
        raise ConflictError(f"pull {pull_id} is {row.state}")
    return row


def held(gateway: Gateway, source: str, wait: Callable[[], bool] | None = None) -> AbstractContextManager[None]:
    """Hold the place of the only one who brings in something of a source; ConflictError when it is taken."""
    return hold(gateway, f"pull-{source}", f"a pull of {source} is under way in another process", wait=wait)


def commit_progress(progress: Progress) -> Callable[[str | None, int], None]:
    """Progress as the lake tells it."""
    return lambda kind, lines: progress(PullProgress("commit", kind or "lines", lines))
