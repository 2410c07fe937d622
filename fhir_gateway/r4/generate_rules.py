"""Write ``rules.json``: invariants of R4 and the value sets of its required bindings, for the check by profiles.

An authoring tool beside :mod:`fhir_gateway.r4.generate`, with the same source:
``python -m fhir_gateway.r4.generate_rules DEFINITIONS_DIR``. The FHIR specification is CC0.

Output: ``{"invariants": {PLACE: [[key, severity, human, expression], ..]}, "bindings": {ELEMENT: value set},
"value_sets": {URL: {SYSTEM: [code, ..]}}}``. An invariant stands at the type or element (``Timing.repeat``) whose
instances are its context. Bindings are those of codings and concepts; plain codes are in ``elements.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fhir_gateway.r4.spec import type_names

#: Not of R4: added by the npm package from R4B.
_ADDED = {"dom-r4b"}


def _load(directory: Path, name: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in json.loads((directory / name).read_text())["entry"]]


def _elements(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each element of each type, with the name of that type."""
    for definition in _load(directory, "profiles-types.json") + _load(directory, "profiles-resources.json"):
        if definition["resourceType"] != "StructureDefinition" or definition.get("derivation") == "constraint":
            continue
        if definition["type"] in type_names():
            for element in definition["snapshot"]["element"]:
                yield definition["type"], element


def _codes(value_set: dict[str, Any], systems: dict[str, Any]) -> dict[str, list[str]] | None:
    """System -> codes of a value set that lists codes or takes whole code systems; None when it does otherwise."""
    compose = value_set.get("compose", {})
    if compose.get("exclude"):
        return None
    found: dict[str, list[str]] = {}
    for include in compose.get("include", []):
        system = include.get("system")
        if system is None or "filter" in include or "valueSet" in include:
            return None
        if "concept" in include:
            codes = [concept["code"] for concept in include["concept"]]
        elif systems.get(system, {}).get("content") == "complete":
            codes = list(_walk(systems[system].get("concept", [])))
        else:
            return None
        found[system] = sorted({*found.get(system, ()), *codes})
    return found or None


def _walk(concepts: list[Any]) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _walk(concept.get("concept", []))


def build(directory: Path) -> dict[str, Any]:
    """The rules of all R4 types in ``directory``."""
    terminology = _load(directory, "valuesets.json") + _load(directory, "v3-codesystems.json")
    systems = {one["url"]: one for one in terminology if one["resourceType"] == "CodeSystem"}
    value_sets = {one["url"]: one for one in terminology if one["resourceType"] == "ValueSet"}
    invariants: dict[str, dict[str, list[str]]] = {}
    bindings: dict[str, str] = {}
    used: set[str] = set()
    for owner, element in _elements(directory):
        path = element["path"]
        for one in element.get("constraint", []):
            # The snapshot repeats what every resource and element inherits; it is kept once, at the type that says it.
            source = one.get("source", "").rsplit("/", 1)[-1] or owner
            if one["key"] in _ADDED or (path != source and source != owner):
                continue
            if "expression" in one:
                row = [one["severity"], one["human"], one["expression"]]
                invariants.setdefault(path, {})[one["key"]] = row
        bound = element.get("binding", {})
        if bound.get("strength") == "required" and "valueSet" in bound:
            url = bound["valueSet"].split("|")[0]
            used.add(url)
            if not any(one.get("code") == "code" for one in element.get("type", [])):
                bindings[path] = url
    listed = {url: codes for url in sorted(used) if url in value_sets and (codes := _codes(value_sets[url], systems))}
    return {
        "invariants": {
            name: [[key, *rest] for key, rest in sorted(rows.items())] for name, rows in sorted(invariants.items())
        },
        "bindings": dict(sorted(bindings.items())),
        "value_sets": listed,
    }


if __name__ == "__main__":
    rules = build(Path(sys.argv[1]))
    target = Path(__file__).with_name("rules.json")
    parts = [
        json.dumps(part)
        + ":{\n"
        + ",\n".join(
            json.dumps(key) + ":" + json.dumps(body, separators=(",", ":"), ensure_ascii=False)
            for key, body in rules[part].items()
        )
        + "}"
        for part in rules
    ]
    target.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(f"{target}: {', '.join(f'{len(rules[part])} {part}' for part in rules)}")
