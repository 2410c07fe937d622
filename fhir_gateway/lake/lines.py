"""Lines of a staged file, in batches small enough to stay in the processor's cache.

Files are NDJSON, plain or gzipped (told by the first bytes). CRLF, a byte order mark, blank lines and a missing newline
at the end are tolerated. Memory does not grow with the file, only with its longest line.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fhir_gateway.errors import InputError, Location
from fhir_gateway.sources.models import StagedFile

_READ_BYTES = 1 << 20
_READ_GZIP_BYTES = 1 << 16
#: Parsing and checking half a megabyte at a time is up to four times faster than 64 MB at a time: the parsed objects
#: of a batch are freed before they leave the cache.
BATCH_BYTES = 1 << 19
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class LineBatch:
    """Non-blank lines of a file, stripped, with their 1-based line numbers."""

    lines: list[bytes]
    numbers: list[int]


def _inflated(path: Path) -> Iterator[bytes]:
    """Decompressed pieces of a gzip file of one or more members; zlib.error or EOFError when it is damaged."""
    with path.open("rb") as file:
        member = zlib.decompressobj(wbits=31)
        while data := file.read(_READ_GZIP_BYTES):
            while data:
                if piece := member.decompress(data):
                    yield piece
                data = member.unused_data if member.eof else b""
                if data.lstrip(b"\0"):
                    member = zlib.decompressobj(wbits=31)
                else:
                    data = b""  # nothing, or padding after the last member
            if member.eof and (following := file.read(1)):
                file.seek(-1, 1)
                if following != b"\0":
                    member = zlib.decompressobj(wbits=31)
        if not member.eof:
            raise EOFError


def _plain(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece


def _blocks(path: Path) -> Iterator[bytes]:
    """Text in blocks that end at a line's end."""
    with path.open("rb") as file:
        start = file.read(2)
    waiting: list[bytes] = []
    size = 0
    first = True
    for incoming in _inflated(path) if start == _GZIP else _plain(path):
        piece = incoming.removeprefix(_BYTE_ORDER_MARK) if first else incoming
        first = False
        waiting.append(piece)
        size += len(piece)
        if size < BATCH_BYTES or b"\n" not in piece:
            continue
        text = b"".join(waiting)
        end = text.rfind(b"\n") + 1
        yield text[:end]
        waiting = [text[end:]]
        size = len(waiting[0])
    if size:
        yield b"".join(waiting)


def _batches(path: Path) -> Iterator[LineBatch]:
    number = 0
    for block in _blocks(path):
        lines: list[bytes] = []
        numbers: list[int] = []
        size = 0
        for text in block.split(b"\n"):
            number += 1
            line = text.strip()
            if not line:
                continue
            lines.append(line)
            numbers.append(number)
            size += len(line)
            if size >= BATCH_BYTES:
                yield LineBatch(lines, numbers)
                lines, numbers, size = [], [], 0
        if block.endswith(b"\n"):
            number -= 1  # what follows the last newline is the start of the next block, not a line
        if lines:
            yield LineBatch(lines, numbers)


def read_lines(file: StagedFile) -> Iterator[LineBatch]:
    """Yield the lines of ``file``; InputError naming file and line when it cannot be read to its end."""
    reached = 0
    try:
        for batch in _batches(file.path):
            reached = batch.numbers[-1]
            yield batch
    except EOFError as error:
        message = "the gzip file is truncated; nothing of this pull was stored"
        raise InputError(message, location=Location(file.name, reached or None, rule="truncated")) from error
    except zlib.error as error:
        message = "the gzip file is damaged; nothing of this pull was stored"
        raise InputError(message, location=Location(file.name, reached or None, rule="damaged")) from error
    except OSError as error:
        message = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise InputError(message, location=Location(file.name, reached or None, rule="unreadable")) from error
