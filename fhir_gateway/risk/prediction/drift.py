"""Whether those who are scored still look like those whom a model learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fhir_gateway.risk.prediction.trees import Floats

#: Population stability index of a feature from which on a model no longer fits: the usual rule of thumb.
DRIFTED = 0.25
_LEAST = 1e-4  # a share that is nothing would make the index infinite


def profile(features: Floats, names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """By feature the borders of its tenths among who was learned from, and the share of rows in each; missing last."""
    found = {}
    for number, name in enumerate(names):
        column = features[:, number]
        known = column[~np.isnan(column)]
        edges = np.unique(np.quantile(known, np.linspace(0.1, 0.9, 9))) if len(known) else np.zeros(0)
        found[name] = {"edges": edges.tolist(), "shares": _shares(column, edges).tolist()}
    return found


def drift(learned: Mapping[str, Mapping[str, Any]], features: Floats, names: Sequence[str]) -> dict[str, float]:
    """The population stability index of each feature against a :func:`profile`; 0 is no difference, empty of nobody."""
    if not len(features):
        return {}
    found = {}
    for number, name in enumerate(names):
        edges = np.array(learned[name]["edges"], dtype=np.float64)
        then = np.maximum(np.array(learned[name]["shares"], dtype=np.float64), _LEAST)
        now = np.maximum(_shares(features[:, number], edges), _LEAST)
        found[name] = round(float(((now - then) * np.log(now / then)).sum()), 4)
    return found


def drifted(found: Mapping[str, float]) -> list[str]:
    """Features whose index says that a model should be learned anew, the worst first."""
    return [name for name in sorted(found, key=lambda one: -found[one]) if found[name] >= DRIFTED]


def _shares(column: Floats, edges: Floats) -> Floats:
    """Shares of rows up to each edge, above the last, and missing."""
    place = np.where(np.isnan(column), len(edges) + 1, np.searchsorted(edges, column, side="left"))
    return np.bincount(place, minlength=len(edges) + 2) / max(len(column), 1)
