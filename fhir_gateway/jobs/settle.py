"""Settle a contract: attribution, measure results over its members, cost, lines, and the VBPR resources served."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import orjson
import pyarrow.compute as pc

from fhir_gateway.contracts import Contract, Settlement, collect
from fhir_gateway.contracts import settle as settle_contract
from fhir_gateway.contracts.inputs import measure_scores
from fhir_gateway.contracts.vbpr import measure, performance_report, quality_report
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport, attribute, organizations
from fhir_gateway.jobs.claim_lines import copies_set_aside
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.reports import summary
from fhir_gateway.measures.supplement import supplemented
from fhir_gateway.sources.outcome import Progress, PullProgress


@dataclass(frozen=True, slots=True)
class SettlementReport:
    """A settled contract. ``report`` is the id of the performance MeasureReport that is served."""

    contract: Contract
    attribution: AttributionReport
    settlement: Settlement
    report: str


def settle(
    gateway: Gateway, contract_name: str, *, now: datetime | None = None, progress: Progress | None = None
) -> SettlementReport:
    """Settle a contract on the newest lake version.

    Measures of the contract that have no result for its period and this lake version are evaluated first, as of
    ``now``. The same inputs give the same settlement under the same report id.
    """
    moment = instant(gateway, now)
    attributed = attribute(gateway, contract_name, now=moment, progress=progress)
    contract = attributed.contract
    results = _results(gateway, attributed, moment, progress)
    if progress:
        progress(PullProgress("settle", contract.title))
    members = attributed.members
    stamps = {"lake_version": str(attributed.lake_version)}
    if attributed.decisions:
        stamps["attribution.decisions"] = attributed.decisions
    terms = contract.claims
    aside = copies_set_aside(gateway, attributed.lake_version, terms.paid_through, terms.precedence, members)
    for (source, taken), count in aside.items():
        stamps[f"claims.copies.{source}.set_aside_for.{taken}"] = str(count)
    for name, result in results.items():
        stamps[f"measure.{name}.package"] = result.package_hash
        stamps[f"measure.{name}.terminology"] = result.terminology_hash
        stamps[f"measure.{name}.evaluated_at"] = result.evaluated_at.isoformat()
    distinct = {id(result): result for result in results.values()}
    inputs = collect(
        contract,
        attributed.attribution,
        attributed.lines,
        measure_scores(distinct.values(), members),
        attributed.coverage,
        stamps,
        persons_of(gateway, attributed.lake_version) if contract.needs() else None,
    )
    settlement = settle_contract(contract, inputs)
    report = _serve(gateway, attributed, settlement, results, moment)
    return SettlementReport(contract, attributed, settlement, report)


def _results(
    gateway: Gateway, attributed: AttributionReport, now: datetime, progress: Progress | None
) -> dict[str, MeasureResult]:
    """Results by measure id of the contract: those kept for this period and lake version, else evaluated now.

    Kept results of a measure that is installed count when they were made by its present content and terminology.
    """
    contract = attributed.contract
    wanted = {terms.id: terms.canonical for terms in contract.measures}
    content = _content(gateway, wanted, contract.dates[0])
    copies = gateway.settings.encounter_copies
    kept: dict[str, tuple[datetime, str]] = {}
    for run in gateway.results.runs() if wanted else ():
        header = gateway.results.header(run)
        if (header.period, header.lake_version, header.copies) == (contract.dates, attributed.lake_version, copies):
            for name, canonical in wanted.items():
                newer = name not in kept or header.evaluated_at > kept[name][0]
                made_by = (header.package_hash, header.terminology_hash)
                if newer and _is(canonical, header.url, header.version) and content.get(name, made_by) == made_by:
                    kept[name] = header.evaluated_at, run
    runs = {name: run for name, (_, run) in kept.items()}
    missing = {name: canonical for name, canonical in wanted.items() if name not in runs}
    if missing:
        paths = _packages(gateway, missing)
        for report in evaluate(gateway, paths, contract.dates, now=now, progress=progress):
            header = gateway.results.header(report.run)
            runs |= {
                name: report.run for name, canonical in missing.items() if _is(canonical, header.url, header.version)
            }
    results = {run: gateway.results.load(run) for run in sorted(set(runs.values()))}
    return {name: results[runs[name]] for name in wanted}


def _content(gateway: Gateway, wanted: dict[str, str], on: date) -> dict[str, tuple[str, str]]:
    """Hashes of package and terminology of the measures that are installed."""
    found: dict[str, tuple[str, str]] = {}
    for path in gateway.measure_packages() if wanted else ():
        package = MeasurePackage.load(path, profiles=gateway.settings.profiles)
        names = [name for name, canonical in wanted.items() if _is(canonical, package.url, package.version)]
        if names:
            package = supplemented(package, gateway.terminology, on)
            made_by = (package.package_hash, package.terminology_hash)
            found |= {name: made_by for name in names if name not in found}
    return found


def _packages(gateway: Gateway, wanted: dict[str, str]) -> Sequence[str]:
    """Paths of the installed packages that hold these measures; ContractError names those that none holds."""
    installed = {path: MeasurePackage.load(path) for path in gateway.measure_packages()}
    paths: dict[str, None] = {}
    for name, canonical in wanted.items():
        found = [str(path) for path, package in installed.items() if _is(canonical, package.url, package.version)]
        if not found:
            raise ContractError(f"measures.{name}.canonical: no such measure is installed in {gateway.measures_folder}")
        paths[found[0]] = None
    return list(paths)


def _is(canonical: str, url: str, version: str) -> bool:
    return canonical in (url, f"{url}|{version}")


def _quality_id(report_id: str, name: str, run: str) -> str:
    """The run's id is that of its summary, and contracts over the same members state different points for it."""
    return f"q{hashlib.sha256(f'{report_id} {name} {run}'.encode()).hexdigest()[:24]}"


def _serve(
    gateway: Gateway,
    attributed: AttributionReport,
    settlement: Settlement,
    results: dict[str, MeasureResult],
    now: datetime,
) -> str:
    contract, members = attributed.contract, attributed.members
    stated = orjson.dumps(settlement.to_dict(), option=orjson.OPT_INDENT_2)
    report_id = f"s{hashlib.sha256(stated).hexdigest()[:24]}"
    quality = {}
    for name, result in results.items():
        mask = pc.is_in(result.members, value_set=members).to_numpy(zero_copy_only=False)
        report = summary(result, {"reference": f"Organization/{REPORTER}"}, mask)
        quality[name] = {**quality_report(report, settlement, name), "id": _quality_id(report_id, name, report["id"])}
    performance = performance_report(
        settlement,
        contract,
        report_id=report_id,
        issued=now,
        quality_reports={name: f"MeasureReport/{report['id']}" for name, report in quality.items()},
        organizations=organizations(gateway, attributed.lake_version),
    )
    served = [measure(contract), *quality.values(), performance]
    gateway.resources.put_many(labelled(one, label("contract", contract.id)) for one in served)
    folder = gateway.data_folder / "settlements" / contract.id
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f".{report_id}.part"
    partial.write_bytes(stated)
    partial.replace(folder / f"{report_id}.json")
    return report_id
