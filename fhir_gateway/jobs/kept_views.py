"""Aggregates that pages show, computed once for what they rest on and kept: a page reads them, it scans nothing.

A view is named by all of its inputs (runs, versions, whose members), so it is never out of date: other inputs are
another view. The oldest of a kind are deleted.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold

#: Views of a kind that are kept.
_MOST = 400

Json = dict[str, Any]


def kept_view(gateway: Gateway, kind: str, inputs: Sequence[str], compute: Callable[[], Json]) -> Json:
    """The view of that kind over these inputs; computed by the first who asks, while others of the process wait.

    ``kind`` changes with what ``compute`` gives: views of an older program are not read.
    """
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:32]
    path = gateway.data_folder / "views" / kind / f"{digest}.json"
    found = _read(path)
    if found is not None:
        return found
    with hold(gateway, f"view-{kind}-{digest}", wait=lambda: True, once=True):
        found = _read(path)
        if found is None:
            found = compute()
            _write(path, found)
    return found


def _read(path: Path) -> Json | None:
    try:
        found: Json = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return found


def _write(path: Path, view: Json) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, partial = tempfile.mkstemp(prefix=".keeping-", dir=path.parent)
    with open(descriptor, "wb") as file:
        file.write(orjson.dumps(view))
    os.replace(partial, path)
    for old in sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime_ns)[:-_MOST]:
        old.unlink(missing_ok=True)
