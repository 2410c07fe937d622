"""Exports organized by instance (Bulk Data Access 3.0.0, ``organizeOutputBy``): blocks of lines under header lines."""

from __future__ import annotations

from pathlib import Path

import orjson

from fhir_gateway.sources.download import opened


def without_headers(path: Path) -> int:
    """Take the header lines (Parameters with a ``header``) out of a file, in place; the number of lines taken out.

    Headers tell which anchor the lines below belong to. The lake finds that out from the resources themselves.
    """
    part = path.with_name(path.name + ".part")
    taken = 0
    with opened(path) as lines, part.open("wb") as out:
        for line in lines:
            if b'"Parameters"' in line and _is_header(line):
                taken += 1
            else:
                out.write(line)
    part.replace(path)
    return taken


def _is_header(line: bytes) -> bool:
    try:
        resource = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False  # validation says what is wrong with it
    return isinstance(resource, dict) and resource.get("resourceType") == "Parameters"
