"""Outreach as a story: reasons, who may not be called, one row per person, and the loop that the next data closes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import Audience
from fhir_gateway.errors import ConflictError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.outreach import block_file, listed, refresh
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.outreach.forms import as_csv, communication_request, safe_cell, tasks
from fhir_gateway.outreach.models import ITEMS

NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)
DAY = date(2025, 6, 30)


def person(name: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": name,
        "birthDate": "1950-01-01",
        "name": [{"family": f"Family-{name}"}],
    } | more


def encounter(name: str, kind: str, start: str, end: str) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": f"{name}-{kind}-{start}",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": kind},
        "subject": {"reference": f"Patient/{name}"},
        "period": {"start": f"{start}T10:00:00Z", "end": f"{end}T11:00:00Z"},
    }


def consent(name: str, **provision: Any) -> dict[str, Any]:
    return {
        "resourceType": "Consent",
        "id": f"consent-{name}",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{name}"},
        "policyRule": {"coding": [{"code": "x"}]},
        "provision": {"type": "deny", **provision},
    }


#: seen: lately in the office; lost: never; left: discharged; back: discharged and in hospital again; er: emergency.
RESOURCES = [
    *(person(name) for name in ("seen", "left", "er", "refused", "otherwise", "blocked")),
    person(
        "lost",
        telecom=[
            {"system": "phone", "value": "+1 555 0101", "use": "home"},
            {"system": "phone", "value": "+1 555 0102", "use": "mobile"},
            {"system": "phone", "value": "+1 555 0103", "use": "old", "rank": 1},
            {"system": "email", "value": "=cmd@example.org"},
        ],
        communication=[
            {"language": {"coding": [{"code": "en"}]}},
            {"language": {"coding": [{"code": "es"}]}, "preferred": True},
        ],
    ),
    person("dead", deceasedDateTime="2025-01-01"),
    encounter("seen", "AMB", "2025-05-01", "2025-05-01"),
    encounter("left", "AMB", "2025-05-01", "2025-05-01"),
    encounter("left", "IMP", "2025-06-10", "2025-06-14"),
    encounter("er", "AMB", "2024-01-01", "2024-01-01"),
    encounter("er", "EMER", "2025-06-20", "2025-06-20"),
    consent("refused"),
    consent("otherwise", purpose=[{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HRESCH"}]),
]


def staged(path: Path, resources: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, resources)))
    return path


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=2))
    pull_files(gateway, [staged(tmp_path / "first.ndjson", RESOURCES)], "ehr")
    yield gateway
    gateway.engine.dispose()


def people(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Rows by the name of the source's patient."""
    return {str(row["family"]).removeprefix("Family-"): row for row in listed(gateway, now=NOW)}


def reasons(row: dict[str, Any]) -> list[str]:
    return [one["reason"] for one in row["reasons"]]


def test_who_is_called_for_what(gateway: Gateway) -> None:
    block_file(gateway, f"person\n{people_id(gateway, 'blocked')}\nnobody\n", "test")
    report = refresh(gateway, DAY, now=NOW)
    assert report.reasons == {"follow-up-discharge": 1, "follow-up-emergency": 1, "missed-visit": 3}
    assert report.excluded == {"consent": 1, "deceased": 1, "do-not-contact": 1}
    rows = people(gateway)
    assert {name: reasons(row) for name, row in rows.items()} == {
        "left": ["follow-up-discharge"],
        "er": ["follow-up-emergency", "missed-visit"],
        "lost": ["missed-visit"],
        "otherwise": ["missed-visit"],
    }
    assert [(name, row["rank"], row["priority"]) for name, row in rows.items()][:2] == [
        ("left", 50, "asap"), ("er", 40, "asap")
    ]  # fmt: skip
    assert (rows["lost"]["phone"], rows["lost"]["language"]) == ("+1 555 0102", "es")


def people_id(gateway: Gateway, name: str) -> str:
    found = gateway.resources.search("Patient", [("family", f"Family-{name}")]).resources
    return found[0].id


def test_the_same_data_again_changes_nothing(gateway: Gateway) -> None:
    assert refresh(gateway, DAY, now=NOW).changes == {"open": 6}
    before = gateway.outreach.items()
    assert refresh(gateway, DAY, now=NOW).changes == {}
    assert gateway.outreach.items().sort_by("id") == before.sort_by("id")
    served = gateway.resources.search("CommunicationRequest", []).resources
    assert {one.version for one in served} == {1}


def test_the_next_data_closes_what_happened(gateway: Gateway, tmp_path: Path) -> None:
    refresh(gateway, DAY, now=NOW)
    [item] = [one["item"] for one in people(gateway)["left"]["reasons"]]
    gateway.outreach.mark(item, "contacted", "nurse", NOW, "will come")
    pull_files(
        gateway, [staged(tmp_path / "next.ndjson", [encounter("left", "AMB", "2025-06-28", "2025-06-28")])], "ehr"
    )
    assert refresh(gateway, DAY, now=NOW).changes == {"done": 1}
    assert [(one.by, one.former, one.state) for one in gateway.outreach.history(item)] == [
        ("data", None, "open"), ("nurse", "open", "contacted"), ("data", "contacted", "done")
    ]  # fmt: skip
    served = gateway.resources.search("CommunicationRequest", [("status", "completed")]).resources
    assert len(served) == 1


def test_too_late_is_expired_and_a_refusal_withdraws(gateway: Gateway, tmp_path: Path) -> None:
    refresh(gateway, DAY, now=NOW)
    pull_files(gateway, [staged(tmp_path / "next.ndjson", [consent("lost")])], "ehr")
    later = datetime(2025, 8, 30, 12, tzinfo=UTC)
    assert "lost" not in people(gateway)  # respected before the next refresh too
    changes = refresh(gateway, later.date(), now=later).changes
    assert changes == {"expired": 2, "withdrawn": 1}


def test_states_go_where_people_may_take_them(gateway: Gateway) -> None:
    refresh(gateway, DAY, now=NOW)
    item = people(gateway)["lost"]["reasons"][0]["item"]
    gateway.outreach.mark(item, "declined", "nurse", NOW)
    assert "lost" not in people(gateway)
    assert refresh(gateway, DAY, now=NOW).changes == {}
    with pytest.raises(ConflictError):
        gateway.outreach.mark(item, "contacted", "nurse", NOW)
    with pytest.raises(NotFoundError):
        gateway.outreach.mark("nothing", "open", "nurse", NOW)
    with pytest.raises(InputError):
        gateway.outreach.mark(item, "open", "nurse", NOW, "two\nlines")


def test_what_was_not_looked_at_stays(gateway: Gateway) -> None:
    refresh(gateway, DAY, now=NOW)
    none = ITEMS.empty_table()
    barred = pa.table({"member": pa.array([], pa.string()), "why": pa.array([], pa.string())})
    assert gateway.outreach.refresh(none, barred, ["care-gap x"], DAY, NOW) == {}
    assert gateway.outreach.refresh(none, barred, ["visits"], DAY, NOW) == {"done": 6}


def test_a_limited_audience_has_its_own_list(gateway: Gateway) -> None:
    refresh(gateway, DAY, now=NOW)
    assert listed(gateway, Audience.of(["contract:other"]), NOW) == []


def test_no_cell_of_the_csv_is_a_formula(gateway: Gateway) -> None:
    refresh(gateway, DAY, now=NOW)
    rows = list(csv.DictReader(io.StringIO(as_csv(listed(gateway, now=NOW)))))
    [lost] = [row for row in rows if row["family"] == "Family-lost"]
    assert (lost["email"], lost["phone"]) == ("'=cmd@example.org", "+1 555 0102")
    for text in ("=1+1", "@SUM(A1)", "+1+cmd", "-2+3", "\tx", "\rx"):
        assert safe_cell(text).startswith("'")
    assert safe_cell("O'Neil") == "O'Neil"


def test_fhir_forms_are_valid(gateway: Gateway) -> None:
    refresh(gateway, DAY, now=NOW)
    row = people(gateway)["er"]
    made = [communication_request(row, NOW), *tasks(row, NOW)]
    assert [one["resourceType"] for one in made] == ["CommunicationRequest", "Task", "Task"]
    assert made[1]["restriction"] == {"period": {"end": "2025-07-20"}}
    for one in made:
        assert gateway.validator.validate(one).valid
