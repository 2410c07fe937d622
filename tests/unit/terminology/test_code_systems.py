"""What a code system in the package can answer: its hierarchy, its properties and the filters of value sets."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_gateway.errors import TerminologyError
from fhir_gateway.terminology import CodeSystem, ValueSets

URL = "http://example.org/CodeSystem/animals"
ANIMALS: dict[str, Any] = {
    "resourceType": "CodeSystem",
    "url": URL,
    "version": "2",
    "content": "complete",
    "property": [{"code": "legs", "type": "integer"}, {"code": "sound", "type": "string"}],
    "concept": [
        {
            "code": "mammal",
            "property": [{"code": "notSelectable", "valueBoolean": True}],
            "concept": [
                {
                    "code": "dog",
                    "display": "Dog",
                    "property": [{"code": "legs", "valueInteger": 4}, {"code": "sound", "valueString": "woof"}],
                    "concept": [{"code": "poodle"}],
                },
                {"code": "whale", "property": [{"code": "legs", "valueInteger": 0}]},
            ],
        },
        {"code": "penguin", "display": "Penguin", "property": [{"code": "parent", "valueCode": "bird"}]},
        {"code": "bird"},
        {"code": "dodo", "property": [{"code": "status", "valueCode": "retired"}]},
    ],
}


def members(*filters: tuple[str, str, str], compose: dict[str, Any] | None = None) -> set[str]:
    include = {
        "system": URL,
        "filter": [{"property": p, "op": op, "value": value} for p, op, value in filters],
    }
    value_set = {
        "resourceType": "ValueSet",
        "url": "urn:vs",
        "compose": {"include": [include], **(compose or {})},
    }
    return {code for system, code in ValueSets([ANIMALS, value_set]).resolve("urn:vs").codes if system == URL}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("concept", "is-a", "dog"), "dog poodle"),
        (("concept", "is-a", "mammal"), "dog poodle whale"),
        (("concept", "descendent-of", "dog"), "poodle"),
        (("concept", "is-a", "bird"), "bird penguin"),
        (("concept", "is-not-a", "mammal"), "penguin bird dodo"),
        (("concept", "generalizes", "poodle"), "dog poodle"),
        (("concept", "in", "dog, whale"), "dog whale"),
        (("code", "regex", "d.*"), "dog dodo"),
        (("legs", "=", "4"), "dog"),
        (("legs", "in", "0,4"), "dog whale"),
        (("legs", "not-in", "0,4"), "poodle penguin bird dodo"),
        (("legs", "exists", "true"), "dog whale"),
        (("sound", "exists", "false"), "poodle whale penguin bird dodo"),
        (("display", "=", "Penguin"), "penguin"),
        (("parent", "=", "bird"), "penguin"),
    ],
)
def test_filters_are_answered_from_concepts_and_properties(condition: tuple[str, str, str], expected: str) -> None:
    assert members(condition) == set(expected.split())


def test_all_filters_of_an_include_must_hold() -> None:
    assert members(("concept", "is-a", "mammal"), ("legs", "=", "0")) == {"whale"}


def test_inactive_codes_are_left_out_where_the_value_set_says_so() -> None:
    assert members(("concept", "is-not-a", "mammal"), compose={"inactive": False}) == {"penguin", "bird"}


def test_a_whole_system_has_its_selectable_codes() -> None:
    assert members() == {"dog", "poodle", "whale", "penguin", "bird", "dodo"}


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (("colour", "=", "red"), "cannot answer the filter colour = red"),
        (("concept", "is-a", "unicorn"), "has no code unicorn"),
        (("code", "regex", "("), "cannot answer the filter code regex"),
        (("legs", "sounds-like", "4"), "cannot answer the filter legs sounds-like 4"),
    ],
)
def test_filters_that_cannot_be_answered_are_refused(condition: tuple[str, str, str], reason: str) -> None:
    with pytest.raises(TerminologyError, match=rf"value set urn:vs .*{reason}"):
        members(condition)


def test_a_system_without_all_its_content_is_refused() -> None:
    for content in ("not-present", "fragment", "example", "supplement"):
        with pytest.raises(TerminologyError, match=rf"animals\|2 is in the package without its content \({content}\)"):
            ValueSets([{**ANIMALS, "content": content}]).code_system(URL)


def test_subsumption_follows_nesting_and_parents() -> None:
    system = CodeSystem(ANIMALS)
    assert system.subsumes("mammal", "poodle")
    assert system.subsumes("dog", "dog")
    assert system.subsumes("bird", "penguin")
    assert not system.subsumes("poodle", "dog")
    with pytest.raises(TerminologyError, match="has no code unicorn"):
        system.subsumes("dog", "unicorn")


def test_versions_are_chosen_by_url_and_version() -> None:
    older = {**ANIMALS, "version": "1", "concept": [{"code": "fish"}]}
    include = {"system": URL, "version": "1"}
    wanted = [
        {"resourceType": "ValueSet", "url": "urn:old", "version": "1", "compose": {"include": [include]}},
        {
            "resourceType": "ValueSet",
            "url": "urn:old",
            "version": "2",
            "compose": {"include": [{"valueSet": ["urn:old|1"]}, {"system": URL, "concept": [{"code": "dog"}]}]},
        },
    ]
    sets = ValueSets([ANIMALS, older, *wanted])
    assert {code for _, code in sets.resolve("urn:old|2").codes} == {"fish", "dog"}
    assert {code for _, code in sets.resolve("urn:old", "1").codes} == {"fish"}
    with pytest.raises(TerminologyError, match=r"urn:old\|3 is missing; present in version 1, 2"):
        sets.resolve("urn:old|3")
    with pytest.raises(TerminologyError, match=r"animals\|9 is missing; present in version 1, 2"):
        sets.code_system(URL, "9")
