"""Canonical references (``url|version``), the order of versions, and hashes of canonical content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

_PARTS = re.compile(r"\d+|[A-Za-z]+")


def split_canonical(reference: str) -> tuple[str, str | None]:
    """Split ``url|version`` (a ``#fragment`` is dropped); the version is None when not given."""
    url, _, version = reference.partition("|")
    return url.partition("#")[0], version.partition("#")[0] or None


def version_order(version: str | None) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``1.10.0`` follows ``1.9.0`` and words sort before numbers; no version sorts first."""
    parts = _PARTS.findall(version or "")
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def canonical_json(resource: Mapping[str, Any]) -> bytes:
    """Bytes that do not depend on key order or white space of the file the resource came from."""
    return orjson.dumps(resource, option=orjson.OPT_SORT_KEYS)


def content_hash(resources: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over resources in canonical form, whatever their order; written ``sha256:<hex>``."""
    digests = sorted(hashlib.sha256(canonical_json(resource)).digest() for resource in resources)
    return "sha256:" + hashlib.sha256(b"".join(digests)).hexdigest()
