"""Whether what a sender pushes keeps the profiles that it declares: many resources, summed up by rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from fhir_gateway.conformance.validator import Validator

_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule of a declared profile that resources break, and how many times they do."""

    severity: str
    path: str  # without indexes
    rule: str
    profile: str
    count: int

    def __str__(self) -> str:
        return f"{self.path}: {self.rule} of {self.profile}"


def broken_promises(validator: Validator, lines: Iterable[bytes]) -> list[Broken]:
    """What the resources of these lines break of the profiles they declare; those that declare none cost nothing.

    Lines that are not JSON and rules of R4 itself are not judged here: the lake does both.
    """
    found: Counter[tuple[str, str, str, str]] = Counter()
    for line in lines:
        if b'"profile"' not in line:
            continue
        try:
            resource = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(resource, dict):
            continue
        try:
            findings = validator.validate(resource).findings
        except RecursionError:  # nested deeper than the lake takes it
            continue
        for one in findings:
            if one.profile is not None:
                found[one.severity, _INDEX.sub("", one.path), one.rule, one.profile] += 1
    return [Broken(*key, count) for key, count in sorted(found.items())]
