"""Boosted trees as columns: what scikit-learn learned, kept without pickles and read by any later version.

A tree is rows of :data:`NODES`; a leaf leads to itself. Asking the trees needs NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fhir_gateway.errors import ConfigurationError

Floats = NDArray[np.float64]
#: A row per node, trees one after the other. ``left`` and ``right`` are rows of this table: where a feature (a column
#: of the matrix) is at most the threshold, and where it is not; one that is NaN goes left where ``missing_left``.
#: ``value`` is what a leaf adds.
NODES = pa.schema(
    [
        ("tree", pa.int32()),
        ("feature", pa.int32()),
        ("threshold", pa.float64()),
        ("missing_left", pa.bool_()),
        ("left", pa.int32()),
        ("right", pa.int32()),
        ("value", pa.float64()),
    ]
)
_ROWS = 20_000  # so many at a time stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees whose values add up to ``base``."""

    base: float
    nodes: pa.Table

    def raw(self, features: Floats) -> Floats:
        """The sum of base and trees for each row of a matrix; NaN is missing."""
        feature, left, right = (self.nodes[name].to_numpy() for name in ("feature", "left", "right"))
        threshold, value = (self.nodes[name].to_numpy() for name in ("threshold", "value"))
        missing = self.nodes["missing_left"].to_numpy(zero_copy_only=False)
        leaf = left == np.arange(len(left))
        roots = np.unique(self.nodes["tree"].to_numpy(), return_index=True)[1]
        found = np.full(len(features), self.base)
        for first in range(0, len(features), _ROWS):
            part = features[first : first + _ROWS]
            row, sums = np.arange(len(part)), found[first : first + _ROWS]
            for root in roots:
                at = np.full(len(part), root, dtype=np.int64)
                while not leaf[at].all():
                    seen = part[row, feature[at]]
                    goes_left = np.where(np.isnan(seen), missing[at], seen <= threshold[at])
                    at = np.where(goes_left, left[at], right[at]).astype(np.int64)
                sums += value[at]
        return found


def of_estimator(estimator: Any, features: Floats) -> Trees:
    """The trees of a fitted HistGradientBoosting estimator, compared with what it says itself of some rows.

    scikit-learn has no public way to its trees; ConfigurationError when a version of it keeps them otherwise.
    """
    try:
        parts, start = [], 0
        for number, (tree,) in enumerate(estimator._predictors):  # there is no other way to them
            nodes = tree.nodes
            rows = np.arange(len(nodes)) + start
            leaf = nodes["is_leaf"].astype(bool)
            parts.append(
                {
                    "tree": np.full(len(nodes), number, np.int32),
                    "feature": np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
                    "threshold": np.where(leaf, 0.0, nodes["num_threshold"]).astype(np.float64),
                    "missing_left": nodes["missing_go_to_left"].astype(bool),
                    "left": np.where(leaf, rows, nodes["left"] + start).astype(np.int32),
                    "right": np.where(leaf, rows, nodes["right"] + start).astype(np.int32),
                    "value": nodes["value"].astype(np.float64),
                }
            )
            start += len(nodes)
        base = float(np.asarray(estimator._baseline_prediction).reshape(-1)[0])
    except (AttributeError, KeyError, ValueError, TypeError):
        raise ConfigurationError("this version of scikit-learn keeps its trees in another way") from None
    table = pa.table({name: np.concatenate([one[name] for one in parts]) for name in NODES.names}, schema=NODES)
    trees, some = Trees(base, table), features[:1000]
    says = estimator.decision_function(some) if hasattr(estimator, "decision_function") else estimator.predict(some)
    if not np.allclose(trees.raw(some), says, rtol=1e-9, atol=1e-9):
        raise ConfigurationError("trees read out of this version of scikit-learn say something else than it does")
    return trees
