"""The lock of a package: what it consists of, by hash, so that nothing changes unnoticed.

``package.lock.json`` lies beside the Measure. A package that has one is refused when its content differs from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fhir_gateway.errors import Location, MeasureError
from fhir_gateway.terminology.canonical import canonical_json, content_hash

LOCK = "package.lock.json"


def entries(resources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """sha256 of each resource in canonical form, by ``Type url|version``."""
    return {
        f"{r['resourceType']} {r.get('url')}|{r.get('version')}": hashlib.sha256(canonical_json(r)).hexdigest()
        for r in resources
    }


def lock_of(resources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a lock file."""
    resources = tuple(resources)
    return {"packageHash": content_hash(resources), "resources": dict(sorted(entries(resources).items()))}


def verify(lock: Mapping[str, Any], resources: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Raise MeasureError naming every resource that was changed, added or removed since the lock was written."""
    locked: Mapping[str, str] = lock.get("resources", {})
    present = entries(resources)
    changed = [name for name in locked.keys() & present.keys() if locked[name] != present[name]]
    problems = [f"{name} was changed" for name in changed]
    problems += [f"{name} is missing" for name in locked.keys() - present.keys()]
    problems += [f"{name} was added" for name in present.keys() - locked.keys()]
    if problems:
        raise MeasureError(
            f"the package differs from its lock: {'; '.join(sorted(problems))}",
            location=Location(file=str(path / LOCK)),
        )
