"""Writing packages from what the translator made."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from fhir_gateway.measures import MeasurePackage
from fhir_gateway.measures.author import write_package
from fhir_gateway.measures.canonicals import CANONICAL_BASE
from tests.support.measures import COHORT, library, true


def elm(*arguments: Any, **options: Any) -> dict[str, Any]:
    content = library(*arguments, **options)["content"]
    (data,) = [part["data"] for part in content if part["contentType"] == "application/elm+json"]
    made: dict[str, Any] = json.loads(base64.b64decode(data))["library"]
    return made


def test_versions_of_one_library_have_files_of_their_own(tmp_path: Path) -> None:
    measure = COHORT | {"library": [f"{CANONICAL_BASE}/Library/Main|1"]}
    (tmp_path / "measure.json").write_text(json.dumps(measure))
    definitions = {"Initial Population": true()}
    libraries = [
        elm("Main", definitions, includes=[("Shared", "1"), ("Between", "1")]),
        elm("Between", definitions, includes=[("Shared", "2")]),
        elm("Shared", definitions),
        elm("Shared", definitions, "2"),
    ]
    made = {(one["identifier"]["id"], one["identifier"]["version"]): ("library text", one) for one in libraries}
    write_package(tmp_path, made)
    names = {path.name for path in tmp_path.glob("library-*.json")}
    assert names == {"library-Main.json", "library-Between.json", "library-Shared-1.json", "library-Shared-2.json"}
    assert len(MeasurePackage.load(tmp_path).libraries) == 4
