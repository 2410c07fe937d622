"""Models of the customer's own lake: learned from one time and calibrated on members that they did not learn from.

Deterministic: seeds are fixed, rows are in a stated order, and who calibrates follows from the member's id. What was
learned is columns (:mod:`.trees`) and numbers; scikit-learn is needed to learn, not to score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fhir_gateway.errors import InputError
from fhir_gateway.risk.prediction.features import matrix
from fhir_gateway.risk.prediction.targets import TARGETS, Target
from fhir_gateway.risk.prediction.trees import Floats, Trees, of_estimator

SEED = 20_250_101
#: Fewer rows, or fewer with any outcome, teach nothing that lasts.
LEAST_ROWS, LEAST_OUTCOMES = 1000, 100


@dataclass(frozen=True, eq=False)
class Calibration:
    """From what trees say to what is expected.

    ``isotonic``: a line through points (``x``, ``y``), level beyond them; ``logistic`` (Platt): y[0] + y[1] times what
    the trees say are log odds.
    """

    kind: Literal["isotonic", "logistic"]
    x: Floats
    y: Floats

    def expected(self, raw: Floats) -> Floats:
        """Amounts not below zero, or chances between 0 and 1."""
        if self.kind == "isotonic":
            return np.interp(raw, self.x, self.y)
        found: Floats = 1 / (1 + np.exp(-(self.y[0] + self.y[1] * raw)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "x": self.x.tolist(), "y": self.y.tolist()}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave."""
        return cls(said["kind"], np.array(said["x"], dtype=np.float64), np.array(said["y"], dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Model:
    """A model of one target: ``predict`` gives what is expected of rows of its :attr:`Target.features`."""

    target: str
    trees: Trees
    calibration: Calibration

    @property
    def about(self) -> Target:
        """What it foresees."""
        return TARGETS[self.target]

    def predict(self, features: Floats) -> Floats:
        """Expected amounts, or chances."""
        return self.calibration.expected(self.trees.raw(features))


def train(table: pa.Table, target: str) -> Model:
    """Learn a target from rows with its features and the outcome; InputError when there are too few of them.

    ``member`` of each row says who calibrates: a quarter of the members, whose rows are not learned from.
    """
    about = TARGETS[target]
    outcome = table[target].to_numpy().astype(np.float64)
    number = int((outcome > 0).sum())
    if len(outcome) < LEAST_ROWS or number < LEAST_OUTCOMES or (about.kind == "chance" and number == len(outcome)):
        raise InputError(
            f"too little to learn {target} from: {LEAST_ROWS:,} {about.unit} are needed, {LEAST_OUTCOMES:,} of them "
            "with an outcome"
        )
    features, held = matrix(table, about.features), _held(table["member"])
    features[:, np.isnan(features[~held]).all(axis=0)] = 0.0  # scikit-learn refuses what nobody said of anybody
    with threadpool_limits(1):  # threads of OpenMP wait by spinning: on a busy machine several are slower than one
        estimator = _estimator(about).fit(features[~held], outcome[~held])
    trees = of_estimator(estimator, features)
    return Model(target, trees, _calibrated(about, trees.raw(features[held]), outcome[held]))


def contributions(model: Model, features: Floats, middle: Floats | None = None) -> Floats:
    """What each feature adds to each expectation: against the same row with the ``middle`` (median) of that feature.

    Of amounts before calibration, whose steps would swallow it; of chances in percentage points.
    """

    def says(rows: Floats) -> Floats:
        return model.predict(rows) * 100 if model.about.kind == "chance" else model.trees.raw(rows)

    whole = says(features)
    middle = medians(features) if middle is None else middle
    found = np.empty_like(features)
    for number in range(features.shape[1]):
        changed = features.copy()
        changed[:, number] = middle[number]
        found[:, number] = whole - says(changed)
    return found


def medians(features: Floats) -> Floats:
    """The median of each feature; NaN of what nobody said of anybody."""
    known = ~np.isnan(features).all(axis=0)
    found = np.full(features.shape[1], np.nan)
    found[known] = np.nanmedian(features[:, known], axis=0)
    return found


def tiers(expected: Floats) -> NDArray[np.str_]:
    """``top-5``, ``next-15`` or ``rest`` of each row, by rank among all; rows that are equal go by their place."""
    rank = np.argsort(np.argsort(-expected, kind="stable"), kind="stable")
    share = (rank + 1) / max(len(expected), 1)
    return np.where(share <= 0.05, "top-5", np.where(share <= 0.20, "next-15", "rest"))


def _estimator(about: Target) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if about.kind == "chance" else HistGradientBoostingRegressor
    return kind(
        max_iter=150 if about.kind == "amount" else 80,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=40,
        early_stopping=False,
        random_state=SEED,
    )


def _calibrated(about: Target, raw: Floats, outcome: Floats) -> Calibration:
    """Isotonic for amounts; Platt's two numbers for chances, of which a quarter of the stays has few."""
    if about.kind == "chance":
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=1e6).fit(raw[:, None], outcome)
        return Calibration("logistic", np.zeros(0), np.array([fitted.intercept_[0], fitted.coef_[0, 0]]))
    from sklearn.isotonic import IsotonicRegression

    points = IsotonicRegression(y_min=0.0, out_of_bounds="clip").fit(raw, outcome)
    return Calibration("isotonic", points.X_thresholds_, points.y_thresholds_)


def _held(members: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Who calibrates: by MD5 of the id, the same in every version of everything."""
    with duckdb.connect() as work:
        work.register("rows", pa.table({"member": members, "place": np.arange(len(members))}))
        found = work.execute("SELECT md5_number_lower(member) % 4 = 0 AS held FROM rows ORDER BY place").fetchnumpy()
    return np.asarray(found["held"], dtype=bool)
