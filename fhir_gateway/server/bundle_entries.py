"""The entries of a batch or a transaction, as they were asked for (R4 bundle.html, Bundle.entry.request)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from fhir_gateway.errors import InputError, Location
from fhir_gateway.server.changing import read_resource
from fhir_gateway.server.problems import TooCostly

MAX_ENTRIES = 500
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
#: Headers of ours, by the element of ``entry.request`` that stands for them.
_CONDITIONS = {
    "ifMatch": "if-match",
    "ifNoneMatch": "if-none-match",
    "ifModifiedSince": "if-modified-since",
    "ifNoneExist": "if-none-exist",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it was asked for; ``path`` and ``query`` are relative to the base."""

    number: int
    method: str
    path: str
    query: str
    resource: Any
    full_url: str | None
    conditions: Mapping[str, str]

    @property
    def place(self) -> str:
        """Where it is, as FHIRPath."""
        return f"Bundle.entry[{self.number}]"

    @property
    def is_search(self) -> bool:
        """True of a search by form."""
        return self.method == "POST" and self.path.endswith("/_search")


def entries_of(body: bytes, base_url: str) -> tuple[str, list[Entry]]:
    """What a Bundle is, and its entries; raises InputError for anything but a batch or a transaction."""
    bundle = read_resource(body, "Bundle")
    kind = bundle.get("type")
    if kind not in ("batch", "transaction"):
        raise InputError("not a batch or a transaction", location=Location(path="Bundle.type", rule="value"))
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise InputError("not a list", location=Location(path="Bundle.entry", rule="type"))
    if len(entries) > MAX_ENTRIES:
        raise TooCostly(f"a Bundle may have {MAX_ENTRIES} entries", location=Location(path="Bundle.entry"))
    return kind, [_entry(number, entry, base_url) for number, entry in enumerate(entries)]


def _entry(number: int, entry: Any, base_url: str) -> Entry:
    place = f"Bundle.entry[{number}]"
    asked = entry.get("request") if isinstance(entry, dict) else None
    if not isinstance(asked, dict) or not isinstance(asked.get("url"), str):
        raise InputError("an entry needs a request with method and url", location=Location(path=place, rule="request"))
    method = asked.get("method")
    if method not in _METHODS:
        raise InputError("not a method of R4", location=Location(path=f"{place}.request.method", rule="value"))
    url = asked["url"].removeprefix(base_url)
    where = Location(path=f"{place}.request.url", rule="relative")
    try:
        split = urlsplit(url.lstrip("/"))
    except ValueError:  # what follows a scheme is no host
        raise InputError("not the address of something below the FHIR base", location=where) from None
    steps = unquote(split.path).split("/")
    if split.scheme or split.netloc or not split.path or any(step in ("", ".", "..") for step in steps):
        raise InputError("not the address of something below the FHIR base", location=where)
    full_url = entry.get("fullUrl")
    conditions = {name: asked[key] for key, name in _CONDITIONS.items() if isinstance(asked.get(key), str)}
    if any(not text.isprintable() or not text.isascii() for text in conditions.values()):
        raise InputError("not the value of a header", location=Location(path=f"{place}.request", rule="value"))
    named = full_url if isinstance(full_url, str) else None
    return Entry(number, method, split.path, split.query, entry.get("resource"), named, conditions)
