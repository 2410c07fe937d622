"""Tables of a contract that are made of the lake: accepted diagnoses, social risk, Medicare enrolment types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import COVERAGE_COLUMNS
from fhir_gateway.attribution.eligibility import months_by
from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.benchmarks.enrolment import ENROLMENT_COLUMNS, enrolment_types
from fhir_gateway.contracts.contract import LAKE_TABLES
from fhir_gateway.contracts.terms import Period
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport, computed
from fhir_gateway.jobs.equity import reference_tables, social_risk_of
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.jobs.risk import kept_diagnoses


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A table, and in words what it was made of."""

    table: pa.Table
    source: str


def lake_tables(gateway: Gateway, attributed: AttributionReport) -> Mapping[str, LakeTable]:
    """The tables of a contract that are made of the lake, by name; of the version that was attributed."""
    made = {"diagnoses": _diagnoses, "social-risk": _social_risk, "enrolment": _enrolment}
    found = {}
    for name, kind in sorted(attributed.contract.lake_tables().items()):
        one = made[kind](gateway, attributed)
        schema = pa.schema([field.with_nullable(True) for field in LAKE_TABLES[kind]])
        table = one.table.select(schema.names).cast(schema).combine_chunks()
        found[name] = LakeTable(table, f"{one.source} (lake version {attributed.lake_version})")
    return found


def _diagnoses(gateway: Gateway, attributed: AttributionReport) -> LakeTable:
    """Diagnoses that count for risk adjustment, from two years before the period on."""
    start, end = attributed.contract.dates
    since = date(start.year - 2, 1, 1)
    found = kept_diagnoses(gateway, attributed.lake_version)
    days = pc.and_(pc.greater_equal(found["service_date"], since), pc.less_equal(found["service_date"], end))
    found = found.filter(pc.and_(pc.is_null(found["reason"]), days))
    columns = [("member", "member"), ("diagnosis", "diagnosis"), ("service_date", "day")]
    table = pa.table({name: found[column] for column, name in columns})
    table = table.group_by(table.column_names, use_threads=False).aggregate([])
    order = [(name, "ascending") for name in table.column_names]
    return LakeTable(table.sort_by(order), "diagnoses of claims that count for risk adjustment")


def _social_risk(gateway: Gateway, attributed: AttributionReport) -> LakeTable:
    """Deprivation, dual eligibility and low income of everybody on the period's last day."""
    found = social_risk_of(gateway, attributed.contract.dates[1], version=attributed.lake_version)
    columns = [("member", "member"), ("adi_national", "adi"), ("dual", "dual"), ("lis", "low_income")]
    table = pa.table({name: found[column] for column, name in columns})
    imported = [reference_tables(gateway).in_force(kind) for kind in ("adi", "eligibility")]
    named = ", ".join(f"{one.kind} {one.version}" for one in imported if one is not None)
    return LakeTable(table, f"Patient, Coverage and {named or 'no imported table'}")


def _enrolment(gateway: Gateway, attributed: AttributionReport) -> LakeTable:
    """Types by month of those attributed in the period's year, and in each base year by the same terms."""
    contract, version = attributed.contract, attributed.lake_version
    if contract.attribution_terms is None:
        raise ContractError("attribution.terms: none were loaded")
    coverage = gateway.lake.read(
        "Coverage", list(dict.fromkeys((*COVERAGE_COLUMNS, *ENROLMENT_COLUMNS))), version=version
    )
    people = persons_of(gateway, version)
    rule = contract.attribution_terms.eligibility
    months = []
    for year in contract.needs().years:
        period = (date(year, 1, 1), date(year, 12, 31))
        now = year == contract.dates[0].year
        members = attributed.members if now else computed(gateway, _in_year(contract, *period), version=version).members
        counted = months_by(rule, coverage, period, people).select(["member", "month"])
        months.append(counted.filter(pc.is_in(counted["member"], value_set=members)))
    found = enrolment_types(coverage, people, pa.concat_tables(months))
    return LakeTable(found.table, found.source)


def _in_year(contract: Contract, start: date, end: date) -> Contract:
    """The contract as if it were of another year: nobody was attributed by it before."""
    before = contract.attribution.model_copy(update={"previous": None})
    return contract.model_copy(update={"period": Period(start=start, end=end), "attribution": before})
