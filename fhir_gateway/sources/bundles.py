"""Bundles as text: what an entry holds comes out as it was written, ``1.00`` stays ``1.00``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]

_SPLIT_TYPES = frozenset({"collection", "searchset", "transaction", "batch"})
"""Bundles that are a set of resources; any other Bundle (document, message, history) is a resource itself."""
_DECODER = json.JSONDecoder()


def entries(text: str) -> Iterator[str]:
    """The texts of the entries of a Bundle."""
    for key, start, _ in members(text, 0):
        if key == "entry":
            yield from (text[position:end] for position, end in elements(text, start))


def parsed(text: str) -> object:
    """A text, parsed; None for what is not JSON."""
    try:
        return _DECODER.raw_decode(text, _skip(text, 0))[0]
    except (ValueError, RecursionError):
        return None


def is_set(bundle: object) -> bool:
    """Whether a parsed text is a Bundle to split."""
    return (
        isinstance(bundle, dict)
        and bundle.get("resourceType") == "Bundle"
        and isinstance(kind := bundle.get("type"), str)
        and kind in _SPLIT_TYPES
        and isinstance(bundle.get("entry", []), list)
    )


def is_outcome(search: str | None) -> bool:
    """Entries about the search itself are not data."""
    told = None if search is None else json.loads(search)
    return isinstance(told, dict) and told.get("mode") == "outcome"


def is_deletion(request: str | None) -> bool:
    """Whether an entry asks for a deletion, which is no line."""
    asked = None if request is None else json.loads(request)
    return isinstance(asked, dict) and asked.get("method") == "DELETE"


def one_line(text: str) -> str:
    """JSON text without line breaks: they are white space, as JSON strings cannot hold any."""
    return text.strip().replace("\r", " ").replace("\n", " ")


def _skip(text: str, position: int) -> int:
    match = WHITESPACE.match(text, position)
    return int(match.end())


def members(text: str, position: int) -> Iterator[tuple[str, int, int]]:
    """Key, start and end of each member's value of the object at ``position``; the text is known to be JSON."""
    position = _skip(text, position)
    if text[position] != "{":
        return
    position = _skip(text, position + 1)
    while text[position] != "}":
        key, position = scanstring(text, position + 1)
        start = _skip(text, _skip(text, position) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield key, start, end
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def elements(text: str, position: int) -> Iterator[tuple[int, int]]:
    """Start and end of each element of the array at ``position``."""
    position = _skip(text, position)
    if text[position] != "[":
        return
    position = _skip(text, position + 1)
    while text[position] != "]":
        _, end = _DECODER.raw_decode(text, position)
        yield position, end
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
