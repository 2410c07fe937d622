"""Settle a contract: attribution, measure results over its members, cost, lines, and the VBPR resources served.

Each settlement is a run (:mod:`fhir_gateway.contracts.runs`) that posts the difference to what was posted before.
"""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts import COST_COLUMNS, Contract, Settlement, SettlementInputs, collect
from fhir_gateway.contracts import settle as settle_contract
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.fhir_contract import fhir_contract
from fhir_gateway.contracts.inputs import measure_scores
from fhir_gateway.contracts.runs import Kind, Run, due
from fhir_gateway.contracts.vbpr import measure, performance_report, quality_report
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport, attribute, organizations
from fhir_gateway.jobs.claim_lines import copies_set_aside, kept_claim_lines
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.contract_results import results_of
from fhir_gateway.jobs.contract_versions import register
from fhir_gateway.jobs.experience import experience_outcomes
from fhir_gateway.jobs.frozen_inputs import FrozenInputs, freeze, thaw
from fhir_gateway.jobs.lake_tables import lake_tables
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.jobs.risk_tables import score_tables
from fhir_gateway.jobs.utilization import metric_outcomes
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.reports import summary
from fhir_gateway.risk.utilization import reports as utilization
from fhir_gateway.sources.outcome import Progress, PullProgress
from fhir_gateway.telemetry.spans import traced


@dataclass(frozen=True, slots=True)
class SettlementReport:
    """A settled contract. ``report`` is the id of the performance MeasureReport that is served, and of the run."""

    contract: Contract
    attribution: AttributionReport
    settlement: Settlement
    report: str
    run: Run


@traced("settle")
def settle(
    gateway: Gateway,
    contract_name: str,
    *,
    now: datetime | None = None,
    progress: Progress | None = None,
    interim: date | None = None,
    by: str | None = None,
    reason: str | None = None,
    everybody: bool = False,
) -> SettlementReport:
    """Settle a contract on the newest lake version, for its whole period or, ``interim``, up to a cut of its calendar.

    Measures of the contract that have no result for its period and this lake version are evaluated first, as of
    ``now``. The same inputs give the same settlement under the same report id, and no second run. A contract that was
    settled before with other terms under the same version is refused. Measures and attribution go by who changed since
    they were computed last, unless they are to be computed of ``everybody``; the settlement is the same.
    """
    moment = instant(gateway, now)
    path = gateway.contract(contract_name)
    cut = _cut(Contract.load(path), interim)
    attributed = attribute(gateway, contract_name, now=moment, everybody=everybody, progress=progress)
    contract = attributed.contract
    results = results_of(gateway, contract, attributed.lake_version, moment, progress)
    if progress:
        progress(PullProgress("settle", contract.title))
    settlement = compute(gateway, attributed, results, cut, keep=True)
    register(gateway, path, contract, moment)
    report = _serve(gateway, attributed, settlement, results, moment)
    run = _record(gateway, attributed, settlement, report, cut, moment, by or f"prompt:{getpass.getuser()}", reason)
    return SettlementReport(contract, attributed, settlement, report, run)


@traced("settle.compute")
def compute(
    gateway: Gateway,
    attributed: AttributionReport,
    results: dict[str, MeasureResult],
    cut: Cut | None,
    *,
    was: Mapping[str, str] | None = None,
    keep: bool = False,
) -> Settlement:
    """The settlement of an attribution and measure results (:func:`inputs_of`)."""
    return settle_contract(attributed.contract, inputs_of(gateway, attributed, results, cut, was=was, keep=keep))


@traced("settle.inputs")
def inputs_of(
    gateway: Gateway,
    attributed: AttributionReport,
    results: dict[str, MeasureResult],
    cut: Cut | None = None,
    *,
    was: Mapping[str, str] | None = None,
    keep: bool = False,
) -> SettlementInputs:
    """What an attribution and measure results are settled from, as of now; or as of then, by the stamps of a settlement
    (``was``). ``keep``: so that it can be found again by the stamps.
    """
    contract, members = attributed.contract, attributed.members
    terms = contract.claims
    paid_through = terms.paid_through if cut is None else cut.paid_through
    stamps = {"lake_version": str(attributed.lake_version), "attribution.evidence": attributed.evidence}
    if attributed.decisions:
        stamps["attribution.decisions"] = attributed.decisions
    aside = copies_set_aside(gateway, attributed.lake_version, paid_through, terms.precedence, members)
    for (source, taken), count in aside.items():
        stamps[f"claims.copies.{source}.set_aside_for.{taken}"] = str(count)
    for name, result in results.items():
        stamps[f"measure.{name}.package"] = result.package_hash
        stamps[f"measure.{name}.terminology"] = result.terminology_hash
        stamps[f"measure.{name}.evaluated_at"] = result.evaluated_at.isoformat()
    distinct = {id(result): result for result in results.values()}
    other = thaw(gateway, was or {}) or _other_inputs(gateway, attributed, cut)
    stamps |= {**other.stamps, **(freeze(gateway, other) if keep else {})}
    return collect(
        contract,
        attributed.attribution,
        _lines(gateway, attributed, cut),
        {**measure_scores(distinct.values(), members), **other.outcomes},
        attributed.coverage,
        stamps,
        persons_of(gateway, attributed.lake_version) if contract.needs() else None,
        cut,
        other.tables,
        other.sources,
    )


def _other_inputs(gateway: Gateway, attributed: AttributionReport, cut: Cut | None) -> FrozenInputs:
    """Kept risk scores, tables made of the lake, outcomes of metrics and surveys, as they stand now."""
    scores, kept = score_tables(gateway, attributed.contract, attributed.lake_version)
    made = lake_tables(gateway, attributed)
    found, made_of = metric_outcomes(gateway, attributed, cut)
    experienced, surveyed = experience_outcomes(gateway, attributed, cut)
    sources = {name: f"scores of {kept[f'risk.{name}']}" for name in scores} | {
        n: one.source for n, one in made.items()
    }
    return FrozenInputs(
        tables=scores | {name: one.table for name, one in made.items()},
        sources=sources,
        outcomes=found | experienced,
        stamps=kept | {f"lake.{name}": one.source for name, one in made.items()} | made_of | surveyed,
    )


def statements_folder(gateway: Gateway, contract_id: str) -> Path:
    """Where the statements of a contract are kept."""
    return gateway.data_folder / "settlements" / contract_id


def statement(settlement: Settlement) -> bytes:
    """The settlement as it is kept: the same bytes for the same settlement."""
    return orjson.dumps(settlement.to_dict(), option=orjson.OPT_INDENT_2)


def _cut(contract: Contract, interim: date | None) -> Cut | None:
    if interim is None:
        return None
    cuts = contract.calendar.cuts(*contract.dates)
    for cut in cuts:
        if cut.through == interim:
            return cut
    known = ", ".join(cut.through.isoformat() for cut in cuts) or "none"
    raise ContractError(f"calendar.interim: {interim.isoformat()} is no cut of this contract's (there are: {known})")


def _lines(gateway: Gateway, attributed: AttributionReport, cut: Cut | None) -> pa.Table:
    """Claim lines as of the last day that payments count; of an interim settlement that day is earlier.

    Of everybody where an arrangement looks at columns (:class:`~fhir_gateway.contracts.arrangements.facts.Facts`), else
    of the roster.
    """
    contract, needs = attributed.contract, attributed.contract.needs()
    return kept_claim_lines(
        gateway,
        attributed.lake_version,
        contract.claims.paid_through if cut is None else cut.paid_through,
        sorted({*COST_COLUMNS, *needs.lines}),
        contract.claims.precedence,
        None if needs else attributed.members,
    )


@traced("settle.record")
def _record(
    gateway: Gateway,
    attributed: AttributionReport,
    settlement: Settlement,
    report: str,
    cut: Cut | None,
    now: datetime,
    by: str,
    reason: str | None,
) -> Run:
    """Keep the run, and post what it changes."""
    contract = attributed.contract
    standing = [run for run in gateway.settlements.runs(contract.id) if run.state in ("preliminary", "review", "final")]
    amends = standing[-1] if standing and cut is None else None
    kind: Kind = "interim" if cut else "amendment" if amends and amends.state != "preliminary" else "final"
    run = Run(
        id=report,
        contract=contract.id,
        version=contract.version,
        digest=contract.digest,
        kind=kind,
        state="interim" if cut else "preliminary",
        through=settlement.period[1],
        paid_through=settlement.paid_through,
        lake_version=attributed.lake_version,
        evidence=attributed.evidence,
        as_of=now,
        total=settlement.total,
        currency=contract.currency,
        statement=hashlib.sha256(statement(settlement)).hexdigest(),
        by=by,
        made=now,
        reason=reason,
        amends=amends.id if amends else None,
    )
    return gateway.settlements.add(run, due(settlement, kind, contract.calendar, contract.rounding))


def _quality_id(report_id: str, name: str, run: str) -> str:
    """The run's id is that of its summary, and contracts over the same members state different points for it."""
    return f"q{hashlib.sha256(f'{report_id} {name} {run}'.encode()).hexdigest()[:24]}"


@traced("settle.serve")
def _serve(
    gateway: Gateway,
    attributed: AttributionReport,
    settlement: Settlement,
    results: dict[str, MeasureResult],
    now: datetime,
) -> str:
    contract, members = attributed.contract, attributed.members
    stated = statement(settlement)
    report_id = f"s{hashlib.sha256(stated).hexdigest()[:24]}"
    quality = {}
    for name, result in results.items():
        mask = pc.is_in(result.members, value_set=members).to_numpy(zero_copy_only=False)
        report = summary(result, {"reference": f"Organization/{REPORTER}"}, mask)
        quality[name] = {**quality_report(report, settlement, name), "id": _quality_id(report_id, name, report["id"])}
    known = organizations(gateway, attributed.lake_version)
    performance = performance_report(
        settlement,
        contract,
        report_id=report_id,
        issued=now,
        quality_reports={name: f"MeasureReport/{report['id']}" for name, report in quality.items()},
        organizations=known,
    )
    canonicals = {name: f"{result.url}|{result.version}" for name, result in results.items()}
    metrics = {one.id: utilization.canonical() for one in contract.measures if one.metric}
    served = [measure(contract, canonicals | metrics), fhir_contract(contract, known), *quality.values(), performance]
    gateway.resources.put_many(labelled(one, label("contract", contract.id)) for one in served)
    if metrics:
        gateway.resources.put(utilization.measure())
    folder = statements_folder(gateway, contract.id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f".{report_id}.part"
    partial.write_bytes(stated)
    partial.replace(folder / f"{report_id}.json")
    return report_id
