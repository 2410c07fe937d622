"""Attribution of some members by the rows of the lake that are theirs: what this machine and a cluster both do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import AttributionTerms
from fhir_gateway.attribution import attribute as attribute_members
from fhir_gateway.contracts import Contract
from fhir_gateway.errors import ContractError
from fhir_gateway.jobs.attribution_facts import Known, births, with_facilities

#: Attribution, candidates, and which practice and clinician of the contract saw whom.
Tables: TypeAlias = tuple[pa.Table, pa.Table, pa.Table]

#: Columns of the last.
SERVICE = ("member", "tin", "npi")


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of some members."""

    lines: pa.Table
    coverage: pa.Table
    people: pa.Table

    @property
    def members(self) -> pa.Array:
        """All of them, by whatever is known."""
        named = [self.lines["_member"], self.coverage["_member"], self.people["member"]]
        return pc.unique(pa.chunked_array([chunk for one in named for chunk in one.chunks], pa.string()))


def terms_of(contract: Contract) -> AttributionTerms:
    """The terms that a contract attributes by; ContractError."""
    if contract.attribution_terms is None:
        raise ContractError("attribution.terms: none were loaded")
    return contract.attribution_terms


def attribute_rows(contract: Contract, rows: Rows, known: Known, facilities: pa.Table | None) -> Tables:
    """Attribution of these members."""
    people = rows.people
    found = attribute_members(
        with_facilities(rows.lines, facilities),
        rows.coverage,
        terms_of(contract),
        contract.dates,
        contract.participants,
        selections=known.selections,
        members=people["member"].combine_chunks(),
        deaths=people.filter(people["died"].is_valid()).select(["member", "died"]),
        facts=replace(known.facts, births=births(people)),
    )
    return found.table, found.candidates, _services(contract, rows.lines)


def _services(contract: Contract, lines: pa.Table) -> pa.Table:
    numbers = [
        pc.is_in(lines[name], value_set=pa.array(getattr(contract.provider, f"{name}s"), pa.string()))
        for name in ("tin", "npi")
    ]
    seen = lines.filter(pc.or_(*numbers)).select(["_member", "tin", "npi"]).rename_columns(list(SERVICE))
    distinct = seen.group_by(list(SERVICE)).aggregate([])
    return distinct.sort_by([(name, "ascending") for name in SERVICE]).combine_chunks()
