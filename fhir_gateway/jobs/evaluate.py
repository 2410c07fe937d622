"""Evaluate measure packages over everybody in the lake, keep the results, and serve their summary reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from fhir_gateway.cluster import Cluster
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.publish import REPORTER, reporter
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.reports import summary
from fhir_gateway.measures.run import evaluate_lake
from fhir_gateway.measures.store import ResultStore
from fhir_gateway.measures.supplement import supplemented
from fhir_gateway.sources.outcome import Progress, PullProgress
from fhir_gateway.telemetry.spans import traced

SERVED = frozenset({"Measure", "Library"})
"""Resources of a package that are served beside its reports."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Counts and score of one group over everybody."""

    group: str
    initial_population: int
    denominator: int
    numerator: int
    score: Decimal | None


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One measure evaluated: the run's id (also that of its summary MeasureReport), and what it says of everybody."""

    run: str
    measure: str
    members: int
    failed: int
    seconds: float
    rates: tuple[Rate, ...]
    results: ResultStore = field(repr=False)

    @property
    def result(self) -> MeasureResult:
        """The result, read from the store each time: results of all measures of a run may not fit into memory."""
        return self.results.load(self.run)


@traced("evaluate")
def evaluate(
    gateway: Gateway,
    packages: Sequence[str],
    period: tuple[date, date],
    *,
    now: datetime | None = None,
    everybody: bool = False,
    progress: Progress | None = None,
    cluster: Cluster | None = None,
) -> list[EvaluationReport]:
    """Evaluate packages (paths, or names in the measures folder; none: all of that folder) over one lake version.

    Every package is checked and compiled before the first is evaluated, so that a missing value set is known at once;
    then each batch of members is read once for all measures. Where there is a run to go by only those are evaluated
    whose data changed since, unless ``everybody`` is to be; the results are the same. ``now`` is the evaluation
    instant, with offset; by default the present in the gateway's zone. With ``cluster`` it evaluates the batches.
    """
    paths = [gateway.measure_package(name) for name in packages] or gateway.measure_packages()
    if not paths:
        raise ConfigurationError(f"there are no measure packages in {gateway.measures_folder}")
    evaluators = []
    for number, path in enumerate(paths):
        if progress:
            progress(PullProgress("compile", path.name, number, len(paths)))
        package = MeasurePackage.load(path, profiles=gateway.settings.profiles)
        evaluators.append(Evaluator(supplemented(package, gateway.terminology, period[0])))
    what = evaluators[0].package.name if len(evaluators) == 1 else f"{len(evaluators)} measures"

    def tell(done: int, total: int) -> None:
        if progress:
            progress(PullProgress("evaluate", what, done, total))

    now = instant(gateway, now)
    settings = gateway.settings
    runs = traced("evaluate.members")(evaluate_lake)(
        evaluators,
        gateway.lake,
        period,
        now,
        gateway.results,
        processes=settings.processes,
        copies=settings.encounter_copies,
        reuse=not everybody,
        tell=tell,
        cluster=cluster,
    )
    gateway.resources.put(reporter(gateway))
    reports = []
    for number, (evaluator, run) in enumerate(zip(evaluators, runs, strict=True)):
        if progress:
            progress(PullProgress("report", evaluator.package.name, number, len(runs)))
        reports.append(_serve(gateway, evaluator.package, run))
    return reports


@traced("evaluate.report")
def _serve(gateway: Gateway, package: MeasurePackage, run: str) -> EvaluationReport:
    """Serve the summary of a run with the content it was made by; one result at a time is in memory."""
    result = gateway.results.load(run)
    content = [one for one in package.resources if one["resourceType"] in SERVED]
    gateway.resources.put_many([*content, summary(result, {"reference": f"Organization/{REPORTER}"})])
    rates = (
        Rate(
            group.id,
            group.count("initial-population"),
            group.count("denominator"),
            group.count("numerator"),
            group.score(),
        )
        for group in result.groups
    )
    return EvaluationReport(
        run, result.name, len(result.members), len(result.failed), result.seconds, tuple(rates), gateway.results
    )
