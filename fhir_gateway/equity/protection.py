"""What may be shown of metrics over the strata of dimensions: hidden strata, and what is withheld altogether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fhir_gateway.equity.dimensions import MemberDimensions
from fhir_gateway.equity.families import Cluster, MemberSet, clusters, counted, families, only, sets_of, without
from fhir_gateway.equity.metrics import Metric
from fhir_gateway.equity.suppression import THRESHOLD, Codes, Families, Hidden, Link, Pools, pool, protects, small


@dataclass(frozen=True, slots=True)
class Protection:
    """Hidden strata by (metric, dimension), and of whom nothing, or no numerator, is shown anywhere.

    ``totals_only`` are (metric, dimension) where numerators are shown in total but by no stratum: their few would hide
    too many strata of other metrics. ``population`` are the strata whose number of members is hidden, by dimension.
    """

    hidden: Mapping[tuple[int, str], Hidden]
    population: Mapping[str, Hidden]
    withheld: frozenset[int]
    denominators_only: frozenset[int]
    totals_only: frozenset[tuple[int, str]]


@dataclass(slots=True)
class _Shown:
    """What is still to be shown: metrics, and of which of them numerators."""

    metrics: set[int]
    numerators: set[int]
    hidden: dict[tuple[int, str], Hidden] = field(default_factory=dict)
    totals_only: set[tuple[int, str]] = field(default_factory=set)


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
        shown.hidden,
        population,
        everything - shown.metrics,
        frozenset(shown.metrics) - frozenset(shown.numerators),
        frozenset(shown.totals_only),
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
        sparse = _sparse(cluster, here, bounded, one, pools, threshold) if pools.hides else frozenset()
        if sparse:
            rest = without(cluster, sparse)
            pools = pool(families(rest, here, bounded), one.link, one.population, threshold)
            if unprotected := _untold(cluster, sparse, here, bounded, one, threshold):
                return [((metric, "numerator"),) for metric in unprotected]
            if pools.failed:
                return [rest.owners[n] for n in pools.failed]
        elif pools.failed:
            return [cluster.owners[n] for n in pools.failed]
        for number, metric in zip(cluster.metrics, of, strict=True):
            for place, name in enumerate(one.names):
                shown.hidden[metric, name] = pools.hidden[place]
                shown.totals_only.discard((metric, name))
                if number in sparse:
                    shown.totals_only.add((metric, name))
    return []


def _sparse(
    cluster: Cluster,
    counts: npt.NDArray[np.float64],
    bounded: Mapping[int, bool],
    one: _LinkedDimensions,
    pools: Pools,
    threshold: int,
) -> frozenset[int]:
    """Metrics of a cluster of several whose own numerators hide more than half of the members in a dimension."""
    if len(cluster.metrics) < 2 or not _hides_most(one, pools):
        return frozenset()
    everything = frozenset(cluster.metrics)
    denominators = pool(families(without(cluster, everything), counts, bounded), one.link, one.population, threshold)
    if _hides_most(one, denominators):
        return frozenset()
    found = set()
    for metric in cluster.metrics:
        own = families(only(cluster, metric), counts, bounded)
        if _hides_most(one, pool(own, one.link, one.population, threshold)):
            found.add(metric)
    return frozenset(found) if len(found) < len(everything) else frozenset()


def _hides_most(one: _LinkedDimensions, pools: Pools) -> bool:
    whole = one.everyone.sum()
    return any(
        one.everyone[hidden[strata]].sum() > whole / 2
        for hidden, strata in zip(pools.hidden, one.link.strata, strict=True)
    )


def _untold(
    cluster: Cluster,
    sparse: frozenset[int],
    counts: npt.NDArray[np.float64],
    bounded: Mapping[int, bool],
    one: _LinkedDimensions,
    threshold: int,
) -> list[int]:
    """Sparse metrics whose total, with the strata of their denominator, would tell too much.

    The denominator counts as known by stratum, but for strata whose members are hidden: those may move as they are.
    """
    found = []
    for metric in sorted(sparse):
        own = only(cluster, metric)
        roles = [own.owners[place][0][1] for place in range(len(own.vectors))]
        denominator = own.vectors[roles.index("denominator")]
        told = own.vectors[[place for place, role in enumerate(roles) if role == "numerator"]]
        once = np.array([bounded[number] for number in told.tolist()], np.bool_)
        inside = Families(counts[told], once, counts[denominator])
        if metric in cluster.related or not protects(inside, one.link, one.population, threshold):
            found.append(metric)
    return found


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
