"""Scores and ranks as FHIR RiskAssessments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/risk"
SCORE = "https://fhir-gateway.example/fhir/StructureDefinition/risk-score"
#: What each method is of.
OUTCOMES: Mapping[str, str] = {
    "charlson": "comorbidity",
    "elixhauser": "comorbidity",
    "lace": "readmission",
    "hospital": "readmission",
    "readmission-30": "readmission",
    "next-year-cost": "avoidable-cost",
    "work-list": "avoidable-cost",
}
#: Published probabilities of an avoidable readmission by band of HOSPITAL (Donzé 2016).
HOSPITAL_PROBABILITY: Mapping[str, str] = {"low": "0.058", "medium": "0.119", "high": "0.228"}


def assessment_id(method: str, key: str) -> str:
    """Id of the assessment of a person or stay by a method: a later one is a new version of it."""
    return f"{method}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def assessment(
    method: str,
    key: str,
    member: str,
    made: datetime,
    *,
    value: int | None = None,
    band: str | None = None,
    probability: float | str | None = None,
    reasons: Sequence[str] = (),
    missing: Sequence[str] = (),
    encounter: str | None = None,
    basis: str | None = None,
) -> dict[str, Any]:
    """A RiskAssessment of one member; ``made`` is aware, ``missing`` names inputs that nobody gave."""
    prediction: dict[str, Any] = {"outcome": _concept(OUTCOMES[method])}
    if value is not None:
        prediction = {"extension": [{"url": SCORE, "valueInteger": value}], **prediction}
    if probability is not None:
        prediction["probabilityDecimal"] = probability if isinstance(probability, float) else float(probability)
    if band is not None:
        prediction["qualitativeRisk"] = _concept(band)
    if reasons:
        prediction["rationale"] = "; ".join(reasons)
    found: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "id": assessment_id(method, key),
        "status": "preliminary" if missing else "final",
        "method": _concept(method),
        "subject": {"reference": f"Patient/{member}"},
        "occurrenceDateTime": made.isoformat(timespec="seconds"),
        "prediction": [prediction],
    }
    if encounter is not None:
        found["encounter"] = {"reference": encounter}
    notes = [f"Partial: nobody gave {', '.join(missing)}; the score is the least that it can be."] if missing else []
    notes += [basis] if basis else []
    if notes:
        found["note"] = [{"text": one} for one in notes]
    return found


def of_score(row: Mapping[str, Any], made: datetime, encounter: str | None = None) -> dict[str, Any]:
    """The RiskAssessment of a row of ``SCORES``."""
    band = row["band"]
    return assessment(
        row["score"],
        row["key"],
        row["member"],
        made,
        value=row["value"],
        band=band,
        probability=HOSPITAL_PROBABILITY.get(band) if row["score"] == "hospital" and band else None,
        reasons=[f"{one['name'].replace('_', ' ')} {one['points']:+d}" for one in row["components"]],
        missing=row["missing"],
        encounter=encounter,
    )


def _concept(code: str) -> dict[str, Any]:
    return {"coding": [{"system": SYSTEM, "code": code}]}
