"""The work of an export without HTTP, on both databases: rows, files, parts that are not done twice, what is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import EVERYONE, Audience, label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.exports.models import Wanted
from fhir_gateway.jobs.requests import Answer, RequestLog, carry_out
from fhir_gateway.measures.reports import summary
from tests.support.databases import KINDS, control_plane
from tests.support.measures import NAMES, REPORTER, result_of


class Stopped(BaseException):
    """What a worker raises that leaves."""


@pytest.fixture(params=KINDS)
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    with control_plane(request.param, tmp_path) as engine:
        made = Gateway(Settings(data_dir=tmp_path / "data", export_file_resources=3))
        made.__dict__["engine"] = engine
        results = [result_of(name) for name in NAMES[:2]]
        members = sorted({member for result in results for member in result.members.to_pylist()})
        resources: list[dict[str, Any]] = [{"resourceType": "Patient", "id": member} for member in members]
        for member in members:
            about = {"beneficiary": {"reference": f"Patient/{member}"}, "status": "active"}
            resources.append({"resourceType": "Coverage", "id": f"c-{member}", **about})
        entries = [{"entity": {"reference": f"Patient/{member}"}} for member in members[:2]]
        group = {"resourceType": "Group", "id": "list", "type": "person", "actual": True, "member": entries}
        resources.append(labelled(group, label("contract", "c")))
        for result in results:
            made.results.save(result)
            resources.append(summary(result, REPORTER))
        made.resources.put_many(resources)
        yield made


def exported(gateway: Gateway, wanted: Wanted, audience: Audience = EVERYONE) -> dict[str, list[str]]:
    """Ids by type of an export that ended well."""
    log = RequestLog(gateway)
    asked = log.accept("them", "export", wanted.payload(), "http://here/", audience)
    assert carry_out(gateway, asked.id, lambda: None) == "done"
    return ids(log.folder(asked.id))


def ids(folder: Path) -> dict[str, list[str]]:
    answer = Answer.read(folder)
    found: dict[str, list[str]] = {}
    for one in answer.output:
        rows = [orjson.loads(line) for line in (folder / one.name).read_bytes().splitlines()]
        assert len(rows) == one.count <= 3
        found.setdefault(one.type, []).extend(row["id"] for row in rows)
    assert all(len(some) == len(set(some)) for some in found.values())
    return found


def test_levels_and_audiences(gateway: Gateway) -> None:
    types = ("Coverage", "Group", "MeasureReport", "Organization", "Patient", "Provenance")
    everything = exported(gateway, Wanted("system", types))
    people = everything["Patient"]
    assert sorted(everything["Coverage"]) == [f"c-{one}" for one in sorted(people)]
    for level, audience in (("group", EVERYONE), ("system", Audience.of(["contract:c"]))):
        group = "list" if level == "group" else None
        found = exported(gateway, Wanted(level, types, group), audience)  # type: ignore[arg-type]
        assert (found["Group"], sorted(found["Patient"])) == (["list"], sorted(people)[:2])
        assert {one.partition("-")[2] for one in found["MeasureReport"]} <= set(people[:2])
        assert found["MeasureReport"]
    assert exported(gateway, Wanted("group", types, "list"), Audience.of(["contract:other"])) == {}
    some = exported(gateway, Wanted("patient", types, patients=(people[0], people[3])))
    assert (sorted(some["Patient"]), len(some["Coverage"])) == (sorted([people[0], people[3]]), 2)
    one = Wanted("patient", ("Patient",), filters={"Patient": ((("_id", people[1]),), (("_id", people[2]),))})
    assert sorted(exported(gateway, one)["Patient"]) == sorted(people[1:3])


def test_parts_that_are_done_are_not_done_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RequestLog(gateway)
    wanted = Wanted("system", ("MeasureReport", "Patient"))
    expected = exported(gateway, wanted)
    asked = log.accept("them", "export", wanted.payload(), "http://here/")
    folder = log.folder(asked.id)

    def leave() -> None:
        if (folder / "part-0.json").exists():
            raise Stopped

    with pytest.raises(Stopped):
        carry_out(gateway, asked.id, leave)
    assert log.get(asked.id).state == "running"
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    gateway.resources.put({"resourceType": "Patient", "id": "later"})  # after the moment
    assert carry_out(gateway, asked.id, lambda: None) == "done"
    assert ids(folder) == expected
    kept = {name for name, time in first.items() if (folder / name).stat().st_mtime_ns == time}
    assert {"plan.json", "part-0.json", "Patient.0.1.ndjson", "MeasureReport.1.1.ndjson"} <= kept
    assert carry_out(gateway, asked.id, lambda: None) == "done"  # a job that comes twice does nothing


def test_a_run_that_went_missing_is_told(gateway: Gateway) -> None:
    log = RequestLog(gateway)
    asked = log.accept("them", "export", Wanted("patient", ("MeasureReport",)).payload(), "http://here/")
    folder = log.folder(asked.id)

    def leave() -> None:
        if (folder / "part-0.json").exists():
            raise Stopped

    with pytest.raises(Stopped):
        carry_out(gateway, asked.id, leave)
    for run in gateway.results.runs():
        gateway.results.delete(run)
    assert carry_out(gateway, asked.id, lambda: None) == "done"
    (problem,) = Answer.read(folder).error
    issue = orjson.loads((folder / problem.name).read_bytes())["issue"][0]
    assert (issue["severity"], issue["code"]) == ("error", "incomplete")


def test_a_request_that_is_deleted_while_it_runs_leaves_nothing(gateway: Gateway) -> None:
    log = RequestLog(gateway)
    asked = log.accept("them", "export", Wanted("system", ("Patient",)).payload(), "http://here/")
    assert log.change(asked.id, state="running")
    assert log.change(asked.id, state="cancelled")
    assert carry_out(gateway, asked.id, lambda: None) is None
    assert not log.folder(asked.id).exists()
