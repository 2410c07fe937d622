"""A small folder of NDJSON with everything a sandbox must cope with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any


def resources() -> dict[str, list[dict[str, Any]]]:
    """Three patients; two of them in a Group; one observation of nobody; one resource without a time."""
    patients = [_stamped("Patient", f"p{n}", n, gender="female") for n in range(1, 4)]
    observations = [
        _stamped("Observation", f"o{n}", n, status="final", code={"text": "x"}, subject={"reference": reference})
        for n, reference in enumerate(
            ["Patient/p1", "http://old.example/fhir/Patient/p2", "urn:uuid:p3", "Group/g", "Patient/p2/_history/4"], 1
        )
    ]
    del observations[2]["meta"]
    coverages = [
        _stamped("Coverage", "c1", 1, status="active", beneficiary={"reference": "Patient/p1"}, payor=[{}]),
        _stamped("Coverage", "c2", 5, status="active", beneficiary={"reference": "Patient/p3"}, payor=[{}]),
    ]
    group = _stamped("Group", "g", 1, type="person", actual=True)
    group["member"] = [
        {"entity": {"reference": "Patient/p1"}},
        {"entity": {"reference": "Patient/p2"}},
        {"entity": {"reference": "Patient/p3"}, "inactive": True},
        {"entity": {"reference": "Patient/elsewhere"}},
    ]
    return {
        "Patient": patients,
        "Observation": observations,
        "Coverage": coverages,
        "Group": [group],
        "Organization": [_stamped("Organization", "org", 1, name="Clinic")],
        "ValueSet": [_stamped("ValueSet", "v", 1, status="active")],
    }


def _stamped(resource_type: str, resource_id: str, day: int, **elements: Any) -> dict[str, Any]:
    meta = {"lastUpdated": f"2026-01-0{day}T10:00:00.000+02:00"}
    return {"resourceType": resource_type, "id": resource_id, "meta": meta, **elements}


def write_folder(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write the resources: Observation gzipped, Patient in two files, one without a final line end."""
    made = resources()
    folder.mkdir(exist_ok=True)
    for resource_type, rows in made.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if resource_type == "Observation":
            (folder / "Observation.ndjson.gz").write_bytes(gzip.compress(text.encode()))
        elif resource_type == "Patient":
            (folder / "Patient.1.ndjson").write_text(json.dumps(rows[0]) + "\r\n\r\n" + json.dumps(rows[1]))
            (folder / "Patient.2.ndjson").write_text(json.dumps(rows[2]) + "\n\n")
        else:
            (folder / f"{resource_type}.ndjson").write_text(text)
    (folder / "Procedure.ndjson").write_bytes(b"")
    (folder / "notes.txt").write_text("not a resource")
    return made
