"""The lock of a package: what it consists of, by hash, so that nothing changes unnoticed.

``package.lock.json`` lies beside the Measure, ``NAME.lock.json`` beside a Bundle of that file name. A package that has
one is refused when its content differs from it: what ``url|version`` and includes without a version lead to stays
what it was when the lock was written (``fhir-gateway measure lock PATH``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import Location, MeasureError
from fhir_gateway.measures.content import read_content
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


def lock_path(path: Path) -> Path:
    """Where the lock of the package at ``path`` lies."""
    return path / LOCK if path.is_dir() else path.with_name(f"{path.name}.lock.json")


def write_lock(path: Path) -> Path:
    """Write the lock of the package at ``path`` anew; an earlier one is replaced."""
    target = lock_path(path)
    resources = [resource for _, resource in read_content(path)]
    target.write_bytes(orjson.dumps(lock_of(resources), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return target


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
            location=Location(file=str(lock_path(path))),
        )
