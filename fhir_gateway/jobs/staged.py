"""What lies in a pull's folder between download and commit, and how it is known to be whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import Location, SourceError
from fhir_gateway.sources.download import LineCounter, chunks
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.sources.outcome import PullOutcome, SourceIssue

_NAME = "staged.json"


@dataclass(frozen=True, slots=True)
class Arrived:
    """Files of one resource type as they lie on disk; the type is what the sender promised."""

    files: int
    bytes: int
    lines: int


def keep(folder: Path, outcome: PullOutcome) -> None:
    """Write down what was staged, so that no restart downloads it again. The list is there whole or not at all."""
    written = asdict(outcome)
    for file, row in zip(outcome.staged.files, written["staged"]["files"], strict=True):
        row["path"] = str(file.path.relative_to(folder) if file.path.is_relative_to(folder) else file.path.resolve())
        row["size"] = file.path.stat().st_size
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f"{_NAME}.part"
    partial.write_bytes(orjson.dumps(written, default=str))
    partial.replace(folder / _NAME)


def kept(folder: Path) -> PullOutcome | None:
    """What was staged; None when the download has not come to its end.

    SourceError when a file is not what it was: the list is given up, and the next try fetches that file again.
    """
    try:
        written: dict[str, Any] = orjson.loads((folder / _NAME).read_bytes())
    except FileNotFoundError:
        return None
    staged = written["staged"]
    files = []
    for row in staged["files"]:
        size = row.pop("size")
        file = StagedFile(**{**row, "path": folder / row["path"]})
        if not file.path.is_file() or file.path.stat().st_size != size:
            (folder / _NAME).unlink()
            if file.path.is_relative_to(folder):
                file.path.unlink(missing_ok=True)
            raise SourceError("is not as it was downloaded; pull again", location=Location(file=file.name))
        files.append(file)
    pull = StagedPull(**{**staged, "files": tuple(files)})
    issues = tuple(SourceIssue(**issue) for issue in written["issues"])
    deletions = {kind: tuple(ids) for kind, ids in written["deletions"].items()}
    return replace(PullOutcome(pull), **{**written, "staged": pull, "issues": issues, "deletions": deletions})


def arrived(pull: StagedPull) -> Mapping[str | None, Arrived]:
    """Files, bytes and lines by the resource type that the sender promised."""
    counts: dict[str | None, Arrived] = {}
    for file in pull.files:
        counter = LineCounter()
        for chunk in chunks(file.path):
            counter.feed(chunk)
        before = counts.get(file.resource_type, Arrived(0, 0, 0))
        counts[file.resource_type] = Arrived(
            before.files + 1, before.bytes + file.path.stat().st_size, before.lines + counter.total
        )
    return counts
