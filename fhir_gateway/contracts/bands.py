"""Bands: a deviation from a reference, cut at edges, each part shared at its own rate.

The one home of the arithmetic: corridors of risk pools and of medical loss ratios of providers, those of ACO REACH,
slices of shared savings. Contracts state bands by their upper edges; where terms state the edges that shares hold from
(the tiers of shared savings and ACO REACH), :func:`bands_from` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, NamedTuple

from pydantic import Field

from fhir_gateway.contracts.terms import Fraction, Terms

ZERO = Decimal(0)


class Band(Terms):
    """A band: from the edge of the band before (the first: from zero) to ``through``."""

    through: Annotated[Decimal, Field(gt=0)] | None = Field(
        default=None, description="Upper edge as a part of the reference; only the last band has none."
    )
    share: Fraction = Field(description="What the provider keeps of savings, or bears of losses, in this band.")


class BandPart(NamedTuple):
    """What of a deviation lies in a band, and what of that is the provider's; both with the deviation's sign."""

    lower: Decimal
    upper: Decimal | None
    share: Decimal
    amount: Decimal
    shared: Decimal


def bands_from(starts: Iterable[tuple[Decimal, Decimal]]) -> tuple[Band, ...]:
    """Bands of (lower edge, share), the lowest first; the last one has no end."""
    stated = list(starts)
    ends = [start for start, _ in stated[1:]]
    return tuple(Band(through=end, share=share) for (_, share), end in zip(stated, [*ends, None], strict=True))


def band_parts(deviation: Decimal, reference: Decimal, bands: Sequence[Band]) -> tuple[BandPart, ...]:
    """The parts of a deviation, band by band, all bands included; their amounts sum to it when the last band is open.

    Edges are parts of ``reference`` (a positive amount). The sign goes through: the same bands for a deviation and its
    opposite give opposite parts.
    """
    sign = -1 if deviation < ZERO else 1
    size = abs(deviation)
    parts, lower = [], ZERO
    for band in bands:
        start = lower * reference
        stop = size if band.through is None else min(size, band.through * reference)
        amount = sign * max(ZERO, stop - start)
        parts.append(BandPart(lower, band.through, band.share, amount, amount * band.share))
        lower = band.through if band.through is not None else lower
    return tuple(parts)


def shared(deviation: Decimal, reference: Decimal, bands: Sequence[Band]) -> Decimal:
    """The provider's part of a deviation, with its sign."""
    return sum((part.shared for part in band_parts(deviation, reference, bands)), ZERO)


def band_problems(where: str, bands: Sequence[Band]) -> list[str]:
    """Bands that overlap or leave the deviation's tail to nobody."""
    found = [f"{where}: there is no band"] if not bands else []
    for number, (one, after) in enumerate(pairwise(bands), start=2):
        if one.through is None:
            found.append(f"{where}[{number}]: comes after a band without an end")
        elif after.through is not None and after.through <= one.through:
            found.append(f"{where}[{number}].through: is not above the band before")
    if bands and bands[-1].through is not None:
        found.append(
            f"{where}[{len(bands)}].through: the last band has no end (share 0: the plan's, share 1: the provider's)"
        )
    return found
