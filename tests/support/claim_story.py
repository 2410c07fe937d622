"""Claims of one patient and what their payer answered, over half a year."""

from __future__ import annotations

from typing import Any

from tests.support.claims import GOOD_NPI, NPI, Claim, line, professional

ADJUDICATION = "http://hl7.org/fhir/us/carin-bb/CodeSystem/C4BBAdjudicationDiscriminator"
MONEY = "http://terminology.hl7.org/CodeSystem/adjudication"
CARC = "https://x12.org/codes/claim-adjustment-reason-codes"


def amount(category: str, value: float) -> Any:
    return {
        "category": {"coding": [{"system": MONEY, "code": category}]},
        "amount": {"value": value, "currency": "USD"},
    }


def denial(*reasons: str) -> Any:
    coded = [{"system": CARC, "code": one} for one in reasons]
    return {"category": {"coding": [{"system": ADJUDICATION, "code": "denialreason"}]}, "reason": {"coding": coded}}


def answer(identifier: str, claim: Claim, day: str, adjudications: list[list[Any]], before: str | None = None) -> Any:
    """What a payer says to a claim, line by line; ``before`` is the answer that it takes the place of."""
    items = [one | {"adjudication": found} for one, found in zip(claim["item"], adjudications, strict=True)]
    paid = sum(x["amount"]["value"] for found in adjudications for x in found if "amount" in x and "benefit" in str(x))
    made = {
        "resourceType": "ExplanationOfBenefit",
        "id": identifier,
        "status": "active",
        "type": claim["type"],
        "use": "claim",
        "patient": claim["patient"],
        "billablePeriod": claim["billablePeriod"],
        "created": day,
        "insurer": {"display": "Payer One"},
        "provider": claim["provider"],
        "outcome": "complete",
        "claim": {"reference": f"Claim/{claim['id']}"},
        "insurance": [{"focal": True, "coverage": {"reference": "Coverage/cov1"}}],
        "item": [{name: value for name, value in one.items() if name != "insurance"} for one in items],
        "payment": {"date": day, "amount": {"value": paid, "currency": "USD"}},
    }
    if before:
        prior = {"coding": [{"code": "prior"}]}
        made["related"] = [{"relationship": prior, "claim": {"reference": f"ExplanationOfBenefit/{before}"}}]
    return made


def story() -> list[dict[str, Any]]:
    """Four claims of one patient: denied and paid later, paid at once, denied in part, denied by a ClaimResponse."""
    first = professional(line(1), line(2, "11042"), identifier="c1", created="2025-03-15")
    again = professional(line(1, modifiers=["25"]), line(2, "11042"), identifier="c2", created="2025-04-02")
    at_once = professional(line(1, "93000", "2025-05-01", "50.00"), identifier="c3", created="2025-05-02")
    repeated = professional(line(1, "93000", "2025-05-01", "50.00"), identifier="c4", created="2025-05-20")
    paid = [amount("submitted", 125), amount("benefit", 80)]
    refused = [amount("submitted", 125), denial("97", "N19")]
    response = {
        "resourceType": "ClaimResponse",
        "id": "r4",
        "status": "active",
        "type": repeated["type"],
        "use": "claim",
        "patient": repeated["patient"],
        "created": "2025-06-03",
        "insurer": {"display": "Payer One"},
        "request": {"reference": "Claim/c4"},
        "outcome": "complete",
        "item": [{"itemSequence": 1, "adjudication": [amount("submitted", 50), denial("18")]}],
    }
    return [
        {"resourceType": "Patient", "id": "p1", "birthDate": "1950-03-14", "gender": "female"},
        {
            "resourceType": "Organization",
            "id": "org",
            "name": "Practice",
            "identifier": [{"system": NPI, "value": GOOD_NPI}],
        },
        {
            "resourceType": "Coverage",
            "id": "cov1",
            "status": "active",
            "beneficiary": {"reference": "Patient/p1"},
            "payor": [{"display": "Payer One"}],
            "period": {"start": "2024"},
            "order": 1,
        },
        *(first, again, at_once, repeated),
        answer("e1", first, "2025-03-30", [refused, paid]),
        answer("e2", again, "2025-04-20", [paid, paid], "e1"),
        answer("e3", at_once, "2025-05-12", [[amount("submitted", 50), amount("benefit", 40)]]),
        response,
    ]
