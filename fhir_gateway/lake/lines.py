"""Lines of a staged file, in blocks small enough to stay in the processor's cache.

Files are NDJSON, plain or gzipped (told by the first bytes). CRLF, a byte order mark, blank lines and a missing newline
at the end are tolerated. Memory does not grow with the file, only with its longest line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from zlib_ng import zlib_ng as zlib  # a tenth of an ingest was the other's decompression

from fhir_gateway.errors import InputError, Location
from fhir_gateway.sources.models import StagedFile

_READ_BYTES = 1 << 21
_READ_GZIP_BYTES = 1 << 16
#: Bytes of a block: fewer cost more calls, more fall out of the cache.
BLOCK_BYTES = 1 << 21
_COUNTED = 1 << 17
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Whole lines of a file, the last one ended as well.

    ``number`` is the 1-based number of the first, ``count`` how many there are, blank ones among them.
    """

    text: bytes
    number: int
    count: int


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
        size += len(piece)
        end = piece.rfind(b"\n") + 1 if size >= BLOCK_BYTES else 0
        if not end:
            waiting.append(piece)
            continue
        yield b"".join([*waiting, memoryview(piece)[:end]])
        waiting = [piece[end:]]
        size = len(waiting[0])
    if size:
        yield b"".join(waiting)


def _line_feeds(text: bytes) -> int:
    """As ``bytes.count``, which is many times slower where there are many."""
    found = np.frombuffer(text, np.uint8)
    # a piece at a time, whose comparison stays in the processor's cache
    return sum(int(np.count_nonzero(found[at : at + _COUNTED] == 10)) for at in range(0, len(found), _COUNTED))


def read_blocks(file: StagedFile) -> Iterator[LineBlock]:
    """Yield the lines of ``file``; InputError naming file and line when it cannot be read to its end."""
    number = 1
    try:
        for text in _blocks(file.path):
            ended = text.endswith(b"\n")
            block = LineBlock(text if ended else text + b"\n", number, _line_feeds(text) + (not ended))
            yield block
            number += block.count
    except EOFError as error:
        message = "the gzip file is truncated; nothing of this pull was stored"
        raise InputError(message, location=Location(file.name, number - 1 or None, rule="truncated")) from error
    except zlib.error as error:  # type: ignore[misc]  # its types call the class an instance
        message = "the gzip file is damaged; nothing of this pull was stored"
        raise InputError(message, location=Location(file.name, number - 1 or None, rule="damaged")) from error
    except OSError as error:
        message = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise InputError(message, location=Location(file.name, number - 1 or None, rule="unreadable")) from error
