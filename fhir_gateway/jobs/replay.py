"""Refused lines, and taking them in again: after the rules or a profile changed, or what they lean on arrived."""

from __future__ import annotations

from collections import defaultdict

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import new_id
from fhir_gateway.jobs.staged import keep
from fhir_gateway.lake.quarantine import QuarantinedLine
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.tables import SourcePull


def refused(gateway: Gateway, pull_id: str | None = None) -> list[QuarantinedLine]:
    """Refused lines of a pull; without one, of every pull that was not replayed since."""
    if pull_id is not None:
        return gateway.lake.quarantined(pull_id)
    replayed = gateway.pulls.replayed()
    found = [one for one in gateway.lake.versions() if one.quarantine and one.pull_id not in replayed]
    return [line for version in found for line in gateway.lake.quarantined(version.pull_id)]


def begin_replay(gateway: Gateway, pull_id: str) -> SourcePull:
    """Stage the refused lines of a pull, as they came, as a pull of their own, written down and not yet committed.

    They keep the names of their files. A line whose resource was stored meanwhile in a newer version changes nothing.
    """
    lines = gateway.lake.quarantined(pull_id)
    if not lines:
        raise NotFoundError(f"pull {pull_id} has no refused lines")
    source = next(version.source for version in gateway.lake.versions() if version.pull_id == pull_id)
    by_file: dict[str, list[bytes]] = defaultdict(list)
    for line in lines:
        by_file[line.file].append(line.raw.rstrip(b"\r\n"))
    staged_id = new_id(source)
    folder = gateway.staging_folder / staged_id
    folder.mkdir(parents=True, mode=0o700)
    files = []
    for number, (name, raws) in enumerate(by_file.items()):
        path = folder / f"{number:06d}.ndjson"
        path.write_bytes(b"\n".join(raws) + b"\n")
        files.append(StagedFile(path, name))
    keep(folder, PullOutcome(StagedPull(staged_id, source, "files", None, tuple(files))))
    return gateway.pulls.start(staged_id, source, "files", {"files": list(by_file), "replay_of": pull_id})
