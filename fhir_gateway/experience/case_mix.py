"""Case-mix adjustment: what a provider's score would be with the respondents that all have on average.

As CAHPS does it: each item's answers are regressed on characteristics of the respondents with an intercept for each
provider (least squares within providers), and a provider's mean is moved by the coefficients times the distance of its
respondents' characteristics from the overall mean. A characteristic that was not answered is the provider's mean.
Coefficients may be given instead (those that CMS publishes for a quarter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fhir_gateway.experience.answers import Answers, Matrix
from fhir_gateway.experience.instrument import Instrument


@dataclass(frozen=True, slots=True)
class Design:
    """Characteristics of respondents: a column per variable (of a category: per level but the reference)."""

    names: tuple[str, ...]
    values: Matrix


def design(instrument: Instrument, answers: Answers, provider: npt.NDArray[np.int64]) -> Design:
    """The characteristics, with missing ones filled by the provider's mean (and those of nobody by the overall one)."""
    names: list[str] = []
    columns: list[Matrix] = []
    for name, variable in instrument.case_mix.items():
        answered = answers.of(variable.item)
        if variable.kind == "linear":
            names.append(name)
            columns.append(answered)
            continue
        levels = np.unique(answered[~np.isnan(answered)])
        for level in levels[levels != variable.reference].tolist():
            names.append(f"{name}:{int(level)}")
            columns.append(np.where(np.isnan(answered), np.nan, (answered == level).astype(np.float64)))
    if not columns:
        return Design((), np.zeros((len(provider), 0)))
    values = np.stack(columns, axis=1)
    size = int(provider.max(initial=-1)) + 1
    for place in range(values.shape[1]):
        known = ~np.isnan(values[:, place])
        whole = float(values[known, place].mean()) if known.any() else 0.0
        count = np.bincount(provider[known], minlength=size)
        total = np.bincount(provider[known], values[known, place], size)
        mean = np.where(count > 0, total / np.maximum(count, 1), whole)
        values[:, place] = np.where(known, values[:, place], mean[provider])
    return Design(tuple(names), values)


def coefficients(scores: Matrix, mix: Design, provider: npt.NDArray[np.int64]) -> Matrix:
    """Least-squares coefficients within providers, of respondents with a score; those that cannot be told are 0."""
    here = ~np.isnan(scores)
    if not mix.names or not here.any():
        return np.zeros(len(mix.names))
    x, y = _within(mix.values[here], provider[here]), _within(scores[here][:, None], provider[here])[:, 0]
    found, *_ = np.linalg.lstsq(x, y, rcond=None)
    return np.asarray(found, np.float64)


def adjusted(scores: Matrix, mix: Design, provider: npt.NDArray[np.int64], slopes: Matrix) -> tuple[Matrix, Matrix]:
    """Mean score of each provider as it is and adjusted, NaN without a score."""
    here = ~np.isnan(scores)
    size = int(provider.max(initial=-1)) + 1
    of = provider[here]
    count = np.bincount(of, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        raw = np.bincount(of, scores[here], size) / count
        if not mix.names or not here.any():
            return raw, raw
        x = mix.values[here]
        means = np.stack([np.bincount(of, x[:, k], size) / count for k in range(x.shape[1])], axis=1)
        return raw, raw - (means - x.mean(axis=0)) @ slopes


def given(mix: Design, table: Mapping[str, float]) -> Matrix:
    """Given coefficients in the order of the design; a characteristic that the table lacks moves nothing."""
    return np.array([table.get(name, 0.0) for name in mix.names], np.float64)


def _within(values: Matrix, provider: npt.NDArray[np.int64]) -> Matrix:
    """Distances from the provider's mean."""
    size = int(provider.max(initial=-1)) + 1
    count = np.maximum(np.bincount(provider, minlength=size), 1)
    mean = np.stack([np.bincount(provider, values[:, k], size) / count for k in range(values.shape[1])], axis=1)
    return np.asarray(values - mean[provider])
