"""References that an export left out: fetched in batches, one by one where a server knows no search by id."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.vendors import VendorProfile
from tests.support.misbehaving import Fault, MisbehavingSource

Pulling = Callable[..., PullOutcome]


def fetched(outcome: PullOutcome) -> set[str]:
    found = set()
    for file in outcome.staged.files:
        if file.path.parent.name == "referenced":
            for line in file.path.read_text().splitlines():
                resource = json.loads(line)
                found.add(f"{resource['resourceType']}/{resource['id']}")
    return found


@pytest.fixture
def referring(source: MisbehavingSource) -> MisbehavingSource:
    """Five encounters of five doctors and a role; the role names another organization."""
    encounters = [
        {
            "resourceType": "Encounter",
            "id": f"e{n}",
            "participant": [{"individual": {"reference": f"Practitioner/d{n}"}}],
            "serviceProvider": {"reference": f"{source.base}/Organization/o1"},
            "location": [{"location": {"reference": "https://elsewhere.example/Location/l1"}}],
        }
        for n in range(5)
    ]
    encounters[0]["participant"] = [{"individual": {"reference": "PractitionerRole/r1/_history/2"}}]
    source.files = {"Encounter-1": encounters, "Organization-1": [{"resourceType": "Organization", "id": "o1"}]}
    source.directory = [{"resourceType": "Practitioner", "id": f"d{n}"} for n in range(4)]
    source.directory += [
        {"resourceType": "PractitionerRole", "id": "r1", "organization": {"reference": "Organization/o2"}},
        {"resourceType": "Organization", "id": "o2"},
    ]
    return source


@pytest.mark.parametrize("one_by_one", [False, True])
def test_what_is_missing_is_fetched_and_what_it_refers_to(
    referring: MisbehavingSource, pulling: Pulling, quick: VendorProfile, one_by_one: bool
) -> None:
    referring.read_only_by_id = one_by_one
    outcome = pulling(profile=replace(quick, hydrate_batch=2))
    assert fetched(outcome) == {
        "Practitioner/d1",
        "Practitioner/d2",
        "Practitioner/d3",
        "PractitionerRole/r1",
        "Organization/o2",
    }
    assert outcome.dangling == {"Practitioner": 1}
    assert outcome.complete
    assert any("1 references to Practitioner lead to nothing" in issue.message for issue in outcome.issues)


def test_what_we_have_is_not_fetched_again(referring: MisbehavingSource, pulling: Pulling) -> None:
    asked: dict[str, set[str]] = {}

    def known(kind: str, ids: set[str]) -> set[str]:
        asked[kind] = ids
        return ids

    outcome = pulling(known=known)
    assert fetched(outcome) == set()
    assert asked == {"Practitioner": {"d1", "d2", "d3", "d4"}, "PractitionerRole": {"r1"}}


def test_limits(referring: MisbehavingSource, pulling: Pulling, quick: VendorProfile) -> None:
    outcome = pulling(profile=replace(quick, hydrate_limit=2))
    assert len(fetched(outcome)) == 2
    assert outcome.dangling["Practitioner"] == 2


def test_types_that_were_not_asked_for_are_not_fetched(referring: MisbehavingSource, pulling: Pulling) -> None:
    assert fetched(pulling(types=("Encounter", "Organization"))) == set()


def test_an_endpoint_that_only_exports_is_not_asked(
    referring: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    outcome = pulling(profile=replace(quick, modes=("bulk",)))
    assert referring.requests("search") == []
    assert outcome.dangling == {"Practitioner": 4, "PractitionerRole": 1}


def test_a_type_that_is_refused_is_not_asked_for_again_and_again(
    referring: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    referring.faults["search"] = [Fault(403)] * 99
    pulling(profile=replace(quick, hydrate_batch=1, max_concurrency=1))
    assert len(referring.requests("search")) == 4  # a search and a read for each of two types
