"""What a source says is gone: the ``deleted`` files of a manifest, one transaction Bundle a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.download import opened

_TARGET = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})$")


def deleted_ids(paths: Iterable[Path]) -> Mapping[str, tuple[str, ...]]:
    """Ids by resource type of all DELETE entries; `SourceError` names the file and line that cannot be understood.

    A deletion that is not understood must not pass silently: the resource would count for ever.
    """
    found: dict[str, dict[str, None]] = {}
    for path in paths:
        with opened(path) as lines:
            for number, line in enumerate(lines, 1):
                for kind, identity in _targets(line, f"{path.name}:{number}") if line.strip() else ():
                    found.setdefault(kind, {})[identity] = None
    return {kind: tuple(ids) for kind, ids in found.items()}


def _targets(line: bytes, where: str) -> list[tuple[str, str]]:
    try:
        bundle = orjson.loads(line)
        urls = [one["request"]["url"] for one in bundle.get("entry", []) if _is_delete(one)]
        targets = [_TARGET.search(url.partition("?")[0]) for url in urls]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise SourceError(f"{where}: not a Bundle of deletions") from None
    if None in targets:
        raise SourceError(f"{where}: a deletion that names no resource by type and id")
    return [(target[1], target[2]) for target in targets if target is not None]


def _is_delete(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("request", {}).get("method") == "DELETE"
