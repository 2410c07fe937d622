"""Results by who the members are: kept measure results and other tables, by every dimension, suppressed together.

What is protected is protected within one answer. So that answers to different questions do not add up to what each of
them hides, everything that is kept for a period and a population is always looked at together, with every dimension;
a question chooses what is told of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from fhir_gateway.equity.dimensions import DIMENSIONS, MemberDimensions, chosen
from fhir_gateway.equity.members import dimensions_of
from fhir_gateway.equity.metrics import Kind, Metric, metrics_of, of_table
from fhir_gateway.equity.stratify import Strata, stratify
from fhir_gateway.equity.suppression import THRESHOLD
from fhir_gateway.equity.tables import ReferenceTables
from fhir_gateway.equity.underserved import social_risk
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.equity_answers import noted
from fhir_gateway.jobs.kept_dimensions import kept_dimensions
from fhir_gateway.jobs.utilization import compute
from fhir_gateway.risk.utilization.metrics import metrics as utilization_definitions

Period = tuple[date, date]


@dataclass(frozen=True, slots=True)
class Question:
    """What is told: measures (canonical, url or name; default all) and dimensions (default all but single needs)."""

    measures: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    on: date | None = None
    members: Sequence[str] | None = field(default=None, repr=False)
    threshold: int = THRESHOLD


def reference_tables(gateway: Gateway) -> ReferenceTables:
    """The imported tables of area deprivation, rurality and eligibility."""
    return ReferenceTables(gateway.data_folder / "equity" / "tables")


def member_dimensions(
    gateway: Gateway, on: date, members: Iterable[str] | None = None, version: int | None = None
) -> MemberDimensions:
    """Everybody, or these members, with every dimension as of a day, out of a lake version (default: the newest).

    What was computed of everybody is kept: for these members it is read.
    """
    at = gateway.lake.version if version is None else version

    def read(kind: str, columns: Sequence[str], coded: dict[str, frozenset[str]] | None) -> pa.Table:
        return gateway.lake.read(kind, list(columns), version=at, coded=coded, ordered=False)

    tables = reference_tables(gateway)
    found = kept_dimensions(gateway, tables, on, at, lambda: dimensions_of(read, tables, on))
    return found if members is None else found.take(pa.array(sorted(set(members)), pa.string()))


def social_risk_of(
    gateway: Gateway, on: date, members: Iterable[str] | None = None, version: int | None = None
) -> pa.Table:
    """Inputs of equity-adjusted payment by member (:data:`fhir_gateway.equity.underserved.SOCIAL_RISK_SCHEMA`)."""
    return social_risk(member_dimensions(gateway, on, members, version))


def newest_runs(gateway: Gateway, period: Period) -> list[str]:
    """The newest kept run of each measure version for a period."""
    newest: dict[str, tuple[datetime, str]] = {}
    for run in gateway.results.runs():
        header = gateway.results.header(run)
        if header.period == period:
            newest[header.canonical] = max(
                newest.get(header.canonical, (header.evaluated_at, "")), (header.evaluated_at, run)
            )
    return [run for _, (_, run) in sorted(newest.items())]


def stratified(gateway: Gateway, period: Period, question: Question, tables: Sequence[Metric] = ()) -> Strata:
    """The kept results of a period, and those of ``tables`` that are asked for, by every dimension.

    Dimensions are as of the question's day (default: the period's last). NotFoundError when there are no results of the
    period, or of a measure that is asked for.
    """
    wanted = chosen(question.dimensions)
    metrics: list[Metric] = [one for one in tables if _is_asked(one, question.measures)]
    notes: list[str] = []
    runs = newest_runs(gateway, period)
    for run in runs:
        of_run, said = metrics_of(gateway.results.load(run))
        metrics += of_run
        notes += said
    told = [one for one in metrics if _is_asked(one, question.measures)]
    if missing := [name for name in question.measures if not any(_is_asked(one, (name,)) for one in metrics)]:
        raise NotFoundError(f"there are no results of this period of {len(missing)} of the measures")
    if not told:
        raise NotFoundError("there are no results of this period; evaluate measures first")
    dimensions = member_dimensions(gateway, question.on or period[1], question.members)
    strata = stratify(metrics, dimensions, tuple(DIMENSIONS), question.threshold, notes)
    warned = noted(gateway, period, dimensions.members, runs, question.threshold)
    names, ids = {one.id for one in told}, {one.id for one in wanted}
    return replace(
        strata,
        breakdowns=tuple(o for o in strata.breakdowns if o.metric.id in names and o.dimension.id in ids),
        population=tuple(one for one in strata.population if one.dimension.id in ids),
        notes=(*strata.notes, *warned),
    )


def utilization_metrics(gateway: Gateway, period: Period) -> list[Metric]:
    """Metrics of utilization and cost that have a denominator, of everybody in the lake.

    Percentages are proportions; money and days by stays are means, which have no interval.
    """
    found = compute(gateway, period, keep_members=True).utilization
    metrics = []
    for about in utilization_definitions().values():
        if about.denominator is None or about.id in found.refused:
            continue
        table = found.per_member(about.id)
        within = bool(pc.all(pc.less_equal(table["numerator"], table["denominator"])).as_py())
        months = about.denominator.endswith("months")
        kind: Kind = "proportion" if about.unit == "%" and within else "rate"
        if "money" in about.unit or (about.unit != "%" and not months):
            kind = "mean"
        metrics.append(of_table(table, about.id, about.title, kind, about.per))
    return metrics


def read_metric(path: Path, metric_id: str, kind: str, scale: float) -> Metric:
    """A metric from a CSV or Parquet file of member, denominator and numerator."""
    if kind not in ("proportion", "rate", "mean"):
        raise InputError("kind: a metric is a proportion, a rate or a mean")
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
        return of_table(table, metric_id, metric_id, kind, scale)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise InputError("there is no such file", location=Location(file=str(path))) from None
    except pa.ArrowException:
        raise InputError("not a table of member, denominator, numerator", location=Location(file=str(path))) from None


def _is_asked(metric: Metric, names: Sequence[str]) -> bool:
    url = (metric.measure or "").partition("|")[0]
    return not names or any(name in (metric.id, metric.id.partition("#")[0], metric.measure, url) for name in names)
