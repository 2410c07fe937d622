"""Laws of decisions: the last one counts, applying them again changes nothing, and lists and attribution agree."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.attribution import Attribution, AttributionTerms, entries
from fhir_gateway.attribution.decisions import ADDED, REMOVED, Decision, Listed, aligned, apply, confirmed, digest
from fhir_gateway.attribution.models import ATTRIBUTION_SCHEMA, CANDIDATE_SCHEMA
from fhir_gateway.attribution.store import DecisionStore
from fhir_gateway.db.engine import create_engine, transaction
from fhir_gateway.db.migrate import upgrade

PERIOD = {"start": "2025-01-01", "end": "2025-12-31"}
PEOPLE, PRACTICES = ("p1", "p2", "p3", "p4"), ("one", "two")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def listed(*pairs: tuple[str, str]) -> dict[entries.Key, Listed]:
    found = {}
    for person, practice in pairs:
        one = entries.entry(f"Patient/{person}", {"reference": f"Organization/{practice}"}, None, PERIOD)
        found[entries.key(one)] = Listed(one, practice)
    return found


def decision(number: int, act: Any, person: str | None, practice: str | None) -> Decision:
    reference = {"reference": f"Organization/{practice}"} if practice else None
    return Decision(
        f"d{number}",
        "aco",
        "aco",
        act,
        "somebody",
        NOW,
        patient=person,
        provider=reference if act == "member-add" else None,
        providers=(f"Organization/{practice}",) if practice and act == "member-remove" else (),
        tin=practice,
    )


pairs = st.tuples(st.sampled_from(PEOPLE), st.sampled_from(PRACTICES))
acts = st.lists(
    st.one_of(
        st.tuples(st.just("member-add"), st.sampled_from(PEOPLE), st.sampled_from(PRACTICES)),
        st.tuples(st.just("member-remove"), st.sampled_from(PEOPLE), st.sampled_from([*PRACTICES, None])),
    ),
    max_size=8,
).map(lambda found: [decision(number, *one) for number, one in enumerate(found)])


@given(st.sets(pairs), acts)
def test_the_last_decision_about_an_entry_counts(base: set[tuple[str, str]], made: list[Decision]) -> None:
    expected = set(base)
    for one in made:
        assert one.patient is not None
        if one.act == "member-add":
            expected.add((one.patient, str(one.tin)))
        else:
            expected -= {pair for pair in expected if pair[0] == one.patient and one.tin in (None, pair[1])}
    found = apply(listed(*base), made, PERIOD)
    assert {(key[0].removeprefix("Patient/"), key[1].removeprefix("Organization/")) for key in found.listed} == expected
    assert not set(found.removed) & set(found.listed)
    again = apply(found.listed, made, PERIOD)
    assert again.listed.keys() == found.listed.keys()
    assert set(found.of("one")) | set(found.of("two")) == set(found.of(None))


@given(st.sets(pairs), st.sets(pairs), st.sampled_from(["draft", "open", "final"]))
def test_the_next_version_of_a_list_has_its_entries_once(
    before: set[tuple[str, str]], after: set[tuple[str, str]], status: str
) -> None:
    old = entries.next_version({key: one.entry for key, one in listed(*before).items()}, [], status)
    assert {entries.extension(one, entries.CHANGE_TYPE)["valueCode"] for one in old} <= {"new"}
    now = {key: one.entry for key, one in listed(*after).items()}
    new = entries.next_version(now, old, status)
    assert set(entries.active({"member": new})) == set(now)
    assert len({entries.key(one) for one in new}) == len(new)
    changes = {entries.key(one): entries.extension(one, entries.CHANGE_TYPE)["valueCode"] for one in new}
    for key, change in changes.items():
        was, is_ = key in listed(*before), key in now
        assert change == {(True, True): "nochange", (False, True): "new", (True, False): "dropped"}[was, is_]
    group = {"resourceType": "Group", "member": new}
    assert entries.same(
        group, {**group, "meta": {"versionId": "7"}, "member": entries.next_version(now, new, status)}
    ) == (status == "draft" or len(new) == len(now))


@given(st.sets(pairs, min_size=1), acts)
def test_attribution_is_about_whom_the_list_names(base: set[tuple[str, str]], made: list[Decision]) -> None:
    one_practice = dict(sorted(base))  # attribution gives a member to one practice
    rows = [{"member": one, "entity": None, "reason": "no-services"} for one in PEOPLE if one not in one_practice]
    rows += [{"member": one, "entity": "aco", "participant": True, "tin": tin} for one, tin in one_practice.items()]
    terms = AttributionTerms.load("commercial-primary-care")
    table = pa.Table.from_pylist(rows, schema=ATTRIBUTION_SCHEMA).sort_by("member")
    found = Attribution(table, CANDIDATE_SCHEMA.empty_table(), terms, (date(2025, 1, 1), date(2025, 12, 31)), ())
    decided = apply(listed(*one_practice.items()), made, PERIOD)
    result = aligned(found, "aco", decided)
    named = {key[0].removeprefix("Patient/") for key in decided.listed}
    assert set(result.members_of("aco").to_pylist()) == named
    assert result.table["member"].to_pylist() == table["member"].to_pylist()
    for row in result.table.to_pylist():
        if row["member"] in one_practice and row["member"] not in named:
            assert row["reason"] == REMOVED
        if row["member"] in named and row["member"] not in one_practice:
            assert (row["method"], row["reason"]) == (ADDED, None)


def test_somebody_who_became_another_person_keeps_his_decision() -> None:
    made = [decision(1, "member-add", "p9", "one")]
    found = apply({}, made, PERIOD, surviving={"p9": "p1"}.get)  # type: ignore[arg-type]
    assert list(found.listed) == [("Patient/p1", "Organization/one")]


def test_a_confirmed_practice_keeps_its_entries() -> None:
    base = listed(("p1", "one"), ("p2", "two"))
    kept = {"member": entries.next_version({k: v.entry for k, v in listed(("p3", "two")).items()}, [], "final")}
    whole = {"member": []}
    confirm = replace(decision(1, "confirm", None, None), list_id="aco-two")
    found, final = confirmed([confirm], base, {"aco": (None, whole), "aco-two": ("two", kept)})
    assert final == {"aco-two"}
    assert set(found) == {("Patient/p1", "Organization/one"), ("Patient/p3", "Organization/two")}
    late = decision(2, "member-remove", "p3", "two")
    assert set(apply(found, [confirm, late], PERIOD, final={"two"}).listed) == set(found)


def test_decisions_are_kept_as_they_were_made() -> None:
    engine = create_engine("sqlite://")
    upgrade(engine)
    store = DecisionStore(engine)
    made = [decision(1, "member-add", "p1", "one"), decision(2, "member-remove", "p1", None)]
    for one in made:
        with transaction(engine) as connection:
            store.add(connection, one)
    assert store.standing("aco") == made
    assert store.standing("other") == []
    taken = store.withdraw("d1", "operator", NOW, "a mistake")
    assert (taken.withdrawn_by, taken.withdrawn_why) == ("operator", "a mistake")
    assert store.standing("aco") == made[1:]
    assert [one.id for one in store.all("aco")] == ["d1", "d2"]
    assert digest(made) != digest(made[1:]) != digest([]) == ""
    engine.dispose()
