"""A lake of Medicare members made for risk adjustment: claims of every kind that counts or does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files

ICD = "http://hl7.org/fhir/sid/icd-10-cm"
_VARIABLES = "https://bluebutton.cms.gov/resources/variables/"
_CLAIM_TYPES = "http://terminology.hl7.org/CodeSystem/claim-type"
SYSTEM = "http://payer.example/member"


def patient(name: str, born: str, gender: str = "male", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": name,
        "identifier": [{"system": SYSTEM, "value": f"M-{name}"}],
        "name": [{"family": f"Family{name}", "given": [f"Given{name}"]}],
        "birthDate": born,
        "gender": gender,
        "generalPractitioner": [{"identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}}],
        **more,
    }


def coverage(name: str, start: str = "2020-01-01", **variables: str) -> dict[str, Any]:
    return {
        "resourceType": "Coverage",
        "id": f"coverage-{name}",
        "status": "active",
        "beneficiary": {"reference": f"Patient/{name}"},
        "payor": [{"display": "Medicare"}],
        "period": {"start": start},
        "extension": [
            {"url": _VARIABLES + key, "valueDate": value}
            if key == "rfrnc_yr"
            else {"url": _VARIABLES + key, "valueCoding": {"system": _VARIABLES + key, "code": value}}
            for key, value in variables.items()
        ],
    }


def claim(
    name: str,
    who: str,
    day: str,
    diagnoses: list[str],
    procedure: str | None = "99213",
    kind: str = "professional",
    bill: str | None = None,
    modifier: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    item: dict[str, Any] = {
        "sequence": 1,
        "servicedDate": day,
        "productOrService": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": procedure or "none"}]},
        "adjudication": [
            {"category": {"coding": [{"code": "benefit"}]}, "amount": {"value": 100, "currency": "USD"}},
        ],
    }
    if modifier:
        item["modifier"] = [{"coding": [{"code": modifier}]}]
    found: dict[str, Any] = {
        "resourceType": "ExplanationOfBenefit",
        "id": name,
        "status": "active",
        "use": "claim",
        "type": {"coding": [{"system": _CLAIM_TYPES, "code": kind}]},
        "patient": {"reference": f"Patient/{who}"},
        "created": day,
        "insurer": {"display": "Medicare"},
        "provider": {"identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}},
        "outcome": "complete",
        "insurance": [{"focal": True, "coverage": {"reference": f"Coverage/coverage-{who}"}}],
        "billablePeriod": {"start": day, "end": day},
        "diagnosis": [
            {
                "sequence": number,
                "diagnosisCodeableConcept": {"coding": [{"system": ICD, "code": code.removesuffix("!")}]},
                "type": [{"coding": [{"code": "admitting" if code.endswith("!") else "principal"}]}],
            }
            for number, code in enumerate(diagnoses, 1)
        ],
        "item": [item],
    }
    if bill:
        found["supportingInfo"] = [
            {"sequence": 1, "category": {"coding": [{"code": "typeofbill"}]}, "code": {"coding": [{"code": bill}]}}
        ]
    return found | more


#: Two years of claims about members "a" (the worked example) and others. Payment year 2026 looks at 2025.
RESOURCES: list[dict[str, Any]] = [
    patient("a", "1955-06-01"),
    coverage("a", orec="0", crec="0", dual_01="NA", rfrnc_yr="2026"),
    claim("a1", "a", "2025-03-01", ["E11.69", "I50.30", "R05"]),
    claim("a2", "a", "2025-04-01", ["I21.1", "I20.9"], None, "institutional", "111"),
    claim("a3", "a", "2025-05-01", ["I50.9"], "99214", "institutional", "131"),
    claim("a4", "a", "2024-05-01", ["J44.9", "E11.9"], "99214"),  # chronic lung disease, not in 2025 again
    # what does not count
    claim("a5", "a", "2025-06-01", ["C78.7"], "80053"),  # laboratory alone
    claim("a6", "a", "2025-06-02", ["B20"], None, "institutional", "211"),  # a skilled nursing facility
    claim("a7", "a", "2025-06-03", ["G35.D"], "99213", modifier="93"),  # by sound alone
    claim("a8", "a", "2025-06-04", ["G12.21"], "99213", status="cancelled"),
    claim("a9", "a", "2025-06-05", ["N18.6!", "I10"], "99213"),  # an admitting diagnosis
    claim("a10", "a", "2023-06-05", ["F20.0"], "99213"),  # another year
    patient("b", "1980-01-15", "female"),
    coverage("b", orec="1", crec="1", dual_01="02", dual_02="00", rfrnc_yr="2026"),
    claim("b1", "b", "2025-02-01", ["F20.0", "F11.20"]),
    patient("c", "1960-05-05", "female"),
    coverage("c", "2025-09-01", orec="0", dual_12="03", rfrnc_yr="2025"),
    claim("c1", "c", "2025-10-01", ["E11.9"]),
    patient("d", "1950-05-05"),
    coverage("d", ms_cd="11"),
    patient("e", "1950-05-05", deceasedDateTime="2025-12-30"),
    patient("f", "1941-03-03", "female"),
    coverage("f", orec="0", rfrnc_yr="2025"),
    claim("f1", "f", "2025-07-01", ["I50.22"], "99349"),
]


def lake_of(folder: Path, resources: list[dict[str, Any]] | None = None, **settings: Any) -> Gateway:
    """A gateway in a folder whose lake holds these resources, sent by a payer."""
    staged = folder / "staged"
    staged.mkdir(parents=True)
    lines = [json.dumps(one) for one in (RESOURCES if resources is None else resources)]
    (staged / "all.ndjson").write_text("\n".join(lines) + "\n", encoding="utf-8")
    gateway = Gateway(Settings(data_dir=folder / "gateway", lake_buckets=2, **settings))
    pull_files(gateway, [staged], "payer")
    return gateway


def person(gateway: Gateway, name: str) -> str:
    """The person that a patient of the payer is."""
    rows = gateway.lake.read("Patient", ["id"]).to_pylist()
    return next(str(row["_member"]) for row in rows if row["id"] == name)
