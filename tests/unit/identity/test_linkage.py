"""Who is linked unseen, who goes to review, and who is left alone."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from bench.linkage import population, record, sources
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.identity.crosswalk import Crosswalk
from fhir_gateway.identity.linkage import Linkage
from fhir_gateway.identity.model import SHIPPED, LinkageModel
from fhir_gateway.identity.models import Review
from fhir_gateway.identity.stewardship import Stewardship
from tests.support.patients import assign, patient, person, table

HOME: dict[str, Any] = {"phone": "(602) 555-0143", "street": "12 Elm Street"}
# Others of one source, so that names have frequencies.
OTHERS = [
    record(one, "city", Random(one.number))  # noqa: S311 - a synthetic population
    for one in population(150, Random(5))  # noqa: S311
]


def linked(engine: Engine, *patients: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether the first two patients are one person, and the rules of open reviews between any two."""
    everybody = [*patients, *OTHERS]
    crosswalk = Crosswalk(engine)
    assign(crosswalk, *everybody)
    Linkage(engine).run(table(*everybody))
    first, second = (person(crosswalk, one["_source"], one["id"]) for one in patients[:2])
    return first == second, [review.rule for review in reviews_of(crosswalk)]


def reviews_of(crosswalk: Crosswalk) -> list[Review]:
    """Open reviews, but those among the others."""
    return [review for review in crosswalk.reviews() if {review.source, review.other_source} != {"city"}]


@pytest.mark.parametrize(
    "other",
    [
        patient("payer", "b", "Margaret Okafor", **HOME),
        patient("payer", "b", "MARGARET O'Kafor", **HOME),
        patient("payer", "b", "Okafor Margaret", **HOME),
        patient("payer", "b", "Margaret Okaffor", phone="602-555-0143"),
        patient("payer", "b", "Marg Okafor", **HOME),
        patient("payer", "b", "Margaret Lindqvist", former="Okafor", **HOME),
        patient(
            "payer", "b", "Margaret Okafor", gender=None, street="99 Moved Ave", code="85399", phone="602-555-0143"
        ),
        patient("payer", "b", "Margaret Okafor Jr", **HOME),
    ],
    ids=["alike", "spelling", "swapped", "family typo", "short form", "maiden name", "moved", "suffix on one side"],
)
def test_what_is_certain_is_linked(empty_engine: Engine, other: dict[str, Any]) -> None:
    assert linked(empty_engine, patient("ehr", "a", "Margaret Okafor", **HOME), other) == (True, [])


@pytest.mark.parametrize(
    "other",
    [
        patient("payer", "b", "Margarett Okafor", birth="1950-03-15", **HOME),
        patient("payer", "b", "Margaret Okafor", birth="1950-03-15", **HOME),
        patient("payer", "b", "Margaret Okafor", birth="1950-04-14", **HOME),
        patient("payer", "b", "Margaret Okafor", birth=None, **HOME),
        patient("payer", "b", "Margaret Lindqvist", **HOME),
        patient("payer", "b", "Margaret Okafor", gender="male", **HOME),
        patient("payer", "b", "Mildred Okafor", **HOME),  # a twin, or another given name
        patient("ehr", "b", "Margaret Okafor", **HOME),  # two records of one source
    ],
    ids=["two typos", "birth day", "birth month", "no birth date", "new family name", "gender", "twin", "one source"],
)
def test_what_is_likely_is_for_review(empty_engine: Engine, other: dict[str, Any]) -> None:
    assert linked(empty_engine, patient("ehr", "a", "Margaret Okafor", **HOME), other) == (False, ["linkage"])


@pytest.mark.parametrize(
    "other",
    [
        patient("payer", "b", "Leonard Okafor", birth="1948-07-01", gender="male", **HOME),
        patient("payer", "b", "Margaret Smith", birth="1981-01-02"),
        patient("payer", "b", "Margaret Okafor", birth="1979-11-30"),
        patient("payer", "b", "", birth=None, gender=None, phone="602-555-0143"),
    ],
    ids=["spouse", "given name", "name alone", "telephone alone"],
)
def test_who_is_somebody_else_is_left_alone(empty_engine: Engine, other: dict[str, Any]) -> None:
    assert linked(empty_engine, patient("ehr", "a", "Margaret Okafor", **HOME), other) == (False, [])


def test_parent_and_child_of_one_name_stay_two(empty_engine: Engine) -> None:
    senior = patient("ehr", "a", "James Okafor", "1948-02-03", "male", suffix="Sr", **HOME)
    junior = patient("payer", "b", "James Okafor Jr.", "1975-09-21", "male", **HOME)
    assert linked(empty_engine, senior, junior) == (False, [])
    unknown = patient("lab", "c", "James Okafor", None, "male", **HOME)
    together, rules = linked(empty_engine, senior, unknown, junior)
    assert not together
    assert set(rules) <= {"linkage"}


def test_twins_that_both_sources_know_are_paired_rightly(empty_engine: Engine) -> None:
    everybody = [
        *(patient(source, f"{source}1", "Ava Okafor", **HOME) for source in ("ehr", "payer")),
        *(patient(source, f"{source}2", "Eva Okafor", **HOME) for source in ("ehr", "payer")),
        *OTHERS,
    ]
    crosswalk = Crosswalk(empty_engine)
    assign(crosswalk, *everybody)
    Linkage(empty_engine).run(table(*everybody))
    ones, twos = ({person(crosswalk, source, f"{source}{n}") for source in ("ehr", "payer")} for n in (1, 2))
    assert (len(ones), len(twos), ones & twos) == (1, 1, set())


def test_two_candidates_in_one_source_are_for_review(empty_engine: Engine) -> None:
    one = patient("payer", "b", "Margaret Okafor", **HOME)
    together, rules = linked(
        empty_engine,
        patient("ehr", "a1", "Margaret Okafor", **HOME),
        one,
        patient("ehr", "a2", "Margaret Okafor", **HOME),
    )
    assert not together
    assert set(rules) == {"linkage"}


def test_different_medicare_numbers_stand_against_it(empty_engine: Engine) -> None:
    first = patient("ehr", "a", "Margaret Okafor", mbi="1EG4TE5MK73", **HOME)
    assert linked(empty_engine, first, patient("payer", "b", "Margaret Okafor", mbi="9AA9AA9AA99", **HOME))[0] is False


def test_a_link_that_no_longer_holds_goes_with_its_merge(empty_engine: Engine) -> None:
    first, second = (patient(source, "m", "Margaret Okafor", **HOME) for source in ("ehr", "payer"))
    assert linked(empty_engine, first, second)[0]
    crosswalk = Crosswalk(empty_engine)
    (change,) = crosswalk.changes()
    assert change.by is not None
    assert change.by.startswith("linkage 1 (")
    assert "birth_date" in str(change.evidence)
    assert "Okafor" not in str(crosswalk.changes())

    corrected = patient("payer", "m", "Ruth Begay")
    assign(crosswalk, corrected)
    report = Linkage(empty_engine).run(table(first, corrected, *OTHERS))
    assert report.splits == 1
    assert person(crosswalk, "payer", "m") == change.other


def test_what_was_rejected_is_never_proposed_again(empty_engine: Engine) -> None:
    first, second = patient("ehr", "a", "Margaret Okafor", **HOME), patient("payer", "b", "Margaret Lindqvist", **HOME)
    linked(empty_engine, first, second)
    crosswalk, stewardship = Crosswalk(empty_engine), Stewardship(empty_engine)
    (review,) = reviews_of(crosswalk)
    stewardship.reject(review.digest, "ann", "sisters in law")
    # now they even look alike
    alike = patient("payer", "b", "Margaret Okafor", **HOME)
    assign(crosswalk, alike)
    report = Linkage(empty_engine).run(table(first, alike, *OTHERS))
    assert (report.linked, reviews_of(crosswalk)) == (0, [])
    assert person(crosswalk, "ehr", "a") != person(crosswalk, "payer", "b")


def test_the_same_patients_give_the_same_links_in_any_order(empty_engine: Engine) -> None:
    random = Random(7)  # noqa: S311 - a synthetic population
    patients = sources(population(300, random), random)
    crosswalk = Crosswalk(empty_engine)
    assign(crosswalk, *patients.to_pylist())
    first = Linkage(empty_engine).run(patients)
    changes, reviews = crosswalk.changes(), crosswalk.reviews()
    shuffled = patients.take([*range(patients.num_rows)][::-1])
    again = Linkage(empty_engine).run(shuffled)
    assert (again.linked, again.proposed, again.merges, again.splits) == (first.linked, first.proposed, 0, 0)
    assert (crosswalk.changes(), crosswalk.reviews()) == (changes, reviews)
    for change in changes:
        numbers = {patient_id[1:] for _, patient_id in crosswalk.patients(change.person)}
        assert len(numbers) == 1
    assert first.linked > 150


def test_weights_can_be_estimated_and_written(empty_engine: Engine, tmp_path: Any) -> None:
    random = Random(3)  # noqa: S311 - a synthetic population
    patients = sources(population(600, random), random)
    assign(Crosswalk(empty_engine), *patients.to_pylist())
    model = Linkage(empty_engine).estimate(patients, "mine")
    (tmp_path / "model.toml").write_text(model.to_toml())
    read = LinkageModel.load(tmp_path / "model.toml")
    assert read.version == "mine"
    assert read.weights["birth_date"]["exact"] != LinkageModel.load().weights["birth_date"]["exact"]
    assert Linkage(empty_engine, read).run(patients).linked > 300


def test_a_level_that_next_to_no_pair_has_can_be_written_and_read() -> None:
    shipped = LinkageModel.load()
    rare = {**shipped.weights, "given": {**shipped.weights["given"], "similar": (1e-12, 0.3)}}
    read = LinkageModel.of(tomllib.loads(replace(shipped, weights=rare).to_toml()))
    assert read.weights["given"]["similar"] == (1e-8, 0.3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prior = 1e-5", "prior = 2", "prior"),
        ("link = 12.0", "link = 1.0", "below"),
        ("exact = { m = 0.960, u = 0.00004 }", "exact = { m = 0, u = 0.1 }", "birth_date"),
        ("[national]", "[nation]", "unknown nation"),
        ('birth_date = ["exact"]', 'birth_date = ["always"]', "always"),
    ],
)
def test_a_wrong_model_is_refused_by_name(tmp_path: Any, old: str, new: str, message: str) -> None:
    text = SHIPPED.read_text()
    assert old in text
    (tmp_path / "model.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=message):
        LinkageModel.load(tmp_path / "model.toml")
