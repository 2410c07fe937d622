"""Pulling by FHIR search, page by page: for endpoints without Bulk Data, and for those that want a patient named.

Search pages are followed by their next links. ``total`` is held against the entries: some servers cap ``_count`` and
give no next link (deqm-test-server), or forget entries altogether (fhir-router).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urljoin

import orjson

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.endpoint import without_query
from fhir_gateway.sources.models import StagedFile
from fhir_gateway.sources.outcome import SourceIssue
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, refusal

_MAX_COUNT = 10_000
WITHOUT_PATIENT = frozenset({"Organization", "Practitioner", "PractitionerRole", "Location", "Medication", "Group"})
"""Types that a crawl patient by patient asks for as a whole."""


@dataclass(slots=True)
class _Found:
    """One search: unique ids met, the total claimed, and what was odd."""

    ids: set[str] = field(default_factory=set)
    total: int | None = None
    outcomes: int = 0


class SearchPull:
    """Searches of one endpoint into one folder, an NDJSON file per type."""

    def __init__(self, session: SourceSession, folder: Path) -> None:
        """Files of an earlier, unfinished run are written anew."""
        self._session = session
        self._folder = folder
        self._limit = session.limit(session.endpoint.base_url)
        self._refused: list[SourceError] = []
        self.issues: list[SourceIssue] = []

    async def run(
        self, types: tuple[str, ...], *, since: str | None = None, group: str | None = None
    ) -> tuple[StagedFile, ...]:
        """Search all ``types``; by patient where the vendor's profile says so or a Group is named."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        by_patient = self._session.profile.search_by == "patient" or group is not None
        changed = [("_lastUpdated", f"gt{since}")] if since else []
        staged = []
        with ExitStack() as stack:
            patients: list[str] = []
            if by_patient:
                patients = await self._members(group) if group else []
                if not patients:
                    raise SourceError(
                        f"{self._session.endpoint.base_url}: searches must name a patient here, so name a Group to pull"
                    )
            for number, kind in enumerate(types, 1):
                path = self._folder / f"{kind}.ndjson"
                out = stack.enter_context(path.with_name(path.name + ".part").open("wb"))
                queries = self._queries(kind, patients, changed)
                count = await self._type(kind, queries, out)
                out.close()
                path.with_name(path.name + ".part").replace(path)
                staged.append(StagedFile(path, path.name, kind, count))
                self._session.report("search", kind, number, len(types))
        if len(self._refused) == len(types):
            raise self._refused[0]
        return tuple(staged)

    def _queries(self, kind: str, patients: list[str], changed: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
        page = [("_count", str(self._session.profile.page_size))]
        if not patients or kind in WITHOUT_PATIENT:
            return [changed + page]
        name = "_id" if kind == "Patient" else "patient"
        return [[(name, patient), *changed, *page] for patient in patients]

    async def _members(self, group: str) -> list[str]:
        url = f"{self._session.endpoint.base_url}/Group/{group}"
        response = await self._session.send("GET", url, headers={"Accept": FHIR_JSON})
        if response.status_code != 200:
            raise refusal(response, "the Group")
        body = _parse(response.content, url)
        references = [member.get("entity", {}).get("reference", "") for member in body.get("member") or []]
        return list(dict.fromkeys(one.rsplit("/", 1)[-1] for one in references if "Patient/" in one))

    async def _type(self, kind: str, queries: list[list[tuple[str, str]]], out: IO[bytes]) -> int:
        """All searches of one type; the number of lines written. A type that is refused costs that type only."""
        queue = iter(queries)
        written = 0

        async def work() -> None:
            nonlocal written
            for query in queue:
                async with self._limit:
                    written += await self._search(kind, query, out)
                self._limit.grow()

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._session.profile.max_concurrency, len(queries))):
                    tasks.create_task(work())
        except* SourceError as errors:
            self._refused.append(_first(errors))
            self.issues.append(SourceIssue("error", f"{kind}: {self._refused[-1].message}"))
        return written

    async def _search(self, kind: str, query: list[tuple[str, str]], out: IO[bytes]) -> int:
        base = f"{self._session.endpoint.base_url}/{kind}"
        found = _Found()
        written = await self._pages(f"{base}?{urlencode(query)}", kind, found, out)
        if found.total is not None and len(found.ids) < found.total <= _MAX_COUNT:
            # no next link although entries are missing: ask for all of them on one page
            whole = [(name, value) for name, value in query if name != "_count"] + [("_count", str(found.total))]
            written += await self._pages(f"{base}?{urlencode(whole)}", kind, found, out)
        if found.total is not None and len(found.ids) < found.total:
            text = f"{kind}: total says {found.total}, {len(found.ids)} came"
            self.issues.append(SourceIssue("error", text, count=found.total - len(found.ids)))
        if found.outcomes:
            text = f"{kind}: the server added {found.outcomes} outcome entries (an ignored parameter, or withheld data)"
            self.issues.append(SourceIssue("warning", text))
        return written

    async def _pages(self, url: str, kind: str, found: _Found, out: IO[bytes]) -> int:
        """Follow the pages of one search and write what is new; the number of lines written."""
        seen: set[str] = set()
        written = 0
        next_url: str | None = url
        while next_url is not None:
            if next_url in seen:
                raise SourceError(f"{without_query(next_url)}: next links go round in a circle")
            seen.add(next_url)
            response = await self._session.send("GET", next_url, headers={"Accept": FHIR_JSON})
            if response.status_code != 200:
                raise refusal(response, f"the search of {kind}")
            bundle = _parse(response.content, next_url)
            total = bundle.get("total")
            if isinstance(total, int) and found.total is None:
                found.total = total
            for resource in _resources(bundle, kind, found):
                out.write(orjson.dumps(resource) + b"\n")
                written += 1
            link = next((one.get("url") for one in _objects(bundle.get("link")) if one.get("relation") == "next"), None)
            next_url = urljoin(next_url, link) if isinstance(link, str) and link else None
        return written


def _resources(bundle: Mapping[str, Any], kind: str, found: _Found) -> Iterator[Mapping[str, Any]]:
    """New matches of a page; outcome entries are no data (an OperationOutcome is one whatever its mode says)."""
    for entry in _objects(bundle.get("entry")):
        resource = entry.get("resource")
        if not isinstance(resource, Mapping):
            continue
        if entry.get("search", {}).get("mode") == "outcome" or resource.get("resourceType") == "OperationOutcome":
            found.outcomes += 1
            continue
        if resource.get("resourceType") != kind:
            continue  # an include that we did not ask for; its own type's search brings it
        identity = str(resource.get("id"))
        if identity not in found.ids:
            found.ids.add(identity)
            yield resource


def _parse(content: bytes, url: str) -> dict[str, Any]:
    """JSON whose decimals keep their digits: ``1.10`` must not become 1.1 on its way to the lake."""
    try:
        body = json.loads(content, parse_float=lambda digits: orjson.Fragment(digits))
    except ValueError:
        raise SourceError(f"{without_query(url)}: answered 200 with something that is not JSON") from None
    if not isinstance(body, dict):
        raise SourceError(f"{without_query(url)}: answered 200 with something that is no resource")
    return body


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _first(errors: BaseExceptionGroup[SourceError]) -> SourceError:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if not isinstance(first, SourceError):
        raise first
    return first
