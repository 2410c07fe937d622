"""An empty lake, people, and pulls made of a few lines."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest

from fhir_gateway.lake.store import Lake
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.lake_pulls import Line, MakePull, People, line_bytes


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", buckets=4)


@pytest.fixture
def make_pull(tmp_path: Path) -> MakePull:
    """``make_pull("id", {"Patient": [line, ...]}, source="a", counts={"Patient": 2})``; key None promises no type."""

    def make(
        pull_id: str,
        files: dict[str | None, Iterable[Line]],
        *,
        source: str = "a",
        counts: dict[str | None, int] | None = None,
        zipped: bool = False,
    ) -> StagedPull:
        staged = []
        for resource_type, lines in files.items():
            name = f"{pull_id}-{resource_type}.ndjson"
            path = tmp_path / name
            content = b"".join(line_bytes(line) + b"\n" for line in lines)
            path.write_bytes(gzip.compress(content) if zipped else content)
            staged.append(StagedFile(path, name, resource_type, (counts or {}).get(resource_type)))
        return StagedPull(pull_id, source, "files", None, tuple(staged))

    return make
