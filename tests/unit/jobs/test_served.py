"""Only what changed is served anew, and nothing that changed is missed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import publish as publishing
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.served import RENDERING

Resource = dict[str, Any]


def member_number(number: str) -> Resource:
    """An identifier by which persons of several sources are known to be one."""
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MB"}]}
    return {"system": "https://payer.example/member", "value": f"M10{number}", "type": kind}


def patient(id: str, number: str, **more: Any) -> Resource:
    return {
        "resourceType": "Patient",
        "id": id,
        "identifier": [member_number(number)],
        "gender": "female",
        "birthDate": "1950-01-01",
        **more,
    }


def coverage(id: str, of: str, subscriber: str) -> Resource:
    return {
        "resourceType": "Coverage",
        "id": id,
        "status": "active",
        "beneficiary": {"reference": f"Patient/{of}"},
        "subscriber": {"reference": subscriber},
        "payor": [{"reference": "Organization/o"}],
    }


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the resources that are rendered."""
    seen: list[str] = []
    rewrite = publishing.References.rewrite

    def watched(self: publishing.References, source: str, raw: str) -> Any:
        resource = rewrite(self, source, raw)
        seen.append(resource["id"])
        return resource

    monkeypatch.setattr(publishing.References, "rewrite", watched)
    return seen


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=1))


def take_in(gateway: Gateway, folder: Path, source: str, *resources: Resource) -> dict[str, int]:
    path = folder / f"{source}.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in resources))
    return dict(pull_files(gateway, [path], source).published)


def served(gateway: Gateway, kind: str) -> dict[str, Resource]:
    found = gateway.resources.search(kind, count=100).resources
    return {one["id"]: one for one in (json.loads(stored.body) for stored in found)}


def everything_anew(gateway: Gateway) -> dict[str, int]:
    """What publishing without knowing what was served would change: nothing, if nothing was missed."""
    publishing.write_present(gateway.engine, 0, publishing.read_former(gateway.engine)[:0])
    return {kind: count for kind, count in publishing.publish(gateway).counts.items() if count}


def test_what_is_as_it_was_is_not_rendered(gateway: Gateway, tmp_path: Path, rendered: list[str]) -> None:
    people: Iterable[Resource] = [patient(f"p{n}", f"m{n}") for n in range(5)]
    clinic = {"resourceType": "Organization", "id": "o", "name": "Clinic"}
    take_in(gateway, tmp_path, "ehr", *people, clinic)
    assert len(rendered) == 6
    rendered.clear()
    changed = patient("p3", "m3", active=True, meta={"lastUpdated": "2025-01-01T00:00:00Z"})
    assert take_in(gateway, tmp_path, "ehr", changed)["Patient"] == 1
    assert rendered == ["p3"]
    assert everything_anew(gateway) == {}


def test_texts_are_read_of_what_changed_only(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_in(gateway, tmp_path, "ehr", *(patient(f"p{n}", f"m{n}") for n in range(20)))
    read: list[int] = []

    def watch(name: str) -> None:
        whole = getattr(type(gateway.lake), name)

        def watched(*given: Any, **named: Any) -> Any:
            rows = whole(*given, **named)
            if "_raw" in rows.column_names and rows.num_rows:
                read.append(rows.num_rows)
            return rows

        monkeypatch.setattr(type(gateway.lake), name, watched)

    watch("read")
    watch("texts")
    changed = patient("p3", "m3", active=True, meta={"lastUpdated": "2025-01-01T00:00:00Z"})
    take_in(gateway, tmp_path, "ehr", changed)
    assert read == [1]
    take_in(gateway, tmp_path, "ehr", changed, patient("p4", "m4"))
    assert read == [1]


def test_a_person_who_becomes_another_takes_references_along(
    gateway: Gateway, tmp_path: Path, rendered: list[str]
) -> None:
    take_in(gateway, tmp_path, "ehr", patient("a", "1"), patient("b", "2"))
    take_in(
        gateway, tmp_path, "payer", patient("x", "9"), coverage("c", "x", "Patient/y"), coverage("d", "x", "Patient/x")
    )
    before = served(gateway, "Coverage")[published_id("payer", "c")]["subscriber"]["reference"]
    rendered.clear()
    # the subscriber, until now only referred to, arrives and is the person whom the other source calls b
    take_in(gateway, tmp_path, "payer", patient("y", "2"))
    after = served(gateway, "Coverage")[published_id("payer", "c")]["subscriber"]["reference"]
    assert after != before
    assert after.removeprefix("Patient/") in served(gateway, "Patient")
    assert "d" not in rendered
    assert everything_anew(gateway) == {}


def test_what_an_address_leads_to_by_now(gateway: Gateway, tmp_path: Path) -> None:
    address = "https://payer.example/fhir/Patient/y"
    take_in(gateway, tmp_path, "payer", patient("x", "9"), coverage("c", "x", address))
    assert served(gateway, "Coverage")[published_id("payer", "c")]["subscriber"]["reference"] == address
    take_in(gateway, tmp_path, "payer", patient("y", "2"))
    reference = served(gateway, "Coverage")[published_id("payer", "c")]["subscriber"]["reference"]
    assert reference.removeprefix("Patient/") in served(gateway, "Patient")
    assert everything_anew(gateway) == {}


def test_merged_persons_and_deleted_rows_are_served_no_more(gateway: Gateway, tmp_path: Path) -> None:
    clinic = {"resourceType": "Organization", "id": "o", "name": "Clinic"}
    take_in(gateway, tmp_path, "ehr", patient("a", "1"), patient("b", "2"), clinic)
    assert len(served(gateway, "Patient")) == 2
    both = patient("c", "1")
    both["identifier"].append(member_number("2"))
    take_in(gateway, tmp_path, "ehr", both)
    assert len(served(gateway, "Patient")) == len(gateway.lake.members()) == 1
    assert everything_anew(gateway) == {}
    from fhir_gateway.sources.files import stage_files

    path = tmp_path / "last.ndjson"
    path.write_text(json.dumps(patient("z", "7")) + "\n")
    staged = stage_files([path], "ehr", tmp_path / "staged")
    gateway.lake.commit(staged, gateway.persons, None, {"Organization": ["o"], "Patient": ["a"]})
    publishing.publish(gateway)
    assert set(served(gateway, "Organization")) == {publishing.REPORTER}
    assert set(served(gateway, "Patient")) == set(gateway.lake.members().to_pylist())


def test_another_rendering_serves_everything_anew(
    gateway: Gateway, tmp_path: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(gateway, tmp_path, "ehr", patient("a", "1"))
    rendered.clear()
    publishing.publish(gateway)
    assert rendered == []
    monkeypatch.setattr("fhir_gateway.jobs.served.RENDERING", RENDERING + 1)
    publishing.publish(gateway)
    assert rendered == ["a"]


def test_what_is_compared_in_parts_is_what_is_compared_at_once(
    gateway: Gateway, tmp_path: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_gateway.jobs.served._COMPARED", 3)
    people = [patient(f"p{n}", f"m{n}") for n in range(9)]
    take_in(gateway, tmp_path, "ehr", *people)
    assert len(rendered) == 9
    rendered.clear()
    coverages = [coverage(f"c{n}", f"q{n}", f"Patient/q{n}") for n in range(5)]
    take_in(gateway, tmp_path, "payer", *(patient(f"q{n}", f"m{n}") for n in range(5)), *coverages)
    assert sorted(rendered) == sorted([*(f"p{n}" for n in range(5)), *(f"c{n}" for n in range(5))])
    assert len(served(gateway, "Patient")) == 9
    assert everything_anew(gateway) == {}
