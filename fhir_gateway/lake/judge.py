"""The exact judgement of one line, for what the walk is unsure of: parsed with Python, explained with path and rule."""

from __future__ import annotations

import json
from typing import Any

import orjson

from fhir_gateway.lake.explain import Issue, issues
from fhir_gateway.lake.quarantine import QuarantinedLine
from fhir_gateway.r4 import spec


class _DuplicateKeyError(Exception):
    """A JSON object names the same key twice."""


def judge(line: bytes, promised: str | None) -> tuple[Any, Issue | None]:
    """The parsed line (None when it is not JSON) and the first rule it breaks, None when it is valid."""
    try:
        resource = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return None, Issue("$this", "not-json", f"not JSON at column {error.colno}")
    try:
        orjson.dumps(resource)
    except TypeError:  # orjson reads 1,024 levels and writes 254
        return resource, Issue("$this", "depth", "objects and arrays lie more than 250 deep in each other")
    try:
        json.loads(line, object_pairs_hook=_unique)
    except _DuplicateKeyError:
        return resource, Issue("$this", "duplicate-key", "an object names the same key twice")
    return resource, next(issues(resource, promised), None)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKeyError
    return found


def refusal(line: bytes, number: int, resource: Any, promised: str | None, file: str, issue: Issue) -> QuarantinedLine:
    """The quarantined form of a line of ``file``."""
    found = resource.get("resourceType") if isinstance(resource, dict) else None
    known = found if isinstance(found, str) and found in spec.resource_types() else None
    identifier = resource.get("id") if isinstance(resource, dict) else None
    return QuarantinedLine(
        file=file,
        line=number,
        resource_type=promised or known,
        id=identifier if isinstance(identifier, str) else None,
        path=issue.path,
        rule=issue.rule,
        message=issue.message,
        raw=line,
    )
