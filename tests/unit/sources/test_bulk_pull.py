"""Bulk pulls from a source that shows the faults of real servers, one story per fault."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fhir_gateway.errors import ConfigurationError, SourceAuthError, SourceError
from fhir_gateway.sources.bulk import BulkExport, ExportState
from fhir_gateway.sources.endpoint import Endpoint
from fhir_gateway.sources.outcome import PullOutcome, PullProgress
from fhir_gateway.sources.token import TokenRefused
from fhir_gateway.sources.vendors import VendorProfile
from tests.support.misbehaving import Fault, MisbehavingSource, patients

Pulling = Callable[..., PullOutcome]


def lines(outcome: PullOutcome) -> list[str]:
    return [line for file in outcome.staged.files for line in file.path.read_text().splitlines() if line]


def test_export_downloads_everything_and_deletes_the_job(source: MisbehavingSource, pulling: Pulling) -> None:
    told: list[PullProgress] = []
    outcome = pulling(progress=told.append)
    assert [(file.resource_type, file.expected_count) for file in outcome.staged.files] == [
        ("Patient", 3),
        ("Patient", 2),
    ]
    assert len(lines(outcome)) == 5
    assert outcome.complete
    assert outcome.issues == ()
    assert outcome.staged.transaction_time == source.transaction_time
    assert outcome.staged.kind == "bulk"
    assert len(source.requests("delete")) == 1
    assert source.seen[-1].kind == "delete"
    assert {one.phase for one in told} >= {"discover", "export", "download"}
    assert "working on it" in [one.message for one in told]


def test_kickoff_says_what_it_wants(source: MisbehavingSource, pulling: Pulling) -> None:
    pulling(types=("Patient", "Observation"), since="2025-01-01T00:00:00+02:00", type_filters=("Observation?code=a,b",))
    kickoff = source.requests("kickoff")[0]
    assert kickoff.query["_type"] == ["Patient,Observation"]
    assert kickoff.query["_since"] == ["2025-01-01T00:00:00+02:00"]
    assert kickoff.query["_typeFilter"] == ["Observation?code=a,b"]
    assert kickoff.headers["prefer"] == "respond-async"


@pytest.mark.parametrize(("group", "levels", "path"), [
    (None, {"system", "patient", "group"}, "/fhir/$export"),
    (None, {"patient", "group"}, "/fhir/Patient/$export"),
    ("g1", {"system", "patient", "group"}, "/fhir/Group/g1/$export"),
])  # fmt: skip
def test_level(source: MisbehavingSource, pulling: Pulling, group: str | None, levels: set[str], path: str) -> None:
    source.export_levels = levels
    pulling(group=group)
    assert source.requests("kickoff")[0].path == path


def test_group_must_be_named_where_only_groups_are_exported(source: MisbehavingSource, pulling: Pulling) -> None:
    source.export_levels = {"group"}
    with pytest.raises(ConfigurationError, match="name a Group"):
        pulling()


@pytest.mark.parametrize(("value", "wait"), [
    ("7", 7.0),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ("Wed, 01 Jan 3000 00:00:00 GMT", 300.0),
    ("32503680000", 300.0),
    ("32503680000000", 300.0),
    ("18000", 300.0),
    ("nonsense", None),
])  # fmt: skip
def test_every_form_of_retry_after_is_obeyed_within_the_cap(
    source: MisbehavingSource, pulling: Pulling, waits, value: str, wait: float | None
) -> None:
    kinds = ("kickoff", "poll", "file", "token", "metadata")
    for kind in kinds:
        source.faults[kind] = [Fault(429 if kind != "file" else 503, {"Retry-After": value})]
    assert pulling().complete
    if wait is None:  # our own growing wait
        assert 0.25 <= max(waits.asked) <= 0.5
    else:  # a poll is never asked again at once
        assert sum(one in (wait, max(wait, 0.1)) for one in waits.asked) >= len(kinds)
        assert max(waits.asked) == max(wait, 0.1)


def test_stray_502s_and_500s_cost_a_retry_each(source: MisbehavingSource, pulling: Pulling) -> None:
    source.files = {f"Patient-{n}": patients(1, n) for n in range(40)}
    source.faults["poll"] = [Fault(500), Fault(202), Fault(502), Fault(504)]
    source.faults["file"] = [Fault(502), Fault(503), Fault(429), Fault(502)]
    outcome = pulling()
    assert len(lines(outcome)) == 40
    assert len(source.requests("file")) == 44


def test_truncated_and_stalled_files_are_fetched_again(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, tmp_path: Path
) -> None:
    source.faults["file"] = [Fault(truncate=True), Fault(stall=600), Fault(truncate=True)]
    assert len(lines(pulling(profile=replace(quick, read_timeout=2.0)))) == 5
    assert not list(tmp_path.glob("*.part"))


def test_gzip_and_truncated_gzip(source: MisbehavingSource, pulling: Pulling) -> None:
    source.gzip = True
    source.faults["file"] = [Fault(truncate=True)]
    assert len(lines(pulling())) == 5


def test_a_file_that_never_comes_fails_the_pull_and_keeps_the_others(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, tmp_path: Path
) -> None:
    states: list[ExportState] = []
    source.faults["file"] = [Fault(403)]
    with pytest.raises(SourceAuthError, match="403"):
        pulling(on_state=states.append, profile=replace(quick, max_concurrency=1))
    assert source.requests("delete") == []
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 1
    before = len(source.requests("file"))
    outcome = pulling(resume=states[-1])
    assert source.kickoffs == 1
    assert len(source.requests("file")) == before + 1
    assert len(lines(outcome)) == 5


def test_each_pull_asks_where_tokens_are_to_be_had(source: MisbehavingSource, pulling: Pulling, tmp_path: Path) -> None:
    """An endpoint may have moved its token endpoint since the last pull of a server that runs for months."""
    for number in (1, 2):
        assert pulling(folder=tmp_path / str(number)).complete
        assert len(source.requests("smart")) == number


def test_loss_is_accepted_only_when_asked_for(source: MisbehavingSource, pulling: Pulling) -> None:
    source.faults["file"] = [Fault(403)]
    outcome = pulling(accept_partial=True)
    assert not outcome.complete
    assert len(outcome.staged.files) == 1


def test_state_is_stored_before_the_first_poll(source: MisbehavingSource, pulling: Pulling) -> None:
    polls_when_stored: list[int] = []
    pulling(on_state=lambda state: polls_when_stored.append(len(source.requests("poll"))))
    assert polls_when_stored[0] == 0


def test_an_export_that_is_gone_is_started_anew(source: MisbehavingSource, pulling: Pulling) -> None:
    source.faults["poll"] = [Fault(404)]
    assert pulling(resume=ExportState(f"{source.base.removesuffix('/fhir')}/jobs/99")).complete
    assert source.kickoffs == 1


def test_expired_links_are_renewed_by_one_poll(source: MisbehavingSource, pulling: Pulling) -> None:
    source.presigned = True
    source.requires_access_token = False
    source.faults["file"] = [Fault(410), Fault(404)]
    assert len(lines(pulling())) == 5
    assert source.manifests == 2


def test_the_earliest_transaction_time_counts(source: MisbehavingSource, pulling: Pulling) -> None:
    source.moving_transaction_time = True
    source.faults["file"] = [Fault(410)]
    assert pulling().staged.transaction_time == "2025-06-01T00:00:00.000Z"
    assert source.manifests == 2


def test_tokens_that_wear_out_while_downloading_are_renewed(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.files = {f"Patient-{n}": patients(1, n) for n in range(60)}
    source.token_uses = 20
    assert (
        len(lines(pulling(profile=replace(quick, max_concurrency=1)))) == 60
    )  # side by side, one may be refused twice
    assert 3 <= len(source.jtis) <= 5


def test_short_lived_tokens_are_renewed_ahead(source: MisbehavingSource, pulling: Pulling) -> None:
    source.expires_in = "0"
    assert pulling().complete
    assert len(source.jtis) == len([one for one in source.seen if one.authorized])


def test_presigned_links_get_no_token(source: MisbehavingSource, pulling: Pulling) -> None:
    source.requires_access_token = False
    source.refuse_token_on_files = True
    assert len(lines(pulling())) == 5
    assert not any(one.authorized for one in source.requests("file"))


def test_the_token_does_not_cross_origins(source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint) -> None:
    elsewhere = source.base.replace("127.0.0.1", "localhost").removesuffix("/fhir")
    source.file_host = elsewhere
    with pytest.raises(SourceAuthError, match="no token was sent"):
        pulling()
    assert not any(one.authorized for one in source.requests("file"))
    trusting = replace(endpoint, trusted_origins=(elsewhere,))
    assert pulling(endpoint=trusting).complete


def test_redirects_drop_the_token(source: MisbehavingSource, pulling: Pulling) -> None:
    source.file_redirect = source.base.replace("127.0.0.1", "localhost").removesuffix("/fhir")
    source.faults["delete"] = [Fault(500)]
    with pytest.raises(SourceAuthError):
        pulling()
    moved = [one for one in source.requests("file") if one.path.startswith("/moved/")]
    assert moved
    assert not any(one.authorized for one in moved)


def test_relative_urls_string_counts_and_missing_newlines(source: MisbehavingSource, pulling: Pulling) -> None:
    source.relative_urls = True
    source.counts = "string"
    source.trailing_newline = False
    source.errors_name = None
    outcome = pulling()
    assert outcome.complete
    assert [file.expected_count for file in outcome.staged.files] == [3, 2]


def test_counts_may_be_absent(source: MisbehavingSource, pulling: Pulling) -> None:
    source.counts = "none"
    outcome = pulling()
    assert outcome.complete
    assert {file.expected_count for file in outcome.staged.files} == {None}


def test_a_wrong_count_is_said_and_handed_to_the_ledger(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile, tmp_path: Path
) -> None:
    source.count_error = 2
    outcome = pulling()
    assert not outcome.complete
    assert outcome.lost == 4
    assert [file.expected_count for file in outcome.staged.files] == [5, 4]
    tolerant = pulling(profile=replace(quick, counts_exact=False), folder=tmp_path / "again")
    assert tolerant.complete
    assert {file.expected_count for file in tolerant.staged.files} == {None}
    accepted = pulling(accept_partial=True, folder=tmp_path / "accepted")
    assert (accepted.complete, accepted.lost) == (False, 4)
    assert {file.expected_count for file in accepted.staged.files} == {None}


@pytest.mark.parametrize("name", ["error", "outcome"])
def test_error_files_are_read_and_counted(source: MisbehavingSource, pulling: Pulling, name: str) -> None:
    source.errors_name = name
    secret = "Jane Doe was not exported"
    source.error_files = {
        "errors-1": [
            {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing", "diagnostics": secret}]},  # noqa: E501
            {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]},
            {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]},
        ]
    }  # fmt: skip
    outcome = pulling()
    assert not outcome.complete
    assert outcome.lost == 2
    assert len(outcome.issues) == 2
    assert secret not in str(outcome)
    assert len(outcome.staged.files) == 2


def test_informative_outcomes_are_no_loss(source: MisbehavingSource, pulling: Pulling) -> None:
    issue = {"severity": "warning", "code": "informational"}
    source.error_files = {"errors-1": [{"resourceType": "OperationOutcome", "issue": [issue]}]}
    assert pulling().complete


def test_deletions_are_handed_on_by_type_and_id(source: MisbehavingSource, pulling: Pulling) -> None:
    entry = {"request": {"method": "DELETE", "url": "Patient/p1"}}
    source.deleted_files = {"gone-1": [{"resourceType": "Bundle", "type": "transaction", "entry": [entry]}] * 2}
    outcome = pulling()
    assert outcome.deletions == {"Patient": ("p1",)}
    assert len(outcome.staged.files) == 2


def test_manifest_pages_are_all_read(source: MisbehavingSource, pulling: Pulling) -> None:
    source.files = {f"Patient-{n}": patients(1, n) for n in range(5)}
    source.manifest_pages = 3
    assert len(lines(pulling())) == 5


def test_an_empty_export_is_remarked(source: MisbehavingSource, pulling: Pulling) -> None:
    source.files = {}
    outcome = pulling(group="unknown")
    assert outcome.staged.files == ()
    assert "unknown Group" in outcome.issues[0].message


def test_a_stuck_export_is_cancelled(source: MisbehavingSource, pulling: Pulling, quick: VendorProfile) -> None:
    source.polls_before_done = 10**9
    with pytest.raises(SourceError, match="not finished after 10 s"):
        pulling(mode="bulk", profile=replace(quick, export_deadline=10.0))
    source.faults["poll"] = [Fault(202, {"Retry-After": "30"})] * 99
    with pytest.raises(SourceError, match="not finished"):
        pulling(mode="bulk", profile=replace(quick, export_deadline=10.0))
    assert len(source.requests("delete")) == 2


def test_the_deadline_counts_from_the_kick_off_whatever_restarts(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.polls_before_done = 10**9
    late = ExportState(f"{source.base.removesuffix('/fhir')}/jobs/1", kicked_off=time.time() - 86_400)
    hour = replace(quick, export_deadline=3600.0)
    with pytest.raises(SourceError, match="not finished after"):
        pulling(mode="bulk", resume=late, profile=hour)
    assert (len(source.requests("poll")), len(source.requests("delete"))) == (1, 1)
    with pytest.raises(SourceError, match="its time was over"):  # it is gone there; no other is begun
        pulling(mode="bulk", resume=late, profile=hour)
    assert not source.requests("kickoff")
    states: list[ExportState] = []
    source.polls_before_done = 0
    pulling(mode="bulk", on_state=states.append)
    assert states[0].kicked_off == pytest.approx(time.time(), abs=3600)


def test_an_export_that_ended_while_nobody_asked_is_taken(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    source.polls_before_done = 0
    state = ExportState(f"{source.base.removesuffix('/fhir')}/jobs/1", kicked_off=0.0)
    assert pulling(mode="bulk", resume=state).complete


def test_files_that_differ_by_query_only_are_all_kept(source: MisbehavingSource, pulling: Pulling) -> None:
    source.manifest_extra = {
        "output": [
            {"type": "Patient", "url": f"{source.base.removesuffix('/fhir')}/files/Patient-1?part={n}"} for n in (1, 2)
        ]
    }
    assert len(pulling().staged.files) == 2


def test_no_manifest_is_an_error(source: MisbehavingSource, pulling: Pulling) -> None:
    source.faults["poll"] = [Fault(200, body=b"<html>please log in</html>")]
    with pytest.raises(SourceError, match="not JSON"):
        pulling()
    source.faults["poll"] = [Fault(200, body=b"{}")]
    with pytest.raises(SourceError, match="not a Bulk Data manifest"):
        pulling()


def test_unreachable_endpoint(pulling: Pulling) -> None:
    nobody = Endpoint("gone", "http://127.0.0.1:9/fhir", client_id="us")
    with pytest.raises(SourceError, match="no connection"):
        pulling(endpoint=nobody)


def test_logs_hold_no_secret(source: MisbehavingSource, pulling: Pulling, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source.presigned = True
    source.faults["file"] = [Fault(502)]
    source.faults["metadata"] = [Fault(503, {"Retry-After": "1"})]
    assert pulling(since="2025-01-01T00:00:00Z").complete
    assert "/fhir/metadata" in caplog.text
    for secret in ("secret-token", "eyJ", "sig=", "_since"):
        assert secret not in caplog.text


def test_files_that_were_refused_for_want_of_a_token_say_so() -> None:
    export = BulkExport.__new__(BulkExport)
    export._accept_partial = False
    with pytest.raises(SourceAuthError, match="answered 401; pulling again goes on with the files that are missing"):
        export._losses([TokenRefused("answered 401", "invalid_client", 86_400.0)])
