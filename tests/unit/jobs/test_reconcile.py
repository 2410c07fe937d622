"""From when on a pull asks, and what becomes of rows that a full pull no longer brings."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.jobs.since import BLIND_SPOTS, LAST, moment
from fhir_gateway.sources.endpoint import Endpoint
from tests.support.misbehaving import MisbehavingSource, patients, running


@pytest.fixture
def source() -> Iterator[MisbehavingSource]:
    app = MisbehavingSource()
    app.open = True
    app.files = {"Patient-1": patients(20)}
    with running(app) as root:
        app.base = f"{root}/fhir"
        yield app


def gateway_of(folder: Path, source: MisbehavingSource, **settings: object) -> Gateway:
    gateway = Gateway(Settings(data_dir=folder / "data", **settings))
    gateway.endpoints.add(Endpoint("ehr", source.base, auth="none"))
    return gateway


@pytest.fixture
def gateway(tmp_path: Path, source: MisbehavingSource) -> Gateway:
    return gateway_of(tmp_path, source)


def stored(gateway: Gateway, kind: str = "Patient") -> list[str]:
    return sorted(gateway.lake.read(kind)["id"].to_pylist())


def condition(number: int) -> dict[str, object]:
    return {
        "resourceType": "Condition",
        "id": f"c{number}",
        "subject": {"reference": f"Patient/p{number}"},
        "code": {"text": "hypertension"},
    }


def test_an_incremental_pull_asks_from_the_watermark_less_the_overlap(
    gateway: Gateway, source: MisbehavingSource
) -> None:
    full = pull_endpoint(gateway, "ehr")
    assert full.notes == ()
    source.files = {"Patient-1": patients(1)}
    delta = pull_endpoint(gateway, "ehr", since=LAST)
    # the server's transaction time is 2025-06-01T00:00:00Z
    assert source.requests("kickoff")[-1].query["_since"] == ["2025-05-31T23:50:00+00:00"]
    (note,) = delta.notes
    assert all(spot in note for spot in BLIND_SPOTS)
    assert len(stored(gateway)) == 20
    assert sum(entry.rows_unchanged for entry in delta.ledger.entries) == 1


def test_an_incremental_pull_is_full_where_a_type_was_never_pulled(gateway: Gateway) -> None:
    pull_endpoint(gateway, "ehr", types=("Patient",))
    assert moment(gateway, "ehr", {"since": LAST, "types": ["Patient"]}).moment is not None
    for request in ({"types": ["Patient", "Condition"]}, {"types": []}, {"types": ["Patient"], "group": "g"}):
        asked = moment(gateway, "ehr", {"since": LAST, **request})
        assert asked.moment is None
        assert "no complete one" in asked.notes[0]


def test_every_so_many_days_everything_is_pulled_again(gateway: Gateway, source: MisbehavingSource) -> None:
    with time_machine.travel("2025-06-01T12:00:00+00:00"):
        pull_endpoint(gateway, "ehr")
    with time_machine.travel("2025-06-30T12:00:00+00:00"):
        assert moment(gateway, "ehr", {"since": LAST, "types": []}).moment is not None
        pull_endpoint(gateway, "ehr", since=LAST)  # is no full one
    with time_machine.travel("2025-07-01T13:00:00+00:00"):
        report = pull_endpoint(gateway, "ehr", since=LAST)
    assert "more than 30 days ago" in report.notes[0]
    assert "_since" not in source.requests("kickoff")[-1].query


def test_a_pull_that_lost_something_moves_no_watermark(gateway: Gateway, source: MisbehavingSource) -> None:
    issue = {"severity": "error", "code": "exception"}
    source.error_files = {"errors-1": [{"resourceType": "OperationOutcome", "issue": [issue]}]}
    report = pull_endpoint(gateway, "ehr")
    assert not report.complete
    assert gateway.pulls.watermark("ehr", {"types": []}) is None


def test_rows_that_a_full_pull_no_longer_brings_are_told(gateway: Gateway, source: MisbehavingSource) -> None:
    pull_endpoint(gateway, "ehr")
    source.files = {"Patient-1": patients(18)}
    report = pull_endpoint(gateway, "ehr")
    assert report.notes == (
        "2 of 20 rows of Patient were not in this full pull: kept; the setting missing_rows can have them deleted",
    )
    assert len(stored(gateway)) == 20


def test_rows_that_a_full_pull_no_longer_brings_are_deleted_by_setting(
    tmp_path: Path, source: MisbehavingSource
) -> None:
    gateway = gateway_of(tmp_path, source, missing_rows="delete")
    pull_endpoint(gateway, "ehr")
    refused = {**patients(1, 17)[0], "gender": "none of the four"}
    source.files = {"Patient-1": [*patients(17), refused]}
    report = pull_endpoint(gateway, "ehr")
    assert stored(gateway) == sorted(f"p{n}" for n in range(18))  # the refused one is not gone
    assert [entry.rows_deleted for entry in report.ledger.entries] == [2]
    assert gateway.resources.counts()["Patient"] == 18
    again = pull_endpoint(gateway, "ehr")
    assert again.notes == ()


def test_an_export_that_broke_off_is_no_deletion(tmp_path: Path, source: MisbehavingSource) -> None:
    gateway = gateway_of(tmp_path, source, missing_rows="delete")
    pull_endpoint(gateway, "ehr")
    source.files = {"Patient-1": patients(15)}
    report = pull_endpoint(gateway, "ehr")
    assert "too many to be believed" in report.notes[0]
    assert len(stored(gateway)) == 20
    source.files = {}
    pull_endpoint(gateway, "ehr")
    assert len(stored(gateway)) == 20


def test_pulls_of_a_part_are_not_compared(tmp_path: Path, source: MisbehavingSource) -> None:
    gateway = gateway_of(tmp_path, source, missing_rows="delete")
    pull_endpoint(gateway, "ehr")
    source.files = {"Patient-1": patients(18)}
    for narrowed in ({"type_filters": ("Patient?active=true",)}, {"since": "2025-01-01T00:00:00Z"}):
        pull_endpoint(gateway, "ehr", **narrowed)  # type: ignore[arg-type]
    assert len(stored(gateway)) == 20


def test_a_groups_pull_is_compared_for_those_whom_it_brings(tmp_path: Path, source: MisbehavingSource) -> None:
    gateway = gateway_of(tmp_path, source, missing_rows="delete")
    seen = [condition(n) for n in range(20)]
    source.files = {"Patient-1": patients(20), "Condition-1": seen}
    pull_endpoint(gateway, "ehr")
    source.files = {
        "Patient-1": patients(18),
        "Condition-1": [one for one in seen[:18] if one["id"] not in ("c3", "c7")],
    }
    report = pull_endpoint(gateway, "ehr", group="g")
    assert len(stored(gateway)) == 20  # two left the Group, and are not gone; nor is what is known of them
    assert stored(gateway, "Condition") == sorted(f"c{n}" for n in range(20) if n not in (3, 7))
    assert report.notes == ("2 of 18 rows of Condition were not in this full pull: deleted",)
    assert pull_endpoint(gateway, "ehr", group="g").notes == ()
    source.files = {"Condition-1": []}
    assert pull_endpoint(gateway, "ehr", group="g", types=("Condition",)).notes == ()  # whose is not known
    assert len(stored(gateway, "Condition")) == 18


def test_the_senders_own_deletions_are_applied(gateway: Gateway, source: MisbehavingSource) -> None:
    pull_endpoint(gateway, "ehr")
    request = {"method": "DELETE", "url": "Patient/p3"}
    source.files = {}
    source.deleted_files = {
        "deleted-1": [{"resourceType": "Bundle", "type": "transaction", "entry": [{"request": request}]}]
    }
    report = pull_endpoint(gateway, "ehr", since=LAST)
    assert "p3" not in stored(gateway)
    assert [entry.rows_deleted for entry in report.ledger.entries] == [1]


def test_packed_files_are_looked_into(tmp_path: Path) -> None:
    from fhir_gateway.jobs.reconcile import _ids
    from fhir_gateway.sources.models import StagedFile

    path = tmp_path / "Patient.ndjson"
    lines = (
        b'{"resourceType":"Patient","id":"a"}\nnot json\n'
        b'{"resourceType":"Group","id":"g"}\n{"resourceType":"Patient","id":"b"}\n'
    )
    for content in (lines, gzip.compress(lines)):
        path.write_bytes(content)
        assert sorted(_ids(StagedFile(path, "Patient"), "Patient").to_pylist()) == ["a", "b"]
