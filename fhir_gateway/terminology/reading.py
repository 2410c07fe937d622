"""Reading terminology: FHIR packages (npm ``.tgz``), NDJSON, Bundles, single resources, and folders of these."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import InputError, Location

Resource = Mapping[str, Any]

_EFFECTIVE = "http://hl7.org/fhir/StructureDefinition/resource-effectivePeriod"
#: Largest file of a package that is read; packages come from strangers.
MOST_BYTES = 512 * 1024 * 1024


def read_resources(path: Path) -> Iterator[tuple[str, Resource]]:
    """(where from, resource) of every resource in a file or folder; InputError names the file that cannot be read."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.name.startswith(".") and _kind(file) is not None:
                yield from read_resources(file)
        return
    kind = _kind(path)
    if kind is None:
        raise InputError("not a .tgz package, .ndjson or .json (each maybe .gz)", location=Location(file=path.name))
    try:
        if kind == "package":
            yield from _package(path)
            return
        text = path.read_bytes()
        if path.suffix == ".gz":
            text = gzip.decompress(text)
    except OSError as error:
        reason = error.strerror or "damaged or cut short"
        raise InputError(f"cannot be read ({reason})", location=Location(file=path.name)) from error
    except (EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError("is damaged or cut short", location=Location(file=path.name)) from error
    if kind == "lines":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield from _unpacked(_parsed(line, path.name, number), path.name)
    else:
        yield from _unpacked(_parsed(text, path.name), path.name)


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith((".tgz", ".tar.gz")):
        return "package"
    name = name.removesuffix(".gz")
    return "lines" if name.endswith(".ndjson") else "json" if name.endswith(".json") else None


def _package(path: Path) -> Iterator[tuple[str, Resource]]:
    """Resources of an npm package (https://hl7.org/fhir/packages.html): JSON files of its folder ``package``."""
    origin = path.name
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            parts = member.name.removeprefix("./").split("/")
            if not member.isfile() or parts[0] != "package" or not member.name.endswith(".json"):
                continue
            if member.size > MOST_BYTES:
                raise InputError(
                    f"{parts[-1]} is larger than {MOST_BYTES >> 20} MiB", location=Location(file=path.name)
                )
            file = archive.extractfile(member)
            content = _parsed(file.read() if file else b"", f"{path.name}: {parts[-1]}")
            if parts[1:] == ["package.json"]:
                origin = f"{content.get('name')}#{content.get('version')}"
            elif parts[-1] not in ("package.json", ".index.json") and "examples" not in parts:
                yield from _unpacked(content, origin)


def _parsed(text: bytes, file: str, line: int | None = None) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = Location(file=file, line=line or error.lineno, rule="json")
        raise InputError("not JSON", location=where) from error
    if not isinstance(found, dict):
        raise InputError("not a JSON object", location=Location(file=file, line=line, rule="json"))
    return found


def _unpacked(resource: dict[str, Any], origin: str) -> Iterator[tuple[str, Resource]]:
    if resource.get("resourceType") == "Bundle":
        for entry in resource.get("entry", ()):
            if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
                yield from _unpacked(entry["resource"], origin)
    elif "resourceType" in resource:
        yield origin, resource


def effective_period(resource: Resource) -> tuple[str | None, str | None]:
    """First and last day that a resource says it is in force; None is open.

    Partial dates are widened: ``2024`` ends on 31 December, ``2024-02`` on a day after its last, which no date passes.
    """
    period: Mapping[str, Any] = resource.get("effectivePeriod") or {}
    for extension in resource.get("extension", ()):
        if extension.get("url") == _EFFECTIVE:
            period = extension.get("valuePeriod", {})
    start, end = period.get("start"), period.get("end")
    first = start and (start[:10] + "-01-01"[len(start[:10]) - 4 :] if len(start) < 10 else start[:10])
    last = end and (end[:10] + ("-12-31" if len(end) == 4 else "-31") if len(end) < 10 else end[:10])
    return first, last


def problem_of(resource: Resource) -> str | None:
    """Why a resource cannot be kept; None when it can."""
    if not resource.get("url"):
        return "it has no url"
    expansion = resource.get("expansion")
    if expansion is not None:
        listed = len(list(_walk(expansion.get("contains", ()), "contains")))
        total = expansion.get("total")
        if total is not None and listed < total and "compose" not in resource:
            return f"its expansion is not complete: {listed} of {total} codes"
    return None


def count_codes(resource: Resource) -> int:
    """How many codes a resource lists: of its expansion or compose, its concepts, or its mappings."""
    if resource["resourceType"] == "CodeSystem":
        return sum("code" in one for one in _walk(resource.get("concept", ()), "concept"))
    if resource["resourceType"] == "ConceptMap":
        return sum(len(group.get("element", ())) for group in resource.get("group", ()))
    if "expansion" in resource:
        contains = _walk(resource["expansion"].get("contains", ()), "contains")
        return sum("code" in one and not one.get("abstract") for one in contains)
    return sum(len(one.get("concept", ())) for one in resource.get("compose", {}).get("include", ()))


def codes_of(code_system: Resource) -> frozenset[str]:
    """All codes of a code system."""
    return frozenset(one["code"] for one in _walk(code_system.get("concept", ()), "concept") if "code" in one)


def _walk(entries: Iterable[Resource], below: str) -> Iterator[Resource]:
    stack = list(entries)
    while stack:
        one = stack.pop()
        yield one
        stack.extend(one.get(below, ()))
