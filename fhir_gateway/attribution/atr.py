"""The roster of a contract as a Da Vinci Member Attribution (ATR 2.1.0) Group.

One Group per contract between a payer and a provider organization. A member entry is identified by patient and
attributed provider; ``changeType`` compares it with the previous version of the list: ``new``, ``changed`` (coverage,
period or activity differ), ``nochange``, ``dropped`` (kept with ``inactive`` true). A move to another provider is a
drop and an addition (ATR scenario 3). Entries dropped before leave the list once it is not a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Literal

import pyarrow.compute as pc

from fhir_gateway.attribution.models import Attribution
from fhir_gateway.errors import ContractError

_ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
_IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
NPI_SYSTEM = "http://hl7.org/fhir/sid/us-npi"
TIN_SYSTEM = "urn:oid:2.16.840.1.113883.4.4"

ListStatus = Literal["draft", "open", "final"]
_NO_REFERENCES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Roster:
    """What the Group says of its contract: identifier, term, parties."""

    contract_system: str
    contract_value: str
    name: str
    contract_period: tuple[date, date]
    managing_entity: Mapping[str, Any]  # Reference to the payer's Organization
    tins: Sequence[str] = ()
    npis: Sequence[str] = ()
    #: Served Organization by TIN, served Practitioner by NPI; a provider that is not served is named by its number.
    organizations: Mapping[str, str] = field(default_factory=lambda: _NO_REFERENCES)
    practitioners: Mapping[str, str] = field(default_factory=lambda: _NO_REFERENCES)
    provider_level: Literal["organization", "practitioner"] = "organization"
    #: Reference of a Coverage by its source and id there.
    coverage_reference: Callable[[str, str], str] = lambda source, coverage: f"Coverage/{coverage}"


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
) -> dict[str, Any]:
    """ATR Group of the members attributed to ``entity``, or only of those of one of its practices (``tin``).

    ``last_updated`` must be aware. ``previous`` is the version of the list this one replaces. Members are referred to
    as ``Patient/{person}``, their coverage is the one that covers them last.
    """
    if last_updated.tzinfo is None:
        raise ContractError("the list's timestamp needs an offset")
    table = attribution.table.filter(pc.equal(attribution.table["entity"], entity))
    if tin is not None:
        table = table.filter(pc.equal(table["tin"], tin))
    period = {"start": attribution.period[0].isoformat(), "end": attribution.period[1].isoformat()}
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for member, tin, npi, coverage in zip(
        *(table[name].to_pylist() for name in ("member", "tin", "npi", "coverage")), strict=True
    ):
        entry = _entry(f"Patient/{member}", _provider(roster, entity, tin, npi), _coverage(roster, coverage), period)
        entries[_key(entry)] = entry
    before = {_key(entry): entry for entry in (previous or {}).get("member", ())}
    members = [_changed(entry, before.get(key)) for key, entry in entries.items()]
    for key, entry in before.items():
        if key not in entries:
            gone = bool(entry.get("inactive"))
            if not gone or status == "draft":
                members.append(_marked(entry, "nochange" if gone else "dropped", inactive=True))
    members.sort(key=_key)
    group: dict[str, Any] = {
        "resourceType": "Group",
        "id": group_id,
        "meta": {"lastUpdated": last_updated.isoformat(timespec="milliseconds"), "profile": [f"{_ATR}atr-group"]},
        "extension": [
            {
                "url": f"{_ATR}ext-contractValidityPeriod",
                "valuePeriod": {
                    "start": roster.contract_period[0].isoformat(),
                    "end": roster.contract_period[1].isoformat(),
                },
            },
            {"url": f"{_ATR}ext-attributionListStatus", "valueCode": status},
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


def _provider(roster: Roster, entity: str, tin: str | None, npi: str | None) -> dict[str, Any]:
    if roster.provider_level == "practitioner" and npi:
        return _reference(roster.practitioners.get(npi), "Practitioner", NPI_SYSTEM, npi)
    if tin:
        return _reference(roster.organizations.get(tin), "Organization", TIN_SYSTEM, tin)
    if npi:
        return _reference(roster.practitioners.get(npi), "Practitioner", NPI_SYSTEM, npi)
    return {"type": "Organization", "display": entity}  # the settlement entity itself (ATR data rule 7)


def _coverage(roster: Roster, coverage: str | None) -> str | None:
    """Reference of a Coverage named ``source/id``."""
    if coverage is None:
        return None
    source, _, resource_id = coverage.partition("/")
    return roster.coverage_reference(source, resource_id)


def _reference(reference: str | None, kind: str, system: str, value: str) -> dict[str, Any]:
    if reference:
        return {"reference": reference}
    return {"type": kind, "identifier": {"system": system, "value": value}}


def _entry(patient: str, provider: dict[str, Any], coverage: str | None, period: Mapping[str, str]) -> dict[str, Any]:
    extension = [{"url": f"{_ATR}ext-attributedProvider", "valueReference": provider}]
    if coverage:
        extension.insert(0, {"url": f"{_ATR}ext-coverageReference", "valueReference": {"reference": coverage}})
    return {"extension": extension, "entity": {"reference": patient}, "period": dict(period), "inactive": False}


def _extension(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    for extension in entry.get("extension", ()):
        if extension["url"] == _ATR + name:
            return dict(extension)
    return {}


def _key(entry: Mapping[str, Any]) -> tuple[str, str]:
    provider = _extension(entry, "ext-attributedProvider").get("valueReference", {})
    identifier = provider.get("identifier", {})
    name = provider.get("reference") or identifier.get("value") or provider.get("display", "")
    return entry["entity"]["reference"], name


def _changed(entry: dict[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    if before is None:
        return _marked(entry, "new", inactive=False)
    same = (
        not before.get("inactive")
        and before.get("period") == entry["period"]
        and _extension(before, "ext-coverageReference") == _extension(entry, "ext-coverageReference")
    )
    return _marked(entry, "nochange" if same else "changed", inactive=False)


def _marked(entry: Mapping[str, Any], change: str, *, inactive: bool) -> dict[str, Any]:
    others = [e for e in entry.get("extension", ()) if e["url"] != f"{_ATR}ext-changeType"]
    marked = [{"url": f"{_ATR}ext-changeType", "valueCode": change}, *others]
    return {**entry, "extension": marked, "inactive": inactive}
