"""What may be shown of metrics over the strata of dimensions: hidden strata, and what is withheld altogether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fhir_gateway.equity.dimensions import MemberDimensions
from fhir_gateway.equity.families import Cluster, MemberSet, clusters, counted, families, sets_of
from fhir_gateway.equity.metrics import Metric
from fhir_gateway.equity.suppression import THRESHOLD, Codes, Families, Hidden, Link, Pools, pool, small


@dataclass(frozen=True, slots=True)
class Protection:
    """Hidden strata by (metric, dimension), and of whom nothing, or no numerator, is shown anywhere.

    ``population`` are the strata whose number of members is hidden, by dimension.
    """

    hidden: Mapping[tuple[int, str], Hidden]
    population: Mapping[str, Hidden]
    withheld: frozenset[int]
    denominators_only: frozenset[int]


@dataclass(slots=True)
class _Shown:
    """What is still to be shown: metrics, and of which of them numerators."""

    metrics: set[int]
    numerators: set[int]
    hidden: dict[tuple[int, str], Hidden] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _LinkedDimensions:
    names: tuple[str, ...]
    link: Link
    codes: Codes
    everyone: npt.NDArray[np.float64]
    population: Pools


def protect(
    metrics: Sequence[Metric], dimensions: MemberDimensions, links: Sequence[Sequence[str]], threshold: int = THRESHOLD
) -> Protection:
    """Which strata of which metric may be shown.

    The metrics are by the members of ``dimensions``; ``links`` are the dimensions that are shown, those that contain
    each other together.
    """
    linked = [_linked(dimensions, tuple(names), threshold) for names in links]
    shown = _Shown(set(range(len(metrics))), set(range(len(metrics))))
    if small(np.array([len(dimensions.members)]), threshold)[0] or any(one.population.failed for one in linked):
        shown.metrics.clear()
    pending = [sorted(shown.metrics)]
    while pending:
        chosen = [one for one in pending.pop() if one in shown.metrics]
        sets = [one for number in chosen for one in sets_of(number, metrics[number], number in shown.numerators)]
        totals = np.array([one.values.sum() for one in sets])
        if failing := [[(sets[n].metric, sets[n].role)] for n in np.flatnonzero(small(totals, threshold)).tolist()]:
            _reduce(shown, failing)
            pending.append(chosen)
            continue
        place = {number: here for here, number in enumerate(chosen)}
        local = [replace(one, metric=place[one.metric]) for one in sets]
        counts = [counted(sets, one.codes, one.link.strata.shape[1]) for one in linked]
        for cluster in clusters(local, len(chosen)):
            of = [chosen[one] for one in cluster.metrics]
            if unprotected := _protect_cluster(cluster, local, counts, linked, of, shown, threshold):
                _reduce(shown, [[(chosen[metric], role) for metric, role in owners] for owners in unprotected])
                pending.append(of)
    population = {name: one.population.hidden[place] for one in linked for place, name in enumerate(one.names)}
    everything = frozenset(range(len(metrics)))
    return Protection(
        shown.hidden, population, everything - shown.metrics, frozenset(shown.metrics) - frozenset(shown.numerators)
    )


def _protect_cluster(
    cluster: Cluster,
    sets: Sequence[MemberSet],
    counts: Sequence[npt.NDArray[np.float64]],
    linked: Sequence[_LinkedDimensions],
    of: Sequence[int],
    shown: _Shown,
    threshold: int,
) -> list[tuple[tuple[int, str], ...]]:
    """Keeps the hidden strata of a cluster; gives the owners of what cannot be protected."""
    bounded = {number: one.bounded for number, one in enumerate(sets)}
    for one, here in zip(linked, counts, strict=True):
        together = families(cluster, here, bounded)
        totals = small(together.counts.sum(axis=1), threshold)
        if totals.any():
            return [cluster.owners[n] for n in np.flatnonzero(totals).tolist()]
        pools = pool(together, one.link, one.population, threshold)
        if pools.failed:
            return [cluster.owners[n] for n in pools.failed]
        for metric in of:
            for place, name in enumerate(one.names):
                shown.hidden[metric, name] = pools.hidden[place]
    return []


def _reduce(shown: _Shown, failing: Sequence[Sequence[tuple[int, str]]]) -> None:
    """Numerators behind what fails are not shown any more; where there are none, the first metric is not."""
    for owners in failing:
        numerators = {metric for metric, role in owners if role == "numerator"}
        if numerators & shown.numerators:
            shown.numerators -= numerators
        elif not numerators and all(metric in shown.metrics for metric, _ in owners):
            shown.metrics.discard(owners[0][0])


def _linked(dimensions: MemberDimensions, names: tuple[str, ...], threshold: int) -> _LinkedDimensions:
    columns = [dimensions.columns[name] for name in names]
    sizes = tuple(len(one.strata) for one in columns)
    combined = np.zeros(len(dimensions.members), np.int64)
    for one in columns:
        combined = combined * len(one.strata) + one.codes
    found, codes = np.unique(combined, return_inverse=True)
    strata = np.stack(np.unravel_index(found, sizes)).astype(np.int64)
    link = Link(strata, sizes)
    everyone = np.bincount(codes.reshape(-1), minlength=len(found)).astype(np.float64)
    whole = Families(everyone[None], np.ones(1, np.bool_), everyone)
    return _LinkedDimensions(names, link, codes.reshape(-1), everyone, pool(whole, link, None, threshold))
