"""Pulls by search: pages, totals that do not add up, outcome entries, crawling by patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fhir_gateway.errors import ConfigurationError, SourceAuthError, SourceError
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.vendors import PROFILES, VendorProfile, vendor_profile
from tests.support.misbehaving import Fault, MisbehavingSource, patients

Pulling = Callable[..., PullOutcome]


def lines(outcome: PullOutcome) -> list[str]:
    return [line for file in outcome.staged.files for line in file.path.read_text().splitlines()]


def test_pages_are_followed_where_no_export_is_offered(source: MisbehavingSource, pulling: Pulling) -> None:
    source.export_levels = set()
    outcome = pulling()
    assert outcome.staged.kind == "search"
    assert outcome.staged.transaction_time is None
    assert [(file.resource_type, file.expected_count) for file in outcome.staged.files] == [
        ("Patient", 5),
        ("Observation", 0),
    ]
    assert len(lines(outcome)) == 5
    assert outcome.complete


def test_search_takes_over_when_the_export_turns_out_missing(source: MisbehavingSource, pulling: Pulling) -> None:
    source.faults["kickoff"] = [Fault(404)]
    assert pulling().staged.kind == "search"
    source.faults["kickoff"] = [Fault(404)]
    with pytest.raises(SourceError, match="404"):
        pulling(mode="bulk")


def test_a_search_without_next_link_is_asked_again_for_all(source: MisbehavingSource, pulling: Pulling) -> None:
    source.hide_next = True
    source.page_cap = 1000
    outcome = pulling(mode="search", types=("Patient",))
    assert len(lines(outcome)) == 5
    assert outcome.complete


def test_entries_that_never_come_are_a_loss(source: MisbehavingSource, pulling: Pulling) -> None:
    source.hide_next = True
    outcome = pulling(mode="search", types=("Patient",))
    assert outcome.lost == 3
    assert "total says 5, 2 came" in outcome.issues[1].message


def test_outcome_entries_are_not_data(source: MisbehavingSource, pulling: Pulling) -> None:
    source.extra_entries = [{"search": {"mode": "outcome"}, "resource": {"resourceType": "OperationOutcome"}}]
    outcome = pulling(mode="search", types=("Patient",))
    assert len(lines(outcome)) == 5
    assert "outcome entries" in outcome.issues[1].message


def test_decimals_keep_their_digits(source: MisbehavingSource, pulling: Pulling) -> None:
    observation = b'{"resourceType":"Observation","id":"a","valueQuantity":{"value":1.10}}'
    body = b'{"resourceType":"Bundle","entry":[{"resource":' + observation + b"}]}"
    source.faults["search"] = [Fault(200, body=body)]
    assert '"value":1.10}' in lines(pulling(mode="search", types=("Observation",)))[0]


def test_a_type_that_is_refused_costs_that_type_only(
    source: MisbehavingSource, pulling: Pulling, tmp_path: Path
) -> None:
    source.faults["search"] = [Fault(403)]
    outcome = pulling(mode="search", types=("Observation", "Patient"))
    assert not outcome.complete
    assert len(lines(outcome)) == 5
    source.faults["search"] = [Fault(403)]
    with pytest.raises(SourceAuthError, match="scopes"):
        pulling(mode="search", types=("Patient",), folder=tmp_path / "other")


def test_crawling_by_patient(source: MisbehavingSource, pulling: Pulling, quick: VendorProfile) -> None:
    observations = [
        {"resourceType": "Observation", "id": f"o{n}", "subject": {"reference": f"Patient/p{n}"}} for n in range(5)
    ]
    source.files["Observation-1"] = observations
    crawl = replace(quick, search_by="patient")
    with pytest.raises(SourceError, match="name a Group"):
        pulling(mode="search", profile=crawl)
    outcome = pulling(mode="search", profile=crawl, group="g", types=("Patient", "Observation", "Organization"))
    assert len(lines(outcome)) == 6  # the Group has three of the patients
    queried = [one.query for one in source.requests("search")]
    assert any("patient" in query for query in queried)


def dated(count: int, day: int) -> list[dict[str, object]]:
    return [{**one, "meta": {"lastUpdated": f"2025-01-0{day}T00:00:00Z"}} for one in patients(count, 10 * day)]


def test_changes_are_searched_by_last_updated(source: MisbehavingSource, pulling: Pulling, tmp_path: Path) -> None:
    """The moment of one search, by the server's clock and less an overlap, is the ``since`` of the next."""
    source.dates, source.now = "known", "Sat, 04 Jan 2025 00:03:00 GMT"
    source.files = {"Patient-1": dated(3, 1)}
    first = pulling(mode="search", types=("Patient",))
    assert first.staged.transaction_time == "2025-01-03T23:58:00+00:00"
    source.files["Patient-2"] = dated(5, 4)
    before = len(source.requests("search"))
    second = pulling(mode="search", types=("Patient",), since=first.staged.transaction_time, folder=tmp_path / "second")
    assert [json.loads(line)["id"] for line in lines(second)] == [f"p4{n}" for n in range(5)]
    pages = [one.query for one in source.requests("search")[before:]]
    assert pages[1] == {"_lastUpdated": ["gt2025-01-03T23:58:00+00:00"], "_count": ["2"]}
    assert len(pages) == 4  # one to see whether it understands, and three pages
    assert second.complete


def test_crawls_ask_for_changes_of_each_patient(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.dates, source.files = "known", {"Patient-1": dated(3, 1)}
    crawl = replace(quick, search_by="patient")
    pulling(mode="search", profile=crawl, group="g", types=("Patient",), since="2025-01-01T12:00:00Z")
    asked = [one.query for one in source.requests("search") if "_lastUpdated" in one.query]
    assert [one["_id"] for one in asked] == [["p10"], ["p10"], ["p11"], ["p12"]]
    assert [one["_lastUpdated"] for one in asked[1:]] == [["gt2025-01-01T12:00:00Z"]] * 3


def test_where_searches_name_a_patient_others_come_by_reference(source: MisbehavingSource, pulling: Pulling) -> None:
    """Epic refuses searches without a patient: what has none is not asked for as a whole, and is no loss."""
    visit = {"resourceType": "Observation", "id": "o1", "subject": {"reference": "Patient/p1"}}
    source.files["Observation-1"] = [visit | {"performer": [{"reference": "Organization/a"}]}]
    source.directory = [{"resourceType": "Organization", "id": "a"}]
    outcome = pulling(mode="search", profile=vendor_profile("epic"), group="g")
    assert outcome.complete
    assert any('"Organization"' in line for line in lines(outcome))
    of_type = [one for one in source.requests("search") if one.path.count("/") == 2 and not one.path.endswith("/g")]
    assert of_type
    assert all({"patient", "_id"} & one.query.keys() for one in of_type)


def test_circles_and_nonsense_end_in_errors(source: MisbehavingSource, pulling: Pulling) -> None:
    circle = b'{"resourceType":"Bundle","link":[{"relation":"next","url":"Patient?x=1"}]}'
    source.faults["search"] = [Fault(200, body=circle)] * 3
    with pytest.raises(SourceError, match="circle"):
        pulling(mode="search", types=("Patient",))
    source.faults["search"] = [Fault(200, body=b"<html>")]
    with pytest.raises(SourceError, match="not JSON"):
        pulling(mode="search", types=("Patient",))


def test_type_filters_need_bulk_data(pulling: Pulling) -> None:
    with pytest.raises(ConfigurationError, match="type filters"):
        pulling(mode="search", type_filters=("Patient?active=true",))


def test_vendor_profiles_are_sane() -> None:
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.modes
        assert profile.max_wait <= 3600
        assert profile.max_concurrency >= 1
