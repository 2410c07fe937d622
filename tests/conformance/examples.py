"""The findings that the checker has in the published examples: ``examples.toml`` says which are known, and why."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import installed

from fhir_gateway.conformance.validator import Validator

KNOWN = Path(__file__).with_name("examples.toml")
_INDEX = re.compile(r"\[\d+\]")
#: Not examples: definitions, and the data of gold tests and packages of the Quality Measure IG.
_LEFT_OUT = {"cqm-2.0.0": ("tests", "bundles")}

Key = tuple[str, str, str, str]  # file below the folder of examples, severity, path without indexes, rule


def files(examples: Path, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each example of a guide with its name."""
    for file in sorted((examples / folder).rglob("*.json")):
        below = file.relative_to(examples / folder)
        if any(part.startswith("conformance") for part in below.parts) or below.parts[0] in _LEFT_OUT.get(folder, ()):
            continue
        resource = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(resource, dict) and "resourceType" in resource:
            yield f"{folder}/{below}", resource


def findings(validator: Validator, examples: Path, folder: str) -> tuple[int, Counter[Key]]:
    """How many examples there are, and what the checker finds in them, counted."""
    found: Counter[Key] = Counter()
    number = 0
    for name, resource in files(examples, folder):
        number += 1
        for severity, path, rule in installed.judged(validator, folder, resource):
            found[name, severity, _INDEX.sub("", path), rule] += 1
    return number, found


def known(folder: str) -> Counter[Key]:
    """The known findings of a guide's examples."""
    expected: Counter[Key] = Counter()
    for defect in tomllib.loads(KNOWN.read_text(encoding="utf-8"))["defect"]:
        for name, count in defect["files"].items():
            if name.startswith(f"{folder}/"):
                expected[name, defect["severity"], defect["path"], defect["rule"]] += count
    return expected
