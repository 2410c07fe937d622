"""The validator on profiles of our own making: each kind of rule, met and broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.validator import Validator

BASE = "https://guide.example/StructureDefinition/"
SYSTEM = "https://guide.example/CodeSystem/kind"


def profile(name: str, type_: str, *elements: dict[str, Any], base: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "StructureDefinition",
        "url": BASE + name,
        "version": "1.0.0",
        "name": name,
        "type": type_,
        "derivation": "constraint",
        "baseDefinition": base or f"http://hl7.org/fhir/StructureDefinition/{type_}",
        "differential": {"element": [{"path": one["id"].replace(":", "\0").split("\0")[0], **one} for one in elements]},
        **more,
    }


def extension(name: str, value: dict[str, Any], *contexts: str) -> dict[str, Any]:
    return profile(
        name,
        "Extension",
        {"id": "Extension.url", "fixedUri": BASE + name},
        {"id": "Extension.value[x]", "min": 1, **value},
        context=[{"type": "element", "expression": one} for one in contexts],
    )


GUIDE = [
    profile(
        "list",
        "Group",
        {
            "id": "Group",
            "constraint": [{"key": "l-1", "severity": "error", "human": "few", "expression": "quantity < 9"}],
        },
        {"id": "Group.type", "fixedCode": "person"},
        {"id": "Group.name", "min": 1},
        {"id": "Group.code", "patternCodeableConcept": {"coding": [{"code": "a"}]}},
        {
            "id": "Group.identifier",
            "slicing": {"discriminator": [{"type": "value", "path": "system"}], "rules": "closed"},
        },
        {"id": "Group.identifier:npi", "path": "Group.identifier", "sliceName": "npi", "max": "1"},
        {"id": "Group.identifier:npi.system", "path": "Group.identifier.system", "fixedUri": "urn:npi"},
        {"id": "Group.identifier:npi.value", "path": "Group.identifier.value", "min": 1},
        {
            "id": "Group.member.entity",
            "type": [{"code": "Reference", "targetProfile": ["http://hl7.org/fhir/StructureDefinition/Patient"]}],
        },
        {
            "id": "Group.extension:state",
            "path": "Group.extension",
            "sliceName": "state",
            "min": 1,
            "max": "1",
            "type": [{"code": "Extension", "profile": [BASE + "state"]}],
        },
    ),
    profile("short-list", "Group", {"id": "Group.member", "max": "1"}, base=BASE + "list"),
    profile("orphan", "Group", {"id": "Group.member", "max": "1"}, base=BASE + "nowhere"),
    extension(
        "state",
        {
            "type": [{"code": "code"}],
            "binding": {"strength": "required", "valueSet": "https://guide.example/ValueSet/kind"},
        },
        "Group",
    ),
    {
        "resourceType": "CodeSystem",
        "url": SYSTEM,
        "status": "active",
        "content": "complete",
        "concept": [{"code": "draft", "concept": [{"code": "sketch"}]}, {"code": "final"}],
    },
    {
        "resourceType": "ValueSet",
        "url": "https://guide.example/ValueSet/kind",
        "status": "active",
        "compose": {"include": [{"system": SYSTEM}]},
    },
    profile(
        "bundle",
        "Bundle",
        {
            "id": "Bundle.entry",
            "slicing": {"discriminator": [{"type": "profile", "path": "resource"}], "rules": "open"},
        },
        {"id": "Bundle.entry:list", "path": "Bundle.entry", "sliceName": "list", "min": 1},
        {
            "id": "Bundle.entry:list.resource",
            "path": "Bundle.entry.resource",
            "min": 1,
            "type": [{"code": "Group", "profile": [BASE + "list"]}],
        },
    ),
]

STATE = {"url": BASE + "state", "valueCode": "sketch"}
GROUP = {
    "resourceType": "Group",
    "id": "g",
    "meta": {"profile": [BASE + "list"]},
    "extension": [STATE],
    "identifier": [{"system": "urn:npi", "value": "1"}],
    "type": "person",
    "actual": True,
    "name": "x",
    "code": {"coding": [{"system": "s", "code": "a"}], "text": "t"},
    "quantity": 2,
    "member": [{"entity": {"reference": "Patient/1"}}, {"entity": {"reference": "Patient/2"}}],
}


@pytest.fixture
def validator(tmp_path: Path) -> Validator:
    for number, resource in enumerate(GUIDE):
        (tmp_path / f"{resource['resourceType']}-{number}.json").write_text(json.dumps(resource))
    return Validator(Definitions.of(tmp_path, None))


def broken(validator: Validator, resource: Any, *profiles: str) -> list[tuple[str, str]]:
    return [(one.path, one.rule) for one in validator.validate(resource, profiles).findings]


def test_what_keeps_everything_has_no_findings_and_nothing_unchecked(validator: Validator) -> None:
    report = validator.validate(GROUP)
    assert (report.findings, report.unchecked, report.valid) == ([], {}, True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, ("Group.name", "cardinality")),
        ({"type": "animal"}, ("Group.type", "fixed")),
        ({"code": {"coding": [{"code": "b"}]}}, ("Group.code", "pattern")),
        ({"quantity": 9}, ("Group", "l-1")),
        ({"identifier": [{"system": "urn:npi"}]}, ("Group.identifier[0].value", "cardinality")),
        ({"identifier": [{"system": "urn:npi", "value": "1"}] * 2}, ("Group.identifier:npi", "cardinality")),
        ({"identifier": [{"system": "urn:other", "value": "1"}]}, ("Group.identifier[0]", "slicing")),
        ({"member": [{"entity": {"reference": "Device/1"}}]}, ("Group.member[0].entity", "reference-target")),
        ({"extension": None}, ("Group.extension:state", "cardinality")),
        ({"extension": [{**STATE, "valueCode": "gone"}]}, ("Group.extension[0].valueCode", "binding")),
        ({"extension": [{"url": BASE + "state", "valueString": "draft"}]}, ("Group.extension[0].valueString", "type")),
        ({"member": [{"entity": {"reference": "Patient/1"}, "extension": [STATE]}]},
         ("Group.member[0].extension[0]", "extension-context")),
        ({"actual": False}, ("Group", "grp-1")),  # an invariant of R4 itself
        ({"extension": [STATE, {"url": "https://else.example/empty"}]}, ("Group.extension[1]", "ext-1")),
        ({"text": {"status": "generated"}}, ("Group.text.div", "required")),  # base validation
    ],
)  # fmt: skip
def test_each_rule_that_is_broken_is_found_where_it_is(
    validator: Validator, change: dict[str, Any], expected: tuple[str, str]
) -> None:
    resource = {key: value for key, value in {**GROUP, **change}.items() if value is not None}
    assert expected in broken(validator, resource)


def test_a_profile_adds_to_the_one_it_is_derived_from(validator: Validator) -> None:
    short = {**GROUP, "name": None, "meta": {"profile": [BASE + "short-list"]}}
    del short["name"]
    assert broken(validator, short) == [("Group.name", "cardinality"), ("Group.member", "cardinality")]


def test_slices_by_profile_take_what_keeps_it(validator: Validator) -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": GROUP}]}
    assert broken(validator, bundle, BASE + "bundle") == []
    other = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Patient"}}]}
    assert broken(validator, other, BASE + "bundle") == [("Bundle.entry:list", "cardinality")]


def test_resources_inside_are_checked_by_what_they_declare(validator: Validator) -> None:
    inner = {key: value for key, value in GROUP.items() if key != "name"}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": inner}]}
    assert broken(validator, bundle) == [("Bundle.entry[0].resource.name", "cardinality")]


def test_what_cannot_be_checked_is_told(validator: Validator) -> None:
    unknown = {**GROUP, "extension": [STATE, {"url": "https://else.example/x", "valueCode": "a"}]}
    told = {one.what for one in validator.validate(unknown, [BASE + "missing", BASE + "orphan"]).unchecked}
    assert told == {
        "extension https://else.example/x",
        f"profile {BASE}missing",
        f"rules of {BASE}nowhere",
    }


@pytest.mark.parametrize("resource", [[], None, {}, {"resourceType": "Crowd"}, {"resourceType": 1}])
def test_what_is_no_resource_is_not_taken_further(validator: Validator, resource: Any) -> None:
    report = validator.validate(resource)
    assert not report.valid
    assert report.unchecked


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*GROUP, "url", "system"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from([*GROUP, "contained", "entry", "parameter"]), _JSON, max_size=3),
    st.sampled_from(["Group", "Bundle", "Parameters"]),
)
def test_whatever_stands_in_a_resource_is_judged(validator: Validator, changes: dict[str, Any], kind: str) -> None:
    """Anything may be sent: the answer is findings, never an exception."""
    whole = {**GROUP, **changes, "resourceType": kind}
    assert validator.validate(whole, [BASE + "list", BASE + "bundle"]).outcome()["issue"]
    inside = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": {**whole, "resourceType": "Group"}}],
    }
    assert validator.validate(inside, [BASE + "bundle"]).outcome()["issue"]


def test_the_outcome_names_rule_place_and_profile_and_no_value(validator: Validator) -> None:
    outcome = validator.validate({**GROUP, "type": "animal"}).outcome()
    (issue,) = outcome["issue"]
    assert (issue["severity"], issue["code"], issue["expression"]) == ("error", "value", ["Group.type"])
    assert issue["details"]["coding"][0]["code"] == "fixed"
    assert BASE + "list" in issue["diagnostics"]
    assert "animal" not in json.dumps(outcome)


def test_contained_resources_are_resolved_and_must_be_used(validator: Validator) -> None:
    inside = {"resourceType": "Patient", "id": "p"}
    used = {**GROUP, "contained": [inside], "member": [{"entity": {"reference": "#p"}}]}
    assert broken(validator, used) == []
    assert ("Group", "dom-3") in broken(validator, {**GROUP, "contained": [inside]})
    assert ("Group.member[0].entity", "ref-1") in broken(
        validator, {**GROUP, "member": [{"entity": {"reference": "#q"}}]}
    )
