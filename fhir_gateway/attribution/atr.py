"""The roster of a contract as a Da Vinci Member Attribution (ATR 2.1.0) Group.

One Group per contract between a payer and a provider organization. A move to another provider is a drop and an
addition (ATR scenario 3). What becomes of an entry from version to version is in
:mod:`fhir_gateway.attribution.entries`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fhir_gateway.attribution.decisions import Decided, listed
from fhir_gateway.attribution.entries import ATR, STATUS, TERM, next_version
from fhir_gateway.attribution.models import Attribution
from fhir_gateway.attribution.roster import NPI_SYSTEM, TIN_SYSTEM, ListStatus, Roster
from fhir_gateway.errors import ContractError

_IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"


def atr_group(
    attribution: Attribution,
    entity: str,
    roster: Roster,
    *,
    group_id: str,
    last_updated: datetime,
    status: ListStatus = "draft",
    previous: Mapping[str, Any] | None = None,
    tin: str | None = None,
    decided: Decided | None = None,
) -> dict[str, Any]:
    """ATR Group of the members attributed to ``entity``, or only of those of one of its practices (``tin``).

    ``last_updated`` must be aware. ``previous`` is the version of the list this one replaces; ``decided`` are the
    entries after decisions, without it those that attribution gives. Members are referred to as ``Patient/{person}``,
    their coverage is the one that covers them last.
    """
    if last_updated.tzinfo is None:
        raise ContractError("the list's timestamp needs an offset")
    decided = decided or Decided(listed(attribution, entity, roster))
    entries = decided.of(tin)
    members = next_version(
        entries, (previous or {}).get("member", ()), status, removed=decided.removed, erased=decided.removed
    )
    group: dict[str, Any] = {
        "resourceType": "Group",
        "id": group_id,
        "meta": {"lastUpdated": last_updated.isoformat(timespec="milliseconds"), "profile": [f"{ATR}atr-group"]},
        "extension": [
            {
                "url": TERM,
                "valuePeriod": {
                    "start": roster.contract_period[0].isoformat(),
                    "end": roster.contract_period[1].isoformat(),
                },
            },
            {"url": STATUS, "valueCode": status},
        ],
        "identifier": [
            {"use": "official", "system": roster.contract_system, "value": roster.contract_value},
            *(_number("TAX", "Tax ID number", TIN_SYSTEM, tin) for tin in roster.tins),
            *(_number("NPI", "National provider identifier", NPI_SYSTEM, npi) for npi in roster.npis),
        ],
        "active": True,
        "type": "person",
        "actual": True,
        "name": roster.name,
        "quantity": len(entries),
        "managingEntity": dict(roster.managing_entity),
    }
    if members:
        group["member"] = members
    return group


def _number(code: str, display: str, system: str, value: str) -> dict[str, Any]:
    kind = {"coding": [{"system": _IDENTIFIER_TYPES, "code": code, "display": display}]}
    return {"use": "official", "type": kind, "system": system, "value": value}
