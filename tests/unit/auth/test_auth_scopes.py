"""Scopes: what is understood, and what of a request is granted (SMART App Launch 2.2.0)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.auth.scopes import INTERACTIONS, Scope, grant, is_scope_list, parse_scope, parse_scopes


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("system/Patient.rs", Scope("Patient", "rs")),
        ("system/*.read", Scope("*", "rs", 1)),
        ("system/Patient.write", Scope("Patient", "cud", 1)),
        ("system/*.*", Scope("*", "cruds", 1)),
        ("system/Patient.sr", Scope("Patient", "rs")),  # undefined order: put in order
        (
            "system/Observation.rs?category=laboratory",
            Scope("Observation", "rs", constraint="category=laboratory"),
        ),
        ("system/Patient.rr", None),
        ("system/Patient.x", None),
        ("system/Patient.", None),
        ("patient/Patient.rs", None),
        ("user/*.rs", None),
        ("openid", None),
        ("system/Patient.rs?", None),
        ("system/Patient.rs?name", None),
        ("system/Patient.rs?name=", None),
        ("system/Patient.rs?=x", None),
        ("system/Patient.rs?name=x&", None),
        ("system/Patient.rs?" + "&".join(["name=x"] * 11), None),
        ("system/Patient.read?name=x", None),  # version 1 has no search restrictions
        ("system/Patient.rs\n", None),
    ],
)
def test_grammar(text: str, scope: Scope | None) -> None:
    assert parse_scope(text) == scope


@pytest.mark.parametrize(
    ("requested", "registered", "granted"),
    [
        ("system/*.read", "system/*.rs", "system/*.read"),  # version 1 is answered as version 1
        ("system/*.rs", "system/*.read", "system/*.rs"),
        ("system/Patient.rs", "system/*.rs", "system/Patient.rs"),
        ("system/*.rs", "system/Patient.rs system/Group.r", "system/Group.r system/Patient.rs"),  # narrowed to a list
        ("system/Patient.cruds", "system/*.cruds", "system/Patient.rs"),  # the server only reads
        ("system/Patient.*", "system/*.cruds", "system/Patient.read"),
        ("system/Patient.read", "system/Patient.r", "system/Patient.r"),  # version 1 cannot say it
        ("system/Patient.rs system/Nonsense.rs", "system/*.rs", "system/Patient.rs"),  # unknown type dropped
        ("system/Patient.rs system/Questionnaire.rs", "system/*.rs", "system/Patient.rs"),  # unsupported type dropped
        ("system/Group.rs?identifier=a", "system/*.rs", "system/Group.rs?identifier=a"),
        ("system/Group.rs?identifier=a", "system/Group.r", "system/Group.r?identifier=a"),
        ("system/Group.rs", "system/Group.rs?identifier=a", "system/Group.rs?identifier=a"),  # narrowed
        ("system/Group.read", "system/Group.rs?identifier=a", "system/Group.rs?identifier=a"),  # not in version 1
        (
            "system/*.rs",
            "system/Group.rs?identifier=a system/Patient.r",
            "system/Group.rs?identifier=a system/Patient.r",
        ),
        ("system/*.rs?_tag=a", "system/Patient.rs", "system/Patient.rs?_tag=a"),
        ("system/*.rs?_tag=a", "system/*.rs", "system/*.rs?_tag=a"),
        ("system/*.rs?identifier=a", "system/*.rs", ""),  # not a parameter of every type
        (
            "system/Group.rs?identifier=a,b",
            "system/Group.rs?identifier=b",
            "system/Group.rs?identifier=a,b&identifier=b",
        ),
        ("system/Group.rs?identifier=b", "system/Group.rs?identifier=a,b", "system/Group.rs?identifier=b"),
        ("system/Group.rs?type:not=b", "system/Group.rs?type:not=a,b", "system/Group.rs?type:not=b&type:not=a,b"),
        ("system/Group.rs?type=a", "system/Group.rs?identifier=b", "system/Group.rs?type=a&identifier=b"),
        ("system/Group.rs?identifier=x%7Cb", "system/Group.rs?identifier=x|b", "system/Group.rs?identifier=x%7Cb"),
        (
            "system/Group.rs",
            "system/Group.rs?identifier=a system/Group.rs?identifier=b",
            "system/Group.rs?identifier=a system/Group.rs?identifier=b",
        ),
        ("system/Group.rs", "system/Group.rs?identifier=a system/*.rs", "system/Group.rs"),
        ("system/Group.rs?nonsense=a", "system/*.rs", ""),  # cannot be evaluated, so not broadened
        ("system/Group.rs?member.name=a", "system/*.rs", ""),
        ("system/Group.rs?_has:Group:member:_id=a", "system/*.rs", ""),
        ("system/MeasureReport.rs?date=soon", "system/*.rs", ""),
        ("openid launch/patient system/Patient.rs", "system/*.rs", "system/Patient.rs"),
        ("system/Patient.write", "system/*.cruds", ""),
        ("system/Encounter.rs", "system/Patient.rs", ""),
        ("system/Patient.rs system/Patient.rs", "system/*.rs", "system/Patient.rs"),
    ],
)
def test_granted_is_the_intersection(requested: str, registered: str, granted: str) -> None:
    result = grant(requested, parse_scopes(registered), ["Patient", "Encounter", "Observation", "Group"], "rs")
    assert " ".join(map(str, result)) == granted


@pytest.mark.parametrize("operators", ["AuditEvent", "Endpoint"])
def test_a_wildcard_never_means_the_operators_own_types(operators: str) -> None:
    everything = parse_scopes("system/*.cruds")
    assert grant(f"system/{operators}.rs", everything) == ()
    assert not grant("system/*.rs", everything)[0].covers(operators, "r")
    both = parse_scopes(f"system/*.rs system/{operators}.rs")
    assert [str(one) for one in grant("system/*.rs", both)] == ["system/*.rs", f"system/{operators}.rs"]
    assert [str(one) for one in grant(f"system/{operators}.rs", both)] == [f"system/{operators}.rs"]


def test_restrictions_are_for_reading() -> None:
    registered = parse_scopes("system/Group.cruds")
    assert [str(one) for one in grant("system/Group.cruds?identifier=a", registered)] == [
        "system/Group.rs?identifier=a"
    ]


def test_every_r4_type_is_supported_unless_told_otherwise() -> None:
    assert [str(s) for s in grant("system/Questionnaire.rs", parse_scopes("system/*.rs"))] == [
        "system/Questionnaire.rs"
    ]


@pytest.mark.parametrize(("text", "well_formed"), [("a b", True), ("", False), ("  ", False), ('a "b"', False)])
def test_scope_list_syntax(text: str, well_formed: bool) -> None:
    assert is_scope_list(text) is well_formed


_LETTERS = st.sets(st.sampled_from(INTERACTIONS), min_size=1).map(
    lambda ops: "".join(x for x in INTERACTIONS if x in ops)
)
_SCOPES = st.builds(Scope, st.sampled_from(["*", "Patient", "Encounter"]), _LETTERS, st.sampled_from([1, 2]))
_TAGS = st.lists(
    st.sets(st.sampled_from("abc"), min_size=1).map(lambda tags: "_tag=" + ",".join(sorted(tags))), max_size=2
)
_RESTRICTED = st.builds(
    lambda kind, letters, tags: Scope(kind, letters, 2, "&".join(tags) or None),
    st.sampled_from(["*", "Patient", "Encounter"]),
    st.sampled_from(["r", "s", "rs"]),
    _TAGS,
)


@given(_SCOPES)
def test_parsing_what_was_written_gives_the_same_rights(scope: Scope) -> None:
    parsed = parse_scope(str(scope))
    assert parsed is not None
    assert (parsed.resource_type, parsed.interactions) == (scope.resource_type, scope.interactions)


@given(st.lists(_SCOPES, max_size=4), st.lists(_SCOPES, max_size=4))
def test_never_grants_more_than_was_registered_or_asked(requested: list[Scope], registered: list[Scope]) -> None:
    granted = grant(" ".join(map(str, requested)), registered)
    for resource_type in ("Patient", "Encounter", "Group"):
        for letter in INTERACTIONS:
            covered = [
                any(scope.covers(resource_type, letter) for scope in scopes)
                for scopes in (requested, registered, granted)
            ]
            assert covered[2] == (covered[0] and covered[1])


def _reads(scopes: list[Scope] | tuple[Scope, ...], kind: str, letter: str, tag: str) -> bool:
    """Whether a resource with one tag is read: directly from what the scopes say."""
    return any(
        scope.resource_type in ("*", kind)
        and letter in scope.interactions
        and all(tag in value.split(",") for _, value in scope.criteria)
        for scope in scopes
    )


@given(st.lists(_RESTRICTED, max_size=4), st.lists(_RESTRICTED, max_size=4))
def test_a_resource_is_read_when_both_what_was_asked_and_what_is_registered_say_so(
    requested: list[Scope], registered: list[Scope]
) -> None:
    granted = grant(" ".join(map(str, requested)), registered)
    for kind in ("Patient", "Encounter"):
        for letter in "rs":
            for tag in "abcd":
                both = _reads(requested, kind, letter, tag) and _reads(registered, kind, letter, tag)
                assert _reads(granted, kind, letter, tag) == both
