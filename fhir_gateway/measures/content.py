"""Reading the FHIR resources of a measure package: a folder, a JSON file or a Bundle, each optionally gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import InputError, Location, MeasureError

Resource = dict[str, Any]

#: Resource types a measure package consists of; others in a folder or Bundle (examples, tests) are not content.
CONTENT_TYPES = frozenset({"Measure", "Library", "ValueSet", "CodeSystem"})


def read_json(path: Path) -> Any:
    """Parse ``path`` (``.gz`` is unpacked); InputError names the file when it is truncated or not JSON."""
    try:
        text = path.read_bytes()
        if path.suffix == ".gz":
            text = gzip.decompress(text)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError("the gzip file is damaged or cut short", location=Location(file=path.name)) from error
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError("not JSON", location=Location(file=path.name, line=error.lineno, rule="json")) from error


def read_content(path: Path) -> list[tuple[str, Resource]]:
    """Return (file name, resource) of every content resource under ``path``, in file and Bundle order."""
    if not path.exists():
        raise MeasureError("no such measure package", location=Location(file=str(path)))
    files = sorted(_json_files(path)) if path.is_dir() else [path]
    found = [(file.name, resource) for file in files for resource in _resources(read_json(file), file.name)]
    return [(name, resource) for name, resource in found if resource.get("resourceType") in CONTENT_TYPES]


def _json_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.json", "*.json.gz"):
        yield from folder.rglob(pattern)


def _resources(parsed: Any, file: str) -> Iterator[Resource]:
    if not isinstance(parsed, dict):
        return
    if parsed.get("resourceType") == "Bundle":
        entries = parsed.get("entry", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError("must be a list of objects", location=Location(file, path="Bundle.entry", rule="type"))
        for entry in entries:
            yield from _resources(entry.get("resource"), file)
    else:
        yield parsed
