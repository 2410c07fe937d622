"""What a sender submits for a measure: Bundles of data exchange reports and their data, as text and as lines.

DEQM 5: a Parameters resource with one ``bundle`` or several. DEQM 3 and R4: one ``measureReport`` with its
``resource``s. Numbers and narratives come out as they were written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from fhir_gateway.errors import InputError, Location
from fhir_gateway.sources.bundles import elements, members
from fhir_gateway.sources.push import Push, read_push


@dataclass(frozen=True, slots=True)
class Submitted:
    """One Bundle: its parameter and type, its number of entries, what it holds, (type, id, method) of each line."""

    name: str
    kind: str
    count: int
    push: Push
    entries: tuple[tuple[str, str, str], ...]

    @property
    def reports(self) -> Mapping[int, str]:
        """The MeasureReports in it, as text, by the number of their line."""
        lines = enumerate(zip(self.push.lines, self.entries, strict=True))
        return {number: line for number, (line, (kind, _, _)) in lines if kind == "MeasureReport"}


def read_submission(body: bytes) -> list[Submitted]:
    """The Bundles of a Parameters resource; InputError names the parameter and the rule that is broken."""
    try:
        return _read(body)
    except ValueError:
        raise InputError("the body is not JSON", location=Location(rule="json")) from None
    except RecursionError:
        raise InputError("the body is nested too deep", location=Location(rule="depth")) from None


def _read(body: bytes) -> list[Submitted]:
    text = body.decode()
    resource = orjson.loads(text)
    if not isinstance(resource, dict) or resource.get("resourceType") != "Parameters":
        raise InputError("the body is not a Parameters resource", location=Location(path="resourceType"))
    bundles: list[str] = []
    reports: list[str] = []
    others: list[str] = []
    lists = {"bundle": bundles, "measureReport": reports, "resource": others}
    for name, given in _parameters(text, resource):
        if name not in lists:
            raise InputError(f"a parameter is not one of: {', '.join(lists)}", location=Location(rule="unknown"))
        lists[name].append(given)
    if bundles and (reports or others):
        raise _wrong("bundle", "not together with measureReport and resource")
    if not bundles:
        if len(reports) != 1:
            raise _wrong("measureReport", "more than one" if reports else "required (or bundle)")
        entries = ",".join(f'{{"resource":{one}}}' for one in (*reports, *others))
        return [_submitted(f'{{"resourceType":"Bundle","type":"collection","entry":[{entries}]}}', "measureReport")]
    return [_submitted(one, f"bundle[{number}]") for number, one in enumerate(bundles)]


def with_provenance(header: str, targets: Sequence[str]) -> str:
    """The Provenance of an ``X-Provenance`` header as a line, about everything that came with it (R4 http.html)."""
    try:
        provenance = orjson.loads(header)
    except orjson.JSONDecodeError:
        provenance = None
    if not isinstance(provenance, dict) or provenance.get("resourceType") != "Provenance":
        raise InputError("not a Provenance resource in JSON", location=Location(path="X-Provenance", rule="json"))
    provenance = {**provenance, "target": [{"reference": one} for one in targets]}
    digest = hashlib.sha256(orjson.dumps(provenance)).hexdigest()[:32]
    return orjson.dumps({**provenance, "id": provenance.get("id") or digest}).decode()


def _parameters(text: str, resource: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of the resource of each parameter."""
    if not isinstance(resource.get("parameter", []), list):
        raise InputError("not a list", location=Location(path="Parameters.parameter"))
    for key, start, _ in members(text, 0):
        if key == "parameter":
            for number, (position, end) in enumerate(elements(text, start)):
                inner = text[position:end]
                parts = {one: inner[at:to] for one, at, to in members(inner, 0)} if inner.startswith("{") else {}
                name = orjson.loads(parts.get("name", "null"))
                if not isinstance(name, str) or "resource" not in parts:
                    where = Location(path=f"Parameters.parameter[{number}]")
                    raise InputError("a parameter needs a name and a resource", location=where)
                yield name, parts["resource"]


def _submitted(text: str, name: str) -> Submitted:
    bundle = orjson.loads(text)
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise _wrong(name, "not a Bundle")
    kind = bundle.get("type")
    if kind not in ("transaction", "batch", "collection"):
        raise _wrong(name, "not a transaction, batch or collection")
    try:
        push = read_push(text.encode())
    except InputError as error:
        where = Location(
            path=f"{name}.{error.location.path}" if error.location.path else name, rule=error.location.rule
        )
        raise InputError(error.message, location=where) from None
    entries = tuple(_entry(bundle, place, line) for place, line in zip(push.places, push.lines, strict=True))
    found = Submitted(name.partition("[")[0], kind, len(bundle.get("entry", ())), push, entries)
    if not found.reports:
        raise _wrong(name, "no MeasureReport in it")
    return found


def _entry(bundle: Mapping[str, Any], place: int, line: str) -> tuple[str, str, str]:
    resource, entry = orjson.loads(line), bundle["entry"][place]
    head = resource if isinstance(resource, dict) else {}
    asked = entry.get("request") if isinstance(entry, dict) else None
    method = asked.get("method", "PUT") if isinstance(asked, dict) else "PUT"
    return str(head.get("resourceType", "")), str(head.get("id", "")), str(method)


def _wrong(name: str, rule: str) -> InputError:
    return InputError(f"parameter {name}: {rule}", location=Location(path=name))
