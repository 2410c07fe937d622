"""A lake of members some of whom are much sicker: stays, emergency and office visits of three years, by a payer.

Who is sick comes back to hospital more often; members of one race come back more often than their claims say.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files

LAST = date(2025, 6, 29)
"""The last day that claims are of."""
CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
_TYPES = "http://terminology.hl7.org/CodeSystem/claim-type"
_ICD = "http://hl7.org/fhir/sid/icd-10-cm"
_REVENUE = "https://www.nubc.org/CodeSystem/RevenueCodes"
_RACES = ("2106-3", "2054-5", "2028-9", None)


def _extension(kind: str, code: str) -> dict[str, Any]:
    parts = [{"url": "ombCategory", "valueCoding": {"code": code}}, {"url": "text", "valueString": "as said"}]
    return {"url": CORE + kind, "extension": parts}


def _patient(name: str, race: str | None, born: int, male: bool) -> dict[str, Any]:
    said = [_extension("ethnicity", "2186-5")] if race is None else [_extension("race", race)]
    about = {"gender": "male" if male else "female", "birthDate": f"{born}-03-01", "extension": said}
    return {"resourceType": "Patient", "id": name, **about}


def _coverage(name: str, kind: str) -> dict[str, Any]:
    coding = {"system": "https://nahdo.org/sopt", "code": kind}
    about = {"beneficiary": {"reference": f"Patient/{name}"}, "payor": [{"display": "payer"}]}
    return {
        "resourceType": "Coverage",
        "id": f"c{name}-{kind}",
        "status": "active",
        "type": {"coding": [coding]},
    } | about


def _claim(number: int, who: str, day: date, kind: str, amount: int, until: date | None = None) -> dict[str, Any]:
    """A claim: ``inpatient`` (urgent), ``ed`` or ``office``."""
    office = kind == "office"
    code = {"system": "http://www.ama-assn.org/go/cpt", "code": "99213" if office else "99284" if kind == "ed" else "x"}
    item = {
        "sequence": 1,
        "servicedPeriod": {"start": day.isoformat(), "end": (until or day).isoformat()},
        "productOrService": {"coding": [code]},
        "adjudication": [{"category": {"coding": [{"code": name}]}, "amount": {"value": amount, "currency": "USD"}}
                         for name in ("eligible", "benefit")],
    }  # fmt: skip
    if not office:
        item["revenue"] = {"coding": [{"system": _REVENUE, "code": "0450" if kind == "ed" else "0120"}]}
    found: dict[str, Any] = {
        "resourceType": "ExplanationOfBenefit",
        "id": f"e{number}",
        "status": "active",
        "use": "claim",
        "type": {"coding": [{"system": _TYPES, "code": "professional" if office else "institutional"}]},
        "patient": {"reference": f"Patient/{who}"},
        "created": day.isoformat(),
        "insurer": {"display": "payer"},
        "provider": {"identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}},
        "outcome": "complete",
        "insurance": [{"focal": True, "coverage": {"display": "payer"}}],
        "billablePeriod": {"start": day.isoformat(), "end": (until or day).isoformat()},
        "diagnosis": [{"sequence": 1, "diagnosisCodeableConcept": {"coding": [{"system": _ICD, "code": "I50.9"}]}}],
        "item": [item],
    }
    if not office:
        bill = "111" if kind == "inpatient" else "131"
        found["supportingInfo"] = [
            {"sequence": 1, "category": {"coding": [{"code": "typeofbill"}]}, "code": {"coding": [{"code": bill}]}}
        ]
    if kind == "inpatient":
        kinds = [{"sequence": 2, "category": {"coding": [{"code": "admtype"}]}, "code": {"coding": [{"code": "1"}]}}]
        found["supportingInfo"] += kinds
    return found


def resources(size: int, seed: int = 7) -> list[dict[str, Any]]:
    """Patients, coverages and claims of so many members; the same of a seed."""
    generator = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    claims = 0
    for number in range(size):
        name, race = f"m{number}", _RACES[number % 4] if number % 40 else "1002-5"
        sick = number % 5 == 0
        made.append(_patient(name, race, int(generator.integers(1935, 1985)), bool(generator.integers(0, 2))))
        payers = ("1", "2") if number % 7 == 0 else ("1",) if number % 2 else ("5",)
        made += [_coverage(name, kind) for kind in payers]
        day = LAST - timedelta(3 * 365 - int(generator.integers(0, 60)))
        while day < LAST:
            claims += 1
            roll = generator.random()
            if roll < (0.55 if sick else 0.12):
                length = int(generator.integers(1, 9))
                until = min(day + timedelta(length), LAST)
                made.append(_claim(claims, name, day, "inpatient", 8000 + 500 * length, until))
                chance = (0.4 if sick else 0.1) + (0.25 if race == "2054-5" else 0.0)
                day = until + timedelta(int(generator.integers(3, 25)) if generator.random() < chance else 60)
            else:
                kind, amount = ("ed", 900) if roll > 0.85 else ("office", 150)
                made.append(_claim(claims, name, day, kind, amount))
                day += timedelta(int(generator.integers(40, 120)))
    return made


def sick_lake(folder: Path, size: int) -> Gateway:
    """A gateway in a folder whose lake holds these members."""
    staged = folder / "staged"
    staged.mkdir(parents=True)
    lines = b"\n".join(map(orjson.dumps, resources(size)))
    (staged / "all.ndjson").write_bytes(lines + b"\n")
    gateway = Gateway(Settings(data_dir=folder / "gateway", lake_buckets=2))
    pull_files(gateway, [staged], "payer")
    return gateway
