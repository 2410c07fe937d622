"""Metrics by the strata of dimensions: numbers, rates, intervals, what is missing, and what is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.equity.dimensions import (
    ASKED,
    DECLINED,
    MISSING,
    UNKNOWN,
    Column,
    Dimension,
    MemberDimensions,
    chosen,
)
from fhir_gateway.equity.intervals import poisson, wilson
from fhir_gateway.equity.metrics import Metric, Values
from fhir_gateway.equity.protection import Protection, protect
from fhir_gateway.equity.suppression import THRESHOLD


@dataclass(frozen=True, slots=True)
class Cell:
    """A metric in one stratum, or in all (``stratum`` None). Hidden numbers are None and ``suppressed`` is true.

    ``low`` and ``high`` bound the rate at 95 %; there are none of means.
    """

    stratum: str | None
    title: str
    denominator: float | None
    numerator: float | None
    rate: float | None
    low: float | None
    high: float | None
    suppressed: bool

    @property
    def missing(self) -> bool:
        """Whether the stratum is of those of whom nothing is known."""
        return self.stratum in MISSING


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A metric by one dimension. Shares of the denominator without data and of those who declined; None when hidden."""

    metric: Metric
    dimension: Dimension
    total: Cell
    cells: tuple[Cell, ...]
    missing_share: float | None
    declined_share: float | None


@dataclass(frozen=True, slots=True)
class Composition:
    """How many members are in each stratum of a dimension; None is hidden."""

    dimension: Dimension
    members: tuple[tuple[str, str, int | None], ...]  # code, title, count


@dataclass(frozen=True, slots=True)
class Strata:
    """Everything that was broken down together; only what is in one of these may be published with another.

    ``aligned`` are the metrics by the members of ``dimensions``.
    """

    dimensions: MemberDimensions
    aligned: tuple[Metric, ...]
    protection: Protection
    breakdowns: tuple[Breakdown, ...]
    population: tuple[Composition, ...]
    notes: tuple[str, ...]

    def of(self, metric: str, dimension: str) -> Breakdown:
        """The breakdown of a metric by a dimension; KeyError when there is none."""
        for one in self.breakdowns:
            if (one.metric.id, one.dimension.id) == (metric, dimension):
                return one
        raise KeyError((metric, dimension))


def stratify(
    metrics: Sequence[Metric],
    dimensions: MemberDimensions,
    names: Sequence[str | Dimension] = (),
    threshold: int = THRESHOLD,
    notes: Sequence[str] = (),
) -> Strata:
    """``metrics`` by the dimensions called ``names`` (default: all), or others than ours, suppressed together.

    Members that ``dimensions`` does not have do not count. Strata of a dimension add up to the whole.
    """
    wanted = _dimensions(names)
    aligned = tuple(_aligned(metric, dimensions) for metric in metrics)
    links: dict[str, list[str]] = {}
    for dimension in wanted:
        links.setdefault(dimension.link, []).append(dimension.id)
    protection = protect(aligned, dimensions, list(links.values()), threshold)
    said = list(notes)
    breakdowns = []
    for number, metric in enumerate(aligned):
        if number in protection.withheld:
            said.append(f"{metric.id}: not shown, too few members")
            continue
        if number in protection.denominators_only and metric.kind != "cohort":
            said.append(f"{metric.id}: no numerators, too few members met it or did not")
        breakdowns += [_breakdown(number, metric, one, dimensions.columns[one.id], protection) for one in wanted]
    population = tuple(_composition(one, dimensions.columns[one.id], protection.population[one.id]) for one in wanted)
    return Strata(dimensions, aligned, protection, tuple(breakdowns), population, tuple(said))


def total(metric: Metric, members: pa.Array, threshold: int = THRESHOLD) -> Cell:
    """A metric of these members (sorted) in one number, hidden where it is of too few."""
    everybody = Dimension("all", "All", "all", {"all": "All"})
    column = Column(np.zeros(len(members), np.int64), ("all",))
    strata = stratify(
        [metric], MemberDimensions(members, date.min, {"all": column}, pa.table({})), [everybody], threshold
    )
    if not strata.breakdowns:
        return Cell(None, "All", None, None, None, None, None, True)
    return strata.breakdowns[0].total


def _dimensions(names: Sequence[str | Dimension]) -> tuple[Dimension, ...]:
    ours = tuple(name for name in names if isinstance(name, str))
    others = tuple(one for one in names if isinstance(one, Dimension))
    return others if others and not ours else (*chosen(ours), *others)


def title_of(dimension: Dimension, code: str) -> str:
    """The title of a stratum; codes that the dimension does not state are their own."""
    return dimension.strata.get(code, code)


def _aligned(metric: Metric, dimensions: MemberDimensions) -> Metric:
    place = pc.index_in(metric.members.cast(pa.string()), value_set=dimensions.members)
    here = np.asarray(place.is_valid())
    index = np.asarray(pc.fill_null(place, 0))[here]
    denominator, numerator = np.zeros(len(dimensions.members)), np.zeros(len(dimensions.members))
    denominator[index], numerator[index] = metric.denominator[here], metric.numerator[here]
    return Metric(
        metric.id,
        metric.title,
        dimensions.members,
        denominator,
        numerator,
        metric.kind,
        metric.scale,
        metric.direction,
        metric.measure,
        metric.group,
    )


def _breakdown(number: int, metric: Metric, dimension: Dimension, column: Column, protection: Protection) -> Breakdown:
    size = len(column.strata)
    denominators = np.bincount(column.codes, metric.denominator, size).astype(np.float64)
    numerators = np.bincount(column.codes, metric.numerator, size)
    hidden = protection.hidden[number, dimension.id]
    counts = metric.kind == "cohort" or number in protection.denominators_only
    alone = counts or (number, dimension.id) in protection.totals_only
    cells = tuple(
        _cell(metric, code, title_of(dimension, code), denominators[place], numerators[place], hidden[place], alone)
        for place, code in enumerate(column.strata)
    )
    total = _cell(metric, None, "All", metric.denominator.sum(), metric.numerator.sum(), False, counts)
    return Breakdown(
        metric,
        dimension,
        total,
        cells,
        _share(column, denominators, hidden, (UNKNOWN, ASKED)),
        _share(column, denominators, hidden, (DECLINED,)),
    )


def _cell(
    metric: Metric,
    code: str | None,
    title: str,
    denominator: float,
    numerator: float,
    hidden: np.bool_ | bool,
    counts_only: bool,
) -> Cell:
    if hidden:
        return Cell(code, title, None, None, None, None, None, True)
    if counts_only:
        return Cell(code, title, float(denominator), None, None, None, None, metric.kind != "cohort")
    if not denominator:
        return Cell(code, title, 0.0, float(numerator), None, None, None, False)
    bounds = None
    if metric.kind == "proportion":
        bounds = wilson(float(numerator), float(denominator))
    elif metric.kind == "rate":
        bounds = poisson(float(numerator), float(denominator))
    low, high = (bounds[0] * metric.scale, bounds[1] * metric.scale) if bounds else (None, None)
    rate = float(numerator / denominator) * metric.scale
    return Cell(code, title, float(denominator), float(numerator), rate, low, high, False)


def _share(column: Column, denominators: Values, hidden: npt.NDArray[np.bool_], codes: tuple[str, ...]) -> float | None:
    places = [place for place, code in enumerate(column.strata) if code in codes]
    whole = float(denominators.sum())
    if not whole or any(hidden[place] for place in places):
        return None
    return float(sum(denominators[place] for place in places)) / whole


def _composition(dimension: Dimension, column: Column, hidden: npt.NDArray[np.bool_]) -> Composition:
    counts = np.bincount(column.codes, minlength=len(column.strata))
    rows = tuple(
        (code, title_of(dimension, code), None if hidden[place] else int(counts[place]))
        for place, code in enumerate(column.strata)
    )
    return Composition(dimension, rows)
