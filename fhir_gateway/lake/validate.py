"""Lines in, parsed resources and refusals out.

A batch passes in three steps: parse every line (orjson), look for what parsing hides (duplicate keys, NUL), run the
fast check of the type over the whole batch. Only what fails goes to the explanation, one resource at a time.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import jsonschema_rs
import orjson

from fhir_gateway.lake.columns import widen
from fhir_gateway.lake.explain import Issue, issues
from fhir_gateway.lake.quarantine import QuarantinedLine
from fhir_gateway.lake.schema import contained_validator, list_validator, shape_validator
from fhir_gateway.r4 import spec

#: Types that carry other resources elsewhere than in ``contained``: rare as stored data, always walked.
_CARRIERS = frozenset({"Bundle", "Parameters"})
_TYPES = frozenset(spec.resource_types())


@dataclass(frozen=True, slots=True)
class CheckedGroup:
    """Valid resources of one type: their lines, line numbers and parsed form, in the order of the file."""

    resource_type: str
    lines: list[bytes]
    numbers: list[int]
    resources: list[Any]


class Shapes:
    """The columns seen so far, by type, and for each type a check that passes only resources that fill no others."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Any]] = {}
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def known(self, resource_type: str, resources: list[Any]) -> bool:
        """Whether the resources are valid and fill only columns seen before."""
        validator = self._validators.get(resource_type)
        return validator is not None and bool(validator.is_valid(resources))

    def learn(self, resource_type: str, resources: list[Any]) -> None:
        """Note the columns that valid resources fill."""
        shape = self.of.setdefault(resource_type, {})
        if widen(shape, resources, spec.column_structure(resource_type)):
            self._validators[resource_type] = shape_validator(resource_type, shape)


@contextmanager
def collector_off() -> Iterator[None]:
    """No cyclic garbage collection inside: it makes parsing many small objects 4 to 8 times slower."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def check(
    lines: list[bytes], numbers: list[int], promised: str | None, file: str, shapes: Shapes
) -> tuple[list[CheckedGroup], list[QuarantinedLine]]:
    """Check one batch of lines of ``file`` whose sender promised the type ``promised`` (None: any).

    ``shapes`` learns which columns the valid ones fill.
    """
    refused: list[QuarantinedLine] = []
    resources = _parse(lines)
    if resources is None or _hides_something(lines, resources):
        lines, numbers, resources = _sift(lines, numbers, promised, file, refused)
    groups: list[CheckedGroup] = []
    for group in _grouped(lines, numbers, resources, promised):
        if _passes(group.resource_type, group.resources, shapes):
            groups.append(group)
            continue
        kept = CheckedGroup(group.resource_type, [], [], [])
        for line, number, resource in zip(group.lines, group.numbers, group.resources, strict=True):
            issue = None if _passes(group.resource_type, [resource]) else next(issues(resource, promised), None)
            if issue is None:
                kept.lines.append(line)
                kept.numbers.append(number)
                kept.resources.append(resource)
            else:
                refused.append(_refusal(line, number, resource, promised, file, issue))
        if kept.lines:
            shapes.learn(group.resource_type, kept.resources)
            groups.append(kept)
    return groups, refused


def _parse(lines: Sequence[bytes]) -> list[Any] | None:
    """Parsed lines; None when one of them is not JSON."""
    try:
        # one call per line keeps lines and resources aligned, and is as fast as parsing them joined
        return [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError:
        return None


def _hides_something(lines: list[bytes], resources: list[Any]) -> bool:
    r"""Whether a line may have a duplicate key or a NUL.

    Parsing keeps the last of duplicate keys, so writing the parsed form again gives fewer colons than the text has;
    all other colons survive as they are, unless written as ``\\u003a``. What is too deep to be written may hide
    anything.
    """
    text = b"\n".join(lines)
    written = _written(resources)
    return (
        written is None
        or written.count(b":") != text.count(b":")
        or (b"\\u" in text and (b"\\u0000" in text or b"\\u003a" in text or b"\\u003A" in text))
    )


def _written(resources: list[Any]) -> bytes | None:
    """Resources as JSON; None when they are nested too deep (orjson reads 1,024 levels and writes 254)."""
    try:
        return orjson.dumps(resources)
    except TypeError:
        return None


class _DuplicateKeyError(Exception):
    """A JSON object names the same key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKeyError
    return found


def _sift(
    lines: list[bytes], numbers: list[int], promised: str | None, file: str, refused: list[QuarantinedLine]
) -> tuple[list[bytes], list[int], list[Any]]:
    """Line by line: what is JSON without duplicate keys; the rest is refused."""
    kept: tuple[list[bytes], list[int], list[Any]] = ([], [], [])
    for line, number in zip(lines, numbers, strict=True):
        issue: Issue | None = None
        resource: Any = None
        try:
            resource = orjson.loads(line)
            if _written([resource]) is None:
                issue = Issue("$this", "depth", "objects and arrays lie more than 250 deep in each other")
            elif _hides_something([line], [resource]):
                json.loads(line, object_pairs_hook=_unique)
        except orjson.JSONDecodeError as error:
            issue = Issue("$this", "not-json", f"not JSON at column {error.colno}")
        except _DuplicateKeyError:
            issue = Issue("$this", "duplicate-key", "an object names the same key twice")
        if issue is None and b"\\u0000" in line:
            issue = next(issues(resource, promised), None)
        if issue is not None:
            refused.append(_refusal(line, number, resource, promised, file, issue))
            continue
        kept[0].append(line)
        kept[1].append(number)
        kept[2].append(resource)
    return kept


def _grouped(
    lines: list[bytes], numbers: list[int], resources: list[Any], promised: str | None
) -> Iterator[CheckedGroup]:
    """Lines by resource type; the promised type alone when there is one."""
    if promised is not None:
        yield CheckedGroup(promised, lines, numbers, resources)
        return
    types = [resource.get("resourceType") if isinstance(resource, dict) else None for resource in resources]
    names = {name if isinstance(name, str) else "" for name in types}
    if len(names) == 1:
        yield CheckedGroup(names.pop(), lines, numbers, resources)
        return
    groups = {name: CheckedGroup(name, [], [], []) for name in sorted(names)}
    for name, line, number, resource in zip(types, lines, numbers, resources, strict=True):
        group = groups[name if isinstance(name, str) else ""]
        group.lines.append(line)
        group.numbers.append(number)
        group.resources.append(resource)
    yield from groups.values()


def _passes(resource_type: str, resources: list[Any], shapes: Shapes | None = None) -> bool:
    """The fast check of resources of one type, with what they contain."""
    if resource_type not in _TYPES or resource_type in _CARRIERS:
        return False
    known = shapes is not None and shapes.known(resource_type, resources)
    if not known and not list_validator(resource_type).is_valid(resources):
        return False
    contained: dict[str, list[Any]] = {}
    for resource in chain.from_iterable(r["contained"] for r in resources if "contained" in r):
        contained.setdefault(str(resource["resourceType"]), []).append(resource)
    for name, found in contained.items():
        if name not in _TYPES or name in _CARRIERS or not contained_validator(name).is_valid(found):
            return False
        if any("contained" in resource for resource in found):
            return False
    if shapes is not None and not known:
        shapes.learn(resource_type, resources)
    return True


def _refusal(line: bytes, number: int, resource: Any, promised: str | None, file: str, issue: Issue) -> QuarantinedLine:
    found = resource.get("resourceType") if isinstance(resource, dict) else None
    known = found if isinstance(found, str) and found in _TYPES else None
    identifier = resource.get("id") if isinstance(resource, dict) else None
    return QuarantinedLine(
        file=file,
        line=number,
        resource_type=promised or known,
        id=identifier if isinstance(identifier, str) else None,
        path=issue.path,
        rule=issue.rule,
        message=issue.message,
        raw=line,
    )
