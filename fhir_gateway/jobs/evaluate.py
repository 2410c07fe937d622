"""Evaluate measure packages over everybody in the lake, keep the results, and serve their summary reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.publish import REPORTER, reporter
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import LakePopulation
from fhir_gateway.measures.reports import summary
from fhir_gateway.sources.outcome import Progress, PullProgress

SERVED = frozenset({"Measure", "Library"})
"""Resources of a package that are served beside its reports."""


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One measure evaluated: the run's id (also that of its summary MeasureReport) and its result."""

    run: str
    result: MeasureResult


def evaluate(
    gateway: Gateway,
    packages: Sequence[str],
    period: tuple[date, date],
    *,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> list[EvaluationReport]:
    """Evaluate packages (paths, or names in the measures folder; none: all of that folder) over one lake version.

    Every package is checked and compiled before the first is evaluated, so that a missing value set is known at once.
    ``now`` is the evaluation instant, with offset; by default the present in the gateway's zone.
    """
    paths = [gateway.measure_package(name) for name in packages] or gateway.measure_packages()
    if not paths:
        raise ConfigurationError(f"there are no measure packages in {gateway.measures_folder}")
    now = instant(gateway, now)
    evaluators = []
    for number, path in enumerate(paths):
        if progress:
            progress(PullProgress("compile", path.name, number, len(paths)))
        evaluators.append(Evaluator(MeasurePackage.load(path)))
    population = LakePopulation(gateway.lake)
    reports = []
    gateway.resources.put(reporter(gateway))
    for number, evaluator in enumerate(evaluators):
        if progress:
            progress(PullProgress("evaluate", evaluator.package.name, number, len(evaluators)))
        reports.append(_store(gateway, evaluator, evaluator.evaluate(population, period, now)))
    return reports


def _store(gateway: Gateway, evaluator: Evaluator, result: MeasureResult) -> EvaluationReport:
    run = gateway.results.save(result)
    report = summary(result, {"reference": f"Organization/{REPORTER}"})
    content = [one for one in evaluator.package.resources if one["resourceType"] in SERVED]
    gateway.resources.put_many([*content, report])
    return EvaluationReport(run, result)
