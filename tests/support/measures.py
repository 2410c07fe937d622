"""Measures, libraries and evaluations made up in tests: no CQL translator, no engine where none is needed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fhir_gateway.cql import Episodes
from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.cql.values import BoolVec, IntVec, ListVec, NullVec, Vec
from fhir_gateway.measures import MeasurePackage, MeasureResult, MemoryPopulation, evaluate
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.measures.published import rename

BASE = "http://measures.example"
PERIOD = (date(2026, 1, 1), date(2026, 12, 31))
NOW = datetime(2027, 2, 1, 12, tzinfo=UTC)
REPORTER = {"reference": "Organization/reporter"}
MEASURES = Path(__file__).parents[2] / "measures"
CASES = Path(__file__).parents[1] / "measures" / "cases"
NAMES = sorted(path.name for path in CASES.iterdir())
_CQFM = "http://hl7.org/fhir/us/cqfmeasures/StructureDefinition/cqfm-"
_SYSTEM = "http://terminology.hl7.org/CodeSystem/"


class FakeEvaluation:
    """Criteria given as values: per member booleans, or per member lists of episode numbers."""

    def __init__(
        self,
        booleans: Mapping[str, Sequence[bool | None]] | None = None,
        episodes: Mapping[str, Sequence[Sequence[int]]] | None = None,
        functions: Mapping[str, Any] | None = None,
        vectors: Mapping[str, Vec] | None = None,
    ) -> None:
        self.failures: dict[int, Failure] = {}
        self._vectors = vectors or {}
        self._booleans = booleans or {}
        self._episodes = episodes or {}
        self._functions = functions or {}

    def vector(self, name: str) -> Vec:
        if name in self._vectors:
            return self._vectors[name]
        if name in self._booleans:
            values = self._booleans[name]
            return BoolVec(np.array([v is True for v in values]), np.array([v is not None for v in values]))
        lists = self._episodes[name]
        offsets = np.concatenate([[0], np.cumsum([len(keys) for keys in lists])]).astype(np.int64)
        return ListVec(offsets, IntVec(np.array([key for keys in lists for key in keys], np.int64)))

    def booleans(self, name: str) -> np.ndarray[Any, Any]:
        return np.array([value is True for value in self._booleans[name]], dtype=np.bool_)

    def episodes(self, name: str) -> Episodes:
        pairs = [(member, key) for member, keys in enumerate(self._episodes[name]) for key in dict.fromkeys(keys)]
        if not pairs:
            return Episodes(np.zeros(0, np.int64), NullVec(0), np.zeros(0, np.int64))
        member, key = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
        return Episodes(member, IntVec(key), key)

    def identity(self, flat: Vec) -> np.ndarray[Any, Any]:
        return flat.values if isinstance(flat, IntVec) else np.zeros(len(flat), np.int64)

    def function_values(self, name: str, episodes: Episodes | None = None) -> Vec:
        function = self._functions[name]
        if episodes is None:
            return function
        keys = episodes.values.values.tolist() if isinstance(episodes.values, IntVec) else []
        return IntVec(np.array([function(key) for key in keys], np.int64))


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": _SYSTEM + system, "code": code}]}


def population(code: str, expression: str | None = None, name: str | None = None, **extensions: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": name or code,
        "code": concept("measure-population", code),
        "criteria": {"language": "text/cql-identifier", "expression": expression or code},
    }
    if extensions:
        found["extension"] = [{"url": _CQFM + key, "valueString": value} for key, value in extensions.items()]
    return found


def measure(
    scoring: str, populations: Iterable[dict[str, Any]], basis: str = "boolean", library: str = f"{BASE}/Library/Main|1"
) -> dict[str, Any]:
    """A Measure of one group, in the US family."""
    extensions = [
        {"url": _CQFM + "scoring", "valueCodeableConcept": concept("measure-scoring", scoring)},
        {"url": _CQFM + "populationBasis", "valueCode": basis},
        {
            "url": _CQFM + "improvementNotation",
            "valueCodeableConcept": concept("measure-improvement-notation", "increase"),
        },
    ]
    return {
        "resourceType": "Measure",
        "url": f"{BASE}/Measure/Made",
        "version": "1.0",
        "name": "Made",
        "title": "Made up",
        "library": [library],
        "group": [{"id": "g", "extension": extensions, "population": list(populations)}],
    }


def library(
    name: str,
    statements: Mapping[str, Any],
    version: str | None = "1",
    includes: Iterable[tuple[str, str | None]] = (),
    value_sets: Mapping[str, str] | None = None,
    functions: Iterable[str] = (),
) -> dict[str, Any]:
    """A Library with ELM: definitions in the context Patient, written out; ``functions`` of them take no operands."""
    identity = {"id": name} | ({"version": version} if version else {})
    elm: dict[str, Any] = {
        "identifier": identity,
        "schemaIdentifier": {"id": "urn:hl7-org:elm", "version": "r1"},
        "usings": {"def": [{"localIdentifier": "System", "uri": "urn:hl7-org:elm-types:r1"}]},
        "includes": {
            "def": [
                {"localIdentifier": other, "path": other} | ({"version": wanted} if wanted else {})
                for other, wanted in includes
            ]
        },
        "valueSets": {"def": [{"name": label, "id": url} for label, url in (value_sets or {}).items()]},
        "statements": {
            "def": [
                {"name": label, "context": "Patient", "accessLevel": "Public", "expression": expression}
                for label, expression in statements.items()
            ]
        },
    }
    for name_of_function in functions:
        definition = next(d for d in elm["statements"]["def"] if d["name"] == name_of_function)
        definition |= {"type": "FunctionDef", "operand": []}
    data = base64.b64encode(json.dumps({"library": elm}).encode()).decode()
    return {
        "resourceType": "Library",
        "url": f"{BASE}/Library/{name}",
        "version": version,
        "name": name,
        "content": [{"contentType": "application/elm+json", "data": data}],
    }


def true() -> dict[str, Any]:
    return {"type": "Literal", "valueType": "{urn:hl7-org:elm-types:r1}Boolean", "value": "true"}


def in_value_set(name: str) -> dict[str, Any]:
    code = {"type": "Literal", "valueType": "{urn:hl7-org:elm-types:r1}String", "value": "a"}
    return {"type": "InValueSet", "code": code, "valueset": {"name": name}}


def write(folder: Path, *resources: Mapping[str, Any]) -> Path:
    """A package folder of these resources."""
    for number, resource in enumerate(resources):
        (folder / f"{resource['resourceType'].lower()}-{number}.json").write_text(json.dumps(resource))
    return folder


COHORT = measure("cohort", [population("initial-population", "Initial Population")])


def groups_of(name: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """All hand-made cases of one of our packages, each as a member with resources of its own."""
    cases = [json.loads(path.read_text("utf-8")) for path in sorted((CASES / name).glob("*.json"))]
    return [(f"case-{n}", rename(case, n)) for n, case in enumerate(cases)]


@cache
def result_of(name: str, now: datetime = NOW) -> MeasureResult:
    """One of our packages evaluated over its cases."""
    return evaluate(MeasurePackage.load(MEASURES / name), MemoryPopulation(groups_of(name)), PERIOD, now)


def stage_cases(folder: Path, copies: int) -> StagedPull:
    """All cases of all our packages, some times over, as files by type."""
    texts: dict[str, list[str]] = {}
    for copy in range(copies):
        for name in NAMES:
            for member, resources in groups_of(name):
                for resource in resources:
                    text = json.dumps(resource).replace(member, f"{name}-{copy}-{member}")
                    texts.setdefault(resource["resourceType"], []).append(text)
    files = []
    for resource_type, lines in texts.items():
        path = folder / f"{resource_type}.ndjson"
        path.write_text("\n".join(lines))
        files.append(StagedFile(path, path.name, resource_type, None))
    return StagedPull("pull", "ehr", "files", None, tuple(files))


def saved(folder: Path) -> dict[str, bytes]:
    """All files of a store, without how long it took."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "header.json":
            content = json.dumps({**json.loads(content), "seconds": 0}).encode()
        found[str(path.relative_to(folder))] = content
    return found
