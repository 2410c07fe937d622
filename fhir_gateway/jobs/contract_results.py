"""Measure results that a settlement is made of: kept ones, or evaluated now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from fhir_gateway.contracts import Contract
from fhir_gateway.errors import ContractError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.supplement import supplemented
from fhir_gateway.sources.outcome import Progress


def results_of(
    gateway: Gateway, contract: Contract, lake_version: int, now: datetime, progress: Progress | None
) -> dict[str, MeasureResult]:
    """Results by measure id of the contract: those kept for this period and lake version, else evaluated now.

    Kept results of a measure that is installed count when they were made by its present content and terminology.
    """
    wanted = {terms.id: terms.canonical for terms in contract.measures if not terms.metric}
    content = _content(gateway, wanted, contract.dates[0])
    copies = gateway.settings.encounter_copies
    kept: dict[str, tuple[datetime, str]] = {}
    for run in gateway.results.runs() if wanted else ():
        header = gateway.results.header(run)
        if (header.period, header.lake_version, header.copies) == (contract.dates, lake_version, copies):
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


def results_as_of(
    gateway: Gateway, contract: Contract, lake_version: int, stamps: Mapping[str, str]
) -> dict[str, MeasureResult]:
    """The very results that a settlement's stamps name; NotFoundError for one that is kept no more."""
    found: dict[str, MeasureResult] = {}
    headers = [(run, gateway.results.header(run)) for run in gateway.results.runs()] if contract.measures else []
    for terms in (one for one in contract.measures if not one.metric):
        wanted = tuple(stamps.get(f"measure.{terms.id}.{name}") for name in ("package", "terminology", "evaluated_at"))
        for run, header in headers:
            made_of = (header.package_hash, header.terminology_hash, header.evaluated_at.isoformat())
            same = (header.period, header.lake_version) == (contract.dates, lake_version) and made_of == wanted
            if same and _is(terms.canonical, header.url, header.version):
                found[terms.id] = gateway.results.load(run)
                break
        else:
            raise NotFoundError(f"measures.{terms.id}: the result that was settled is not kept any more")
    return found
