"""Which exports make up a pull: one, or one per type or per share of a Group where the vendor's profile says so.

The plan is written down in the pull's folder before its first export begins: a restarted pull goes on with the same
parts even when the Group has other members by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.sources.bulk import ExportRequest
from fhir_gateway.sources.connect import Source
from fhir_gateway.sources.members import group_members

_PLAN = "parts.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One export of a pull; ``name`` is empty when it is the only one."""

    name: str
    request: ExportRequest

    def folder(self, folder: Path) -> Path:
        """Where its files go."""
        return folder / self.name if self.name else folder


async def plan(source: Source, request: ExportRequest, folder: Path) -> tuple[Part, ...]:
    """The parts of a pull: as they were written down in ``folder``, else made now and written down."""
    path = folder / _PLAN
    if path.exists():
        return tuple(_part(one) for one in orjson.loads(path.read_bytes()))
    parts: list[Part] = []
    for kind, by_type in await _by_type(source, request):
        for share, smaller in await _by_members(source, by_type):
            parts.append(Part(".".join(filter(None, (kind, share))), smaller))
    if len(parts) > 1:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(orjson.dumps([asdict(part) for part in parts]))
        partial.replace(path)
    return tuple(parts)


def _part(kept: dict[str, Any]) -> Part:
    request: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in kept["request"].items()
    }
    return Part(kept["name"], ExportRequest(**request))


async def _by_type(source: Source, request: ExportRequest) -> list[tuple[str, ExportRequest]]:
    if not source.profile.split_types:
        return [("", request)]
    types = request.types or source.profile.types
    if not types:
        types = tuple(kind for kind in (await source.capabilities()).types if kind != "Group")
    if len(types) < 2:
        return [("", request)]
    return [
        (kind, replace(request, types=(kind,), type_filters=_filters(request.type_filters, kind))) for kind in types
    ]


def _filters(type_filters: Sequence[str], kind: str) -> tuple[str, ...]:
    return tuple(one for one in type_filters if one.partition("?")[0] == kind)


async def _by_members(source: Source, request: ExportRequest) -> list[tuple[str, ExportRequest]]:
    """Shares of at most as many patients as an export may cover there."""
    limit = source.profile.group_limit
    if limit is None or request.level != "group" or request.group is None:
        return [("", request)]
    patients = request.patients or tuple(await group_members(source.session, request.group))
    if len(patients) <= limit:
        return [("", request)]
    shares = range(0, len(patients), limit)
    return [
        (f"members-{number}", replace(request, patients=patients[start : start + limit]))
        for number, start in enumerate(shares, 1)
    ]
