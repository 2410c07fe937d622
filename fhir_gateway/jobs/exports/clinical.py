"""Clinical and claims resources: rows of the lake, of the version that is the newest in the moment of the export.

A part is what one bucket of the lake has of a type, so that a kill loses little; persons are taken some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from fhir_gateway.db.freezing import Frozen
from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.db.search.matching import matches
from fhir_gateway.db.writing import StoredResource
from fhir_gateway.jobs.clinical import ClinicalRows
from fhir_gateway.jobs.clinical_changes import ClinicalChanges
from fhir_gateway.jobs.exports.individual import keep_persons, kept_persons, persons_of
from fhir_gateway.jobs.exports.left import persons_before
from fhir_gateway.jobs.exports.models import Block, Export, Json
from fhir_gateway.jobs.exports.stored import shaped

#: Persons whose resources are in memory together.
_PERSONS = 1000


def plan(resource_type: str, export: Export, moment: Frozen) -> list[Json]:
    """One part for each bucket, of what the lake holds of the type."""
    lake, version = export.gateway.lake, _version(export)
    if resource_type not in lake.types(version):
        return []
    limited = keep_persons(export, moment)
    about = {"type": resource_type, "version": version, "limited": limited}
    return [{**about, "bucket": bucket} for bucket in range(lake.buckets_of(version))]


def gone(export: Export, moment: Frozen, resource_type: str) -> Iterator[list[str]]:
    """Ids of what was deleted in the time asked for, became somebody else's, or does not meet the scopes any more."""
    wanted = export.wanted
    if wanted.since is None or resource_type not in CLINICAL:
        return
    changes = ClinicalChanges(ClinicalRows(export.gateway, _version(export)))
    persons, before = persons_of(export, moment), persons_before(export, moment)
    permits = export.seen.permits if export.audience.restriction(resource_type) else None
    ids = changes.gone(resource_type, wanted.since, wanted.until, persons, before or (), permits)
    yield from (ids[start : start + export.rows] for start in range(0, len(ids), export.rows))


def _version(export: Export) -> int:
    """The lake version of the export's moment."""
    if export.lake_version is None:
        export.lake_version = export.gateway.lake.settled()
    return export.lake_version


def later(export: Export, planned: Json) -> Iterator[Block]:
    """The lines of one bucket."""
    lake, resource_type = export.gateway.lake, planned["type"]
    members = lake.members(planned["bucket"], planned["version"])
    if planned["limited"]:
        wanted = np.char.decode(kept_persons(export).astype(np.bytes_), "ascii")
        members = members.filter(pa.array(np.isin(np.asarray(members), wanted)))
    rows = ClinicalRows(export.gateway, planned["version"])
    elements = export.wanted.elements_of(resource_type)
    for start in range(0, len(members), _PERSONS):
        found = rows.of_members(resource_type, members.slice(start, _PERSONS).to_pylist())
        lines: list[bytes] = []
        for one in found:
            if _wanted(export, one):
                lines.append(one.body if elements is None else shaped(elements, None, one.body))
                if len(lines) == export.rows:
                    yield Block(b"\n".join(lines) + b"\n", len(lines))
                    lines = []
        if lines:
            yield Block(b"\n".join(lines) + b"\n", len(lines))


def _wanted(export: Export, one: StoredResource) -> bool:
    wanted = export.wanted
    updated = parse_range(one.last_updated)[0]
    if (wanted.since is not None and updated <= wanted.since) or (wanted.until is not None and updated >= wanted.until):
        return False
    alternatives = wanted.alternatives(one.type)
    if not alternatives and not export.audience.restriction(one.type):
        return True
    resource, now = one.json(), datetime.now(UTC)
    met = not alternatives or any(matches(resource, criteria, None, now) for criteria in alternatives)
    return met and export.seen.permits(resource)
