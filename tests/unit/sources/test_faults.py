"""Faults that any server may have: bodies without end, thousands of files, exports that fail in part."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.endpoint import Endpoint, origin
from fhir_gateway.sources.limit import AdaptiveLimit
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.retry import Clock
from fhir_gateway.sources.session import SourceSession, new_client
from fhir_gateway.sources.vendors import VendorProfile
from tests.support.misbehaving import Fault, MisbehavingSource, patients

Pulling = Callable[..., PullOutcome]


def lines(outcome: PullOutcome) -> list[str]:
    return [line for file in outcome.staged.files for line in file.path.read_text().splitlines() if line]


def test_a_file_without_end_is_cut_off_by_size(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.faults["file"] = [Fault(endless=True)]
    with pytest.raises(SourceError, match="the file is larger than 1 MiB"):
        pulling(profile=replace(quick, max_file=1 << 20))


def test_a_file_that_drips_is_cut_off_by_time_and_fetched_again(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.faults["file"] = [Fault(endless=True)]
    ticks = itertools.count()  # a second passes whenever somebody looks, which is once for each piece of a file
    clock = Clock(monotonic=lambda: float(next(ticks)), sleep=lambda seconds: asyncio.sleep(0))
    assert len(lines(pulling(profile=replace(quick, file_deadline=60.0), clock=clock))) == 5
    assert next(ticks) > 60


@pytest.mark.parametrize("kind", ["poll", "metadata", "smart"])
def test_an_answer_without_end_is_cut_off(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, kind: str
) -> None:
    source.faults[kind], source.polls_before_done = [Fault(endless=True)], 0
    with pytest.raises(SourceError, match="larger than 1 MiB"):
        pulling(profile=replace(quick, max_body=1 << 20))


@pytest.fixture
def kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection of ours is closed for its age: on a slow machine all would be, and then opened anew."""
    monkeypatch.setattr(httpx, "Limits", partial(httpx.Limits, keepalive_expiry=None))


@pytest.mark.usefixtures("kept_alive")
def test_thousands_of_tiny_files_with_bounded_memory_and_connections(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    """1,000 files, 5 % 429 and 1 % 502; then the download is broken off and goes on with what is missing."""
    count = 1000
    source.files = {f"Patient-{n}": patients(1, n) for n in range(count)}
    source.faults["file"] = [
        Fault(429, {"Retry-After": "1"}) if n % 20 == 0 else Fault(502)
        for n in range(200)
        if n % 20 == 0 or n % 97 == 1
    ]
    source.fault_every["file"] = 5
    tracemalloc.start()
    outcome = pulling()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(outcome.staged.files) == count
    assert source.connections <= quick.max_concurrency + 2  # ever, so at once too; and each is used again and again
    assert peak < 64 * 2**20
    assert len(source.requests("delete")) == 1


@pytest.mark.usefixtures("kept_alive")
def test_no_more_connections_than_the_vendor_bears_whoever_asks(
    source: MisbehavingSource, endpoint: Endpoint, quick: VendorProfile
) -> None:
    """The last of three bounds (workers, the adaptive limit, the client's own), without the other two."""
    source.open = True
    few = replace(quick, max_concurrency=2)

    async def story() -> list[httpx.Response]:
        async with new_client(few) as client:
            session = SourceSession(client, endpoint, few)
            return await asyncio.gather(*(session.send("GET", f"{source.base}/metadata") for _ in range(40)))

    assert [one.status_code for one in asyncio.run(story())] == [200] * 40
    assert source.connections == few.max_concurrency + 2


def test_a_download_that_broke_off_goes_on_with_the_missing_files(
    source: MisbehavingSource, pulling: Pulling, tmp_path: Path
) -> None:
    source.files = {f"Patient-{n}": patients(1, n) for n in range(100)}
    states = []
    source.faults["file"] = [Fault(202)] * 30 + [Fault(403)]
    source.fault_every["file"] = 3
    with pytest.raises(SourceError):
        pulling(on_state=states.append)
    have = len(list(tmp_path.glob("*.ndjson")))
    assert have > 0
    source.faults["file"] = []
    before = len(source.requests("file"))
    assert len(lines(pulling(resume=states[-1]))) == 100
    assert len(source.requests("file")) - before == 100 - have


def test_the_limit_halves_once_for_what_was_under_way_together() -> None:
    async def story() -> list[int]:
        limit = AdaptiveLimit(16, start=8)
        sizes = [limit.size]
        async with limit, limit, limit:
            limit.shrink()
            sizes.append(limit.size)
            limit.shrink()
            limit.shrink()
            sizes.append(limit.size)
            limit.shrink()
            sizes.append(limit.size)
        for _ in range(200):
            limit.grow()
        return [*sizes, limit.size]

    assert asyncio.run(story()) == [8, 4, 4, 2, 16]


def test_the_limit_sees_latency() -> None:
    limit = AdaptiveLimit(16, start=8)
    for _ in range(20):
        limit.answered(0.2)
    grown = limit.size
    assert grown > 8
    limit.answered(5.0)
    assert limit.size == grown // 2
    for _ in range(60):  # slower for good: believed after a while, and the limit grows again
        limit.answered(1.4)
    assert limit.size > grown // 2


def test_limits_are_per_host(source: MisbehavingSource, pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is overwhelmed does not slow the searches of the API."""
    files = source.base.removesuffix("/fhir").replace("127.0.0.1", "localhost")
    source.file_host, source.requires_access_token = files, False
    source.files["Patient-2"][0]["managingOrganization"] = {"reference": "Organization/o1"}
    source.directory = [{"resourceType": "Organization", "id": "o1"}]
    source.faults["file"] = [Fault(503, {"Retry-After": "1"})] * 3
    limits: dict[str, AdaptiveLimit] = {}
    shrunk: list[tuple[AdaptiveLimit, int]] = []
    limit_of, shrink = SourceSession.limit, AdaptiveLimit.shrink

    def limit(session: SourceSession, url: str) -> AdaptiveLimit:
        return limits.setdefault(origin(url), limit_of(session, url))

    def shrinking(one: AdaptiveLimit) -> None:
        before = one.size
        shrink(one)
        shrunk.append((one, before - one.size))

    monkeypatch.setattr(SourceSession, "limit", limit)
    monkeypatch.setattr(AdaptiveLimit, "shrink", shrinking)
    assert len(lines(pulling())) == 6
    assert limits.keys() == {origin(files), origin(source.base)}
    assert {id(one) for one, _ in shrunk} == {id(limits[origin(files)])}
    assert shrunk[0][1] == 2  # of the four it begins with
    assert limits[origin(source.base)].size >= 4


def test_an_export_that_never_ends_is_cancelled_and_searched_instead(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.polls_before_done = 10**9
    outcome = pulling(profile=replace(quick, export_deadline=10.0))
    assert outcome.staged.kind == "search"
    assert len(lines(outcome)) == 5
    assert len(source.requests("delete")) == 1


def test_an_export_that_never_ends_is_an_error_where_there_is_no_search(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.polls_before_done = 10**9
    with pytest.raises(SourceError, match="not finished after 10 s; cancelled"):
        pulling(profile=replace(quick, export_deadline=10.0, modes=("bulk",)))


def test_a_job_per_type_so_that_one_bad_type_costs_itself_only(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, tmp_path: Path
) -> None:
    source.files["Claim-1"] = [{"resourceType": "Claim", "id": "c1"}]
    source.refused_types = {"ClaimResponse": 500}
    split = replace(quick, split_types=True)
    states = []
    outcome = pulling(profile=split, types=("Patient", "ClaimResponse", "Claim"), on_state=states.append)
    assert [file.resource_type for file in outcome.staged.files] == ["Patient", "Patient", "Claim"]
    assert not outcome.complete
    assert any(issue.message.startswith("ClaimResponse: ") for issue in outcome.issues)
    assert {state.part for state in states} == {"Patient", "Claim"}
    source.refused_types = {"Patient": 400}
    with pytest.raises(SourceError, match="400"):
        pulling(profile=split, types=("Patient",), mode="bulk", folder=tmp_path / "other")


def test_parts_go_on_after_a_restart(source: MisbehavingSource, pulling: Pulling, quick: VendorProfile) -> None:
    source.files["Claim-1"] = [{"resourceType": "Claim", "id": "c1"}]
    split = replace(quick, split_types=True)
    states = {}

    def remember(state) -> None:  # type: ignore[no-untyped-def]
        states[state.part] = state
        if state.part == "Claim":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulling(profile=split, types=("Patient", "Claim"), on_state=remember)
    assert source.kickoffs == 2
    # the first part is here, whole; the second goes on with its export
    outcome = pulling(profile=split, types=("Patient", "Claim"), resume=states)
    assert source.kickoffs == 2
    assert len(lines(outcome)) == 6


def test_groups_over_the_limit_are_exported_by_lists_of_patients(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, tmp_path: Path
) -> None:
    source.group_members = [f"p{n}" for n in range(5)]
    outcome = pulling(profile=replace(quick, group_limit=2), group="big")
    asked = [one["patient"] for one in source.asked]
    assert asked == [["Patient/p0", "Patient/p1"], ["Patient/p2", "Patient/p3"], ["Patient/p4"]]
    assert {one.method for one in source.requests("kickoff")} == {"POST"}
    assert outcome.complete
    source.asked.clear()
    pulling(profile=replace(quick, group_limit=5), group="big", folder=tmp_path / "b")
    assert "patient" not in source.asked[0]


def test_a_group_over_the_limit_is_crawled_where_no_list_is_taken(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, tmp_path: Path
) -> None:
    source.group_members = [f"p{n}" for n in range(3)]
    small = replace(quick, group_limit=2)
    source.faults["kickoff"] = [Fault(405)] * 2
    outcome = pulling(profile=small, group="big", types=("Patient",))
    assert outcome.staged.kind == "search"
    source.faults["kickoff"] = [Fault(400)] * 2
    with pytest.raises(SourceError, match="larger than its vendor exports at once"):
        pulling(profile=small, group="big", mode="bulk", folder=tmp_path / "b")
    source.faults["kickoff"] = [Fault(403)] * 2
    with pytest.raises(SourceError, match="scopes"):
        pulling(profile=small, group="big", folder=tmp_path / "c")


def test_a_list_of_patients_is_posted(source: MisbehavingSource, pulling: Pulling) -> None:
    pulling(group="g", patients=("p1", "p2"), types=("Patient", "Observation"), since="2025-01-01T00:00:00Z")
    assert source.asked[0] == {
        "_outputFormat": ["application/fhir+ndjson"],
        "_type": ["Patient", "Observation"],
        "_since": ["2025-01-01T00:00:00Z"],
        "patient": ["Patient/p1", "Patient/p2"],
    }


def test_servers_of_the_next_version_take_post_only(source: MisbehavingSource, pulling: Pulling) -> None:
    source.kickoff_methods = {"POST"}
    source.errors_name = "outcome"
    assert len(lines(pulling())) == 5
    assert [one.method for one in source.requests("kickoff")] == ["GET", "POST"]


def test_a_search_goes_on_with_the_types_that_are_missing(source: MisbehavingSource, pulling: Pulling) -> None:
    source.files["Observation-1"] = [{"resourceType": "Observation", "id": "o1"}]
    source.faults["search"] = [Fault(200, body=b'{"resourceType":"Bundle","total":0}'), Fault(500)]

    def stop(progress) -> None:  # type: ignore[no-untyped-def]
        if progress.phase == "search":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulling(mode="search", types=("Patient", "Observation"), progress=stop)
    source.faults["search"] = []
    before = len(source.requests("search"))
    pulling(mode="search", types=("Patient", "Observation"))
    assert {one.path for one in source.requests("search")[before:]} == {"/fhir/Observation"}


def test_a_manifest_that_says_no_token_where_one_is_wanted(source: MisbehavingSource, pulling: Pulling) -> None:
    """sekmet-fhir behind a guard: the token is sent after a 401, to the endpoint's own origin only."""
    source.manifest_extra = {"requiresAccessToken": False}
    assert len(lines(pulling())) == 5


def test_a_token_that_ends_in_the_middle_of_a_file(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    """The file breaks off, and the token is refused when it is asked for again: one renewal, one more attempt."""
    source.files = {"Patient-1": patients(300)}
    source.token_uses = 1
    source.faults["file"] = [Fault(truncate=True)]
    outcome = pulling(profile=replace(quick, max_concurrency=1))
    assert len(lines(outcome)) == 300


@pytest.mark.parametrize("line", [
    {"resourceType": "Bundle", "entry": [{"request": {"method": "DELETE"}}]},
    {"resourceType": "Bundle", "entry": [{"request": {"method": "DELETE", "url": "Patient?identifier=x"}}]},
    ["no bundle"],
])  # fmt: skip
def test_deletions_that_are_not_understood_fail_the_pull(
    source: MisbehavingSource, pulling: Pulling, line: object
) -> None:
    """They must not pass silently: what is gone there would count here for ever."""
    source.deleted_files = {"gone-1": [line]}
    with pytest.raises(SourceError, match=r"deleted\..*:1: (not a Bundle|a deletion that names)"):
        pulling()
