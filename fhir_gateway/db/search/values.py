"""Index values: what one element of a resource contributes to a search parameter.

An index entry is ``(system, value, text, low, high)``:

=========  ==========================  ============================  ================
kind       system                      value                         text / low, high
=========  ==========================  ============================  ================
token      system, None without one    code or identifier value
reference  target type, if known       id, or absolute reference
uri        version of a canonical      url                           (canonical: the same)
string                                 folded text                   exact text
date                                                                 range in microseconds
composite  system of the code          code ``$`` what it has
=========  ==========================  ============================  ================
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal

from fhir_gateway.db.search.dates import BEGINNING, END_OF_TIME, parse_range

Kind = Literal["token", "reference", "uri", "canonical", "string", "date", "composite"]
Entry = tuple[str | None, str | None, str | None, int | None, int | None]

#: Longest value that is indexed, in characters: PostgreSQL refuses index entries over 2,704 bytes.
LONGEST = 600

_REFERENCE = re.compile(r"(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})(/_history/[A-Za-z0-9\-.]{1,64})?")


def fold(text: str) -> str:
    """Return text as string search compares it: case and accents do not count (R4 §3.1.1.4.8)."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def reference_parts(reference: str, base_url: str | None) -> tuple[str | None, str]:
    """Return (type, id) of a reference to one of our resources, else (type if seen, the reference as it is)."""
    if base_url and reference.startswith(base_url + "/"):
        reference = reference[len(base_url) + 1 :]
    match = _REFERENCE.fullmatch(reference)
    if match:
        return match["type"], match["id"]
    tail = "/".join(reference.split("/")[-2:])
    absolute = _REFERENCE.fullmatch(tail)
    return (absolute["type"] if absolute else None), reference


def tokens(element: Any, system: str | None = None) -> Iterator[Entry]:
    """Yield entries of a code, boolean, string, Coding, CodeableConcept or Identifier; ``system`` is that of a code."""
    if isinstance(element, bool):
        yield system, "true" if element else "false", None, None, None
    elif isinstance(element, str):
        yield system, element, None, None, None
    elif isinstance(element, dict):
        codings = element.get("coding")
        if codings:
            for coding in codings:
                yield coding.get("system"), coding.get("code", ""), None, None, None
        elif "code" in element or "value" in element:
            yield element.get("system"), element.get("code", element.get("value")), None, None, None


def references(element: Any, base_url: str | None) -> Iterator[Entry]:
    """Yield the entry of a Reference or canonical; contained (``#...``) and display-only references have none."""
    reference = element.get("reference") if isinstance(element, dict) else element
    if isinstance(reference, str) and reference and not reference.startswith("#"):
        target, value = reference_parts(reference, base_url)
        yield target, value, None, None, None


def uris(element: Any) -> Iterator[Entry]:
    """Yield the entry of a uri or canonical; what follows ``|`` is the version."""
    if isinstance(element, str):
        url, _, version = element.partition("|")
        yield version.partition("#")[0] or None, url, None, None, None


def strings(element: Any) -> Iterator[Entry]:
    """Yield entries of a string, or of the parts of a HumanName or Address."""
    if isinstance(element, str):
        yield None, fold(element), element, None, None
    elif isinstance(element, dict):
        for part in ("text", "family", "given", "prefix", "suffix", "line", "city", "district", "state", "postalCode"):
            value = element.get(part)
            if isinstance(value, list):
                for one in value:
                    yield from strings(one)
            elif value:
                yield from strings(value)


def dates(element: Any) -> Iterator[Entry]:
    """Yield the entry of a date, dateTime, instant or Period; raises ValueError for a malformed one."""
    if isinstance(element, str):
        low, high = parse_range(element)
    elif isinstance(element, dict) and ("start" in element or "end" in element):
        low = parse_range(element["start"])[0] if "start" in element else BEGINNING
        high = parse_range(element["end"])[1] if "end" in element else END_OF_TIME
    else:
        return
    yield None, None, None, low, high


def composites(element: Any, base_url: str | None) -> Iterator[Entry]:
    """Yield the entries of ``Group.characteristic``: each code with the value beside it, joined by ``$``."""
    having: list[str] = []
    if isinstance(element.get("valueReference"), dict):
        having = [
            f"{target}/{value}" if target and "/" not in str(value) else str(value)
            for target, value, *_ in references(element["valueReference"], base_url)
        ]
    for name in ("valueCodeableConcept", "valueBoolean"):
        if name in element:
            having += [str(value) for _, value, *_ in tokens(element[name])]
    for system, code, *_ in tokens(element.get("code")):
        for value in having:
            yield system, f"{code}${value}", None, None, None
