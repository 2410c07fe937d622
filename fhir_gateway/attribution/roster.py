"""What a list says of its contract: identifiers, term, parties, and how it refers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Any, Literal

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

    def provider(self, entity: str, tin: str | None, npi: str | None) -> dict[str, Any]:
        """Reference to whom a member is attributed; the settlement entity itself without numbers (ATR data rule 7)."""
        if npi and (self.provider_level == "practitioner" or not tin):
            return refer(self.practitioners.get(npi), "Practitioner", NPI_SYSTEM, npi)
        if tin:
            return refer(self.organizations.get(tin), "Organization", TIN_SYSTEM, tin)
        return {"type": "Organization", "display": entity}

    def coverage(self, coverage: str | None) -> str | None:
        """Reference of a Coverage named ``source/id``."""
        if coverage is None:
            return None
        source, _, resource_id = coverage.partition("/")
        return self.coverage_reference(source, resource_id)


def refer(reference: str | None, kind: str, system: str, value: str) -> dict[str, Any]:
    """A Reference to something served, else by its number."""
    if reference:
        return {"reference": reference}
    return {"type": kind, "identifier": {"system": system, "value": value}}
