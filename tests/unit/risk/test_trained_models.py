"""Models: refuse too little, learn what is there, are the same every time, say how they did and for whom, and rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from fhir_gateway.errors import ConfigurationError, ConflictError, InputError, NotFoundError
from fhir_gateway.risk.prediction import store as room
from fhir_gateway.risk.prediction.cards import as_markdown, card
from fhir_gateway.risk.prediction.drift import drift, drifted, profile
from fhir_gateway.risk.prediction.features import matrix
from fhir_gateway.risk.prediction.judging import judge
from fhir_gateway.risk.prediction.readmission import windows
from fhir_gateway.risk.prediction.store import ModelStore, StoredModel
from fhir_gateway.risk.prediction.targets import FEATURES, STAY_FEATURES, TARGETS
from fhir_gateway.risk.prediction.training import Model, contributions, medians, tiers, train
from fhir_gateway.risk.prediction.trees import of_estimator

NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)


def year(size: int, seed: int) -> pa.Table:
    """Members whose next cost is three times this year's acute cost, and noise."""
    generator = np.random.default_rng(seed)
    columns = {name: generator.uniform(0, 10, size) for name in FEATURES}
    columns["age"], columns["male"] = generator.uniform(20, 90, size), generator.integers(0, 2, size).astype(float)
    columns["acute_cost"] = generator.exponential(1000, size)
    cost = 3 * columns["acute_cost"] + generator.normal(0, 50, size)
    members = [f"p{seed}-{number:05d}" for number in range(size)]
    return pa.table({"member": members, **columns, "next_cost": np.maximum(cost, 0), "next_acute_cost": cost})


def stays(size: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Stays, two of each member, and the chance by which each was drawn to be followed by another."""
    generator = np.random.default_rng(seed)
    columns = {name: generator.integers(0, 5, size).astype(float) for name in STAY_FEATURES}
    columns["haemoglobin"] = np.where(generator.random(size) < 0.6, np.nan, generator.normal(12, 2, size))
    chance = 1 / (1 + np.exp(-(-2.6 + 0.7 * columns["admissions"] + 0.4 * (columns["days"] - 2))))
    outcome = (generator.random(size) < chance).astype(float)
    members = [f"p{seed}-{number // 2:05d}" for number in range(size)]
    return pa.table({"member": members, **columns, "readmission_30": outcome}), chance


def test_too_little_is_refused() -> None:
    with pytest.raises(InputError, match="too little"):
        train(year(500, 1), "next_cost")
    without = year(1500, 1).set_column(11, "next_cost", pa.array(np.zeros(1500)))
    with pytest.raises(InputError, match="too little"):
        train(without, "next_cost")
    always, _ = stays(1500, 1)
    place = always.column_names.index("readmission_30")
    with pytest.raises(InputError, match="1,000 stays"):
        train(always.set_column(place, "readmission_30", pa.array(np.ones(1500))), "readmission_30")


def test_a_model_of_cost_learns_is_calibrated_and_the_same_again() -> None:
    model, later = train(year(4000, 1), "next_cost"), year(2000, 2)
    judged = judge(model, later)
    assert judged["metrics"]["r2"]["value"] > 0.8
    assert 0.9 < judged["metrics"]["observed_to_expected"]["value"] < 1.1
    interval = judged["metrics"]["r2"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert [one["decile"] for one in judged["calibration"]] == list(range(1, 11))
    again = train(year(4000, 1), "next_cost")
    assert np.array_equal(again.predict(matrix(later)), model.predict(matrix(later)))
    assert judge(again, later) == judged


def test_a_model_of_readmission_gives_chances_that_hold() -> None:
    table, _ = stays(6000, 1)
    later, chance = stays(6000, 2)
    model = train(table, "readmission_30")
    expected = model.predict(matrix(later, STAY_FEATURES))
    assert ((expected > 0) & (expected < 1)).all()
    judged = judge(model, later)
    # nobody can rank better than the chances that the outcomes were drawn by
    assert 0.7 < judged["metrics"]["auc"]["value"] < 0.9
    assert judged["metrics"]["auc"]["low"] <= judged["metrics"]["auc"]["value"] <= judged["metrics"]["auc"]["high"]
    assert judged["metrics"]["brier"]["value"] < later["readmission_30"].to_numpy().var()
    assert 0.9 < judged["metrics"]["observed_to_expected"]["value"] < 1.1
    for one in judged["calibration"]:
        assert abs(one["expected"] - one["observed"]) < 0.06
    assert np.abs(expected - chance).mean() < 0.05
    own = roc_auc_score(later["readmission_30"].to_numpy(), expected)
    assert judged["metrics"]["auc"]["value"] == pytest.approx(own, abs=1e-4)
    assert (judged["stays"], judged["outcomes"]) == (6000, int(later["readmission_30"].to_numpy().sum()))


def test_who_is_in_a_group_is_judged_apart_and_never_seen() -> None:
    table, _ = stays(6000, 1)
    later, _ = stays(4000, 2)
    outcome = later["readmission_30"].to_numpy()
    generator = np.random.default_rng(5)
    # of the second group a half of those who came back are: the model is too low for them
    second = np.where(outcome > 0, generator.random(4000) < 0.5, generator.random(4000) < 0.1)
    few = np.arange(4000) < 20
    groups = {"Race": {"Black": second, "White": ~second, "Asian": few, "Other": few & ~few}}
    judged = judge(train(table, "readmission_30"), later, groups)
    black, white = judged["subgroups"]["Race: Black"], judged["subgroups"]["Race: White"]
    assert black["low"] > 1 > white["high"]
    assert black["stays"] + white["stays"] == 4000
    assert judged["too_few"] == ["Race: Asian"]
    assert {"auc", "brier", "observed_to_expected"} <= black.keys()


def test_trees_as_columns_say_what_scikit_learn_says() -> None:
    """Learning compares them itself; here it is seen to notice a difference."""
    table, _ = stays(3000, 1)
    features = matrix(table, STAY_FEATURES)
    fitted = HistGradientBoostingClassifier(random_state=1).fit(features, table["readmission_30"].to_numpy())
    trees = of_estimator(fitted, features)
    unseen = matrix(stays(3000, 2)[0], STAY_FEATURES)
    unseen[::3, :] = np.nan
    assert np.allclose(trees.raw(unseen), fitted.decision_function(unseen))
    fitted._baseline_prediction += 1
    fitted.decision_function = lambda rows: trees.raw(rows)
    with pytest.raises(ConfigurationError, match="something else"):
        of_estimator(fitted, features)
    del fitted._predictors
    with pytest.raises(ConfigurationError, match="another way"):
        of_estimator(fitted, features)


def test_what_decides_is_the_first_reason() -> None:
    features = matrix(year(1000, 3))
    found = contributions(train(year(4000, 1), "next_cost"), features)
    expensive = int(features[:, FEATURES.index("acute_cost")].argmax())
    assert FEATURES[int(found[expensive].argmax())] == "acute_cost"


def test_tiers_are_the_first_twentieth_and_the_next_three() -> None:
    found = tiers(np.arange(100, dtype=np.float64)).tolist()
    assert (found.count("top-5"), found.count("next-15"), found.count("rest")) == (5, 15, 80)
    assert found[-1] == "top-5"
    assert tiers(np.empty(0)).tolist() == []


@pytest.mark.parametrize("target", TARGETS)
def test_nobody_s_race_is_a_feature(target: str) -> None:
    told = {"race", "ethnicity", "zip", "address", "language", "payer", "dual", "adi"}
    assert not told & set(TARGETS[target].features)


def test_the_years_that_teach_and_judge_are_known_and_apart() -> None:
    first, second = windows(date(2025, 6, 30))
    assert second == (date(2024, 5, 31), date(2025, 5, 30))  # 30 days on is the eve
    assert (first[1] - first[0]).days == (second[1] - second[0]).days == 364
    assert (second[0] - first[1]).days == 1


Learned = tuple[Model, pa.Table, dict[str, Any]]


def about(learned: Learned, as_of: date = date(2025, 6, 30), **more: Any) -> dict[str, Any]:
    model, table, tests = learned
    features = matrix(table, model.about.features)
    span = ("2024-01-01", "2024-12-31")
    given: dict[str, Any] = {"lake_version": 3, "learned": table.num_rows, "learned_at": NOW} | more
    return card(
        model.about,
        tests,
        as_of=as_of,
        windows={"judged_learned": span, "judged_by": span, "learned": span},
        scikit_learn="1",
        medians=[None if np.isnan(one) else one for one in medians(features).tolist()],
        profile=profile(features, model.about.features),
        **given,
    )


@pytest.fixture(scope="module")
def learned() -> Learned:
    table, _ = stays(2000, 1)
    model = train(table, "readmission_30")
    return model, table, judge(model, table)


def kept(store: ModelStore, learned: Learned, **more: Any) -> StoredModel:
    return store.keep(learned[0], about(learned, **more))


def test_a_stored_model_scores_as_the_one_that_was_learned(tmp_path: Path, learned: Learned) -> None:
    model, table, _ = learned
    first = kept(ModelStore(tmp_path), learned)
    found = ModelStore(tmp_path).load(first.id)
    features = matrix(table, STAY_FEATURES)
    assert np.array_equal(found.model.predict(features), model.predict(features))
    assert found.card == first.card
    assert (found.card["lake_version"], found.card["features"]) == (3, list(STAY_FEATURES))
    assert kept(ModelStore(tmp_path), learned).id == first.id
    later = kept(ModelStore(tmp_path), learned, learned_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert (later.id, later.card["learned_at"]) == (first.id, first.card["learned_at"])
    assert kept(ModelStore(tmp_path), learned, lake_version=4).id != first.id
    written = (tmp_path / "models" / first.id / "card.md").read_text(encoding="utf-8")
    assert written == as_markdown(first.card)
    assert "Platt calibration" in written
    assert not list((tmp_path / "models").rglob("*.pkl"))


def test_the_newest_that_knew_nothing_of_the_future_is_in_force(tmp_path: Path, learned: Learned) -> None:
    store = ModelStore(tmp_path)
    old = kept(store, learned, as_of=date(2025, 1, 1))
    new = kept(store, learned, as_of=date(2025, 6, 30))
    assert [one.id for one in store.models("readmission_30")] == [old.id, new.id]
    assert store.models("next_cost") == []

    def at(day: str) -> str | None:
        found = store.in_force("readmission_30", date.fromisoformat(day))
        return None if found is None else found.id

    assert (at("2024-12-31"), at("2025-06-29"), at("2025-06-30")) == (None, old.id, new.id)
    retired = store.retire(new.id, "somebody", "drifted", NOW)
    assert retired.retired is not None
    assert (retired.retired["by"], retired.retired["why"]) == ("somebody", "drifted")
    assert at("2025-06-30") == old.id
    assert len(store.models()) == 2
    with pytest.raises(ConflictError):
        store.retire(new.id, "somebody", "again", NOW)
    with pytest.raises(NotFoundError):
        store.retire("model-0", "somebody", "nothing", NOW)


def test_a_model_of_features_that_are_computed_no_more_is_passed_over(
    tmp_path: Path, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path)
    kept(store, learned)
    assert store.in_force("readmission_30", date(2025, 7, 1)) is not None
    other = replace(TARGETS["readmission_30"], features=STAY_FEATURES[1:])
    monkeypatch.setattr(room, "TARGETS", {**TARGETS, "readmission_30": other})
    assert store.in_force("readmission_30", date(2025, 7, 1)) is None


def test_drift_is_nothing_of_the_same_and_much_of_others() -> None:
    table, _ = stays(5000, 1)
    features = matrix(table, STAY_FEATURES)
    known = profile(features, STAY_FEATURES)
    assert set(drift(known, features, STAY_FEATURES).values()) == {0.0}
    alike = drift(known, matrix(stays(5000, 2)[0], STAY_FEATURES), STAY_FEATURES)
    assert drifted(alike) == []
    other = features.copy()
    other[:, STAY_FEATURES.index("days")] += 3
    other[:, STAY_FEATURES.index("haemoglobin")] = np.nan
    assert set(drifted(drift(known, other, STAY_FEATURES))) == {"days", "haemoglobin"}
    assert drift(known, features[:0], STAY_FEATURES) == {}
    # worked by hand: tenths of 0 to 99, then all above the last border but a tenth in the first
    tenths = np.arange(100, dtype=np.float64)[:, None]
    moved = np.where(np.arange(100) < 10, 0.0, 99.0)[:, None]
    share = 8 * (1e-4 - 0.1) * np.log(1e-4 / 0.1) + (0.9 - 0.1) * np.log(0.9 / 0.1)
    assert drift(profile(tenths, ["x"]), moved, ["x"])["x"] == pytest.approx(share, abs=1e-3)


def test_what_nobody_said_of_anybody_is_learned_without() -> None:
    table, _ = stays(2000, 1)
    place = table.column_names.index("haemoglobin")
    empty = table.set_column(place, "haemoglobin", pa.array(np.full(2000, np.nan)))
    found = train(empty, "readmission_30")
    features = matrix(table, STAY_FEATURES)  # at last somebody says it: that changes nothing
    assert np.array_equal(found.predict(features), found.predict(matrix(empty, STAY_FEATURES)))
    assert np.isnan(medians(matrix(empty, STAY_FEATURES))[STAY_FEATURES.index("haemoglobin")])
