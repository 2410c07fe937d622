"""Pull a source into the lake, and serve who is in it.

A pull that was interrupted is gone on with: its id, its export on the server and its finished files are kept until it
is committed. Committing twice changes nothing, and so does publishing twice.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import ConfigurationError, GatewayError, SourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import publish
from fhir_gateway.sources.bulk import ExportFailed, ExportState
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import Ledger, StagedFile, StagedPull
from fhir_gateway.sources.outcome import Progress, PullOutcome, PullProgress, SourceIssue
from fhir_gateway.sources.pull import pull
from fhir_gateway.sources.store import SOURCE_NAME
from fhir_gateway.sources.tables import SourcePull
from fhir_gateway.sources.vendors import Mode

LAST = "last"
"""``since`` that stands for the transaction time of the last complete pull of the same request."""


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull brought. ``published`` counts the resources served afterwards that are new or changed."""

    pull_id: str
    source: str
    kind: str
    lake_version: int
    transaction_time: str | None
    ledger: Ledger
    issues: tuple[SourceIssue, ...]
    quarantined: int
    persons: int
    published: Mapping[str, int]
    bytes: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Nothing is known to be missing."""
        return not any(issue.severity == "error" for issue in self.issues)


def pull_endpoint(
    gateway: Gateway,
    name: str,
    *,
    types: tuple[str, ...] = (),
    since: str | None = None,
    group: str | None = None,
    type_filters: tuple[str, ...] = (),
    mode: Mode | None = None,
    accept_partial: bool = False,
    progress: Progress | None = None,
) -> PullReport:
    """Pull a registered endpoint, or go on with a pull of the same request that was interrupted."""
    endpoint = gateway.endpoints.get(name)
    key = gateway.endpoints.signing_key(name) if endpoint.auth == "smart-backend" else None
    request = {
        "types": list(types),
        "since": since,
        "group": group,
        "type_filters": list(type_filters),
        "mode": mode,
    }
    moment = gateway.pulls.watermark(name, request) if since == LAST else since
    row = gateway.pulls.unfinished(name, request) or gateway.pulls.start(_new_id(name), name, "pull", request)
    folder = gateway.staging_folder / row.id

    def download() -> PullOutcome:
        def on_state(state: ExportState) -> None:
            gateway.pulls.update(row.id, status_url=state.status_url, transaction_time=state.transaction_time)

        status_url = gateway.pulls.status_url(row)
        return asyncio.run(
            pull(
                endpoint,
                key,
                folder,
                pull_id=row.id,
                types=types,
                since=moment,
                group=group,
                type_filters=type_filters,
                mode=mode,
                resume=ExportState(status_url, row.transaction_time) if status_url else None,
                on_state=on_state,
                progress=progress,
                accept_partial=accept_partial,
            )
        )

    return _run(gateway, row, folder, download, progress)


def pull_files(gateway: Gateway, paths: Sequence[Path], source: str, *, progress: Progress | None = None) -> PullReport:
    """Take in files and folders of NDJSON, Bundles or resources, as ``source``.

    The pull's id comes from the files' bytes: the same files taken in again change nothing.
    """
    if not SOURCE_NAME.fullmatch(source):
        raise ConfigurationError("a source's name is 1 to 32 of a-z, 0-9 and '-', not beginning with '-'")
    if progress:
        progress(PullProgress("stage", "reading files"))
    folder = gateway.staging_folder / _new_id(source)
    folder.mkdir(parents=True, mode=0o700)
    try:
        staged = stage_files(paths, source, folder)
    except GatewayError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    row = gateway.pulls.start(staged.id, source, "files", {"files": [path.name for path in paths]})
    outcome = PullOutcome(staged, bytes=sum(file.path.stat().st_size for file in staged.files))
    return _run(gateway, row, folder, lambda: outcome, progress)


def _run(
    gateway: Gateway, row: SourcePull, folder: Path, bring: Callable[[], PullOutcome], progress: Progress | None
) -> PullReport:
    """Stage, commit, publish. A source that fails leaves its pull to be gone on with; any other failure ends it."""
    began = time.monotonic()
    try:
        outcome = _staged(folder)
        if outcome is None:
            outcome = bring()
            _keep(folder, outcome)
            gateway.pulls.update(row.id, state="staged", kind=outcome.staged.kind)
        told = _commit_progress(progress)
        ledger = gateway.lake.commit(outcome.staged, gateway.persons, told)
    except GatewayError as error:
        if isinstance(error, SourceError) and not isinstance(error, ExportFailed):
            raise
        issue = SourceIssue("error", str(error))
        gateway.pulls.update(row.id, state="failed", issues=[asdict(issue)])
        shutil.rmtree(folder, ignore_errors=True)
        raise
    version = gateway.lake.version
    published = publish(gateway, progress)
    gateway.pulls.update(
        row.id,
        state="committed",
        status_url=None,
        transaction_time=outcome.staged.transaction_time,
        complete=outcome.complete,
        ledger=[asdict(entry) for entry in ledger.entries],
        issues=[asdict(issue) for issue in outcome.issues],
    )
    shutil.rmtree(folder, ignore_errors=True)
    return PullReport(
        pull_id=row.id,
        source=row.source,
        kind=outcome.staged.kind,
        lake_version=version,
        transaction_time=outcome.staged.transaction_time,
        ledger=ledger,
        issues=outcome.issues,
        quarantined=sum(entry.rows_quarantined for entry in ledger.entries),
        persons=published.persons,
        published=published.counts,
        bytes=outcome.bytes,
        seconds=time.monotonic() - began,
    )


_STAGED = "staged.json"


def _keep(folder: Path, outcome: PullOutcome) -> None:
    """Write down what was staged, so that a restart before the commit needs no second download."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f"{_STAGED}.part"
    partial.write_bytes(orjson.dumps(asdict(outcome), default=str))
    partial.replace(folder / _STAGED)


def _staged(folder: Path) -> PullOutcome | None:
    try:
        kept: dict[str, Any] = orjson.loads((folder / _STAGED).read_bytes())
    except FileNotFoundError:
        return None
    staged = kept["staged"]
    files = tuple(StagedFile(**{**file, "path": Path(file["path"])}) for file in staged["files"])
    return PullOutcome(
        StagedPull(**{**staged, "files": files}),
        tuple(SourceIssue(**issue) for issue in kept["issues"]),
        kept["deletions"],
        kept["bytes"],
        kept["seconds"],
    )


def _commit_progress(progress: Progress | None) -> Callable[[str | None, int], None] | None:
    if progress is None:
        return None
    return lambda kind, lines: progress(PullProgress("commit", kind or "lines", lines))


def _new_id(source: str) -> str:
    return f"{source}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
