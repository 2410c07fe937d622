"""A person assigner that tests steer, and the resources of small pulls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from fhir_gateway.sources.models import StagedPull

Line = dict[str, Any] | str | bytes
MakePull = Callable[..., StagedPull]


def line_bytes(line: Line) -> bytes:
    if isinstance(line, dict):
        return json.dumps(line).encode()
    return line.encode() if isinstance(line, str) else line


class People:
    """Every patient is a person of their own until ``same`` says otherwise."""

    def __init__(self) -> None:
        self.same: dict[tuple[str, str], str] = {}
        self.assigned: list[pa.Table] = []

    def person(self, source: str, patient: str) -> str:
        name = self.same.get((source, patient), f"{source}/{patient}")
        return "p" + hashlib.md5(name.encode()).hexdigest()[:16]  # noqa: S324 - a made-up id

    def assign(self, source: str, patients: pa.Table) -> pa.Array:
        self.assigned.append(patients)
        return self.lookup(source, patients["id"])

    def lookup(self, source: str, patient_ids: pa.Array) -> pa.Array:
        return pa.array([self.person(source, patient) for patient in patient_ids.to_pylist()], pa.string())


def patient(identifier: str, **elements: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": identifier, **elements}


def observation(identifier: str, subject: str = "Patient/1", **elements: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": identifier,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "4548-4"}]},
        "subject": {"reference": subject},
        **elements,
    }
