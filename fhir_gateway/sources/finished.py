"""Exports that came to their end: written down beside their files before the server is told to forget them.

A process that dies between the last file and the commit finds here all it needs; the server need not know any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from fhir_gateway.sources.models import StagedFile
from fhir_gateway.sources.outcome import SourceIssue

_NAME = "export.json"


@dataclass(frozen=True, slots=True)
class Export:
    """The files of a finished export."""

    files: tuple[StagedFile, ...]
    issues: tuple[SourceIssue, ...]
    transaction_time: str | None
    deletions: Mapping[str, tuple[str, ...]]
    """Ids by resource type that the sender says are gone."""
    bytes: int


def write_finished(folder: Path, export: Export) -> None:
    """Write down an export whose files lie in `folder`, whole or not at all."""
    files = [{**asdict(file), "path": file.path.name} for file in export.files]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f"{_NAME}.part"
    partial.write_bytes(orjson.dumps({**asdict(export), "files": files}))
    partial.replace(folder / _NAME)


def finished(folder: Path) -> Export | None:
    """The export that was written down in `folder`; None when there is none, or a file of it is gone."""
    try:
        written = orjson.loads((folder / _NAME).read_bytes())
    except FileNotFoundError:
        return None
    files = tuple(StagedFile(**{**file, "path": folder / file["path"]}) for file in written["files"])
    if not all(file.path.is_file() for file in files):
        return None
    return Export(
        files,
        tuple(SourceIssue(**issue) for issue in written["issues"]),
        written["transaction_time"],
        {kind: tuple(ids) for kind, ids in written["deletions"].items()},
        written["bytes"],
    )
