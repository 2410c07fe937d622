"""Decisions as Provenance resources: who changed which list, when, why, and what they said themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhir_gateway.attribution.decisions import Decision

#: System of client ids, as in AuditEvents.
CLIENT_SYSTEM = "https://fhir-gateway.example/clients"
_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_AGENT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_CODES = {"member-add": "CREATE", "member-remove": "DELETE", "confirm": "UPDATE"}


def provenance(decision: Decision, lists: Sequence[str], said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Provenance of a decision over the lists it changed.

    ``said`` is the Provenance that came with the request (``X-Provenance``): its agents, reason, policy, entity and
    signature are kept beside what we know ourselves.
    """
    at = decision.at.isoformat(timespec="seconds")
    targets = [f"Group/{name}" for name in lists] + ([f"Patient/{decision.patient}"] if decision.patient else [])
    author = {
        "type": {"coding": [{"system": _AGENT, "code": "author"}]},
        "who": {"identifier": {"system": CLIENT_SYSTEM, "value": decision.by}},
    }
    resource: dict[str, Any] = {
        "resourceType": "Provenance",
        "id": decision.id,
        "target": [{"reference": one} for one in targets],
        "occurredDateTime": at,
        "recorded": at,
        "activity": {"coding": [{"system": _OPERATION, "code": _CODES[decision.act]}], "text": decision.act},
        "agent": [author],
    }
    if decision.why:
        resource["reason"] = [{"text": decision.why}]
    for name in ("policy", "location", "reason", "entity", "signature"):
        if said and said.get(name):
            resource[name] = said[name]
    if said:
        resource["agent"] = [author, *said["agent"]]
    return resource


def withdrawal(decision: Decision, before: Mapping[str, Any]) -> dict[str, Any]:
    """The Provenance of a withdrawn decision: who took it back, when and why, beside who made it."""
    by = {
        "type": {"coding": [{"system": _AGENT, "code": "verifier"}]},
        "who": {"identifier": {"system": CLIENT_SYSTEM, "value": decision.withdrawn_by}},
    }
    at = decision.withdrawn_at.isoformat(timespec="seconds") if decision.withdrawn_at else None
    note = {"text": f"withdrawn {at}" + (f": {decision.withdrawn_why}" if decision.withdrawn_why else "")}
    return {**before, "agent": [*before["agent"], by], "reason": [*before.get("reason", ()), note]}
