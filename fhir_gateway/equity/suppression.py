"""Which strata may not be shown, so that no small number of persons can be derived from the others.

A count of 1 to ``threshold - 1`` persons is small (CMS cell size policy: 1 to 10). It is hidden, and so much beside it
that what is shown says no more about it than that: from all shown numbers together, exact totals, sums over strata,
numerators and what denominators leave of them, numbers of other metrics about the same persons, coarser strata of
linked dimensions, the lowest and highest value that it can have are at most 1 and at least ``threshold - 1``.

How. The members of a cluster of metrics whose denominators or numerators contain each other are looked at together,
with the same strata hidden for all of them. What is shown then depends on the strata of the dimension only through its
coarser partition, in which all hidden strata are one pool. Who is in the pool may be in any of its strata: exchanging
the members of one class (same pool in every linked dimension) changes nothing that is shown. So a cell ranges from what
its classes force into it to what they can give it, given how many members the stratum has, where that is shown
(Frechet's bounds). Strata are added to the pool until these bounds are wide enough; where even the pool of all strata
is too small, the numerators, and at last the metric, are not shown at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Hidden = npt.NDArray[np.bool_]

#: Counts below it, and above 0, are small.
THRESHOLD = 11


@dataclass(frozen=True, slots=True)
class Link:
    """Dimensions whose strata contain each other (deciles and quintiles), and the combinations that members have.

    ``strata`` has a row per dimension: the stratum of each combination; ``sizes`` is how many strata there are.
    """

    strata: Codes
    sizes: tuple[int, ...]

    def shown_counts(self, dimension: int, counts: Counts) -> Counts:
        """Counts (family, combination) by stratum of a dimension."""
        found = np.zeros((len(counts), self.sizes[dimension]))
        np.add.at(found.T, self.strata[dimension], counts.T)
        return found


@dataclass(frozen=True, slots=True)
class Families:
    """Sets of members whose counts are shown or follow from what is shown, over the combinations of one link.

    ``counts`` (family, combination); ``bounded`` where a member counts at most once; ``everyone`` are all members.
    """

    counts: Counts
    bounded: Hidden
    everyone: Counts


@dataclass(slots=True)
class Pools:
    """Hidden strata of each dimension of a link; ``failed`` are families that no pool protects."""

    hidden: list[Hidden]
    failed: list[int] = field(default_factory=list)

    @property
    def hides(self) -> bool:
        """Whether any stratum is hidden."""
        return any(one.any() for one in self.hidden)


def small(counts: Counts, threshold: int = THRESHOLD) -> Hidden:
    """Which counts are those of so few that they are not shown. Zero is nobody."""
    return (counts > 0) & (counts < threshold)


def pool(families: Families, link: Link, known: Pools | None = None, threshold: int = THRESHOLD) -> Pools:
    """The strata to hide for a cluster of families.

    ``known`` are the pools of the population itself: they are hidden for every cluster, and where the population is
    shown its counts bound all others. None when the families are the population.
    """
    hidden = [np.zeros(size, np.bool_) for size in link.sizes] if known is None else [h.copy() for h in known.hidden]
    for dimension in range(len(link.sizes)):
        hidden[dimension] |= small(link.shown_counts(dimension, families.counts), threshold).any(axis=0)
    while True:
        lack = _lack(families, link, hidden, known, threshold)
        if not lack.any():
            return Pools(hidden)
        candidates = [
            (size, dimension, stratum)
            for dimension in range(len(link.sizes))
            for stratum, size in enumerate(link.shown_counts(dimension, families.everyone[None])[0])
            if not hidden[dimension][stratum] and size
        ]
        if not candidates:
            return Pools(hidden, np.flatnonzero(lack).tolist())
        best: tuple[float, float, int, int] | None = None
        for size, dimension, stratum in sorted(candidates):
            hidden[dimension][stratum] = True
            left = float(_lack(families, link, hidden, known, threshold).sum())
            hidden[dimension][stratum] = False
            if best is None or left < best[0]:
                best = left, size, dimension, stratum
            if not left:
                break
        if best is not None:
            hidden[best[2]][best[3]] = True


def protects(families: Families, link: Link, known: Pools, threshold: int = THRESHOLD) -> bool:
    """Whether families of which only totals are shown are protected where their whole is shown by strata.

    ``everyone`` is that whole (their denominator), ``known`` what of its strata is hidden.
    """
    hidden = [np.ones(size, np.bool_) for size in link.sizes]
    return not _lack(families, link, hidden, known, threshold).any()


def _lack(
    families: Families, link: Link, hidden: Sequence[Hidden], known: Pools | None, threshold: int
) -> npt.NDArray[np.float64]:
    """By family, how much too narrow the bounds of its small cells are."""
    classes = _classes(link, hidden)
    blocks = classes if known is None else _classes(link, known.hidden)
    in_class = _sums(families.counts, classes)
    everyone = families.everyone
    first = np.zeros(int(blocks.max(initial=-1)) + 1, np.int64)
    first[blocks] = classes  # blocks lie within classes: every cluster hides what the population hides
    size = _sums(everyone[None], blocks)[0]
    lack = np.zeros(len(families.counts))
    for dimension, strata in enumerate(link.strata):
        counts = link.shown_counts(dimension, families.counts)
        for stratum in np.flatnonzero(hidden[dimension]).tolist():
            sensitive = small(counts[:, stratum], threshold)
            if not sensitive.any():
                continue
            here = strata == stratum
            some, others = np.zeros(len(size), np.bool_), np.zeros(len(size), np.bool_)
            some[blocks[here]] = True
            others[blocks[~here]] = True
            capacity = np.bincount(first, np.where(some, size, 0), in_class.shape[1])
            beside = np.bincount(first, np.where(others, size, 0), in_class.shape[1])
            if known is None:  # the population itself: nothing else says how many there are
                most = np.where(capacity > 0, in_class, 0)
                least = np.where(beside > 0, 0, in_class) * (capacity > 0)
            else:
                once = families.bounded[:, None]
                most = np.where(once, np.minimum(in_class, capacity), np.where(capacity > 0, in_class, 0))
                least = np.where(once, np.maximum(0, in_class - beside), np.where(beside > 0, 0, in_class))
            high, low = most.sum(axis=1), least.sum(axis=1)
            narrow = np.maximum(0, low - 1) + np.maximum(0, threshold - 1 - high)
            lack += np.where(sensitive, narrow, 0)
    return lack


def _classes(link: Link, hidden: Sequence[Hidden]) -> Codes:
    """Combinations that nothing shown tells apart have one number."""
    profile = np.stack([np.where(hidden[d][row], -1, row) for d, row in enumerate(link.strata)])
    _, number = np.unique(profile, axis=1, return_inverse=True)
    return number.reshape(-1).astype(np.int64)


def _sums(counts: Counts, classes: Codes) -> Counts:
    found = np.zeros((len(counts), int(classes.max(initial=-1)) + 1))
    np.add.at(found.T, classes, counts.T)
    return found
