"""How a model did on rows of a later time: metrics with 95 percent intervals, calibration by decile, subgroups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fhir_gateway.risk.prediction.features import matrix
from fhir_gateway.risk.prediction.targets import Target
from fhir_gateway.risk.prediction.training import SEED, Model
from fhir_gateway.risk.prediction.trees import Floats

#: Subgroups of fewer rows are named and not judged.
LEAST_OF_GROUP = 50
_BOOTSTRAPS = 200
Groups = Mapping[str, Mapping[str, NDArray[np.bool_]]]


def judge(model: Model, table: pa.Table, groups: Groups | None = None) -> dict[str, Any]:
    """Judge a model by rows with features and outcome.

    ``groups``: by dimension (race, payer, ...) and title of a stratum, which rows are in it. They are looked at here
    alone: no model has seen them. Intervals are of resampled members, whose rows stay together.
    """
    outcome = table[model.target].to_numpy().astype(np.float64)
    expected = model.predict(matrix(table, model.about.features))
    deciles = np.array_split(np.argsort(expected, kind="stable"), 10)
    places = 2 if model.about.kind == "amount" else 4
    each = {
        f"{dimension}: {title}": mask for dimension, strata in (groups or {}).items() for title, mask in strata.items()
    }
    return {
        model.about.unit: len(outcome),
        "outcomes": int((outcome > 0).sum()),
        "metrics": _with_intervals(_Ranked.of(model.about, expected, outcome), _resampled(table["member"])),
        "calibration": [
            {
                "decile": number,
                "expected": round(float(expected[part].mean()), places),
                "observed": round(float(outcome[part].mean()), places),
            }
            for number, part in enumerate(deciles, 1)
            if len(part)
        ],
        "subgroups": {
            name: {model.about.unit: int(mask.sum()), **_of_group(model.about, expected[mask], outcome[mask])}
            for name, mask in each.items()
            if mask.sum() >= LEAST_OF_GROUP
        },
        "too_few": [name for name, mask in each.items() if 0 < mask.sum() < LEAST_OF_GROUP],
    }


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Rows with what is expected of them and what came, in the order of the expectation, the highest first."""

    about: Target
    expected: Floats
    outcome: Floats
    order: NDArray[np.int64]
    level: NDArray[np.int64]

    @classmethod
    def of(cls, about: Target, expected: Floats, outcome: Floats) -> Self:
        """Ranked once, whatever is asked of them."""
        order = np.argsort(-expected, kind="stable")
        return cls(about, expected[order], outcome[order], order, np.unique(-expected[order], return_inverse=True)[1])

    def metrics(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Metrics, each row (in the order it was given) counted so many times."""
        weight = np.ones(len(self.order)) if counts is None else counts[self.order]
        total, hoped, size = float(weight @ self.outcome), float(weight @ self.expected), float(weight.sum())
        top = np.cumsum(weight) <= max(1.0, size / 5)
        common = {
            "observed_to_expected": round(total / hoped, 4) if hoped else None,
            "share_of_outcome_in_top_20": round(float((weight * self.outcome)[top].sum()) / total, 4)
            if total
            else None,
        }
        errors = float(weight @ (self.outcome - self.expected) ** 2)
        if self.about.kind == "chance":
            return {"auc": self._auc(weight), "brier": round(errors / size, 4) if size else None, **common}
        spread = float(weight @ (self.outcome - total / size) ** 2) if size else 0.0
        absolute = float(weight @ np.abs(self.outcome - self.expected))
        return {
            "r2": round(1 - errors / spread, 4) if spread else None,
            "mean_absolute_error": round(absolute / size, 2) if size else None,
            **common,
        }

    def _auc(self, weight: Floats) -> float | None:
        """How often of a row with the outcome more is expected than of one without; None where there are not both."""
        levels = int(self.level.max(initial=-1)) + 1
        those = np.bincount(self.level, weight * self.outcome, levels)
        others = np.bincount(self.level, weight * (1 - self.outcome), levels)
        pairs = those.sum() * others.sum()
        below = others.sum() - np.cumsum(others) + others / 2  # of equal ones a half
        return round(float(those @ below / pairs), 4) if pairs else None


def _of_group(about: Target, expected: Floats, outcome: Floats) -> dict[str, Any]:
    """Metrics of a subgroup; the interval of observed to expected is the normal one, expectations given."""
    found = _Ranked.of(about, expected, outcome).metrics()
    error, hoped = 1.96 * float(np.sqrt(((outcome - expected) ** 2).sum())), float(expected.sum())
    if not hoped:
        return {**found, "low": None, "high": None}
    bounds = [round((float(outcome.sum()) + sign * error) / hoped, 4) for sign in (-1, 1)]
    return {**found, "low": max(bounds[0], 0.0), "high": bounds[1]}


def _resampled(members: pa.ChunkedArray) -> Iterator[Floats]:
    """How often each row counts in each of the samples: members are drawn, with all their rows."""
    generator = np.random.default_rng(SEED)
    place = members.combine_chunks().dictionary_encode().indices.to_numpy()
    size = int(place.max(initial=-1)) + 1
    for _ in range(_BOOTSTRAPS if size else 0):
        yield np.bincount(generator.integers(0, size, size), minlength=size)[place].astype(np.float64)


def _with_intervals(ranked: _Ranked, counts: Iterable[Floats]) -> dict[str, dict[str, float | None]]:
    drawn = [ranked.metrics(one) for one in counts]
    found: dict[str, dict[str, float | None]] = {}
    for name, value in ranked.metrics().items():
        known = [one for one in (each[name] for each in drawn) if one is not None]
        low, high = np.percentile(known, [2.5, 97.5]).round(4).tolist() if known else (None, None)
        found[name] = {"value": value, "low": low, "high": high}
    return found
