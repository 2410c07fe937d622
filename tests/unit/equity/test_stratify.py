"""Rates by stratum, intervals, suppression as people read it, disparities: by hand."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.equity.disparity import disparity
from fhir_gateway.equity.intervals import poisson, wilson
from fhir_gateway.equity.members import of_columns
from fhir_gateway.equity.metrics import Metric, of_table
from fhir_gateway.equity.stratify import Strata, stratify
from fhir_gateway.errors import InputError

ON = date(2025, 12, 31)


def world(groups: list[tuple[str, int, int]], dimension: str = "language", kind: str = "proportion") -> Strata:
    """Strata of one metric from (stratum, denominator, numerator)."""
    codes = [code for code, size, _ in groups for _ in range(size)]
    met = [float(n < of) for _, size, of in groups for n in range(size)]
    members = pa.array([f"p{n:05}" for n in range(len(codes))])
    known = pa.array([None if code == "unknown" else code for code in codes])
    dimensions = of_columns(members, ON, {dimension: known})
    metric = Metric("m", "M", members, np.ones(len(codes)), np.array(met), kind)  # type: ignore[arg-type]
    return stratify([metric], dimensions, [dimension])


def shown(strata: Strata, dimension: str = "language") -> dict[str, tuple[float, float] | None]:
    return {
        str(one.stratum): None if one.denominator is None or one.numerator is None else (one.denominator, one.numerator)
        for one in strata.of("m", dimension).cells
    }


def test_wilson_by_the_book() -> None:
    low, high = wilson(45, 60) or (0, 0)
    assert (round(low, 3), round(high, 3)) == (0.628, 0.842)
    assert wilson(0, 0) is None
    assert (wilson(0, 20) or (1, 1))[0] == 0
    assert (wilson(20, 20) or (0, 0))[1] == 1


def test_poisson_by_the_book() -> None:
    """Garwood 1936: 10 events have the limits 4.795 and 18.390."""
    low, high = poisson(10, 1) or (0, 0)
    assert (round(low, 3), round(high, 3)) == (4.795, 18.390)
    assert (poisson(0, 1) or (1, 1))[0] == 0


def test_rates_and_what_is_missing() -> None:
    strata = world([("en", 60, 45), ("es", 50, 20), ("unknown", 30, 15)])
    found = strata.of("m", "language")
    english = found.cells[0]
    assert (english.denominator, english.numerator, english.rate) == (60, 45, 0.75)
    assert (round(english.low or 0, 3), round(english.high or 0, 3)) == (0.628, 0.842)
    assert found.total.denominator == 140
    assert found.missing_share == pytest.approx(30 / 140)
    assert found.declined_share == 0


def test_a_small_stratum_takes_the_next_smallest_with_it() -> None:
    """9 of 40: hidden, and with it the next smallest, so that the total does not tell."""
    strata = world([("en", 100, 50), ("es", 31, 15), ("zh", 9, 4), ("vi", 60, 30)])
    assert shown(strata) == {"en": (100, 50), "es": None, "zh": None, "vi": (60, 30), "unknown": (0, 0)}
    assert {"en", "vi"} == {code for code, _, count in strata.population[0].members if count}


def test_few_who_met_it_and_few_who_did_not_are_hidden_alike() -> None:
    few_met = world([("en", 100, 50), ("es", 90, 3), ("vi", 120, 60)])
    few_not = world([("en", 100, 50), ("es", 90, 87), ("vi", 120, 60)])
    for strata in (few_met, few_not):
        assert shown(strata)["es"] is None
        assert sum(one is None for one in shown(strata).values()) == 2


def test_what_nobody_met_is_no_secret() -> None:
    assert shown(world([("en", 100, 0), ("es", 90, 30)]))["en"] == (100, 0)


def test_too_few_in_all_are_not_shown_at_all() -> None:
    strata = world([("en", 100, 5), ("es", 90, 4)])
    assert [one.numerator for one in (strata.of("m", "language").total, *strata.of("m", "language").cells)] == [
        None
    ] * 4
    assert strata.of("m", "language").total.denominator == 190
    assert "no numerators" in strata.notes[0]
    nobody = world([("en", 5, 5), ("es", 4, 4)])
    assert (nobody.breakdowns, len(nobody.notes)) == ((), 1)


def test_two_metrics_of_one_denominator_hide_the_same_strata() -> None:
    codes = ["en"] * 100 + ["es"] * 60 + ["vi"] * 70
    members = pa.array([f"p{n:05}" for n in range(230)])
    dimensions = of_columns(members, ON, {"language": pa.array(codes)})
    half = (np.arange(230) % 2).astype(float)
    rare = np.where(np.arange(230) >= 160, half, 0) * (np.arange(230) < 172)
    rare[:20] = 1
    first, second = (Metric(n, n, members, np.ones(230), v) for n, v in (("a", half), ("b", rare)))
    inverse = Metric("c", "c", members, np.ones(230), 1 - rare)
    strata = stratify([first, second, inverse], dimensions, ["language"])
    hidden = {one: [c.suppressed for c in strata.of(one, "language").cells] for one in "abc"}
    assert hidden["b"] == hidden["c"]
    assert sum(hidden["b"]) == 2


@given(st.lists(st.tuples(st.sampled_from(["en", "es", "vi", "unknown"]), st.booleans()), max_size=300))
def test_strata_add_up_to_the_whole(people: list[tuple[str, bool]]) -> None:
    """Nothing hidden (threshold 1), so that all can be added."""
    members = pa.array([f"p{n:05}" for n in range(len(people))], pa.string())
    codes = pa.array([None if code == "unknown" else code for code, _ in people], pa.string())
    dimensions = of_columns(members, ON, {"language": codes})
    met = np.array([float(one) for _, one in people])
    strata = stratify([Metric("m", "m", members, np.ones(len(people)), met)], dimensions, ["language", "sex"], 1)
    for one in strata.breakdowns:
        assert sum(cell.denominator or 0 for cell in one.cells) == one.total.denominator == len(people)
        assert sum(cell.numerator or 0 for cell in one.cells) == one.total.numerator == met.sum()


def test_disparities_by_hand() -> None:
    strata = world([("en", 200, 160), ("es", 100, 60), ("vi", 100, 72), ("unknown", 50, 25)])
    found = disparity(strata, strata.of("m", "language"))
    assert found is not None
    assert found.reference == "en"
    gaps = {one.stratum: (round(one.gap, 10), round(one.ratio or 0, 10)) for one in found.gaps}
    assert gaps == {"en": (0, 1), "es": (0.2, 0.75), "vi": (0.08, 0.9)}
    assert found.index == pytest.approx((0.2 + 0.08) / 2 / 0.8)
    mean = (200 * 0.8 + 100 * 0.6 + 100 * 0.72) / 400
    assert found.between == pytest.approx(
        (200 * (0.8 - mean) ** 2 + 100 * (0.6 - mean) ** 2 + 100 * (0.72 - mean) ** 2) / 400
    )
    with pytest.raises(InputError, match="no stratum"):
        disparity(strata, strata.of("m", "language"), "fr")


def test_standardised_rates_by_hand() -> None:
    """Both strata have 50 % of the young and 80 % of the old; only their ages differ."""
    parts = [("en", "18-44", 80, 40), ("en", "65-74", 20, 16), ("es", "18-44", 20, 10), ("es", "65-74", 80, 64)]
    language, age, met = [], [], []
    for code, years, size, of in parts:
        language += [code] * size
        age += [years] * size
        met += [float(n < of) for n in range(size)]
    members = pa.array([f"p{n:05}" for n in range(200)])
    given_columns = {"language": pa.array(language), "age": pa.array(age), "sex": pa.array(["female"] * 200)}
    dimensions = of_columns(members, ON, given_columns)
    # 4 of 20 did not meet it: of no stratum, so nothing is hidden here
    strata = stratify([Metric("m", "m", members, np.ones(200), np.array(met))], dimensions, ["language"])
    found = disparity(strata, strata.of("m", "language"))
    assert found is not None
    assert {one.stratum: one.rate for one in found.gaps} == {"en": 0.56, "es": 0.74}
    assert {one.stratum: one.standardised for one in found.gaps} == {"en": 0.65, "es": 0.65}


def test_a_metric_of_any_table() -> None:
    """Visits by member months, per 1,000 members and year."""
    members = [f"p{n:03}" for n in range(60)]
    table = pa.table({"member": members * 2, "denominator": [6.0] * 120, "numerator": [1.0] * 60 + [0.0] * 60})
    metric = of_table(table, "ed", "ED visits", scale=12_000)
    dimensions = of_columns(pa.array(members), ON, {"language": pa.array(["en"] * 30 + ["es"] * 30)})
    found = stratify([metric], dimensions, ["language"]).of("ed", "language")
    assert (found.total.denominator, found.total.numerator, found.total.rate) == (720, 60, 1000)
    assert [one.rate for one in found.cells[:2]] == [1000, 1000]
    with pytest.raises(InputError, match="part of its denominator"):
        of_table(pa.table({"member": ["a"], "denominator": [1], "numerator": [2]}), "x", "X", "proportion")
    with pytest.raises(InputError, match="lacks numerator"):
        of_table(pa.table({"member": ["a"], "denominator": [1]}), "x", "X")
