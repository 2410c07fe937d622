"""Decisions: they hold against what comes later, and each can be taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.errors import ConfigurationError, ConflictError, NotFoundError
from fhir_gateway.identity.crosswalk import Crosswalk
from fhir_gateway.identity.stewardship import Stewardship
from tests.support.databases import KINDS, control_plane
from tests.support.patients import assign, patient, person


class World:
    """A crosswalk with its stewardship, seen by patient."""

    def __init__(self, engine: Engine, *patients: dict[str, Any]) -> None:
        self.crosswalk, self.stewardship = Crosswalk(engine), Stewardship(engine)
        self.known = [(one["_source"], one["id"]) for one in patients]
        assign(self.crosswalk, *patients)

    def person(self, source: str, patient_id: str = "1") -> str:
        return person(self.crosswalk, source, patient_id)

    def together(self) -> set[frozenset[tuple[str, str]]]:
        persons: dict[str, set[tuple[str, str]]] = {}
        for one in self.known:
            persons.setdefault(self.person(*one), set()).add(one)
        return {frozenset(group) for group in persons.values()}


@pytest.fixture
def disputed(empty_engine: Engine) -> World:
    """Two patients share a number but not a birth date."""
    return World(empty_engine, patient("ehr", "1", mbi="X1"), patient("payer", "1", mbi="X1", birth="1950-04-13"))


def test_an_accepted_review_merges_and_says_who_and_why(disputed: World) -> None:
    ehr, payer = disputed.person("ehr"), disputed.person("payer")
    (review,) = disputed.crosswalk.reviews()
    accepted = disputed.stewardship.accept(review.digest[:8], "ann", "the card was copied wrongly")
    assert (accepted.status, accepted.decided_by) == ("accepted", "ann")
    assert disputed.person("payer") == disputed.person("ehr") == ehr
    assert disputed.crosswalk.reviews() == []
    (change,) = disputed.crosswalk.changes()
    assert (change.kind, change.person, change.other) == ("merge", ehr, payer)
    assert (change.by, change.reason) == ("ann", "the card was copied wrongly")
    (decision,) = disputed.stewardship.decisions(ehr)
    assert (decision.verdict, decision.first, decision.review) == ("same", ("ehr", "1"), review.digest)


def test_an_accepted_pair_no_longer_stops_others_with_the_number(disputed: World) -> None:
    (review,) = disputed.crosswalk.reviews()
    disputed.stewardship.accept(review.digest, "ann", "seen both")
    assign(disputed.crosswalk, patient("lab", "1", mbi="X1"))
    assert disputed.person("lab") == disputed.person("ehr")
    assert disputed.crosswalk.reviews() == []


def test_a_rejected_review_frees_the_number_for_others(disputed: World) -> None:
    (review,) = disputed.crosswalk.reviews()
    disputed.stewardship.reject(review.digest, "ann", "two people")
    assert disputed.person("ehr") != disputed.person("payer")
    assert disputed.crosswalk.reviews() == []
    assert [one.status for one in disputed.crosswalk.reviews("rejected")] == ["rejected"]
    assign(disputed.crosswalk, patient("payer", "1", mbi="X1"))  # the payer now agrees in everything
    assert disputed.person("ehr") != disputed.person("payer")


def test_a_decision_can_be_revoked_and_its_review_opens_again(disputed: World) -> None:
    (review,) = disputed.crosswalk.reviews()
    before = disputed.together()
    disputed.stewardship.accept(review.digest, "ann", "seen both")
    (decision,) = disputed.stewardship.decisions()
    disputed.stewardship.revoke(decision.act, "bob", "ann was wrong")
    assert disputed.together() == before
    assert [one.digest for one in disputed.crosswalk.reviews()] == [review.digest]
    (kept,) = disputed.stewardship.decisions()
    assert (kept.decided_by, kept.revoked_by, kept.revoked_reason) == ("ann", "bob", "ann was wrong")
    with pytest.raises(ConflictError, match="already revoked"):
        disputed.stewardship.revoke(decision.act, "bob", "again")


def test_merge_and_unmerge_give_back_the_same_persons(empty_engine: Engine) -> None:
    world = World(
        empty_engine, patient("b", "2"), patient("b", "1", mbi="X1"), patient("c", "1", mbi="X1"), patient("a", "1")
    )
    first, second = world.person("b"), world.person("a")
    before = world.together()
    world.stewardship.merge(first, second, "ann", "same passport")
    assert world.person("a") == world.person("c") == first
    assert world.crosswalk.surviving(second) == first
    world.stewardship.unmerge(second, "bob", "another passport")
    assert world.together() == before
    assert (world.person("b"), world.person("a")) == (first, second)
    assert world.crosswalk.surviving(second) == second
    assert [(one.kind, one.by) for one in world.crosswalk.changes()] == [("merge", "ann"), ("split", "bob")]


def test_an_unmerge_holds_against_the_identifier_that_joined_them(empty_engine: Engine) -> None:
    world = World(empty_engine, patient("ehr", "1", mbi="X1"), patient("payer", "1", mbi="X1"))
    joined = world.person("ehr")
    world.stewardship.unmerge(joined, "ann", "number of her sister", [("payer", "1")])
    assert world.person("payer") != world.person("ehr") == joined
    assign(world.crosswalk, patient("ehr", "1", mbi="X1", gender=None), patient("payer", "1", mbi="X1", gender=None))
    assert world.person("payer") != world.person("ehr")
    # who now comes with that number could be either: nobody is guessed
    assign(world.crosswalk, patient("lab", "1", mbi="X1"))
    assert world.person("payer") != world.person("ehr")
    world.stewardship.merge(joined, world.person("payer"), "bob", "one after all")
    assert world.person("payer") == world.person("ehr")


def test_a_person_of_several_patients_leaves_and_comes_back_as_a_whole(empty_engine: Engine) -> None:
    world = World(
        empty_engine, patient("z", "1", mbi="X1"), patient("m", "1", mbi="Y2"), patient("a", "1", mbi="Y2", birth=None)
    )
    older, younger = world.person("z"), world.person("m")
    assert younger == world.person("a")
    world.stewardship.merge(older, younger, "ann", "one")
    world.stewardship.unmerge(younger, "ann", "two")
    assert world.person("m") == world.person("a") == younger
    assert world.person("z") == older


def test_decisions_may_not_contradict_each_other(empty_engine: Engine) -> None:
    world = World(
        empty_engine, *(patient(source, "1", mbi="X1", birth=f"19{5 + n}0") for n, source in enumerate("abc"))
    )
    reviews = {(one.source, one.other_source): one.digest for one in world.crosswalk.reviews()}
    world.stewardship.accept(reviews["a", "b"], "ann", "one")
    reviews = {(one.source, one.other_source): one.digest for one in world.crosswalk.reviews()}
    world.stewardship.accept(reviews["b", "c"], "ann", "one")
    assert len(world.together()) == 1
    with pytest.raises(ConflictError, match="contrary"):
        world.stewardship.reject(reviews["a", "c"], "ann", "two")
    assert len(world.together()) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda world: world.stewardship.accept("abcdef", "ann", "x"), NotFoundError),
        (lambda world: world.stewardship.accept("a", "ann", "x"), ConfigurationError),
        (lambda world: world.stewardship.merge("p0", world.person("ehr"), "ann", "x"), NotFoundError),
        (
            lambda world: world.stewardship.merge(world.person("ehr"), world.person("ehr"), "ann", "x"),
            ConfigurationError,
        ),
        (
            lambda world: world.stewardship.merge(world.person("ehr"), world.person("payer"), " ", "x"),
            ConfigurationError,
        ),
        (
            lambda world: world.stewardship.merge(world.person("ehr"), world.person("payer"), "ann", ""),
            ConfigurationError,
        ),
        (lambda world: world.stewardship.unmerge(world.person("ehr"), "ann", "x"), NotFoundError),
        (lambda world: world.stewardship.unmerge(world.person("ehr"), "ann", "x", [("ehr", "1")]), ConfigurationError),
        (lambda world: world.stewardship.unmerge(world.person("ehr"), "ann", "x", [("ehr", "9")]), NotFoundError),
        (
            lambda world: world.stewardship.unmerge(world.person("ehr"), "ann", "x", [("payer", "1")]),
            ConfigurationError,
        ),
        (lambda world: world.stewardship.revoke(7, "ann", "x"), NotFoundError),
    ],
)
def test_what_cannot_be_decided_is_refused_and_changes_nothing(
    disputed: World, call: Any, error: type[Exception]
) -> None:
    before = disputed.together()
    with pytest.raises(error):
        call(disputed)
    assert disputed.together() == before
    assert disputed.stewardship.decisions() == []


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_on_every_database(kind: str, tmp_path: Path) -> None:
    with control_plane(kind, tmp_path) as engine:
        world = World(engine, patient("a", "1"), patient("b", "1"))
        second = world.person("b")
        world.stewardship.merge(world.person("a"), second, "ann", "one")
        assert len(world.together()) == 1
        world.stewardship.unmerge(second, "ann", "two")
        assert len(world.together()) == 2
        assert len(world.stewardship.decisions()) == 2


SOURCES = ("a", "b", "c", "d", "e")


@settings(max_examples=10, phases=[Phase.explicit, Phase.generate])
@given(
    births=st.lists(st.sampled_from(["1950-01-01", "1990-05-05", None]), min_size=5, max_size=5),
    numbers=st.lists(st.sampled_from(["X1", "Y2", None]), min_size=5, max_size=5),
    steps=st.lists(
        st.tuples(st.sampled_from(["merge", "unmerge"]), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6
    ),
)
@example(
    births=["1950-01-01", "1990-05-05", "1950-01-01", "1950-01-01", "1990-05-05"],
    numbers=["Y2", "X1", "Y2", "Y2", "X1"],
    steps=[("merge", 0, 4)],
)
def test_all_decisions_revoked_is_as_if_there_had_been_none(
    births: list[str | None], numbers: list[str | None], steps: list[tuple[str, int, int]]
) -> None:
    engine = create_engine("sqlite://")
    upgrade(engine)
    patients = [
        patient(source, "1", birth=birth, mbi=number)
        for source, birth, number in zip(SOURCES, births, numbers, strict=True)
    ]
    world = World(engine, *patients)
    before = world.together()
    for step, x, y in steps:
        one, other = world.person(SOURCES[x]), world.person(SOURCES[y])
        if step == "merge" and one != other:
            world.stewardship.merge(one, other, "ann", "one")
            assert world.person(SOURCES[x]) == world.person(SOURCES[y])
        elif step == "unmerge" and one == other and x != y:
            world.stewardship.unmerge(one, "ann", "two", [(SOURCES[x], "1")])
            assert world.person(SOURCES[x]) != world.person(SOURCES[y])
        assign(world.crosswalk, *patients)  # what comes again changes nothing
    for act in sorted({one.act for one in world.stewardship.decisions() if one.revoked_at is None}, reverse=True):
        world.stewardship.revoke(act, "bob", "never mind")
    assert world.together() == before
    engine.dispose()
