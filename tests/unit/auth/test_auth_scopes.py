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
        ("system/Observation.rs?category=vital-signs", "system/*.rs", ""),  # cannot be enforced, so not broadened
        ("openid launch/patient system/Patient.rs", "system/*.rs", "system/Patient.rs"),
        ("system/Patient.write", "system/*.cruds", ""),
        ("system/Encounter.rs", "system/Patient.rs", ""),
        ("system/Patient.rs system/Patient.rs", "system/*.rs", "system/Patient.rs"),
    ],
)
def test_granted_is_the_intersection(requested: str, registered: str, granted: str) -> None:
    result = grant(requested, parse_scopes(registered), ["Patient", "Encounter", "Observation", "Group"], "rs")
    assert " ".join(map(str, result)) == granted


def test_every_r4_type_is_supported_unless_told_otherwise() -> None:
    assert [str(s) for s in grant("system/Questionnaire.rs", parse_scopes("system/*.rs"))] == [
        "system/Questionnaire.rs"
    ]


@pytest.mark.parametrize(("text", "well_formed"), [("a b", True), ("", False), ("  ", False), ('a "b"', False)])
def test_scope_list_syntax(text: str, well_formed: bool) -> None:
    assert is_scope_list(text) is well_formed


_SCOPES = st.builds(
    Scope,
    st.sampled_from(["*", "Patient", "Encounter"]),
    st.sets(st.sampled_from(INTERACTIONS), min_size=1).map(lambda ops: "".join(x for x in INTERACTIONS if x in ops)),
    st.sampled_from([1, 2]),
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
