"""What senders push, taken in as pulls of files; and what a process that died left of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from fhir_gateway.errors import ConflictError, GatewayError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.pull import UNFINISHED, PullReport, held, run
from fhir_gateway.jobs.staged import keep, kept
from fhir_gateway.sources.models import StagedPull
from fhir_gateway.sources.outcome import PullOutcome, SourceIssue

SENDER = "push-"
"""What names of sources begin with that senders are: no endpoint that we pull from can be taken for one."""
DRAFT = "import-"
"""What folders begin with that receive a body."""

_log = logging.getLogger("fhir_gateway.jobs")


def push(
    gateway: Gateway,
    staged: StagedPull,
    drafts: Path,
    deletions: Mapping[str, tuple[str, ...]] | None = None,
    issues: Iterable[SourceIssue] = (),
    *,
    holding: bool = False,
) -> PullReport:
    """Take in what lies in ``drafts``, which becomes the pull's folder; ``issues`` are kept with the pull.

    A body that was the sender's latest changes nothing when it comes again; one that others came after is taken in
    anew. ConflictError while something else of that sender is under way. Who looked at what the sender has stored
    before is ``holding`` its place since then.
    """
    with nullcontext() if holding else held(gateway, staged.source):
        named = replace(staged, id=_pull_id(gateway, staged))
        size = sum(file.path.stat().st_size for file in named.files)
        keep(drafts, PullOutcome(named, tuple(issues), deletions or {}, bytes=size))
        folder = gateway.staging_folder / named.id
        shutil.rmtree(folder, ignore_errors=True)
        drafts.rename(folder)
        gateway.pulls.start(named.id, named.source, "files", {"files": [file.name for file in named.files]})
    return run(gateway, named.id, holding=holding)


def _pull_id(gateway: Gateway, staged: StagedPull) -> str:
    brought = [version.pull_id for version in gateway.lake.versions() if version.source == staged.source]
    if staged.id not in brought:
        return staged.id
    if brought[-1] == staged.id or brought[-1].startswith(f"{staged.id}-"):
        return brought[-1]
    return f"{staged.id}-{gateway.lake.version}"


def tidy(gateway: Gateway) -> None:
    """Remove bodies that died with the process that received them, and have a worker go on with those taken in.

    Whoever receives a body holds the lock of its folder's name.
    """
    if not gateway.staging_folder.is_dir():
        return
    for folder in gateway.staging_folder.glob(f"{DRAFT}*"):
        with suppress(ConflictError), hold(gateway, folder.name, once=True):
            shutil.rmtree(folder, ignore_errors=True)
    book = JobBook(gateway)
    try:
        for folder in gateway.staging_folder.glob("files-*"):
            with suppress(ConflictError):
                _go_on(gateway, book, folder)
    finally:
        book.close()


def _go_on(gateway: Gateway, book: JobBook, folder: Path) -> None:
    """Submit what a sender's request left undone; ConflictError when a living process is at it."""
    try:
        outcome = kept(folder)
    except GatewayError:
        return
    if outcome is None or not outcome.staged.source.startswith(SENDER):
        return
    with held(gateway, outcome.staged.source):
        try:
            row = gateway.pulls.get(folder.name)
        except NotFoundError:  # the process died before it was written down; the sender has no answer
            shutil.rmtree(folder, ignore_errors=True)
            return
        if row.state in UNFINISHED:
            book.submit("pull", row.id, pull_id=row.id)
            _log.info("going on with import %s, whose request is gone", row.id)
