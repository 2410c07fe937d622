"""What if: the same population under changed terms, or a contract beside others; and where the year will end.

Nothing is served, kept or posted: attribution is computed without anybody's decisions unless a settlement's evidence
is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from fhir_gateway.contracts import Contract, Settlement
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.changes import changed
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.contracts.projection import Projection
from fhir_gateway.contracts.projection import project as project_inputs
from fhir_gateway.errors import Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport, computed, kept_attribution
from fhir_gateway.jobs.attribution_kept import kept_lines
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.contract_results import results_of
from fhir_gateway.jobs.settle import compute, inputs_of
from fhir_gateway.sources.outcome import Progress


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario and what it comes to. ``changes`` are term paths and values; empty for a contract as it is."""

    name: str
    contract: Contract
    changes: Mapping[str, Any]
    settlement: Settlement


def what_if(
    gateway: Gateway,
    contract_name: str,
    scenarios: Mapping[str, Mapping[str, Any]],
    beside: Sequence[str] = (),
    now: datetime | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """The contract as it is, under each scenario's changed terms, and other contracts over the same population.

    ContractError for a path that leads nowhere, or changed terms that contradict each other.
    """
    path = gateway.contract(contract_name)
    variants: list[tuple[str, Path, dict[str, Any]]] = [("as agreed", path, {})]
    variants += [(name, path, dict(changes)) for name, changes in scenarios.items()]
    variants += [(Path(other).stem, gateway.contract(other), {}) for other in beside]
    moment = instant(gateway, now)
    found: list[Outcome] = []
    bases: dict[tuple[str, ...], AttributionReport] = {}
    for name, file, changes in variants:
        contract = Contract.of(changed(read_document(file), changes), file.parent, where=Location(file=str(file)))
        key = _attributed_by(contract)
        if key not in bases:
            bases[key] = _base(gateway, contract)
        base = replace(bases[key], contract=contract)
        results = results_of(gateway, contract, base.lake_version, moment, progress)
        found.append(Outcome(name, contract, changes, compute(gateway, base, results, None)))
    return found


def project(gateway: Gateway, contract_name: str, as_of: date, now: datetime | None = None) -> Projection:
    """Where a contract will end, from the claims known as of the last day of a month of its period."""
    contract = Contract.load(gateway.contract(contract_name))
    base = _base(gateway, contract)
    results = results_of(gateway, contract, base.lake_version, instant(gateway, now), None)
    lines = kept_lines(gateway, contract, base.lake_version, as_of)
    inputs = inputs_of(gateway, base, results, Cut(contract.dates[1], as_of))
    by_time = any(terms.carried_on() in ("time", "services") for terms in contract.arrangements)
    so_far = inputs_of(gateway, base, results, Cut(as_of, as_of)) if by_time else None
    return project_inputs(contract, inputs, base.members, lines, as_of, so_far=so_far)


def _attributed_by(contract: Contract) -> tuple[str, ...]:
    """What attribution depends on: contracts that agree in it share theirs."""
    terms = contract.attribution_terms
    return (
        terms.digest if terms else "",
        contract.period.model_dump_json(),
        contract.provider.model_dump_json(),
        contract.claims.paid_through.isoformat(),
        *contract.claims.precedence,
    )


def _base(gateway: Gateway, contract: Contract) -> AttributionReport:
    """The attribution that was settled last under these terms and this lake version, else one made now."""
    version = gateway.lake.version
    for run in reversed(gateway.settlements.runs(contract.id)):
        if (run.digest, run.lake_version) == (contract.digest, version):
            return kept_attribution(gateway, contract, run.evidence)
    return computed(gateway, contract)
