"""What attribution looks at beside claims and Coverage: selections, residence, births, clinicians, who won before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.attribution import AttributionTerms, Facts
from fhir_gateway.attribution.eligibility import BIRTH_SCHEMA
from fhir_gateway.attribution.residence import ADDRESS_COLUMNS, residences
from fhir_gateway.attribution.services import PROVIDER_SCHEMA
from fhir_gateway.contracts import Contract
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_runs import newest_evidence
from fhir_gateway.jobs.selections import selections_of
from fhir_gateway.lake.claims import directory

#: Identifier systems of CMS certification numbers of facilities.
CCN_SYSTEMS = ("http://hl7.org/fhir/sid/us-ccn", "urn:oid:2.16.840.1.113883.4.336")


@dataclass(frozen=True, slots=True)
class Known:
    """Facts and selections for an attribution; ``stamps`` name those that are not in the lake nor in the contract."""

    facts: Facts
    selections: pa.Table
    stamps: Mapping[str, Any]

    def of(self, members: pa.Array) -> Known:
        """What is known of these members, and of all clinicians."""
        facts = self.facts
        theirs = {
            name: None if table is None else _theirs(table, members)
            for name, table in (
                ("residence", facts.residence),
                ("programmes", facts.programmes),
                ("previous", facts.previous),
            )
        }
        return Known(replace(facts, **theirs), _theirs(self.selections, members), self.stamps)


def known_facts(
    gateway: Gateway,
    contract: Contract,
    terms: AttributionTerms,
    version: int,
    members: pa.Array | None = None,
) -> Known:
    """All that a contract's attribution needs to know of its members (or of these) and clinicians, but for births."""
    selections, programmes, batches = selections_of(gateway, contract, version, members)
    stamps: dict[str, Any] = {"selections": batches} if batches else {}
    residence = None
    rule = terms.eligibility
    if rule.countries or rule.service_area or "geography" in terms.methods:
        counties = contract.given["counties"].table if "counties" in contract.given else None
        patients = gateway.lake.read("Patient", list(ADDRESS_COLUMNS), version=version, members=members)
        residence = residences(patients, counties)
    previous = None
    found = run_before(gateway, contract)
    if found is not None:
        previous = _theirs(pq.read_table(found / "members.parquet"), members)
        stamps["previous"] = f"{contract.attribution.previous}/{found.name}"
    return Known(
        Facts(
            residence=residence,
            programmes=_theirs(programmes, members),
            providers=clinicians(gateway, version),
            previous=previous,
        ),
        _theirs(selections, members),
        stamps,
    )


def births(people: pa.Table) -> pa.Table:
    """When people (:func:`~fhir_gateway.jobs.people.persons_of`) were born."""
    born = people.filter(people["birth_date"].is_valid()).select(["member", "birth_date"])
    return born.rename_columns(["member", "born"]).cast(BIRTH_SCHEMA)


def run_before(gateway: Gateway, contract: Contract) -> Path | None:
    """The run whose winners sticky terms stay with, where they have one."""
    terms, name = contract.attribution_terms, contract.attribution.previous
    return newest_evidence(gateway, name) if terms is not None and terms.stickiness and name else None


def _theirs(table: pa.Table, members: pa.Array | None) -> pa.Table:
    return table if members is None else table.filter(pc.is_in(table["member"], value_set=members))


#: Directory and clinicians of the lake version that was asked for last, by gateway: they are small, and read for every
#: member whose attribution somebody looks at. Arrow tables do not change, so any thread may have them.
_DIRECTORIES: WeakKeyDictionary[Gateway, tuple[int, pa.Table]] = WeakKeyDictionary()
_CLINICIANS: WeakKeyDictionary[Gateway, tuple[int, pa.Table]] = WeakKeyDictionary()


def known_directory(gateway: Gateway, version: int) -> pa.Table:
    """The directory of a lake version (:func:`fhir_gateway.lake.claims.directory`)."""
    known = _DIRECTORIES.get(gateway)
    if known is None or known[0] != version:
        known = _DIRECTORIES[gateway] = (version, directory(gateway.lake, version))
    return known[1]


def clinicians(gateway: Gateway, version: int) -> pa.Table:
    """Clinicians of the directories (``PROVIDER_SCHEMA``): of which practice and specialty each is."""
    known = _CLINICIANS.get(gateway)
    if known is None or known[0] != version:
        known = _CLINICIANS[gateway] = (version, _clinicians(gateway, version))
    return known[1]


def _clinicians(gateway: Gateway, version: int) -> pa.Table:
    with duckdb.connect() as connection:
        connection.register("directory", known_directory(gateway, version))
        found = connection.sql(
            """
            SELECT DISTINCT npi, tin, specialty, NULL::DATE AS start, NULL::DATE AS "end" FROM directory
            WHERE npi IS NOT NULL AND (tin IS NOT NULL OR specialty IS NOT NULL) AND reference NOT LIKE 'Organization/%'
            ORDER BY ALL
            """
        ).to_arrow_table()
    return found.cast(PROVIDER_SCHEMA)


def with_ccns(gateway: Gateway, contract: Contract, lines: pa.Table, version: int) -> pa.Table:
    """Claim lines with the CCN of their facility, where the terms or the contract know facilities by CCN."""
    return with_facilities(lines, facilities(gateway, contract, version))


def with_facilities(lines: pa.Table, known: pa.Table | None) -> pa.Table:
    """Claim lines with the CCN of their facility (:func:`facilities`)."""
    if known is None:
        return lines
    with duckdb.connect() as connection:
        connection.register("facilities", known)
        connection.register("lines", lines)
        return connection.sql(
            """
            SELECT l.*, CASE WHEN l.bill_type IS NOT NULL THEN f.ccn END AS ccn
            FROM lines l LEFT JOIN facilities f ON f.source = l.source AND f.organization = l.organization
            """
        ).to_arrow_table()


def facilities(gateway: Gateway, contract: Contract, version: int) -> pa.Table | None:
    """The CCN of each facility; None where neither the terms nor the contract know facilities by CCN."""
    terms = contract.attribution_terms
    by_ccn = terms is not None and any(one.ccns for one in terms.facility_services)
    if not by_ccn and not any(one.ccns for one in contract.participants):
        return None
    with duckdb.connect() as connection:
        connection.register("organizations", gateway.lake.read("Organization", ["identifier"], version=version))
        return connection.sql(
            """
            SELECT _source AS source, 'Organization/' || id AS organization, min(i.value) AS ccn
            FROM (SELECT _source, id, unnest(identifier) AS i FROM organizations)
            WHERE list_contains($systems, i.system) GROUP BY ALL ORDER BY ALL
            """,
            params={"systems": list(CCN_SYSTEMS)},
        ).to_arrow_table()
