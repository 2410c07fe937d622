"""Whose data an answer holds: read off its bytes, so that no operation can forget to say so.

Every resource that is about a person says ``Patient/[id]`` somewhere, and a Patient says its own id; what the audit
trail needs is the ids, not where they stood. More than a row may name is noted as everybody in reach.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from fhir_gateway.server.audit import MOST_PERSONS, Access

#: Both begin with what they look for, word by word: that is found ten times as fast as a choice of beginnings.
_REFERENCE = re.compile(rb"Patient/([A-Za-z0-9\-.]{1,64})")
_RESOURCE = re.compile(rb'"resourceType": ?"Patient", ?"id": ?"([A-Za-z0-9\-.]{1,64})"')
_TAG = re.compile(rb'W/"(\d{1,9})"')


def note(access: Access, headers: list[tuple[bytes, bytes]], body: bytes, whole: bool) -> None:
    """Note in the entry the version that was answered and whose data the body holds.

    A route that knows better has noted it already. Of a body that comes in parts (a file of an export) nobody has seen
    the rest: it may hold everybody whom the client may see.
    """
    named = {name.lower(): value for name, value in headers}
    version = _TAG.fullmatch(named.get(b"etag", b""))
    if version and access.resource_id is not None:
        access.resource_version = int(version[1])
    if access.persons is not None or b"json" not in named.get(b"content-type", b""):
        return
    if not whole:
        access.disclose_everyone()
        return
    access.disclose(islice(_persons(body), MOST_PERSONS + 1))


def _persons(body: bytes) -> Iterator[str]:
    """Ids, each once."""
    found: set[bytes] = set()
    for pattern in (_RESOURCE, _REFERENCE):
        for match in pattern.finditer(body):
            # a reference begins here or behind the slash of an address; OutPatient/ is something else
            named = pattern is _RESOURCE or body[match.start() - 1 : match.start()] in (b'"', b"/")
            if named and match[1] not in found:
                found.add(match[1])
                yield match[1].decode("ascii")
