"""What is stratified: a metric as a denominator and a numerator for each member, from measures or from any table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError
from fhir_gateway.measures.model import GroupResult, MeasureResult, PopulationResult

Values = npt.NDArray[np.float64]
Kind = Literal["proportion", "rate", "mean", "cohort"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by member; ``members`` are sorted and distinct, of others both numbers are 0.

    ``proportion``: numerator of denominator, both counts. ``rate``: events per person time (or other exposure), times
    ``scale``. ``mean``: the numerator is a sum over the members (or episodes) that the denominator counts. ``cohort``:
    only the denominator counts. ``measure`` is the canonical and ``group`` the group of a measure's result.
    """

    id: str
    title: str
    members: pa.Array
    denominator: Values
    numerator: Values
    kind: Kind = "proportion"
    scale: float = 1.0
    direction: Literal["increase", "decrease"] | None = None
    measure: str | None = None
    group: str | None = None


def metrics_of(result: MeasureResult) -> tuple[list[Metric], list[str]]:
    """A metric for each group of a measure's result, and notes on groups that have no such metric.

    Denominators are without exclusions and exceptions, numerators without numerator exclusions.
    """
    found: list[Metric] = []
    notes: list[str] = []
    order = np.asarray(pc.sort_indices(result.members.cast(pa.string())))
    members = result.members.cast(pa.string()).take(pa.array(order))
    for group in result.groups:
        name = result.name if len(result.groups) == 1 else f"{result.name}#{group.id}"
        parts = _parts(group, len(result.members))
        if isinstance(parts, str):
            notes.append(f"{name}: {parts}")
            continue
        kind, denominator, numerator = parts
        notation = group.improvement_notation
        found.append(
            Metric(
                id=name,
                title=result.title,
                members=members,
                denominator=denominator[order],
                numerator=numerator[order],
                kind=kind,
                direction="increase" if notation == "increase" else "decrease" if notation == "decrease" else None,
                measure=result.canonical,
                group=group.id,
            )
        )
    return found, notes


def of_table(
    table: pa.Table, metric_id: str, title: str, kind: Kind = "rate", scale: float = 1.0, measure: str | None = None
) -> Metric:
    """A metric from rows of ``member``, ``denominator`` and ``numerator``; several rows of a member are summed.

    InputError for negative numbers and, of proportions, for numerators above their denominators.
    """
    names = ("member", "denominator", "numerator")
    if missing := [name for name in names if name not in table.column_names]:
        raise InputError(f"metric {metric_id}: the table lacks {', '.join(missing)}")
    sums = table.group_by("member").aggregate([("denominator", "sum"), ("numerator", "sum")]).sort_by("member")
    denominator, numerator = (
        np.asarray(pc.fill_null(sums[f"{name}_sum"].cast(pa.float64()), 0.0)).astype(np.float64) for name in names[1:]
    )
    if (denominator < 0).any() or (kind != "mean" and (numerator < 0).any()):
        raise InputError(f"metric {metric_id}: a denominator or numerator is negative")
    if kind == "proportion" and (numerator > denominator).any():
        raise InputError(f"metric {metric_id}: the numerator of a proportion is part of its denominator")
    members = sums["member"].combine_chunks().cast(pa.string())
    return Metric(metric_id, title, members, denominator, numerator, kind, scale, measure=measure)


def _parts(group: GroupResult, size: int) -> tuple[Kind, Values, Values] | str:
    """Kind, denominator and numerator of each member, or why there are none."""
    zeros = np.zeros(size)

    def counts(code: str) -> Values:
        population = group.population(code)
        return zeros if population is None else population.counts.astype(np.float64)

    if group.composite is not None:
        return "composites are stratified by their components"
    if group.scoring == "cohort":
        return "cohort", counts("initial-population"), zeros
    if group.scoring == "continuous-variable":
        observed = next((p for p in group.populations if p.observations is not None), None)
        if observed is None or observed.observations is None or observed.observations.aggregate_method != "average":
            return "only averages of observations are stratified"
        return "mean", *_observed(observed, size)
    net = counts("denominator") - counts("denominator-exclusion") - counts("denominator-exception")
    met = counts("numerator") - counts("numerator-exclusion")
    if group.scoring == "proportion":
        return "proportion", net, met
    if any(population.observations is not None for population in group.populations):
        return "ratios of observations are not stratified"
    return "rate", net, met


def _observed(population: PopulationResult, size: int) -> tuple[Values, Values]:
    observations = population.observations
    assert observations is not None  # noqa: S101 the caller chose it by that
    value = np.asarray(observations.value.cast(pa.float64()))
    count = np.bincount(observations.member, minlength=size).astype(np.float64)
    return count, np.bincount(observations.member, weights=value, minlength=size).astype(np.float64)
