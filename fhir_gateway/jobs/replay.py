"""Taking refused lines in again: after an upgrade changed the rules, or with lines that were set right by hand."""

from __future__ import annotations

import time
from dataclasses import asdict

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import publish
from fhir_gateway.jobs.pull import PullReport, commit_progress, held, report
from fhir_gateway.lake.replay import Edits
from fhir_gateway.sources.outcome import Progress
from fhir_gateway.telemetry import meters


def replay(
    gateway: Gateway, pull_id: str, edits: Edits | None = None, *, progress: Progress | None = None
) -> PullReport:
    """Check the refused lines of a pull again, take in those that pass now, and serve who is in them.

    ``edits`` puts other text in the place of lines, by file name and line number. What came since is not overwritten.
    NotFoundError when the pull has no refused lines. The replay is in the log as a pull of its own.
    """
    began = time.monotonic()
    version = next((one for one in gateway.lake.versions() if one.pull_id == pull_id), None)
    if version is None:
        raise NotFoundError(f"no pull {pull_id} is in the lake")
    with held(gateway, version.source):
        told = None if progress is None else commit_progress(progress)
        ledger = gateway.lake.replay(pull_id, gateway.persons, edits, told)
        if ledger is None:
            raise NotFoundError(f"pull {pull_id} has no refused lines")
        meters.committed(ledger.entries)
        published = publish(gateway, progress)
        gateway.pulls.start(ledger.pull_id, version.source, "replay", {"replay_of": pull_id})
        gateway.pulls.update(
            ledger.pull_id,
            state="committed",
            complete=True,
            ledger=[asdict(entry) for entry in ledger.entries],
            outcome={
                "lake_version": next(one.version for one in gateway.lake.versions() if one.pull_id == ledger.pull_id),
                "arrived": {},
                "persons": published.persons,
                "published": published.counts,
                "bytes": 0,
                "seconds": time.monotonic() - began,
            },
        )
    return report(gateway, ledger.pull_id)
