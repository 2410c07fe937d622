"""Taking refused lines in again: after an upgrade changed the rules, or with lines that were set right by hand."""

from __future__ import annotations

import time
from dataclasses import asdict

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import Published, publish
from fhir_gateway.jobs.pull import PullReport, commit_progress, held, report
from fhir_gateway.lake.replay import Edits
from fhir_gateway.lake.versions import LakeVersion
from fhir_gateway.sources.models import Ledger
from fhir_gateway.sources.outcome import Progress
from fhir_gateway.telemetry import meters


def replay(
    gateway: Gateway, pull_id: str, edits: Edits | None = None, *, progress: Progress | None = None
) -> PullReport:
    """Check the refused lines of a pull again, take in those that pass now, and serve who is in them.

    ``edits`` puts other text in the place of lines, by file name and line number. What came since is not overwritten.
    NotFoundError when the pull has no refused lines. The replay is in the log as a pull of its own; one whose process
    died before it was is brought to its end first.
    """
    began = time.monotonic()
    version = next((one for one in gateway.lake.versions() if one.pull_id == pull_id), None)
    if version is None:
        raise NotFoundError(f"no pull {pull_id} is in the lake")
    with held(gateway, version.source):
        made = [one.ledger for one in gateway.lake.versions() if _unwritten(gateway, pull_id, one)]
        told = None if progress is None else commit_progress(progress)
        ledger = gateway.lake.replay(pull_id, gateway.persons, edits, told)
        if ledger is not None:
            meters.committed(ledger.entries)
            made.append(ledger)
        if not made:
            raise NotFoundError(f"pull {pull_id} has no refused lines")
        published = publish(gateway, progress)
        for ledger in made:
            _write(gateway, pull_id, ledger, published, time.monotonic() - began)
    return report(gateway, made[-1].pull_id)


def _unwritten(gateway: Gateway, pull_id: str, version: LakeVersion) -> bool:
    """Whether a version is a replay of that pull which is not in the log, or not as one that is over."""
    if version.kind != "replay" or not version.pull_id.startswith(f"{pull_id}~"):
        return False
    try:
        return gateway.pulls.get(version.pull_id).state != "committed"
    except NotFoundError:
        return True


def _write(gateway: Gateway, pull_id: str, ledger: Ledger, published: Published, seconds: float) -> None:
    """Write a replay down as a pull that is over."""
    gateway.pulls.start(ledger.pull_id, ledger.source, "replay", {"replay_of": pull_id})
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
            "seconds": seconds,
        },
    )
