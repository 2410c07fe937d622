"""What kinds of resources lie in staged files, read as columns."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from fhir_gateway.errors import InputError, Location
from fhir_gateway.sources.models import StagedFile

LONGEST_LINE = 64 * 2**20
"""Bytes of one resource as one line."""


def resource_types(files: Iterable[StagedFile]) -> set[str]:
    """Types of all resources in the files; lines that are no resource have none. InputError for an endless line."""
    found: set[str] = set()
    for file in files:
        if file.path.stat().st_size == 0:
            continue
        with duckdb.connect(config={"threads": 1}) as connection:
            try:
                rows = connection.execute(
                    "select distinct resourceType from read_ndjson(?, columns = {'resourceType': 'VARCHAR'}, "
                    "ignore_errors = true, maximum_object_size = ?, compression = 'uncompressed')",
                    [str(file.path), LONGEST_LINE],
                ).fetchall()
            except duckdb.Error:
                raise InputError(
                    f"a line is longer than {LONGEST_LINE >> 20} MiB or not text", location=Location(file.name)
                ) from None
        found.update(kind for (kind,) in rows if kind is not None)
    return found
