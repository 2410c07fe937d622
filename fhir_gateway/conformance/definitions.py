"""Definitions by canonical: what we ship in ``profiles/`` and what the operator installed as guides.

A folder of guides holds one folder per package (``hl7.fhir.us.davinci-deqm#5.0.0``) with its FHIR JSON files and an
``index.json`` that :mod:`fhir_gateway.conformance.guides` writes; files are read when somebody asks for them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import ConfigurationError, Location

INDEX = "index.json"
#: Kinds of definitions that the checks read; packages hold more.
KINDS = ("CodeSystem", "OperationDefinition", "SearchParameter", "StructureDefinition", "ValueSet")


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition: where it is and what it says of itself."""

    kind: str
    url: str
    version: str | None
    file: Path
    package: str | None = None  # name#version of the guide; None for what we ship

    @property
    def package_version(self) -> str | None:
        """Version of the guide, which its publisher gives to everything in it."""
        return self.package.partition("#")[2] if self.package else None


class Definitions:
    """All definitions at hand. Safe to share between threads."""

    def __init__(self, found: Iterable[Definition] = ()) -> None:
        self._by_url: dict[str, list[Definition]] = {}
        self._read: dict[Path, Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        for one in found:
            self._by_url.setdefault(one.url, []).append(one)
        for several in self._by_url.values():
            several.sort(key=lambda one: _order(one.package_version or one.version), reverse=True)

    @classmethod
    def of(cls, shipped: Path | None, guides: Path | None) -> Definitions:
        """What lies in a folder of FHIR JSON files, and in the packages of a folder of guides."""
        return cls([*(_shipped(shipped) if shipped else ()), *(_installed(guides) if guides else ())])

    def __iter__(self) -> Iterator[Definition]:
        return (one for several in self._by_url.values() for one in several)

    def find(self, canonical: str) -> Definition | None:
        """The definition behind ``url`` or ``url|version`` (its own version or that of its guide); newest first."""
        url, _, version = canonical.partition("|")
        for one in self._by_url.get(url, ()):
            if version in ("", one.version, one.package_version):
                return one
        return None

    def resource(self, canonical: str, kind: str) -> Mapping[str, Any] | None:
        """The resource of a kind behind a canonical."""
        found = self.find(canonical)
        return self.read(found) if found is not None and found.kind == kind else None

    def read(self, definition: Definition) -> Mapping[str, Any]:
        """Its resource; ConfigurationError when the file went or is no longer JSON."""
        with self._lock:
            if definition.file not in self._read:
                self._read[definition.file] = load(definition.file)
            return self._read[definition.file]


def load(file: Path) -> Mapping[str, Any]:
    """The JSON object of a file; ConfigurationError names the file."""
    try:
        loaded = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        raise ConfigurationError(
            "is not a FHIR JSON file that can be read", location=Location(file=str(file))
        ) from None
    if not isinstance(loaded, dict):
        raise ConfigurationError("is not a FHIR resource", location=Location(file=str(file)))
    return loaded


def described(file: Path, package: str | None = None) -> Definition | None:
    """What a file defines; None for resources that are not definitions."""
    resource = load(file)
    kind, url, version = resource.get("resourceType"), resource.get("url"), resource.get("version")
    if kind not in KINDS or not isinstance(url, str):
        return None
    return Definition(str(kind), url, version if isinstance(version, str) else None, file, package)


def _shipped(folder: Path) -> Iterator[Definition]:
    for file in sorted(folder.glob("*.json")):
        if file.name.partition("-")[0] in KINDS and (found := described(file)):
            yield found


def _installed(folder: Path) -> Iterator[Definition]:
    for index in sorted(folder.glob(f"*/{INDEX}")):
        rows = load(index)
        for kind, url, version, name in rows["definitions"]:
            yield Definition(kind, url, version, index.parent / name, rows["package"])


def _order(version: str | None) -> tuple[Any, ...]:
    """Sort key of versions: numbers as numbers, a pre-release before its release."""
    parts = re.split(r"[.-]", version or "")
    return (*((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts), (0.5, 0, ""))
