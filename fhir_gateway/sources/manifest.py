"""The manifest of a Bulk Data export, read as real servers write it (versions 1 to 4 ballot).

Bulk Data Access 3.0.0, "Response - Complete Status". Tolerated: ``outcome`` for ``error``, absent ``request``,
``error`` and ``deleted``, a count that is absent or a string, relative URLs, unknown members. ``continuesInFile`` is
not followed: every file is listed under ``output`` anyway, and the SMART reference server names files there that do
not exist.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.endpoint import without_query


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a manifest."""

    url: str
    resource_type: str | None
    count: int | None

    @property
    def shown(self) -> str:
        """Last part of the path, for people."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1] or "file"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest page."""

    transaction_time: str | None
    requires_access_token: bool
    output: tuple[ManifestFile, ...]
    errors: tuple[ManifestFile, ...] = ()
    deleted: tuple[ManifestFile, ...] = ()
    next: str | None = None
    organized_by: str | None = None
    """Anchor type of ``organizeOutputBy``: the files have header lines among the resources."""

    @classmethod
    def parse(cls, body: object, url: str) -> Manifest:
        """From parsed JSON that came from ``url``; `SourceError` when it is no manifest."""
        if not isinstance(body, Mapping) or not isinstance(body.get("output"), list):
            raise SourceError(f"{without_query(url)}: not a Bulk Data manifest (no output)")
        link = next(
            (item.get("url") for item in _items(body.get("link")) if item.get("relation") == "next"),
            None,
        )
        requires = body.get("requiresAccessToken", True)
        output = _files(body["output"], url)
        organized_by = str(body["outputOrganizedBy"]) if body.get("outputOrganizedBy") else None
        if organized_by:  # counts are of lines, header lines included: nothing to hold resources against
            output = tuple(replace(file, count=None) for file in output)
        return cls(
            transaction_time=_instant(body.get("transactionTime")),
            requires_access_token=requires not in (False, "false"),
            output=output,
            errors=_files(body.get("error"), url) + _files(body.get("outcome"), url),
            deleted=_files(body.get("deleted"), url),
            next=urljoin(url, link) if isinstance(link, str) and link else None,
            organized_by=organized_by,
        )

    def plus(self, page: Manifest) -> Manifest:
        """This manifest with the files of a further page; the earliest time counts."""
        return Manifest(
            transaction_time=earliest(self.transaction_time, page.transaction_time),
            requires_access_token=self.requires_access_token,
            output=_distinct(self.output + page.output),
            errors=_distinct(self.errors + page.errors),
            deleted=_distinct(self.deleted + page.deleted),
            next=page.next,
            organized_by=self.organized_by or page.organized_by,
        )


def named(files: tuple[ManifestFile, ...], prefix: str = "") -> dict[str, ManifestFile]:
    """Local names for files, the same when links are renewed (only their queries change) and after a restart.

    Servers that tell files apart by the query alone get numbers in the order of the manifest.
    """
    names: dict[str, ManifestFile] = {}
    seen: Counter[str] = Counter()
    for file in files:
        key = hashlib.sha256(without_query(file.url).encode()).hexdigest()[:12]
        seen[key] += 1
        number = f"-{seen[key]}" if seen[key] > 1 else ""
        names[f"{prefix}{file.resource_type or 'resources'}.{key}{number}.ndjson"] = file
    return names


def earliest(*times: str | None) -> str | None:
    """The earliest of some instants, verbatim.

    A server that computes ``transactionTime`` anew at every poll would otherwise make the next ``_since`` skip what
    changed in between.
    """
    known = [time for time in times if time]
    return min(known, key=datetime.fromisoformat) if known else None


def _instant(value: object) -> str | None:
    """An instant with offset, or None for what cannot serve as ``_since``."""
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    return value if parsed.tzinfo is not None else None


def _files(value: object, url: str) -> tuple[ManifestFile, ...]:
    files = []
    for item in _items(value):
        link = item.get("url")
        if not isinstance(link, str) or not link:
            raise SourceError(f"{without_query(url)}: a manifest entry has no url")
        kind = item.get("type")
        files.append(ManifestFile(urljoin(url, link), kind if isinstance(kind, str) else None, _count(item)))
    return tuple(files)


def _count(item: Mapping[str, Any]) -> int | None:
    value = item.get("count")
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _distinct(files: tuple[ManifestFile, ...]) -> tuple[ManifestFile, ...]:
    return tuple({file.url: file for file in files}.values())


def _items(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
