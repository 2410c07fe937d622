"""Bundles as text: what an entry holds comes out as it was written, ``1.00`` stays ``1.00``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]

from fhir_gateway.errors import InputError, Location

_SPLIT_TYPES = frozenset({"collection", "searchset", "transaction", "batch"})
"""Bundles that are a set of resources; any other Bundle (document, message, history) is a resource itself."""
_DECODER = json.JSONDecoder()


def resources(text: str) -> Iterator[str]:
    """The resources in the text of a resource or Bundle, each on one line.

    What is not JSON, or a Bundle without a list of entries, comes whole; an entry that is no object comes as it is:
    validation says what is wrong with it, and nothing is dropped. InputError for a deletion, which is no line.
    """
    try:
        bundle, _ = _DECODER.raw_decode(text, _skip(text, 0))
    except (ValueError, RecursionError):
        bundle = None
    if not is_set(bundle):
        yield one_line(text)
        return
    for key, start, _ in members(text, 0):
        if key == "entry":
            for position, end in elements(text, start):
                if text[position] != "{":
                    yield text[position:end]
                    continue
                entry = {name: text[at:end] for name, at, end in members(text, position)}
                if "resource" in entry and not is_outcome(entry.get("search")):
                    yield one_line(entry["resource"])
                elif _is_deletion(entry.get("request")):
                    raise InputError(
                        "files bring resources; a Bundle that deletes is to be sent to $import",
                        location=Location(path="Bundle.entry.request.method", rule="method"),
                    )


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
    parsed = None if search is None else json.loads(search)
    return isinstance(parsed, dict) and parsed.get("mode") == "outcome"


def _is_deletion(request: str | None) -> bool:
    parsed = None if request is None else json.loads(request)
    return isinstance(parsed, dict) and parsed.get("method") == "DELETE"


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
