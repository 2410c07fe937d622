"""The store of results: what is saved comes back, once."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures import ResultStore, reports, run_id
from tests.support.measures import NAMES, REPORTER, result_of


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_run_comes_back(tmp_path: Path, name: str) -> None:
    result = dataclasses.replace(result_of(name), failed={"x": "reason"}, notes=("note",), lake_version=3)
    store = ResultStore(tmp_path / "runs")
    run = store.save(result)
    assert store.runs() == (run,) == (run_id(result),)
    loaded = store.load(run)
    assert loaded.seconds == result.seconds
    assert loaded.members.equals(result.members)
    assert json.dumps(reports.summary(loaded, REPORTER)) == json.dumps(reports.summary(result, REPORTER))
    for index in range(len(result.members)):
        if reports.in_initial_population(result, index):
            assert reports.individual(loaded, index, REPORTER) == reports.individual(result, index, REPORTER)
    for ours, theirs in zip(loaded.groups[0].populations, result.groups[0].populations, strict=True):
        assert ours.raw.tolist() == theirs.raw.tolist()


def test_a_zone_is_kept_as_its_offset(tmp_path: Path) -> None:
    result = result_of(NAMES[0], datetime(2027, 2, 1, 8, tzinfo=ZoneInfo("America/New_York")))
    store = ResultStore(tmp_path)
    loaded = store.load(store.save(result))
    assert loaded.evaluated_at.isoformat() == "2027-02-01T08:00:00-05:00"
    assert run_id(loaded) == run_id(result)


def test_saving_twice_changes_nothing(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    run = store.save(result_of(NAMES[0]))
    (layout,) = tmp_path.iterdir()
    header = (layout / run / "header.json").read_bytes()
    assert store.save(result_of(NAMES[0])) == run
    assert (layout / run / "header.json").read_bytes() == header
    assert [path.name for path in layout.iterdir()] == [run]


def test_a_run_of_another_layout_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "m0").mkdir()
    (tmp_path / "m0" / "header.json").write_text("{}")
    assert ResultStore(tmp_path).runs() == ()


def test_half_a_run_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(tmp_path)

    def no_space(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.rename", no_space)
    with pytest.raises(OSError, match="no space"):
        store.save(result_of(NAMES[0]))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("run", ["m0", "../secret", ""])
def test_an_unknown_run_is_not_found(tmp_path: Path, run: str) -> None:
    with pytest.raises(NotFoundError):
        ResultStore(tmp_path / "none").load(run)


def test_a_run_can_be_deleted(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    run = store.save(result_of(NAMES[0]))
    store.delete(run)
    store.delete(run)
    assert store.runs() == ()


def test_what_a_killed_process_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.save(result_of(NAMES[0]))
    (layout,) = tmp_path.iterdir()
    for name, age in ((".saving-old", 1_000_000), (".saving-new", 0)):
        spool = layout / name / "spool"
        spool.parent.mkdir()
        spool.write_bytes(b"")
        for path in (spool, spool.parent):
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    store.save(result_of(NAMES[1]))
    assert [path.name for path in layout.glob(".saving-*")] == [".saving-new"]


def test_a_header_is_read_alone(tmp_path: Path) -> None:
    result = result_of(NAMES[0])
    store = ResultStore(tmp_path)
    run = store.save(result)
    for table in tmp_path.rglob("*.parquet"):
        table.unlink()
    header = store.header(run)
    assert (header.canonical, header.period, header.evaluated_at) == (
        result.canonical,
        result.period,
        result.evaluated_at,
    )
    with pytest.raises(NotFoundError):
        store.header("m0")
