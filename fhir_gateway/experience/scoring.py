"""Scores of composites by provider: top box, linear mean 0 to 100, raw and adjusted for case mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError
from fhir_gateway.experience.answers import Answers, Matrix
from fhir_gateway.experience.case_mix import adjusted, coefficients, design, given
from fhir_gateway.experience.instrument import Instrument

#: Coefficients by item, then by characteristic; of top-box scores (0 to 1) and linear ones (0 to 100).
Coefficients = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Score:
    """A composite of a provider; scores are None below the instrument's minimum of completed surveys.

    ``top_box`` and ``adjusted_top_box`` are fractions, ``linear`` and ``adjusted_linear`` 0 to 100. ``answered``: who
    answered at least one of its questions. ``public``: there are enough to compare it and to give it stars.
    """

    provider: str
    composite: str
    title: str
    completes: int
    answered: int
    top_box: float | None
    adjusted_top_box: float | None
    linear: float | None
    adjusted_linear: float | None
    public: bool


def score(
    instrument: Instrument,
    answers: Answers,
    *,
    top_box_coefficients: Coefficients | None = None,
    linear_coefficients: Coefficients | None = None,
    providers: pa.Array | None = None,
) -> tuple[Score, ...]:
    """Every composite of every provider, in order; ``providers`` (default: those of the answers) say whose each is.

    A composite's score is the mean of its items' scores. Coefficients are estimated from these answers unless given.
    """
    named = answers.provider if providers is None else providers
    names = sorted(set(named.to_pylist()))
    provider = np.asarray(pc.index_in(named, pa.array(names, pa.string()))).astype(np.int64)
    completes = np.bincount(provider, minlength=len(names))
    mix = design(instrument, answers, provider)
    items = sorted({item for one in instrument.composites.values() for item in one.items})
    tops: dict[str, tuple[Matrix, Matrix]] = {}
    linears: dict[str, tuple[Matrix, Matrix]] = {}
    for item in items:
        top, linear = box(instrument, answers, item), scaled(instrument, answers, item)
        for scores, stated, into in ((top, top_box_coefficients, tops), (linear, linear_coefficients, linears)):
            slopes = coefficients(scores, mix, provider) if stated is None else given(mix, stated.get(item, {}))
            into[item] = adjusted(scores, mix, provider, slopes)
    found = []
    for number, name in enumerate(names):
        enough = completes[number] >= instrument.min_completes
        for key, composite in instrument.composites.items():
            any_answer = np.zeros(len(provider), np.bool_)
            for item in composite.items:
                any_answer |= ~np.isnan(answers.of(item))
            means = [
                _mean([into[item][which][number] for item in composite.items]) if enough else None
                for into in (tops, linears)
                for which in (0, 1)
            ]
            answered = int((any_answer & (provider == number)).sum())
            public = int(completes[number]) >= instrument.public_completes
            found.append(
                Score(
                    name,
                    key,
                    composite.title,
                    int(completes[number]),
                    answered,
                    means[0],
                    means[1],
                    means[2],
                    means[3],
                    public,
                )
            )
    return tuple(found)


def box(instrument: Instrument, answers: Answers, item: str) -> Matrix:
    """1 where the answer is in the top box, 0 where it is not, NaN without one."""
    values = answers.of(item)
    return np.where(np.isnan(values), np.nan, np.isin(values, instrument.scale_of(item).top).astype(np.float64))


def scaled(instrument: Instrument, answers: Answers, item: str) -> Matrix:
    """Answers from 0 (worst) to 100 (best)."""
    scale = instrument.scale_of(item)
    low, high = scale.bounds
    part = (answers.of(item) - low) / (high - low)
    return 100 * (part if scale.worst_first else 1 - part)


def response_rate(completes: int, sampled: int, ineligible: int) -> float:
    """Completed surveys by those that were sent to eligible persons; InputError when there are fewer of these."""
    eligible = sampled - ineligible
    if ineligible < 0 or eligible < completes or eligible <= 0:
        raise InputError("sampled: fewer eligible persons than completed surveys")
    return completes / eligible


def percentile(value: float, benchmarks: Sequence[tuple[float, float]]) -> float | None:
    """The highest percentile of a benchmark (percentile, value) that a score reaches; None below all of them."""
    reached = [rank for rank, at in benchmarks if value >= at]
    return max(reached) if reached else None


def stars(value: float, cuts: Sequence[float]) -> int:
    """1 to 5 stars by the cut points of two to five stars, ascending; a score at a cut point has its stars."""
    if len(cuts) != 4 or any(b <= a for a, b in pairwise(cuts)):
        raise InputError("stars: four cut points are needed, ascending")
    return 1 + sum(value >= cut for cut in cuts)


def _mean(values: Sequence[float]) -> float | None:
    """Mean of the items that anybody answered."""
    known = [float(one) for one in values if not np.isnan(one)]
    return sum(known) / len(known) if known else None
