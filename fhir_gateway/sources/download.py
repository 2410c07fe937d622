"""Downloading the files of a manifest: many at once, each retried alone, finished files kept across restarts.

A file is written under a temporary name and renamed when it is whole, so a file with its final name is never fetched
again. Servers ignore ``Range`` on exports, so a broken file starts over.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import httpx
import numpy as np

from fhir_gateway.errors import GatewayError, SourceError
from fhir_gateway.sources.endpoint import without_query
from fhir_gateway.sources.limit import AdaptiveLimit
from fhir_gateway.sources.manifest import Manifest, ManifestFile, named
from fhir_gateway.sources.retry import TRANSIENT_STATUS
from fhir_gateway.sources.session import SourceSession, failure, refusal

GZIP_MAGIC = b"\x1f\x8b"
_EXPIRED = frozenset({404, 410})
_RENEWALS = 3
"""Fresh links that one file may use up: downloads of days outlive links of an hour more than once."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that arrived whole. ``mismatch`` is its number of lines when the manifest promised another number."""

    path: Path
    file: ManifestFile
    mismatch: int | None = None


class Broken(Exception):
    """A response ended before its time; internal to this module."""


class Downloader:
    """Downloads one manifest into one folder."""

    def __init__(
        self, session: SourceSession, folder: Path, manifest: Manifest, repoll: Callable[[], Awaitable[Manifest]]
    ) -> None:
        """`repoll` gives the manifest anew, for links that have expired."""
        self._session = session
        self._folder = folder
        self._repoll = repoll
        self._renewal: asyncio.Task[Manifest] | None = None
        self._generation = 0
        self._current: dict[str, ManifestFile] = {}
        self._authorized = manifest.requires_access_token
        self._done = 0
        self.bytes = 0

    async def all(self, files: tuple[ManifestFile, ...], prefix: str = "") -> list[Downloaded | GatewayError]:
        """Every file in the order given, either downloaded or the error that says why not."""
        names = named(files, prefix)
        queue = iter(names.items())
        results: dict[str, Downloaded | GatewayError] = {}
        self._done = 0

        async def work() -> None:
            for name, file in queue:  # the iterator is shared: each worker takes the next name
                try:
                    results[name] = await self._one(name, file, prefix)
                except GatewayError as error:
                    results[name] = error
                self._done += 1
                self._session.report("download", name.split(".")[0], self._done, len(names))

        workers = min(self._session.profile.max_concurrency, len(names))
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
        return [results[name] for name in names]

    async def _one(self, name: str, file: ManifestFile, prefix: str) -> Downloaded:
        final = self._folder / name
        profile = self._session.profile
        if final.exists():
            return self._checked(final, file)
        renewals = attempt = 0
        while True:
            attempt += 1
            file, generation = self._current.get(name, file), self._generation
            response: httpx.Response | None = None
            limit, authorized = self._session.limit(file.url), self._authorized
            try:
                async with limit, self._open(file, limit, authorized) as response:
                    status = response.status_code
                    if status == 200:
                        lines = await self._write(response, final)
                        wrong = profile.counts_exact and file.count is not None and lines not in (None, file.count)
                        # a proxy that cuts a chunked body cleanly shows only here; a count that is wrong stays wrong
                        if not wrong or attempt > 1:
                            final.with_name(final.name + ".part").replace(final)
                            return self._checked(final, file, lines)
                        raise Broken("the file has another number of lines than the manifest says")
                    await response.aread()
                reason = f"answered {status}"
                if status in _EXPIRED and renewals < _RENEWALS:
                    renewals += 1
                    await self._renew(generation, prefix)
                    if name not in self._current:
                        raise SourceError(
                            f"{without_query(file.url)}: expired, and the renewed manifest does not list it"
                        )
                    continue
                if status == 401 and not authorized and self._session.may_see_token(file.url):
                    # the manifest says that no token is needed; what guards the endpoint's own origin says otherwise
                    self._authorized = True
                    continue
                if status not in TRANSIENT_STATUS:
                    raise refusal(response, "a file of the export")
            except (httpx.TransportError, httpx.DecodingError) as error:
                reason, response = failure(error), None
            except Broken as error:
                reason, response = str(error), None
            limit.shrink()
            # being told to slow down is no failure of the file: patience is four times as long
            throttled = response is not None and response.status_code == 429
            if attempt >= profile.max_attempts * (4 if throttled else 1):
                raise SourceError(f"{without_query(file.url)}: {reason}, {attempt} attempts")
            wait = self._session.wait_for(response, attempt)
            if wait >= 5:
                self._session.report("wait", f"{file.shown}: {reason}; again in {wait:.0f} s", self._done)
            await self._session.clock.sleep(wait)

    @asynccontextmanager
    async def _open(self, file: ManifestFile, limit: AdaptiveLimit, authorized: bool) -> AsyncIterator[httpx.Response]:
        headers = {"Accept": "application/fhir+ndjson, application/ndjson;q=0.9, */*;q=0.1", "Accept-Encoding": "gzip"}
        began = self._session.clock.monotonic()
        async with self._session.stream("GET", file.url, headers=headers, authorized=authorized) as response:
            if response.status_code == 200:
                limit.answered(self._session.clock.monotonic() - began)
            yield response

    async def _renew(self, generation: int, prefix: str) -> None:
        """Links of a fresh manifest, asked for once by all the files that found theirs expired together."""
        if self._renewal is None or generation == self._generation:
            self._generation += 1
            self._renewal = asyncio.ensure_future(self._repoll())
        fresh = await asyncio.shield(self._renewal)
        files = {"error.": fresh.errors, "deleted.": fresh.deleted}.get(prefix, fresh.output)
        self._current = {**self._current, **named(files, prefix)}

    async def _write(self, response: httpx.Response, final: Path) -> int | None:
        """Write the body under the temporary name; its number of non-empty lines, None when it is a gzip file."""
        part = final.with_name(final.name + ".part")
        decoder = _decoder(response)
        counter = LineCounter()
        first = b""
        clock, profile = self._session.clock, self._session.profile
        deadline = clock.monotonic() + profile.file_deadline
        written = 0
        with part.open("wb") as out:
            async for raw in response.aiter_raw():
                chunk = decoder.feed(raw) if decoder else raw
                written += len(chunk)
                if written > profile.max_file:
                    where = without_query(str(response.request.url))
                    raise SourceError(f"{where}: the file is larger than {profile.max_file >> 20} MiB")
                if clock.monotonic() > deadline:
                    raise Broken(f"the file did not end within {profile.file_deadline:.0f} s")
                if len(first) < 2:
                    first += chunk[:2]
                counter.feed(chunk)
                out.write(chunk)
                self.bytes += len(raw)
        if decoder and not decoder.whole:
            raise Broken("the compressed response broke off")
        return None if first.startswith(GZIP_MAGIC) else counter.total

    def _checked(self, path: Path, file: ManifestFile, lines: int | None = None) -> Downloaded:
        if file.count is None or not self._session.profile.counts_exact:
            return Downloaded(path, file)
        if lines is None:
            counter = LineCounter()
            try:
                for chunk in chunks(path):
                    counter.feed(chunk)
            except (EOFError, OSError, zlib.error):
                return Downloaded(path, file)  # a damaged gzip file: the lake names file and line
            lines = counter.total
        return Downloaded(path, file, None if lines == file.count else lines)


class LineCounter:
    """Counts lines that are not blank, with or without a newline at the end."""

    def __init__(self) -> None:
        """Begin at none."""
        self._full = 0
        self._filled = False

    def feed(self, chunk: bytes) -> None:
        """Count a further piece; newlines alone are counted unless the piece might hold blank lines."""
        if not chunk:
            return
        text = np.frombuffer(chunk, np.uint8)
        ended = text == _LINE_FEED
        # a blank or line feed at a line's beginning: the line may be blank
        begins_blank = (not self._filled and text[0] <= _BLANK) or bool((ended[:-1] & (text[1:] <= _BLANK)).any())
        if begins_blank:
            self._feed_slowly(chunk)
        else:
            self._full += int(np.count_nonzero(ended))
            self._filled = not ended[-1]

    def _feed_slowly(self, chunk: bytes) -> None:
        for index, line in enumerate(chunk.split(b"\n")):
            if index:
                self._full += self._filled
                self._filled = False
            self._filled = self._filled or bool(line.strip())

    @property
    def total(self) -> int:
        """Lines so far."""
        return self._full + self._filled


_LINE_FEED, _BLANK = 10, 32


class _Gunzip:
    """Streamed gzip, several members allowed, that knows whether it came to an end."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._started = False

    def feed(self, raw: bytes) -> bytes:
        out = b""
        while raw:
            if self._stream.eof:
                self._stream = zlib.decompressobj(wbits=31)
            try:
                out += self._stream.decompress(raw)
            except zlib.error:
                raise Broken("the response cannot be decompressed") from None
            self._started = True
            raw = self._stream.unused_data
        return out

    @property
    def whole(self) -> bool:
        return self._stream.eof or not self._started


def _decoder(response: httpx.Response) -> _Gunzip | None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip"):
        return _Gunzip()
    raise Broken(f"Content-Encoding {encoding!r} was not asked for")


def chunks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """A file's bytes piecewise, decompressed when it begins as gzip does."""
    with opened(path) as stream:
        while chunk := stream.read(size):
            yield chunk


def opened(path: Path) -> IO[bytes]:
    """A file open for reading, decompressed when it begins as gzip does."""
    with path.open("rb") as probe:
        compressed = probe.read(2) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb")) if compressed else path.open("rb")
