"""``ValueSet/$expand`` at a terminology server, page by page, until it is whole.

https://hl7.org/fhir/R4/valueset-operation-expand.html: ``offset`` and ``count`` page through a flat expansion;
``expansion.total`` says how many codes there are, ``expansion.parameter`` which versions of code systems were used.
Servers that ignore ``offset``, change the expansion meanwhile, or give fewer codes than they count are found out: a
value set that silently lacks codes gives wrong counts. Pages are kept in a folder, so that an interrupted expansion
goes on where it was.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.endpoint import origin
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, refusal

PAGE = 1000
"""Codes that are asked for at once."""
_MOST_PAGES = 10_000


class OriginBasicAuth(httpx.Auth):
    """HTTP Basic towards one origin only; a redirect elsewhere does not see it."""

    def __init__(self, url: str, user: str, secret: str) -> None:
        self._origin = origin(url)
        self._basic = httpx.BasicAuth(user, secret)

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """Add the header where it may be seen."""
        if origin(str(request.url)) == self._origin:
            yield from self._basic.auth_flow(request)
        else:
            yield request


async def expand(
    session: SourceSession, url: str, version: str | None, folder: Path, count: int = PAGE
) -> dict[str, Any]:
    """The ValueSet ``url`` (of that version) with its whole expansion; SourceError when it cannot be had whole.

    ``folder`` keeps pages while the expansion is under way.
    """
    kept = folder / hashlib.sha256(f"{session.endpoint.base_url} {url}|{version} {count}".encode()).hexdigest()[:24]
    label = f"{url}|{version}" if version else url
    pages: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str]] = set()
    contains: list[Any] = []
    offset = 0
    while len(pages) < _MOST_PAGES:
        page = await _page(session, url, version, offset, count, kept, label)
        expansion = page["expansion"]
        if pages:
            _same(pages[0]["expansion"], expansion, label)
        pages.append(page)
        fresh = [one for one in expansion.get("contains", ()) if _key(one) not in seen]
        seen |= {_key(one) for one in fresh}
        contains += fresh
        offset += count
        total = pages[0]["expansion"].get("total")
        session.report("expand", label, len(contains), total)
        listed = sum(1 for _ in _walk(contains))
        if not fresh or (total is None and len(expansion.get("contains", ())) < count):
            break
        if total is not None and listed >= total:
            break
    listed = sum(1 for _ in _walk(contains))
    if total is not None and listed != total:
        shutil.rmtree(kept, ignore_errors=True)
        raise SourceError(f"{label}: the server counts {total} codes and gives {listed}; the expansion is not whole")
    whole = {**pages[0], "expansion": {**pages[0]["expansion"], "total": listed, "contains": contains}}
    whole["expansion"].pop("offset", None)
    shutil.rmtree(kept, ignore_errors=True)
    return whole


async def _page(
    session: SourceSession, url: str, version: str | None, offset: int, count: int, kept: Path, label: str
) -> dict[str, Any]:
    path = kept / f"{offset}.json"
    if path.is_file():
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return found
    query = {"url": url, **({"valueSetVersion": version} if version else {}), "offset": offset, "count": count}
    address = f"{session.endpoint.base_url}/ValueSet/$expand?{urlencode(query)}"
    response = await session.send("GET", address, headers={"Accept": FHIR_JSON})
    if response.status_code != 200:
        raise refusal(response, f"$expand of {label}")
    try:
        page = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        raise SourceError(f"{label}: the answer to $expand is not JSON") from None
    if not isinstance(page, dict) or page.get("resourceType") != "ValueSet" or "expansion" not in page:
        raise SourceError(f"{label}: the answer to $expand is no ValueSet with an expansion")
    if page.get("url", url) != url or (version and page.get("version", version) != version):
        raise SourceError(f"{label}: the server expanded another value set or version")
    page.setdefault("url", url)
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".part")
    partial.write_bytes(orjson.dumps(page))
    partial.replace(path)
    return page


def _same(first: dict[str, Any], other: dict[str, Any], label: str) -> None:
    for element in ("total", "identifier", "parameter"):
        # servers repeat offset and count among the parameters
        if _stable(first.get(element)) != _stable(other.get(element)):
            raise SourceError(f"{label}: the expansion changed while it was read ({element}); ask again")


def _stable(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(
            orjson.dumps(one, option=orjson.OPT_SORT_KEYS)
            for one in value
            if one.get("name") not in ("offset", "count")
        )
    return value


def _key(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry.get("system", ""), entry.get("code", ""), entry.get("version", "")


def _walk(contains: list[Any]) -> Iterator[Any]:
    for one in contains:
        yield one
        yield from _walk(one.get("contains", []))
