"""Models of the customer's own lake: learned from one year, calibrated, and judged by the next year.

Deterministic: seeds are fixed, rows are sorted by member, and who calibrates follows from the member's id.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fhir_gateway.errors import InputError
from fhir_gateway.risk.prediction.features import FEATURES, matrix

SEED = 20_250_101
#: Fewer members, or fewer with any outcome, teach nothing that lasts.
LEAST_ROWS, LEAST_OUTCOMES = 1000, 100
_BOOTSTRAPS = 200
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A regression of one target with its calibration: ``predict`` gives what is expected."""

    target: str
    regressor: Any
    calibration: Any

    def predict(self, features: Floats) -> Floats:
        """Expected values, not below zero."""
        raw = self.regressor.predict(features)
        return np.asarray(self.calibration.predict(raw), dtype=np.float64)


def train(table: pa.Table, target: str) -> Model:
    """Learn a target from rows of ``features.rows``; InputError when there are too few of them."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.isotonic import IsotonicRegression

    outcome = table[target].to_numpy().astype(np.float64)
    if len(outcome) < LEAST_ROWS or int((outcome > 0).sum()) < LEAST_OUTCOMES:
        raise InputError(
            f"too little to learn {target} from: {LEAST_ROWS:,} members are needed, {LEAST_OUTCOMES:,} with an outcome"
        )
    features = matrix(table)
    held = np.array([zlib.crc32(one.encode()) % 4 == 0 for one in table["member"].to_pylist()])
    regressor = HistGradientBoostingRegressor(
        max_iter=150,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=40,
        early_stopping=False,
        random_state=SEED,
    ).fit(features[~held], outcome[~held])
    calibration = IsotonicRegression(y_min=0.0, out_of_bounds="clip")
    return Model(target, regressor, calibration.fit(regressor.predict(features[held]), outcome[held]))


def judge(model: Model, table: pa.Table) -> dict[str, Any]:
    """How a model did on rows of a later year: metrics with 95 percent intervals, calibration by decile, subgroups."""
    outcome = table[model.target].to_numpy().astype(np.float64)
    expected = model.predict(matrix(table))
    age, male = table["age"].to_numpy().astype(np.float64), table["male"].to_numpy().astype(np.float64)
    groups = {
        "age below 45": age < 45,
        "age 45 to 64": (age >= 45) & (age < 65),
        "age 65 and more": age >= 65,
        "male": male == 1,
        "not male": male == 0,
    }
    deciles = np.array_split(np.argsort(expected, kind="stable"), 10)
    return {
        "members": len(outcome),
        "metrics": _with_intervals(expected, outcome),
        "calibration": [
            {"decile": number, "expected": round(float(expected[part].mean()), 2),
             "observed": round(float(outcome[part].mean()), 2)}
            for number, part in enumerate(deciles, 1)
        ],
        "subgroups": {
            name: {"members": int(mask.sum()), **_metrics(expected[mask], outcome[mask])}
            for name, mask in groups.items()
            if mask.sum() >= 50
        },
    }  # fmt: skip


def contributions(model: Model, features: Floats) -> Floats:
    """What each feature adds to each expectation: against the same row with the median of that feature."""
    whole = model.regressor.predict(features)
    middle = np.nanmedian(features, axis=0)
    found = np.empty_like(features)
    for number in range(features.shape[1]):
        changed = features.copy()
        changed[:, number] = middle[number]
        found[:, number] = whole - model.regressor.predict(changed)
    return found


def tiers(expected: Floats) -> list[str]:
    """``top-5``, ``next-15`` or ``rest`` of each row, by rank among all; rows that are equal go by their place."""
    rank = np.argsort(np.argsort(-expected, kind="stable"), kind="stable")
    share = (rank + 1) / max(len(expected), 1)
    return ["top-5" if one <= 0.05 else "next-15" if one <= 0.20 else "rest" for one in share]


def card(judged: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The model card as plain values; its ``id`` follows from everything in it."""
    found = {
        **more,
        "features": list(FEATURES),
        "seed": SEED,
        "use": "outreach; never settlement",
        "tests": dict(judged),
    }
    digest = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
    return {"id": f"model-{digest[:24]}", **found}


def _metrics(expected: Floats, outcome: Floats) -> dict[str, float | None]:
    spread = float(((outcome - outcome.mean()) ** 2).sum())
    top = np.argsort(-expected, kind="stable")[: max(1, len(expected) // 5)]
    return {
        "r2": round(1 - float(((outcome - expected) ** 2).sum()) / spread, 4) if spread else None,
        "mean_absolute_error": round(float(np.abs(outcome - expected).mean()), 2),
        "observed_to_expected": round(float(outcome.sum() / expected.sum()), 4) if expected.sum() else None,
        "share_of_outcome_in_top_20": round(float(outcome[top].sum() / outcome.sum()), 4) if outcome.sum() else None,
    }


def _with_intervals(expected: Floats, outcome: Floats) -> dict[str, dict[str, float | None]]:
    generator = np.random.default_rng(SEED)
    point = _metrics(expected, outcome)
    draws = [generator.integers(0, len(outcome), len(outcome)) for _ in range(_BOOTSTRAPS)]
    drawn = [_metrics(expected[one], outcome[one]) for one in draws]
    found: dict[str, dict[str, float | None]] = {}
    for name, value in point.items():
        known = [float(one[name]) for one in drawn if one[name] is not None]  # type: ignore[arg-type]
        low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
        found[name] = {"value": value, "low": round(float(low), 4), "high": round(float(high), 4)}
    return found
