"""A contract as FHIR R4 ``Contract``: parties, period, and a term for each payment arrangement, in words and by kind.

What can be computed with is the VBPR Measure of the same id; the Contract is what people and contract systems read.
"""

from __future__ import annotations

from typing import Any

from fhir_gateway.contracts.arrangements import ArrangementTerms
from fhir_gateway.contracts.contract import Contract

_STATUS = {"draft": "negotiable", "active": "executed", "retired": "terminated"}
_KIND = "https://fhir-gateway.example/fhir/CodeSystem/payment-arrangement"


def fhir_contract(contract: Contract, organizations: dict[str, str] | None = None) -> dict[str, Any]:
    """The resource; its id is the contract's. ``organizations`` are served Organizations by TIN or NPI."""
    known = organizations or {}
    start, end = contract.dates
    parties = [contract.payer.refer(known), contract.provider.refer(known)]
    return {
        "resourceType": "Contract",
        "id": contract.id,
        "identifier": [{"system": contract.identifier.system, "value": contract.identifier.value}],
        "url": contract.url,
        "version": contract.version,
        "status": _STATUS[contract.status],
        "applies": {"start": start.isoformat(), "end": end.isoformat()},
        "subject": parties,
        "title": contract.title,
        "author": parties[0],
        "topicReference": {"reference": f"Measure/{contract.id}", "display": contract.title},
        "term": [_term(contract, terms) for terms in contract.arrangements],
        "supportingInfo": [{"reference": f"Measure/{contract.id}"}, {"reference": f"Group/{contract.id}"}],
    }


def _term(contract: Contract, terms: ArrangementTerms) -> dict[str, Any]:
    start, end = contract.dates
    kind = {"coding": [{"system": _KIND, "code": terms.kind.replace("_", "-")}], "text": terms.kind.replace("_", " ")}
    measures = [measure.name for measure in terms.chosen(contract.measures)] if terms.uses_quality() else []
    words = f"{kind['text']}, paid from the pool '{terms.pool}'"
    if measures:
        words += f"; quality by {', '.join(measures)}"
    return {
        "identifier": {"system": f"{contract.identifier.system}/{contract.identifier.value}", "value": terms.id},
        "applies": {"start": start.isoformat(), "end": end.isoformat()},
        "type": kind,
        "text": words,
        "offer": {"text": words},
    }
