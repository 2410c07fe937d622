"""Surveys by hand: answers out of QuestionnaireResponses, skips, top boxes, linear means, case mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhir_gateway.errors import ConfigurationError, InputError, NotFoundError
from fhir_gateway.experience.answers import ENCOUNTER_COLUMNS, NO_PROVIDER, RESPONSE_COLUMNS, Answers, answers_of
from fhir_gateway.experience.case_mix import adjusted, coefficients, design
from fhir_gateway.experience.instrument import Instrument, shipped, shipped_names
from fhir_gateway.experience.scoring import percentile, response_rate, score, stars
from fhir_gateway.measures.population import MemoryPopulation

HCAHPS = shipped("hcahps")
EVERYBODY = dict.fromkeys("1 2 3 4 5 6 7 8 9 10 12 15 18 19 20 21 22".split(), 4)


def response(number: int, answers: dict[str, Any], provider: str | None = None, **more: Any) -> list[dict[str, Any]]:
    """A patient with a response; ``answers`` by question number: a number, a word, or a code with its display."""

    def item(name: str, value: Any) -> dict[str, Any]:
        if isinstance(value, tuple):
            said = {"valueCoding": {"code": value[0], "display": value[1]}}
        else:
            said = {"valueInteger": value} if isinstance(value, int) else {"valueString": value}
        return {"linkId": f"/hcahps/q{name}", "answer": [said]}

    sent: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "id": f"r{number}",
        "questionnaire": "https://vendor.example/Questionnaire/hcahps|2020",
        "status": "completed",
        "subject": {"reference": f"Patient/p{number}"},
        "authored": "2025-03-01T10:00:00Z",
        "item": [{"linkId": "group", "item": [item(name, value) for name, value in answers.items()]}],
    } | more
    found: list[dict[str, Any]] = [{"resourceType": "Patient", "id": f"p{number}"}, sent]
    if provider:
        sent["encounter"] = {"reference": f"Encounter/e{number}"}
        visit = {"resourceType": "Encounter", "id": f"e{number}", "status": "finished", "class": {"code": "IMP"}}
        visit |= {"subject": sent["subject"], "serviceProvider": {"reference": f"Organization/{provider}"}}
        found.append(visit)
    return found


def read(resources: list[dict[str, Any]], instrument: Instrument = HCAHPS) -> Answers:
    population = MemoryPopulation.from_resources(resources)
    responses = population.read("QuestionnaireResponse", RESPONSE_COLUMNS)
    return answers_of(instrument, responses, population.read("Encounter", ENCOUNTER_COLUMNS))


def full(**answers: Any) -> dict[str, Any]:
    given = dict(EVERYBODY) | {"10": "yes", "12": "no", "15": 1, "18": 9}
    return given | {name.removeprefix("q"): value for name, value in answers.items()}


def test_answers_as_codes_numbers_and_words() -> None:
    found = read(
        [
            *response(1, full(q1=("4", "Always"), q2="Usually", q3=("LA6270-8", "Never"), q18=10), "h1"),
            *response(2, full(q1=9, q2="often", q4=("9", "I never pressed the call button"))),
        ]
    )
    assert found.provider.to_pylist() == ["Organization/h1", NO_PROVIDER]
    assert [found.of(one)[0] for one in ("1", "2", "3", "18")] == [4, 3, 1, 10]
    assert np.isnan(
        [found.of(one)[1] for one in ("1", "2", "4")]
    ).all()  # no such answer; the question was not for them


def test_who_was_to_skip_a_question_did_not_answer_it() -> None:
    found = read(
        [
            *response(1, full(q10="no", q11=4, q12="yes", q13=3, q14=2)),
            *response(2, full(q10="yes", q11=4, q15=3, q16="yes")),
            *response(3, {k: v for k, v in full(q11=2).items() if k != "10"}),
        ]
    )
    assert np.isnan(found.of("11")[0])
    assert [found.of("13")[0], found.of("14")[0]] == [3, 2]
    assert found.of("11")[1] == 4
    assert np.isnan(found.of("16")[1])  # went to another facility
    assert found.of("11")[2] == 2  # the screener was left out: the answer counts


def test_what_is_not_counted() -> None:
    half = {"1": 4, "2": 4, "3": 4, "5": 4, "6": 4, "7": 4, "8": 4, "9": 4}  # 8 of 17 questions for everybody
    found = read(
        [
            *response(1, half),
            *response(2, half | {"18": 9}),
            *response(3, full(), status="in-progress"),
            *response(4, full(), questionnaire="https://vendor.example/Questionnaire/phq-9"),
        ]
    )
    assert len(found.member) == 1


def test_of_two_responses_to_one_visit_the_last_counts() -> None:
    first = response(1, full(q1=1), "h1")
    second = response(1, full(q1=4), "h1")[1] | {"id": "later", "authored": "2025-04-01"}
    found = read([*first, second])
    assert found.of("1").tolist() == [4]


def matrix(columns: dict[str, list[float]], providers: list[str], instrument: Instrument) -> Answers:
    import pyarrow as pa

    items = tuple(instrument.items)
    values = np.full((len(providers), len(items)), np.nan)
    for name, given in columns.items():
        values[:, items.index(name)] = given
    members = pa.array([f"p{n}" for n in range(len(providers))])
    return Answers(items, values, np.ones(values.shape, np.bool_), members, pa.array(providers))


def small(**changes: Any) -> Instrument:
    return HCAHPS.model_copy(update={"min_completes": 2, "public_completes": 4, "case_mix": {}} | changes)


def test_top_box_and_linear_mean_by_hand() -> None:
    """Nurses: items 1 (3 of 4 always), 2 (2 of 4), 3 (1 of 2 who answered): mean of 0.75, 0.5, 0.5."""
    nan = float("nan")
    answers = matrix({"1": [4, 4, 4, 1], "2": [4, 4, 3, 3], "3": [4, 1, nan, nan]}, ["h"] * 4, small())
    nurses = score(small(), answers)[0]
    assert (nurses.composite, nurses.completes, nurses.answered, nurses.public) == ("nurses", 4, 4, True)
    assert nurses.top_box == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    linear = [(100 + 100 + 100 + 0) / 4, (100 + 100 + 200 / 3 * 2) / 4, 50]
    assert nurses.linear == pytest.approx(sum(linear) / 3)
    assert nurses.adjusted_top_box == nurses.top_box
    too_few = score(small(min_completes=5), answers)[0]
    assert (too_few.top_box, too_few.linear, too_few.completes) == (None, None, 4)


def test_yes_is_the_best_answer() -> None:
    answers = matrix({"16": [1, 2, 1, 1], "17": [1, 1, 2, 2]}, ["h"] * 4, small())
    discharge = next(one for one in score(small(), answers) if one.composite == "discharge")
    assert (discharge.top_box, discharge.linear) == (0.625, 62.5)


def test_case_mix_by_hand() -> None:
    """Healthier respondents rate a point higher in both hospitals: that difference, and only that, is taken out.

    Hospital a: health 1, 1, 3 with ratings 8, 8, 6; hospital b: 3, 3, 1 with 7, 7, 9. Slope -1. Mean health 5/3 and
    7/3, overall 2: a is moved from 22/3 by -1/3 to 7, b from 23/3 by +1/3 to 8.
    """
    instrument = small(case_mix={"health": HCAHPS.case_mix["health"]})
    ratings, health = [8, 8, 6, 7, 7, 9], [1, 1, 3, 3, 3, 1]
    answers = matrix({"18": ratings, "24": health}, ["a"] * 3 + ["b"] * 3, instrument)
    provider = np.array([0, 0, 0, 1, 1, 1])
    mix = design(instrument, answers, provider)
    slopes = coefficients(np.array(ratings, float), mix, provider)
    assert slopes == pytest.approx([-1])
    raw, moved = adjusted(np.array(ratings, float), mix, provider, slopes)
    assert raw == pytest.approx([22 / 3, 23 / 3])
    assert moved == pytest.approx([7, 8])
    given = score(instrument, answers, linear_coefficients={"18": {"health": -10.0}})
    found = [one.adjusted_linear for one in given if one.composite == "rating"]
    assert found == pytest.approx([70, 80])


def test_case_mix_is_a_regression_with_an_intercept_for_each_provider() -> None:
    """Independently: least squares with dummies of providers and levels, and predictions at the overall mean."""
    rng = np.random.default_rng(11)
    size, hospitals = 400, 5
    provider = rng.integers(0, hospitals, size)
    health, language = rng.integers(1, 6, size).astype(float), rng.integers(1, 4, size).astype(float)
    rating = np.clip(np.rint(8 + provider / 3 - 0.5 * health + (language == 2) + rng.normal(0, 1, size)), 0, 10)
    health[rng.random(size) < 0.05] = np.nan
    names = [f"h{one}" for one in provider]
    mixed = small(case_mix={name: HCAHPS.case_mix[name] for name in ("health", "language")})
    answers = matrix({"18": rating.tolist(), "24": health.tolist(), "29": language.tolist()}, names, mixed)
    found = {one.provider: one for one in score(mixed, answers) if one.composite == "rating"}
    for one in range(hospitals):  # missing characteristics are the provider's mean
        here = provider == one
        health[here & np.isnan(health)] = np.nanmean(health[here])
    dummies = (provider[:, None] == np.arange(hospitals)).astype(float)
    levels = np.stack([language == 2, language == 3], axis=1).astype(float)
    x = np.column_stack([dummies, health, levels])
    beta = np.linalg.lstsq(x, rating * 10, rcond=None)[0]
    overall = x[:, hospitals:].mean(axis=0)
    for one in range(hospitals):
        assert found[f"h{one}"].adjusted_linear == pytest.approx(beta[one] + overall @ beta[hospitals:])
        assert found[f"h{one}"].linear == pytest.approx(rating[provider == one].mean() * 10)


def test_response_rates_percentiles_and_stars() -> None:
    assert response_rate(30, 130, 10) == 0.25
    with pytest.raises(InputError, match="fewer eligible"):
        response_rate(30, 25, 0)
    table = [(25, 0.6), (50, 0.7), (75, 0.8)]
    assert [percentile(one, table) for one in (0.59, 0.6, 0.75, 0.9)] == [None, 25, 50, 75]
    assert [stars(one, (60, 70, 80, 90)) for one in (59.9, 60, 89, 90)] == [1, 2, 4, 5]
    with pytest.raises(InputError, match="ascending"):
        stars(1, (1, 1, 2, 3))


def test_instruments_are_whole(tmp_path: Path) -> None:
    assert shipped_names() == ("cg-cahps", "hcahps")
    assert {name for one in shipped_names() for name in shipped(one).composites} >= {"access", "nurses", "rating"}
    with pytest.raises(NotFoundError, match="cg-cahps, hcahps"):
        shipped("other")
    text = (Path(__file__).parents[3] / "fhir_gateway/experience/instruments/hcahps.toml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace('items = ["18"]', 'items = ["99"]'), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="there is no item 99"):
        Instrument.load(wrong)
