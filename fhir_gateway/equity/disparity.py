"""How unequal a metric is between strata: gaps, ratios, indices, and rates as if everybody were equally old.

Everything is computed from strata that are shown, and of whom something is known: what is hidden cannot be inferred
from an index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.equity.dimensions import MISSING, UNKNOWN
from fhir_gateway.equity.stratify import Breakdown, Cell, Strata
from fhir_gateway.equity.suppression import THRESHOLD
from fhir_gateway.errors import InputError

#: A standardised rate is given where a stratum has this much of the standard population's ages and sexes.
COVERED = 0.95
#: Decimals of a standardised rate: more would say something about single cells.
PLACES = 3


@dataclass(frozen=True, slots=True)
class Gap:
    """A stratum beside the reference: ``gap`` is the reference's rate less its own, ``ratio`` its own by that."""

    stratum: str
    title: str
    rate: float
    gap: float
    ratio: float | None
    standardised: float | None


@dataclass(frozen=True, slots=True)
class Disparity:
    """How unequal a breakdown is.

    ``index``: mean of |rate - reference| over the other strata, by the reference. ``between``: variance of the rates
    around their mean, both weighted by the denominators. None where too few strata are shown.
    """

    breakdown: Breakdown
    reference: str
    gaps: tuple[Gap, ...]
    index: float | None
    between: float | None


def disparity(strata: Strata, breakdown: Breakdown, reference: str | None = None) -> Disparity | None:
    """Disparities of one breakdown; None when fewer than two strata are shown with rates.

    ``reference`` is a stratum's code; without, the largest one that is shown. InputError when it is no stratum of the
    dimension; one that is not shown is none to compare with.
    """
    if reference is not None and all(cell.stratum != reference for cell in breakdown.cells):
        raise InputError(f"reference: no stratum of {breakdown.dimension.id}")
    shown = [one for one in breakdown.cells if one.rate is not None and one.stratum not in MISSING]
    if len(shown) < 2 or (reference is not None and all(one.stratum != reference for one in shown)):
        return None
    largest = max(shown, key=lambda one: one.denominator or 0)
    chosen = largest if reference is None else next(one for one in shown if one.stratum == reference)
    base = _rate(chosen)
    rates = standardised(strata, breakdown)
    gaps = tuple(
        Gap(
            str(one.stratum),
            one.title,
            _rate(one),
            base - _rate(one),
            _rate(one) / base if base else None,
            rates.get(str(one.stratum)),
        )
        for one in shown
    )
    others = [one for one in gaps if one.stratum != chosen.stratum]
    index = sum(abs(one.rate - base) for one in others) / len(others) / base if base else None
    weights = np.array([one.denominator or 0 for one in shown])
    values = np.array([_rate(one) for one in shown])
    mean = float(np.average(values, weights=weights))
    between = float(np.average((values - mean) ** 2, weights=weights))
    return Disparity(breakdown, str(chosen.stratum), gaps, index, between)


def standardised(strata: Strata, breakdown: Breakdown) -> dict[str, float]:
    """Rates of shown strata, directly standardised to the ages and sexes of the metric's whole denominator.

    Only ages and sexes of which a stratum has as many as may be shown count; a stratum that has too few of them, or a
    single one, has no such rate. A breakdown by age or sex has none.
    """
    if breakdown.dimension.link in ("age", "sex") or breakdown.metric.kind == "cohort":
        return {}
    metric = next(one for one in strata.aligned if one.id == breakdown.metric.id)
    columns = strata.dimensions.columns
    age, sex, column = columns["age"], columns["sex"], columns[breakdown.dimension.id]
    unknown = np.zeros(len(strata.dimensions.members), np.bool_)
    for known in (age, sex):
        unknown |= np.isin(known.codes, [place for place, code in enumerate(known.strata) if code == UNKNOWN])
    cell = age.codes * len(sex.strata) + sex.codes
    cells, size = len(age.strata) * len(sex.strata), len(column.strata)
    place = column.codes * cells + cell
    weight = np.where(unknown, 0, metric.denominator)
    standard = np.bincount(cell, weight, cells)
    if not standard.sum():
        return {}
    standard = standard / standard.sum()
    people = np.bincount(place, (weight > 0).astype(float), size * cells).reshape(size, cells)
    denominators = np.bincount(place, weight, size * cells).reshape(size, cells)
    numerators = np.bincount(place, np.where(unknown, 0, metric.numerator), size * cells).reshape(size, cells)
    found: dict[str, float] = {}
    for number, one in enumerate(breakdown.cells):
        used = (people[number] >= THRESHOLD) & (denominators[number] > 0)
        if one.rate is None or one.missing or used.sum() < 2 or standard[used].sum() < COVERED:
            continue
        rates = numerators[number][used] / denominators[number][used]
        rate = float((rates * standard[used]).sum() / standard[used].sum()) * metric.scale
        found[str(one.stratum)] = round(rate, PLACES)
    return found


def _rate(cell: Cell) -> float:
    return cell.rate if cell.rate is not None else 0.0
