"""What real servers do instead of the specification, one test a quirk, over real HTTP.

The numbers are those of the list of quirks in the project's reference sheet on endpoints; each docstring says which
server was seen doing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import SourceAuthError, SourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.sources.bulk import ExportState
from fhir_gateway.sources.discovery import SmartConfiguration
from fhir_gateway.sources.endpoint import ClientSecret, Endpoint
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.vendors import VendorProfile
from tests.support.misbehaving import Fault, MisbehavingSource, patients

Pulling = Callable[..., PullOutcome]


def lines(outcome: PullOutcome) -> list[str]:
    return [line for file in outcome.staged.files for line in file.path.read_text().splitlines() if line]


def test_01_polls_over_the_budget_are_429_with_epoch_milliseconds(
    source: MisbehavingSource, pulling: Pulling, waits
) -> None:
    """SMART bulk-data-server: the 61st poll within a minute; the wait is clamped and the export goes on."""
    source.polls_before_done, source.poll_budget = 70, 60
    assert len(lines(pulling())) == 5
    assert 295 < max(waits.asked) <= 300


@pytest.mark.parametrize("expires", ["EXAMPLE_EXPIRATION_DATE", "0", ""])
def test_02_expires_that_is_no_date(source: MisbehavingSource, pulling: Pulling, expires: str) -> None:
    """bulk-export-server."""
    source.manifest_headers = {"Expires": expires}
    assert pulling().complete


def test_03_transaction_time_that_moves_with_every_poll(source: MisbehavingSource, pulling: Pulling) -> None:
    """bulk-export-server: the earliest one seen is the next ``_since``, also across a restart."""
    source.moving_transaction_time = True
    states: list[ExportState] = []
    source.faults["file"] = [Fault(403)]
    with pytest.raises(SourceError):
        pulling(on_state=states.append)
    outcome = pulling(resume=states[-1], on_state=states.append)
    assert source.manifests == 2
    assert outcome.staged.transaction_time == states[-1].transaction_time == "2025-06-01T00:00:00.000Z"


def test_04_manifest_and_files_with_the_least_that_can_be_read(source: MisbehavingSource, pulling: Pulling) -> None:
    """bulk-export-server: no ``error``, no ``count``, another content type, no last newline, ``request`` odd."""
    source.errors_name, source.counts, source.trailing_newline = None, "none", False
    source.ndjson_type = "application/ndjson+fhir"
    source.manifest_extra = {"request": "http://localhost/$export"}
    outcome = pulling()
    assert len(lines(outcome)) == 5
    assert [file.expected_count for file in outcome.staged.files] == [None, None]


def test_05_continues_in_file_names_files_that_do_not_exist(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server: every file is under ``output`` anyway; the hint is not followed."""
    source.item_extra = {"continuesInFile": f"{source.base}/files/no-such-file"}
    assert len(lines(pulling())) == 5
    assert {one.path for one in source.requests("file")} == {"/files/Patient-1", "/files/Patient-2"}


def test_06_unknown_group_is_an_empty_manifest_or_a_bare_404(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server answers 202 and then nothing; bulk-export-server a 404 without OperationOutcome."""
    source.files = {}
    outcome = pulling(group="nobody")
    assert outcome.staged.files == ()
    assert any("unknown Group" in issue.message for issue in outcome.issues)
    source.faults["kickoff"] = [Fault(404, {"Content-Type": "text/plain"}, b"nope")]
    with pytest.raises(SourceError, match="kick-off was answered with 404"):
        pulling(group="nobody")


def test_07_one_transient_500_does_not_lose_the_export(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server: one 500 with an OperationOutcome, then 200; also a 4xx whose issue says transient."""
    transient = b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"transient"}]}'
    source.faults["poll"] = [Fault(500, body=transient), Fault(412, body=transient)]
    assert len(lines(pulling())) == 5
    assert source.kickoffs == 1


def test_08_failures_that_only_the_error_files_tell(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server: 200 and a manifest as if nothing were lost."""
    issue = {"severity": "error", "code": "exception"}
    source.error_files = {"errors-1": [{"resourceType": "OperationOutcome", "issue": [issue]}] * 7}
    outcome = pulling()
    assert len(lines(outcome)) == 5
    assert not outcome.complete
    assert outcome.lost == 7


def test_09_expired_files_and_jobs(source: MisbehavingSource, pulling: Pulling, tmp_path: Path) -> None:
    """SMART bulk-data-server: 410 on a listed file gets fresh links; a job that was deleted is exported anew."""
    source.presigned, source.expired_links = True, 2
    assert len(lines(pulling())) == 5
    assert source.kickoffs == 1
    state = ExportState(f"{source.base.removesuffix('/fhir')}/jobs/1")
    assert len(lines(pulling(resume=state, folder=tmp_path / "lost"))) == 5
    assert source.kickoffs == 2


def test_09_what_is_here_is_not_asked_for_again(source: MisbehavingSource, pulling: Pulling) -> None:
    """A process that died after the server was told to forget the job finds the finished export in its folder."""
    pulling()
    asked = len(source.seen)
    state = ExportState(f"{source.base.removesuffix('/fhir')}/jobs/1")
    assert len(lines(pulling(resume=state))) == 5
    assert source.kickoffs == 1
    assert {one.kind for one in source.seen[asked:]} <= {"smart", "metadata", "token", "delete"}


def test_09_a_job_that_goes_while_files_come_is_started_anew(source: MisbehavingSource, pulling: Pulling) -> None:
    """Files of the lost export are not mixed with those of the next one."""
    source.faults["file"] = [Fault(410)]
    source.faults["poll"] = [Fault(202), Fault(200, body=_manifest(source)), Fault(410)]
    outcome = pulling()
    assert source.kickoffs == 2
    assert sorted(file.path.name for file in outcome.staged.files) == sorted(
        path.name for path in outcome.staged.files[0].path.parent.glob("*.ndjson")
    )
    assert len(lines(outcome)) == 5


def _manifest(source: MisbehavingSource) -> bytes:
    url = f"{source.base.removesuffix('/fhir')}/files/Patient-1"
    item = f'{{"type":"Patient","url":"{url}","count":3}}'
    return f'{{"transactionTime":"{source.transaction_time}","output":[{item}]}}'.encode()


def test_10_a_token_on_a_file_that_wants_none_is_a_401(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server with ``requiresAccessToken: false``."""
    source.requires_access_token, source.refuse_token_on_files = False, True
    assert len(lines(pulling())) == 5
    assert not any(one.authorized for one in source.requests("file"))


def test_11_tokens_of_six_seconds(source: MisbehavingSource, pulling: Pulling, quick: VendorProfile) -> None:
    """SMART bulk-data-server: a token ends while polling and downloading; it is renewed ahead and after a 401."""
    source.expires_in, source.token_uses = 6, 3
    source.files = {f"Patient-{n}": patients(1, n) for n in range(20)}
    source.polls_before_done = 20
    assert len(lines(pulling(profile=replace(quick, max_concurrency=1)))) == 20
    assert len(source.requests("token")) > 5


def test_12_401_bodies_that_are_html_and_invalid_scope_with_401(
    source: MisbehavingSource, pulling: Pulling, waits
) -> None:
    """SMART bulk-data-server and smart-launcher."""
    source.faults["token"] = [Fault(401, {"Content-Type": "text/html"}, b"<html>no</html>")]
    with pytest.raises(SourceAuthError, match=r"401 without an OAuth error \(text/html\)"):
        pulling()
    source.faults["token"] = [Fault(401, {}, b'{"error":"invalid_scope"}')]
    with pytest.raises(SourceAuthError, match=r"invalid_scope.*asked for scope: system/\*.rs"):
        pulling()


def test_13_deletions_as_bundles_and_a_since_in_the_future(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server: ``deleted[]`` of transaction Bundles; 400 when clocks differ."""
    gone = [
        {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": {"method": "DELETE", "url": url}}]}
        for url in ("Patient/p7", f"{source.base}/Observation/o-1", "Patient/p8")
    ]
    source.deleted_files = {"gone-1": gone}
    outcome = pulling()
    assert outcome.deletions == {"Patient": ("p7", "p8"), "Observation": ("o-1",)}
    source.future_since = True
    with pytest.raises(SourceError, match=r"400 \(value\)"):
        pulling(since="2099-01-01T00:00:00Z")


def test_14_partial_manifests_pages_and_header_lines(
    source: MisbehavingSource, pulling: Pulling, tmp_path: Path
) -> None:
    """SMART bulk-data-server: 202 with a body, ``link.next`` pages, Parameters lines that are no resources."""
    source.early_manifest, source.manifest_pages, source.polls_before_done = True, 2, 3
    assert len(lines(pulling())) == 5
    source.organized_by = "Patient"
    header = {"resourceType": "Parameters", "parameter": [{"name": "header", "valueReference": {"reference": "x"}}]}
    source.files = {"Patient-1": [header, *patients(2), header, *patients(1, 2)]}
    source.early_manifest, source.manifest_pages = False, 1
    outcome = pulling(pull_id="two", folder=tmp_path / "two")
    assert len(lines(outcome)) == 3
    assert [file.expected_count for file in outcome.staged.files] == [None]


def test_15_unknown_types_in_scopes_and_grants_without_scope(
    source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint
) -> None:
    """SMART bulk-data-server fails on one unknown type; oidc-provider drops scopes and may not say so."""
    source.known_scopes = {"system/Patient.rs", "system/Observation.rs"}
    source.scopes_supported = sorted(source.known_scopes)
    assert pulling(types=("Patient", "Vision")).complete
    source.granted_scope = None
    assert pulling(types=("Patient",)).complete
    source.granted_scope = "system/Patient.rs"
    said = [issue.message for issue in pulling().issues]
    assert any("granted system/Patient.rs" in text for text in said)


def test_16_a_system_export_wants_the_wildcard(source: MisbehavingSource, pulling: Pulling) -> None:
    """sekmet-fhir: 403 with per-type scopes even where ``_type`` is covered: the wildcard is asked for when listed."""
    source.scopes_supported = ["system/Patient.read", "system/*.read", "system/Observation.read"]
    source.capabilities = ["permission-v1"]
    pulling(types=("Patient",))
    assert b"scope=system%2F%2A.read" in source.requests("token")[0].body
    both = SmartConfiguration.parse({"scopes_supported": source.scopes_supported, "capabilities": []}, source.base)
    assert both.read_scope(("Patient",)) == "system/*.read"


def test_16_a_key_set_of_one_kind_for_servers_that_mind_others(tmp_path: Path) -> None:
    """sekmet-fhir: a JWK Set that mixes RSA and EC keys gives 500 for RS384: each endpoint's keys have their own."""
    gateway = Gateway(Settings(data_dir=tmp_path))
    for name, algorithm in (("one", "RS384"), ("other", "ES384")):
        gateway.endpoints.add(Endpoint(name, "https://ehr.example/fhir", client_id="us"), algorithm)

    for name, kinds in (("one", ["RSA"]), ("other", ["EC"]), (None, ["EC", "RSA"])):
        assert sorted(key["kty"] for key in gateway.endpoints.public_jwks(name)["keys"]) == kinds


def test_17_assertions_live_under_five_minutes_and_are_never_reused(
    source: MisbehavingSource, pulling: Pulling
) -> None:
    """sekmet-fhir and oidc-provider refuse reuse; the misbehaving source refuses both."""
    source.faults["token"] = [Fault(503), Fault(502)]
    source.token_uses = 2
    assert pulling().complete
    assert len(source.jtis) == len(set(source.jtis)) > 1


def test_18_entries_fewer_than_total_and_no_next_link(
    source: MisbehavingSource, pulling: Pulling, quick: VendorProfile
) -> None:
    """fhir-router and deqm-test-server: asked again on one page, then by ``_lastUpdated``; else said to be lost."""
    source.hide_next, source.page_cap, source.key_paging = True, 2, True
    stamps = [datetime.fromtimestamp(1e9 + n).astimezone().isoformat() for n in range(5)]
    source.files = {"Patient-1": [{**one, "meta": {"lastUpdated": stamps[n]}} for n, one in enumerate(patients(5))]}
    outcome = pulling(mode="search", types=("Patient",))
    assert len(lines(outcome)) == 5
    assert outcome.lost == 0


def test_18_what_no_way_brings_is_a_loss(source: MisbehavingSource, pulling: Pulling) -> None:
    source.hide_next, source.page_cap = True, 2
    assert pulling(mode="search", types=("Patient",)).lost == 3


def test_19_outcome_entries_and_repeated_entries_are_not_stored(source: MisbehavingSource, pulling: Pulling) -> None:
    """sekmet-fhir adds an outcome entry; offset paging under inserts repeats entries."""
    source.extra_entries = [
        {"search": {"mode": "outcome"}, "resource": {"resourceType": "OperationOutcome", "id": "o"}},
        {"search": {"mode": "match"}, "resource": patients(1)[0]},
    ]
    outcome = pulling(mode="search", types=("Patient",))
    assert len(lines(outcome)) == len(set(lines(outcome))) == 5


@pytest.mark.parametrize("empty", [False, True])
def test_19_a_server_that_finds_nothing_by_a_parameter_it_does_not_know(
    source: MisbehavingSource, pulling: Pulling, empty: bool
) -> None:
    """fhir-router: an incremental search would show no change for ever, so everything is asked for, and said to be."""
    source.dates = "nothing"
    source.files = {} if empty else source.files
    outcome = pulling(mode="search", types=("Observation", "Patient"), since="2025-01-01T00:00:00Z")
    assert outcome.complete
    assert len(lines(outcome)) == (0 if empty else 5)
    said = [issue.message for issue in outcome.issues if "_lastUpdated" in issue.message]
    assert len(said) == (0 if empty else 1)


def test_20_a_capability_statement_that_lists_less_than_there_is(source: MisbehavingSource, pulling: Pulling) -> None:
    """bulk-export-server lists Group and Patient: an export is not narrowed to the types that are listed."""
    source.files["Encounter-1"] = [{"resourceType": "Encounter", "id": "e1"}]
    assert len(lines(pulling())) == 6
    assert "_type" not in source.requests("kickoff")[0].query


def test_21_payers_with_basic_authentication(
    source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint, waits
) -> None:
    """BCDA: ``expires_in`` is a string, the token endpoint answers 429, expired jobs are 410."""
    source.client_secret, source.expires_in = "s3cret", "1200"
    source.faults["token"] = [Fault(429, {"Retry-After": "17"})]
    basic = replace(endpoint, auth="client-secret", scopes="none")
    state = ExportState(f"{source.base.removesuffix('/fhir')}/jobs/expired")
    source.faults["poll"] = [Fault(410)]
    outcome = pulling(endpoint=basic, key=ClientSecret("s3cret"), resume=state)
    assert len(lines(outcome)) == 5
    assert 17 in waits.asked
    token = source.requests("token")[-1]
    assert token.body == b"grant_type=client_credentials"
    assert len(source.requests("token")) == 2


def test_22_a_broken_download_starts_over(source: MisbehavingSource, pulling: Pulling) -> None:
    """SMART bulk-data-server ignores Range: none is sent, and no half of one answer is joined to another."""
    source.files = {"Patient-1": patients(500)}
    source.faults["file"] = [Fault(truncate=True), Fault(truncate=True)]
    outcome = pulling()
    assert len(lines(outcome)) == 500
    assert not any("range" in one.headers for one in source.requests("file"))


def test_every_quirk_has_its_test() -> None:
    numbers = {name.split("_")[1] for name in globals() if name.startswith("test_") and name.split("_")[1].isdigit()}
    assert numbers == {f"{number:02d}" for number in range(1, 23)}
