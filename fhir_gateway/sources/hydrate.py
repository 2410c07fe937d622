"""Referenced resources that an export left out, fetched by id: Practitioner, Organization, Location, Medication...

Exports at Patient and Group level need not hold what lies outside the patient's compartment. References are found by
looking through the bytes of the staged files, never by parsing resource after resource; ids that the pull or the lake
has are taken off; the rest is searched for in batches (``_id=a,b,c``), one by one where a server knows no such search.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlencode

import orjson

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.download import opened
from fhir_gateway.sources.models import StagedFile
from fhir_gateway.sources.outcome import SourceIssue
from fhir_gateway.sources.search import read_matches
from fhir_gateway.sources.session import FHIR_JSON, SourceSession

TYPES = ("Organization", "Practitioner", "PractitionerRole", "Location", "Medication")
"""Types outside the patient's compartment, fetched when they are referred to and missing."""

Known = Callable[[str, set[str]], set[str]]
"""Which of these ids of a type we have already."""

_CHUNK = 1 << 22
_ROUNDS = 3
"""What was fetched may refer further: a PractitionerRole to a Practitioner, a Location to another."""


@dataclass(slots=True)
class Hydrated:
    """What was fetched; ``dangling`` counts references by type that lead nowhere we can reach."""

    files: tuple[StagedFile, ...] = ()
    issues: tuple[SourceIssue, ...] = ()
    dangling: dict[str, int] = field(default_factory=dict)


async def hydrate(
    session: SourceSession,
    files: Iterable[StagedFile],
    folder: Path,
    known: Known | None = None,
    types: Iterable[str] = (),
) -> Hydrated:
    """Fetch what the resources in ``files`` refer to and neither they nor we have, into files in ``folder``.

    ``types`` are those that the pull asked for: no others are fetched; empty for all.
    """
    base = session.endpoint.base_url
    files, types = list(files), frozenset(types)
    present = {kind: _ids(files, kind) for kind in TYPES}
    asked: dict[str, set[str]] = {kind: set() for kind in TYPES}
    done = Hydrated()
    fetch = _Fetch(session, folder)
    new = files
    for _ in range(_ROUNDS):
        missing = {}
        for kind, ids in references(new, base).items():
            if types and kind not in types:
                continue
            wanted = ids - present[kind] - asked[kind]
            if known is not None and wanted:
                wanted = wanted - known(kind, wanted)
            if wanted:
                missing[kind] = wanted
        if not missing:
            break
        new = []
        for kind, wanted in missing.items():
            # an endpoint that only exports is not asked; what its references lead to is counted all the same
            most = session.profile.hydrate_limit if "search" in session.profile.modes else 0
            room = most - sum(map(len, asked.values()))
            chosen = sorted(wanted)[: max(room, 0)]
            asked[kind] |= wanted
            file, found = await fetch.type(kind, chosen)
            present[kind] |= found
            if file is not None:
                new.append(file)
            lost = len(wanted) - len(found)
            if lost:
                done.dangling[kind] = done.dangling.get(kind, 0) + lost
        done.files += tuple(new)
    done.issues = tuple(
        SourceIssue("warning", f"{count} references to {kind} lead to nothing that we can read")
        for kind, count in sorted(done.dangling.items())
    )
    return done


def references(files: Iterable[StagedFile], base_url: str) -> dict[str, set[str]]:
    """Ids that the lines of some files refer to, by type; relative references and those under the endpoint's base."""
    pattern = re.compile(
        rb'"reference"\s*:\s*"(?:'
        + re.escape(base_url.encode())
        + rb"/)?("
        + "|".join(TYPES).encode()
        + rb')/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?"'
    )
    found: dict[str, set[str]] = {kind: set() for kind in TYPES}
    for file in files:
        with opened(file.path) as stream:
            for piece in _pieces(stream):
                for kind, identity in set(pattern.findall(piece)):
                    found[kind.decode()].add(identity.decode())
    return found


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """The stream in pieces that end with a line, so that no reference is cut in two."""
    rest = b""
    while chunk := stream.read(_CHUNK):
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest += chunk
            continue
        yield rest + head
        rest = tail
    if rest:
        yield rest


def _ids(files: Iterable[StagedFile], kind: str) -> set[str]:
    """Ids of the resources of one type in the files; files that promise another type are not opened."""
    found: set[str] = set()
    mark = f'"{kind}"'.encode()
    for file in files:
        if file.resource_type not in (None, kind):
            continue
        with opened(file.path) as lines:
            for line in lines:
                if mark not in line:
                    continue
                try:
                    resource = orjson.loads(line)
                except orjson.JSONDecodeError:  # the lake says what is wrong with it
                    continue
                if isinstance(resource, dict) and resource.get("resourceType") == kind:
                    found.add(str(resource.get("id")))
    return found


class _Fetch:
    """Fetches resources of a type by id into one file per type and round."""

    def __init__(self, session: SourceSession, folder: Path) -> None:
        self._session = session
        self._folder = folder
        self._files = 0
        self._closed: set[str] = set()
        """Types that can neither be searched nor read: asking on would be one refusal after the other."""

    async def type(self, kind: str, ids: list[str]) -> tuple[StagedFile | None, set[str]]:
        """The file of what was found (None for nothing), and the ids that were."""
        size = self._session.profile.hydrate_batch
        batches = [ids[start : start + size] for start in range(0, len(ids), size)]
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files += 1
        path = self._folder / f"referenced-{self._files:02d}.{kind}.ndjson"
        found: set[str] = set()
        queue = iter(batches)
        with path.open("wb") as out:

            async def work() -> None:
                for batch in queue:
                    if kind in self._closed:
                        return
                    for identity, line in (await self._batch(kind, batch)).items():
                        if identity not in found:
                            found.add(identity)
                            out.write(line + b"\n")
                    self._session.report("references", kind, len(found), len(ids))

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._session.profile.max_concurrency, len(batches))):
                    group.create_task(work())
        if not found:
            path.unlink()
            return None, found
        return StagedFile(path, path.name, kind, len(found)), found

    async def _batch(self, kind: str, ids: list[str]) -> Mapping[str, bytes]:
        url = f"{self._session.endpoint.base_url}/{kind}?{urlencode({'_id': ','.join(ids), '_count': len(ids)})}"
        searched = await self._get(url, kind)
        found = dict(searched or {})
        # no search by _id there, a page cut short, or gone: asked one by one, which tells
        for one in [one for one in ids if one not in found]:
            found.update(await self._get(f"{self._session.endpoint.base_url}/{kind}/{one}", kind) or {})
        if searched is None and not found:
            self._closed.add(kind)
        return {identity: line for identity, line in found.items() if identity in ids}

    async def _get(self, url: str, kind: str) -> dict[str, bytes] | None:
        """What was found by id; None when the server refuses, or answers with something else than FHIR."""
        limit = self._session.limit(url)
        async with limit:
            response = await self._session.send("GET", url, headers={"Accept": FHIR_JSON})
        if response.status_code != 200:
            return None
        limit.grow()
        try:
            return read_matches(response.content, kind, url)
        except SourceError:  # not JSON: counted as references that lead nowhere
            return None
