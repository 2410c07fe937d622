"""A synthetic population read back as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from fhir_gateway.sandbox.population import Summary

Resources = dict[str, list[dict[str, Any]]]


class Population(NamedTuple):
    folder: Path
    summary: Summary
    ehr: Resources
    payer: Resources


def read(folder: Path) -> Resources:
    found: Resources = defaultdict(list)
    for path in sorted(folder.glob("*.ndjson")):
        for line in path.read_bytes().splitlines():
            found[path.name.split(".")[0]].append(json.loads(line))
    return found
