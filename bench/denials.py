"""What payers denied, out of a lake: ``python -m bench.denials [claims]``.

Claims of two lines, one claim in ten with a denied line, ten claims a person, pulled into a lake of eight buckets; then
what ``$denials`` answers, for the first time on this lake and again. CPU seconds of this process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.denials import denials
from fhir_gateway.jobs.pull import pull_files

CATEGORY = "http://terminology.hl7.org/CodeSystem/adjudication"
REASON = "https://x12.org/codes/claim-adjustment-reason-codes"


def main() -> None:
    """Make a lake, ask it twice."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "staged"
        staged.mkdir()
        with (staged / "all.ndjson").open("w") as file:
            for number in range(count // 10):
                file.write(json.dumps({"resourceType": "Patient", "id": f"p{number}", "gender": "female"}) + "\n")
            for number in range(count):
                file.write(json.dumps(_answer(number)) + "\n")
        gateway = Gateway(Settings(data_dir=Path(folder) / "data"))
        pull_files(gateway, [staged], "payer")
        print(f"{count:,} ExplanationOfBenefits of two lines, {count // 10:,} persons")
        for what in ("for the first time", "again", "again, of 100 persons"):
            members = gateway.lake.members()[:100].to_pylist() if "100" in what else None
            cpu = time.process_time()
            with denials(gateway, members) as found:
                overall, reasons = found.overall(), found.by("reason")
                found.top_avoidable()
            cpu = time.process_time() - cpu
            print(f"$denials {what}: {cpu:.2f} s of CPU; {overall['claims']:,} claims, {len(reasons)} reasons")


def _answer(number: int) -> dict[str, Any]:
    day = (date(2025, 1, 1) + timedelta(number % 360)).isoformat()
    return {
        "resourceType": "ExplanationOfBenefit",
        "id": f"e{number}",
        "identifier": [{"system": "https://payer.example/claim", "value": f"c{number}"}],
        "status": "active",
        "use": "claim",
        "type": {"coding": [{"code": "professional"}]},
        "patient": {"reference": f"Patient/p{number // 10}"},
        "created": day,
        "insurer": {"display": f"Payer {number % 3}"},
        "provider": {
            "identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": f"{1000000000 + number % 500}"}
        },
        "outcome": "complete",
        "insurance": [{"focal": True, "coverage": {"display": "plan"}}],
        "item": [_line(number, n, day) for n in (1, 2)],
    }


def _line(number: int, sequence: int, day: str) -> dict[str, Any]:
    denied = sequence == 1 and number % 10 == 0
    said = [
        {"category": {"coding": [{"system": CATEGORY, "code": code}]}, "amount": {"value": value, "currency": "USD"}}
        for code, value in (("submitted", 125), ("benefit", 0 if denied else 80))
    ]
    if denied:
        reason = {"coding": [{"system": REASON, "code": ("18", "97", "29", "50")[number // 10 % 4]}]}
        said.append({"category": {"coding": [{"code": "denialreason"}]}, "reason": reason})
    return {
        "sequence": sequence,
        "productOrService": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": f"{99211 + sequence}"}]},
        "servicedDate": day,
        "adjudication": said,
    }


if __name__ == "__main__":
    main()
