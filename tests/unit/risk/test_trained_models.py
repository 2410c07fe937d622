"""Models: refuse too little, learn what is there, are the same every time, and say how they did."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.errors import InputError
from fhir_gateway.risk.prediction.features import FEATURES, matrix
from fhir_gateway.risk.prediction.training import card, contributions, judge, tiers, train


def year(size: int, seed: int) -> pa.Table:
    """Members whose next cost is three times this year's acute cost, and noise."""
    generator = np.random.default_rng(seed)
    columns = {name: generator.uniform(0, 10, size) for name in FEATURES}
    columns["age"], columns["male"] = generator.uniform(20, 90, size), generator.integers(0, 2, size).astype(float)
    columns["acute_cost"] = generator.exponential(1000, size)
    cost = 3 * columns["acute_cost"] + generator.normal(0, 50, size)
    members = [f"p{seed}-{number:05d}" for number in range(size)]
    return pa.table({"member": members, **columns, "next_cost": np.maximum(cost, 0), "next_acute_cost": cost})


def test_too_little_is_refused() -> None:
    with pytest.raises(InputError, match="too little"):
        train(year(500, 1), "next_cost")
    without = year(1500, 1).set_column(11, "next_cost", pa.array(np.zeros(1500)))
    with pytest.raises(InputError, match="too little"):
        train(without, "next_cost")


def test_a_model_learns_is_calibrated_and_the_same_again() -> None:
    model, later = train(year(4000, 1), "next_cost"), year(2000, 2)
    judged = judge(model, later)
    assert judged["metrics"]["r2"]["value"] > 0.8
    assert 0.9 < judged["metrics"]["observed_to_expected"]["value"] < 1.1
    interval = judged["metrics"]["r2"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert [one["decile"] for one in judged["calibration"]] == list(range(1, 11))
    assert set(judged["subgroups"]) == {"age below 45", "age 45 to 64", "age 65 and more", "male", "not male"}
    again = train(year(4000, 1), "next_cost")
    assert np.array_equal(again.predict(matrix(later)), model.predict(matrix(later)))
    assert card(judge(again, later), lake_version=1) == card(judged, lake_version=1)
    assert card(judged, lake_version=2)["id"] != card(judged, lake_version=1)["id"]


def test_what_decides_is_the_first_reason() -> None:
    features = matrix(year(1000, 3))
    found = contributions(train(year(4000, 1), "next_cost"), features)
    expensive = int(features[:, FEATURES.index("acute_cost")].argmax())
    assert FEATURES[int(found[expensive].argmax())] == "acute_cost"


def test_tiers_are_the_first_twentieth_and_the_next_three() -> None:
    found = tiers(np.arange(100, dtype=np.float64))
    assert (found.count("top-5"), found.count("next-15"), found.count("rest")) == (5, 15, 80)
    assert found[-1] == "top-5"
    assert tiers(np.empty(0)) == []


def test_nobody_s_race_is_a_feature() -> None:
    assert not {"race", "ethnicity", "zip", "address"} & set(FEATURES)
