"""Cancelling a pull: it stops where it is, its exports are deleted on the server, and nothing of it is kept."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable

from fhir_gateway.errors import ConflictError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.pull import UNFINISHED
from fhir_gateway.sources.bulk import ExportState, delete_export
from fhir_gateway.sources.connect import open_source
from fhir_gateway.sources.outcome import SourceIssue

_PATIENCE = 60.0
"""Seconds a process at work has to notice; a commit under way is let go on to its end."""


def cancel(gateway: Gateway, book: JobBook, pull_id: str) -> list[SourceIssue]:
    """Cancel a pull that is not committed, wherever it is carried out; what the server said to it.

    A pull that was cancelled before is cancelled again: exports that could not be deleted are tried once more.
    ConflictError when it has ended, or cannot be stopped any more.
    """
    row = gateway.pulls.get(pull_id)
    if row.state not in (*UNFINISHED, "cancelled"):
        raise ConflictError(f"pull {pull_id} is {row.state}")
    gateway.pulls.update(pull_id, state="cancelled")
    if book.find(pull_id) is not None:
        book.cancel(pull_id)
    deadline = time.monotonic() + _PATIENCE
    refusal = f"pull {pull_id} does not stop yet; what is being committed is"
    with hold(gateway, f"pull-{row.source}", refusal, wait=lambda: time.monotonic() < deadline):
        if gateway.pulls.get(pull_id).state != "cancelled":
            raise ConflictError(f"pull {pull_id} was committed before it could be cancelled")
        exports = gateway.pulls.exports(pull_id).values()
        issues = asyncio.run(_delete(gateway, row.source, exports)) if exports else []
        if not issues:
            gateway.pulls.forget(pull_id)
        shutil.rmtree(gateway.staging_folder / pull_id, ignore_errors=True)
    return issues


async def _delete(gateway: Gateway, source: str, exports: Iterable[ExportState]) -> list[SourceIssue]:
    endpoint = gateway.endpoints.get(source)
    credential = gateway.endpoints.credential(source) if endpoint.auth != "none" else None
    async with open_source(endpoint, credential) as opened:
        return [issue for export in exports for issue in await delete_export(opened.session, export.status_url)]
