"""Pulling by FHIR search, page by page: for endpoints without Bulk Data, and for those that want a patient named.

Search pages are followed by their next links. ``total`` is held against the entries: some servers cap ``_count`` and
give no next link (deqm-test-server), or forget entries altogether (fhir-router); what is missing is asked for on one
page, then by ``_lastUpdated``. A type that is finished is not searched again when the pull goes on after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urljoin

import httpx
import orjson

from fhir_gateway.errors import SourceError
from fhir_gateway.r4.exact import parsed
from fhir_gateway.sources.endpoint import without_query
from fhir_gateway.sources.members import group_members
from fhir_gateway.sources.models import StagedFile
from fhir_gateway.sources.outcome import SourceIssue
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, refusal

_MAX_COUNT = 10_000
_OVERLAP = timedelta(minutes=5)
"""What changed while the search ran is looked at twice: indexes of servers lag behind their clocks."""
_LONG_AGO = "1900-01-01T00:00:00Z"
WITHOUT_PATIENT = frozenset({"Organization", "Practitioner", "PractitionerRole", "Location", "Medication", "Group"})
"""Types that a crawl patient by patient asks for as a whole."""
_STATE = "search.json"
_Query = list[tuple[str, str]]


@dataclass(slots=True)
class _Found:
    """One search: unique ids met, the total claimed, the newest ``lastUpdated``, and what was odd."""

    ids: set[str] = field(default_factory=set)
    total: int | None = None
    newest: str = ""
    outcomes: int = 0

    @property
    def missing(self) -> int:
        return max((self.total or 0) - len(self.ids), 0)


class SearchPull:
    """Searches of one endpoint into one folder, an NDJSON file per type."""

    def __init__(self, session: SourceSession, folder: Path) -> None:
        """What an earlier, unfinished run finished is kept."""
        self._session = session
        self._folder = folder
        self._limit = session.limit(session.endpoint.base_url)
        self._refused: list[SourceError] = []
        self._dated: bool | None = None
        self._finished: dict[str, int] = {}
        self.issues: list[SourceIssue] = []
        self.moment: str | None = None
        """An instant by the server's clock before the first search, less an overlap; None when it tells no time."""

    async def run(
        self,
        types: tuple[str, ...],
        *,
        since: str | None = None,
        group: str | None = None,
        patients: tuple[str, ...] = (),
    ) -> tuple[StagedFile, ...]:
        """Search all ``types``; by patient where the vendor's profile says so, a Group or patients are named."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()
        if not patients and group is not None:
            patients = tuple(await group_members(self._session, group))
        if not patients and (group is not None or self._session.profile.search_by == "patient"):
            raise SourceError(
                f"{self._session.endpoint.base_url}: searches must name a patient here, so name a Group to pull"
            )
        staged = []
        for number, kind in enumerate(types, 1):
            changed = await self._changes(kind, patients, since)
            staged.append(await self._file(kind, self._queries(kind, patients, changed)))
            self._session.report("search", kind, number, len(types))
        if len(self._refused) == len(types):
            raise self._refused[0]
        return tuple(staged)

    async def _file(self, kind: str, queries: list[_Query]) -> StagedFile:
        path = self._folder / f"{kind}.ndjson"
        if kind in self._finished and path.exists():
            return StagedFile(path, path.name, kind, self._finished[kind])
        part = path.with_name(path.name + ".part")
        refused = len(self._refused)
        with part.open("wb") as out:
            count = await self._type(kind, queries, out)
        if len(self._refused) > refused:
            path = path.with_name(f"{kind}.partial.ndjson")  # not to be taken for finished after a restart
        else:
            self._finished[kind] = count
        part.replace(path)
        self._save()
        return StagedFile(path, path.name, kind, count)

    def _load(self) -> None:
        try:
            kept = orjson.loads((self._folder / _STATE).read_bytes())
        except FileNotFoundError:
            return
        self._finished, self.moment = kept["finished"], kept["moment"]
        self.issues += [SourceIssue(**one) for one in kept["issues"]]

    def _save(self) -> None:
        kept = {
            "finished": self._finished,
            "moment": self.moment,
            "issues": [asdict(one) for one in self.issues if one.file in self._finished],
        }
        partial = self._folder / f"{_STATE}.part"
        partial.write_bytes(orjson.dumps(kept))
        partial.replace(self._folder / _STATE)

    async def _changes(self, kind: str, patients: tuple[str, ...], since: str | None) -> _Query:
        """The criterion for what changed since then; none where the server finds nothing by it, ever.

        A server that answers an unknown parameter with an empty page (fhir-router), or keeps no ``lastUpdated``, would
        show no change for all time: such a one is asked for everything.
        """
        if since is None or kind in self._finished:
            return []
        if self._dated is None:
            self._dated = await self._finds_by_date(kind, self._queries(kind, patients, [])[0][:-1])
            if self._dated is False:
                text = "the server finds nothing by _lastUpdated, whatever the time: everything was asked for"
                self.issues.append(SourceIssue("warning", text))
        return [] if self._dated is False else [("_lastUpdated", f"gt{since}")]

    async def _finds_by_date(self, kind: str, criteria: _Query) -> bool | None:
        """Whether a search by ``_lastUpdated`` finds what is there; None when nothing is there to be found."""
        base, one = f"{self._session.endpoint.base_url}/{kind}", ("_count", "1")
        try:
            for query, answer in (
                ([("_lastUpdated", f"gt{_LONG_AGO}"), *criteria, one], True),
                ([*criteria, one], False),
            ):
                bundle = await self._page(f"{base}?{urlencode(query)}", kind)
                if bundle.get("total") or any(_matches(bundle, kind, _Found())):
                    return answer
        except SourceError:  # the search of the type itself meets this again, and says it
            return None
        return None

    def _queries(self, kind: str, patients: tuple[str, ...], changed: _Query) -> list[_Query]:
        page = [("_count", str(self._session.profile.page_size))]
        if not patients or kind in WITHOUT_PATIENT:
            return [changed + page]
        name = "_id" if kind == "Patient" else "patient"
        return [[(name, patient), *changed, *page] for patient in patients]

    async def _type(self, kind: str, queries: list[_Query], out: IO[bytes]) -> int:
        """All searches of one type; the number of lines written. A type that is refused costs that type only."""
        queue = iter(queries)
        written = 0

        async def work() -> None:
            nonlocal written
            for query in queue:
                written += await self._search(kind, query, out)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._session.profile.max_concurrency, len(queries))):
                    tasks.create_task(work())
        except* SourceError as errors:
            self._refused.append(_first(errors))
            self.issues.append(SourceIssue("error", f"{kind}: {self._refused[-1].message}", kind))
        return written

    async def _search(self, kind: str, query: _Query, out: IO[bytes]) -> int:
        base = f"{self._session.endpoint.base_url}/{kind}"
        found = _Found()
        written = await self._pages(f"{base}?{urlencode(query)}", kind, found, out)
        plain = [(name, value) for name, value in query if name != "_count"]
        if found.missing and found.total is not None and found.total <= _MAX_COUNT:
            # no next link although entries are missing: ask for all of them on one page
            whole = [*plain, ("_count", str(found.total))]
            written += await self._pages(f"{base}?{urlencode(whole)}", kind, found, out)
        while found.missing and found.newest:
            # a server that caps _count: go on from the newest entry that came, as long as that brings new ones
            before = len(found.ids)
            onward = [one for one in plain if one[0] != "_lastUpdated"]
            onward += [("_lastUpdated", f"ge{found.newest}"), ("_sort", "_lastUpdated")]
            onward.append(("_count", str(self._session.profile.page_size)))
            written += await self._pages(f"{base}?{urlencode(onward)}", kind, found, out)
            if len(found.ids) == before:
                break
        if found.missing:
            text = f"{kind}: total says {found.total}, {len(found.ids)} came"
            self.issues.append(SourceIssue("error", text, kind, found.missing))
        if found.outcomes:
            text = f"{kind}: the server added {found.outcomes} outcome entries (an ignored parameter, or withheld data)"
            self.issues.append(SourceIssue("warning", text, kind))
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
            bundle = await self._page(next_url, kind)
            total = bundle.get("total")
            if isinstance(total, int) and found.total is None:
                found.total = total
            for resource in _matches(bundle, kind, found):
                out.write(orjson.dumps(resource) + b"\n")
                written += 1
            link = next((one.get("url") for one in _objects(bundle.get("link")) if one.get("relation") == "next"), None)
            next_url = urljoin(next_url, link) if isinstance(link, str) and link else None
        return written

    async def _page(self, url: str, kind: str) -> dict[str, Any]:
        async with self._limit:
            began = self._session.clock.monotonic()
            response = await self._session.send("GET", url, headers={"Accept": FHIR_JSON})
            self._limit.answered(self._session.clock.monotonic() - began)
        if response.status_code != 200:
            raise refusal(response, f"the search of {kind}")
        if self.moment is None:
            self.moment = _server_time(response)
        return _parse(response.content, url)


def _server_time(response: httpx.Response) -> str | None:
    try:
        moment = parsedate_to_datetime(response.headers.get("Date", ""))
    except (ValueError, TypeError):
        return None
    return (moment - _OVERLAP).astimezone(UTC).isoformat(timespec="seconds")


def read_matches(content: bytes, kind: str, url: str) -> dict[str, bytes]:
    """Resources of a type by id, each as one line, of the answer to a search or a read."""
    body = _parse(content, url)
    if body.get("resourceType") == kind:
        return {str(body.get("id")): orjson.dumps(body)}
    return {str(one["id"]): orjson.dumps(one) for one in _matches(body, kind, _Found()) if "id" in one}


def _matches(bundle: Mapping[str, Any], kind: str, found: _Found) -> Iterator[Mapping[str, Any]]:
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
            meta = resource.get("meta")
            updated = meta.get("lastUpdated") if isinstance(meta, Mapping) else None
            if isinstance(updated, str):
                found.newest = max(found.newest, updated)
            yield resource


def _parse(content: bytes, url: str) -> dict[str, Any]:
    """JSON whose decimals keep their digits: ``1.10`` must not become 1.1 on its way to the lake."""
    try:
        body = parsed(content.decode("utf-8-sig"))
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
