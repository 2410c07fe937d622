"""Which sets of members the shown counts of several metrics are about, and which metrics must be looked at together.

Sets are compared by their members: a denominator that two metrics share is one set, whatever it is called, and the
numerator of an inverse measure is what the other leaves of the denominator. Where one set contains another, the
difference of their counts is known too, and is protected like a count that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fhir_gateway.equity.metrics import Metric, Values
from fhir_gateway.equity.suppression import Codes, Counts, Families, Hidden

_STEP = 1 << 16


@dataclass(frozen=True, slots=True)
class MemberSet:
    """A vector over the members: a set (``bounded``) or how often each counts; ``role``: what it is of the metric."""

    metric: int
    role: str  # denominator | numerator
    values: Values
    bounded: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """Metrics that are suppressed together, with the vectors that protect them; ``owners`` are those of each vector.

    ``related`` are metrics about whose numerators, or those who did not meet them, another metric says something: a
    set that holds all of their denominator says nothing.
    """

    metrics: tuple[int, ...]
    vectors: npt.NDArray[np.int64]
    differences: tuple[tuple[int, tuple[int, ...]], ...]
    owners: tuple[tuple[tuple[int, str], ...], ...]
    related: frozenset[int]


def sets_of(number: int, metric: Metric, numerators: bool = True) -> Iterator[MemberSet]:
    """The vectors behind what is shown of a metric whose numbers are by the members of the population."""
    persons = (metric.denominator > 0).astype(np.float64)
    whole = bool((metric.denominator == np.rint(metric.denominator)).all())
    once = bool((metric.denominator == persons).all())
    yield MemberSet(number, "denominator", persons, True)
    if not once and whole and metric.kind != "rate":  # episodes; person time is no count of anybody
        yield MemberSet(number, "denominator", metric.denominator, False)
    if not numerators or metric.kind not in ("proportion", "rate"):
        return
    met = (metric.numerator > 0).astype(np.float64)
    yield MemberSet(number, "numerator", met, True)
    if (metric.numerator != met).any():
        yield MemberSet(number, "numerator", metric.numerator, False)
    if metric.kind == "proportion":
        rest = metric.denominator - metric.numerator
        yield MemberSet(number, "numerator", rest, bool(((rest == 0) | (rest == 1)).all()))


def counted(sets: Sequence[MemberSet], codes: Codes, combinations: int) -> Counts:
    """Counts (set, combination) of each set, and in the last row of everyone."""
    rows = [np.bincount(codes, one.values, combinations) for one in sets]
    return np.stack([*rows, np.bincount(codes, minlength=combinations)]).astype(np.float64)


def clusters(sets: Sequence[MemberSet], metrics: int) -> list[Cluster]:
    """Metrics grouped by whether a set of one is, contains or is left by a set of another."""
    size = len(sets[0].values) if sets else 0
    masks = [one for one in range(len(sets)) if sets[one].bounded]
    shared = np.zeros((len(masks), len(masks)))
    for start in range(0, size, _STEP):
        block = np.stack([sets[one].values[start : start + _STEP] for one in masks]).astype(np.float32)
        shared += block @ block.T
    own = np.diag(shared)
    inside = (shared == own[:, None]) & (own[:, None] > 0)  # row is within column
    everyone = own == size
    parent = list(range(metrics))

    def root(one: int) -> int:
        while parent[one] != one:
            one = parent[one]
        return one

    linked = inside & ~everyone[None, :] & ~everyone[:, None]
    for row, column in np.argwhere(linked).tolist():
        first, second = root(sets[masks[row]].metric), root(sets[masks[column]].metric)
        parent[max(first, second)] = min(first, second)
    related = _related(sets, masks, inside)
    found = []
    for first in sorted({root(one) for one in range(metrics)}):
        of = [one for one in range(metrics) if root(one) == first]
        vectors = [number for number, one in enumerate(sets) if one.metric in of]
        differences = _differences([n for n, one in enumerate(masks) if sets[one].metric in of], inside, shared, masks)
        found.append(_cluster(of, vectors, differences, sets, related & set(of)))
    return found


def _cluster(
    of: list[int],
    vectors: list[int],
    differences: list[tuple[int, tuple[int, ...]]],
    sets: Sequence[MemberSet],
    related: set[int],
) -> Cluster:
    owners: list[tuple[tuple[int, str], ...]] = [((sets[one].metric, sets[one].role),) for one in vectors]
    owners += [
        tuple((sets[one].metric, sets[one].role) for one in (*parts, whole) if one >= 0) for whole, parts in differences
    ]
    return Cluster(tuple(of), np.array(vectors, np.int64), tuple(differences), tuple(owners), frozenset(related))


def _related(sets: Sequence[MemberSet], masks: Sequence[int], inside: Hidden) -> set[int]:
    denominators = {sets[one].metric: place for place, one in enumerate(masks) if sets[one].role == "denominator"}
    found: set[int] = set()
    for row, column in np.argwhere(inside).tolist():
        inner, outer = sets[masks[row]], sets[masks[column]]
        if inner.metric == outer.metric:
            continue
        if outer.role == "numerator":
            found.add(outer.metric)
        if inner.role == "numerator" and not inside[denominators[inner.metric], column]:
            found.add(inner.metric)
    return found


def _differences(
    chosen: list[int], inside: Hidden, shared: Values, masks: Sequence[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """(whole, parts) whose difference can be computed; a whole of -1 is everyone."""
    own = np.diag(shared)
    distinct = [one for place, one in enumerate(chosen) if not any(_same(one, o, inside) for o in chosen[:place])]
    found: list[tuple[int, tuple[int, ...]]] = [(-1, (masks[one],)) for one in distinct]
    for whole in distinct:
        parts = [one for one in distinct if inside[one, whole] and own[one] < own[whole]]
        found += [(masks[whole], (masks[one],)) for one in parts]
        apart: list[int] = []
        for one in sorted(parts, key=lambda n: -own[n]):
            if not any(shared[one, other] for other in apart):
                apart.append(one)
        if len(apart) > 1:
            found.append((masks[whole], tuple(masks[one] for one in apart)))
    return found


def _same(one: int, other: int, inside: Hidden) -> bool:
    return bool(inside[one, other] and inside[other, one])


def without(cluster: Cluster, metrics: frozenset[int]) -> Cluster:
    """The cluster without the numerators of these metrics, and what follows from them."""
    dropped = {(one, "numerator") for one in metrics}
    size = len(cluster.vectors)
    kept = [number for number, owners in enumerate(cluster.owners) if not dropped & set(owners)]
    return replace(
        cluster,
        vectors=cluster.vectors[[one for one in kept if one < size]],
        differences=tuple(cluster.differences[one - size] for one in kept if one >= size),
        owners=tuple(cluster.owners[one] for one in kept),
    )


def only(cluster: Cluster, metric: int) -> Cluster:
    """The sets of one metric of a cluster, and the differences between them and to everyone."""
    size = len(cluster.vectors)
    kept = [number for number, owners in enumerate(cluster.owners) if {one for one, _ in owners} == {metric}]
    return replace(
        cluster,
        metrics=(metric,),
        vectors=cluster.vectors[[one for one in kept if one < size]],
        differences=tuple(cluster.differences[one - size] for one in kept if one >= size),
        owners=tuple(cluster.owners[one] for one in kept),
    )


def families(cluster: Cluster, counts: Counts, bounded: Mapping[int, bool]) -> Families:
    """The counts of a cluster's sets and of the differences between them, over combinations of strata."""
    everyone = counts[-1]
    rows = [counts[cluster.vectors]]
    for whole, parts in cluster.differences:
        rows.append((counts[whole] - counts[list(parts)].sum(axis=0))[None])
    once = np.array([bounded[one] for one in cluster.vectors.tolist()] + [True] * len(cluster.differences), np.bool_)
    return Families(np.concatenate(rows), once, everyone)
