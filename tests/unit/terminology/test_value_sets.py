"""Resolving value sets from the resources of a package."""

from __future__ import annotations

import pytest

from fhir_gateway.errors import TerminologyError
from fhir_gateway.terminology import ValueSets
from fhir_gateway.terminology.canonical import split_canonical, version_order

BASE = "http://example.org/ValueSet/"
COLOURS = {
    "resourceType": "CodeSystem",
    "url": "urn:colours",
    "content": "complete",
    "concept": [{"code": "red", "concept": [{"code": "crimson"}]}, {"code": "blue"}],
}


def value_set(name: str, version: str | None = None, **content: object) -> dict[str, object]:
    resource: dict[str, object] = {"resourceType": "ValueSet", "url": BASE + name, **content}
    if version:
        resource["version"] = version
    return resource


def concepts(*codes: str, system: str = "urn:s") -> dict[str, object]:
    return {"system": system, "concept": [{"code": code} for code in codes]}


def codes(value_sets: ValueSets, name: str) -> set[str]:
    return {code for _, code in value_sets.resolve(BASE + name).codes}


def test_expansion_wins_over_compose_and_nests() -> None:
    expansion = {
        "total": 3,
        "contains": [
            {"system": "urn:s", "code": "a", "contains": [{"system": "urn:s", "code": "b"}]},
            {"system": "urn:s", "code": "group", "abstract": True},
        ],
    }
    sets = ValueSets([value_set("x", expansion=expansion, compose={"include": [concepts("zzz")]})])
    assert sets.resolve(BASE + "x").codes == {("urn:s", "a"), ("urn:s", "b")}


def test_compose_includes_imports_intersects_and_excludes() -> None:
    sets = ValueSets(
        [
            COLOURS,
            value_set("ab", compose={"include": [concepts("a", "b")]}),
            value_set("bc", compose={"include": [concepts("b", "c")]}),
            value_set("both", compose={"include": [{"valueSet": [BASE + "ab", BASE + "bc"]}]}),
            value_set("either", compose={"include": [{"valueSet": [BASE + "ab"]}, {"valueSet": [BASE + "bc"]}]}),
            value_set(
                "minus",
                compose={"include": [{"valueSet": [BASE + "either"]}], "exclude": [concepts("c"), concepts("zzz")]},
            ),
            value_set("colours", compose={"include": [{"system": "urn:colours"}]}),
        ]
    )
    assert codes(sets, "both") == {"b"}
    assert codes(sets, "either") == {"a", "b", "c"}
    assert codes(sets, "minus") == {"a", "b"}
    assert codes(sets, "colours") == {"red", "crimson", "blue"}
    assert ("urn:colours", "crimson") in sets.code_system("urn:colours").codes


def test_versions_are_picked_or_the_newest_is_taken() -> None:
    sets = ValueSets(
        [
            value_set("v", "1.10.0", compose={"include": [concepts("ten")]}),
            value_set("v", "1.9.0", compose={"include": [concepts("nine")]}),
        ]
    )
    assert codes(sets, "v") == {"ten"}
    assert codes(sets, "v|1.9.0") == {"nine"}
    with pytest.raises(TerminologyError, match=r"v\|2 is missing; present in version 1\.9\.0, 1\.10\.0"):
        sets.resolve(BASE + "v", "2")


def test_everything_that_is_missing_is_named_at_once() -> None:
    sets = ValueSets([value_set("empty", "3", expansion={"contains": []}), value_set("none", compose={"include": []})])
    with pytest.raises(TerminologyError) as failure:
        sets.require([BASE + "gone", BASE + "empty", BASE + "none"], ["urn:nowhere"])
    message = failure.value.message
    assert f"value set {BASE}gone is missing" in message
    assert f"value set {BASE}empty|3 is empty" in message
    assert f"value set {BASE}none is empty" in message
    assert "code system urn:nowhere is missing" in message


def test_an_empty_set_may_be_accepted_by_name() -> None:
    sets = ValueSets([value_set("empty", expansion={"contains": []})], accept_empty=[BASE + "empty"])
    assert sets.resolve(BASE + "empty").codes == frozenset()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"expansion": {"total": 2, "contains": [{"system": "urn:s", "code": "a"}]}}, "truncated: 1 of 2"),
        (
            {"compose": {"include": [{"system": "urn:s", "filter": [{}]}]}},
            "cannot be computed: code system urn:s is missing",
        ),
        ({"compose": {"include": [{"system": "urn:elsewhere"}]}}, "urn:elsewhere is missing"),
        ({"compose": {"include": [{"valueSet": [BASE + "x"]}]}}, "includes itself"),
    ],
)
def test_what_cannot_be_computed_is_refused(content: dict[str, object], reason: str) -> None:
    with pytest.raises(TerminologyError, match=reason):
        ValueSets([value_set("x", **content)]).resolve(BASE + "x")


def test_a_truncated_expansion_falls_back_on_compose() -> None:
    expansion = {"total": 2, "contains": [{"system": "urn:s", "code": "a"}]}
    sets = ValueSets([value_set("x", expansion=expansion, compose={"include": [concepts("a", "b")]})])
    assert codes(sets, "x") == {"a", "b"}


def test_a_code_system_without_content_is_refused() -> None:
    sets = ValueSets([COLOURS | {"content": "not-present", "concept": []}])
    with pytest.raises(TerminologyError, match="without its content"):
        sets.code_system("urn:colours")


def test_hash_depends_on_content_only() -> None:
    one = value_set("x", compose={"include": [concepts("a")]})
    two = value_set("y", compose={"include": [concepts("b")]})
    shuffled = dict(reversed(list(one.items())))
    assert ValueSets([one, two]).hash == ValueSets([two, shuffled]).hash
    assert ValueSets([one]).hash != ValueSets([two]).hash


def test_canonical_references() -> None:
    assert split_canonical("http://x/y|1.0#part") == ("http://x/y", "1.0")
    assert split_canonical("http://x/y") == ("http://x/y", None)
    assert sorted(["20200101", "1.0", None, "1.0.0", "1.0-draft"], key=version_order) == [
        None, "1.0", "1.0-draft", "1.0.0", "20200101",
    ]  # fmt: skip
