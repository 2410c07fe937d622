"""Who is to be called for what, out of measures, coding gaps, scores and visits; and what the next data says of it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.alerts import find
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.outreach import listed, refresh
from fhir_gateway.jobs.predictions import score
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.risk_gaps import compute_gaps
from tests.support.risk_lake import ICD, claim, coverage

MEASURES = Path(__file__).parents[2] / "measures"
DIABETES = "diabetes-hba1c-poor-control"
YEAR = (date(2025, 1, 1), date(2025, 12, 31))
DAY = date(2025, 10, 15)
NOW = datetime(2025, 10, 15, 12, tzinfo=UTC)
LATER = datetime(2025, 11, 3, 12, tzinfo=UTC)
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def patient(name: str, **more: Any) -> dict[str, Any]:
    about = {"birthDate": "1958-05-05", "gender": "female", "name": [{"family": f"Family-{name}"}]}
    return {"resourceType": "Patient", "id": name} | about | more


def encounter(name: str, who: str, kind: str, start: str, end: str, **more: Any) -> dict[str, Any]:
    about = {"status": "finished", "class": {"system": ACT_CODE, "code": kind}}
    office = {"type": [{"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "99213"}]}]}
    about |= office if kind == "AMB" else {}
    period = {"start": f"{start}T09:00:00Z", "end": f"{end}T09:30:00Z"}
    subject = {"reference": f"Patient/{who}"}
    return {"resourceType": "Encounter", "id": name, "subject": subject, "period": period} | about | more


def condition(name: str, who: str, code: str, since: str = "2015-03-01") -> dict[str, Any]:
    base = "http://terminology.hl7.org/CodeSystem/condition-"
    return {
        "resourceType": "Condition",
        "id": name,
        "clinicalStatus": {"coding": [{"system": f"{base}clinical", "code": "active"}]},
        "verificationStatus": {"coding": [{"system": f"{base}ver-status", "code": "confirmed"}]},
        "code": {"coding": [{"system": ICD, "code": code}]},
        "subject": {"reference": f"Patient/{who}"},
        "onsetDateTime": since,
    }


def hba1c(name: str, who: str, day: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "4548-4"}]},
        "subject": {"reference": f"Patient/{who}"},
        "effectiveDateTime": f"{day}T08:00:00Z",
        "valueQuantity": {"value": 7.0, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"},
    }


def refusal(who: str) -> dict[str, Any]:
    scope = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
    return {
        "resourceType": "Consent",
        "id": f"consent-{who}",
        "status": "active",
        "scope": {"coding": [scope]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{who}"},
        "policyRule": {"coding": [{"code": "x"}]},
        "provision": {"type": "deny"},
    }


def diabetic(who: str, **more: Any) -> list[dict[str, Any]]:
    """Somebody seen in the office this year without HbA1c, whose diabetes only last year's claims said."""
    return [
        patient(who, **more),
        coverage(who, orec="0", crec="0", rfrnc_yr="2026"),
        condition(f"diabetes-{who}", who, "E11.9"),
        encounter(f"office-{who}", who, "AMB", "2025-04-10", "2025-04-10"),
        claim(f"claim-{who}", who, "2024-05-01", ["E11.9"]),
    ]


PHONES = [
    {"system": "phone", "value": "+1 555 0101", "use": "home", "rank": 2},
    {"system": "phone", "value": "+1 555 0102", "use": "work", "rank": 1},
    {"system": "email", "value": "ann@example.org"},
]
SPANISH = [{"language": {"coding": [{"code": "es"}]}, "preferred": True}]
FIRST = [
    *diabetic("ann", telecom=PHONES, communication=SPANISH),
    *diabetic("refuses"),
    refusal("refuses"),
    # long stay through an emergency department, sick heart and lungs: 13 by LACE
    patient("joe"),
    condition("heart", "joe", "I50.9", "2025-09-26"),
    condition("lungs", "joe", "J44.9", "2025-09-26"),
    encounter("joe-stay", "joe", "IMP", "2025-09-25", "2025-09-30",
              hospitalization={"admitSource": {"coding": [{"code": "emd"}]}}),
    encounter("joe-er", "joe", "EMER", "2025-06-01", "2025-06-01"),
    *(patient("well"), encounter("office-well", "well", "AMB", "2025-08-01", "2025-08-01")),
]  # fmt: skip


class Practice:
    """A gateway that is sent more and more, and looks at everything again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder, 0
        self.gateway = Gateway(Settings(data_dir=folder / "data", lake_buckets=2))
        for name in (DIABETES, "common"):
            shutil.copytree(MEASURES / name, folder / "data" / "measures" / name)

    def take(self, resources: list[dict[str, Any]], now: datetime) -> dict[str, int]:
        """Take in, compute what reasons come from, refresh: how many items came into which state."""
        self.sent += 1
        file = self.folder / f"sent-{self.sent}.ndjson"
        file.write_text("\n".join(map(json.dumps, resources)), encoding="utf-8")
        assert pull_files(self.gateway, [file], "ehr").quarantined == 0
        evaluate(self.gateway, [DIABETES], YEAR, now=now)
        compute_gaps(self.gateway, "V28", 2026, now=now, rate=Decimal(1))
        score(self.gateway, now.date(), now=now)
        return dict(refresh(self.gateway, now.date(), now=now).changes)

    def rows(self, now: datetime = NOW) -> dict[str, dict[str, Any]]:
        """Rows of the list by name."""
        return {str(one["family"]).removeprefix("Family-"): one for one in listed(self.gateway, now=now)}

    def kinds(self, who: str, now: datetime = NOW) -> list[str]:
        """Codes of the reasons to call somebody."""
        return sorted(one["reason"] for one in self.rows(now)[who]["reasons"])


@pytest.fixture
def practice(tmp_path: Path) -> Iterator[Practice]:
    made = Practice(tmp_path)
    made.take(FIRST, NOW)
    yield made
    made.gateway.engine.dispose()


@pytest.fixture
def prompt(practice: Practice) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        folder = str(practice.gateway.settings.data_dir)
        result = CliRunner().invoke(app, ["outreach", *arguments], env={"FHIR_GATEWAY_DATA_DIR": folder})
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_one_row_per_person_with_what_to_call_for(practice: Practice) -> None:
    rows = practice.rows()
    assert set(rows) == {"ann", "joe"}  # "well" has no reason, "refuses" has the same as ann
    assert practice.kinds("ann") == ["care-gap", "coding-gap"]
    texts = " | ".join(one["text"] for one in rows["ann"]["reasons"])
    assert "Hemoglobin A1c" in texts
    assert "Diabetes" in texts
    assert practice.kinds("joe") == ["follow-up-discharge", "missed-visit", "rising-risk"]
    assert list(rows) == ["joe", "ann"]
    assert [rows[who]["priority"] for who in ("joe", "ann")] == ["urgent", "routine"]
    # by rank of the telephone, not by use; in her language
    assert (rows["ann"]["phone"], rows["ann"]["email"], rows["ann"]["language"]) == (
        "+1 555 0102", "ann@example.org", "es"
    )  # fmt: skip
    items = practice.gateway.outreach.items()
    assert items.num_rows == 5
    member = {one["family"]: one["member"] for one in rows.values()}
    assert set(items["member"].to_pylist()) == set(member.values())


def test_as_csv_and_as_fhir_at_the_prompt(practice: Practice, prompt: Callable[..., str], tmp_path: Path) -> None:
    prompt("export", str(tmp_path / "calls.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "calls.csv").read_text(encoding="utf-8"))))
    assert [one["family"] for one in rows] == ["Family-joe", "Family-ann"]
    assert "Hemoglobin A1c" in rows[1]["reasons"]
    prompt("export", str(tmp_path / "calls.ndjson"), "--form", "fhir")
    lines = [json.loads(one) for one in (tmp_path / "calls.ndjson").read_text(encoding="utf-8").splitlines()]
    kinds = [one["resourceType"] for one in lines]
    assert (kinds.count("CommunicationRequest"), kinds.count("Task")) == (2, 5)
    assert all(practice.gateway.validator.validate(one).valid for one in lines)
    requests = {one["id"] for one in lines if one["resourceType"] == "CommunicationRequest"}
    focus = {one["focus"]["reference"].partition("/")[2] for one in lines if one["resourceType"] == "Task"}
    assert focus == requests
    served = set(practice.gateway.resources.ids("CommunicationRequest", [("status", "active")]))
    assert requests <= served


def test_the_next_data_closes_the_loop_and_tells_of_the_gap(practice: Practice, prompt: Callable[..., str]) -> None:
    find(practice.gateway, NOW)  # the first look
    ann = practice.rows()["ann"]
    [item] = [one["item"] for one in ann["reasons"] if one["reason"] == "care-gap"]
    prompt("mark", item, "contacted", "--note", "comes on Monday")
    changes = practice.take(
        [
            hba1c("result", "ann", "2025-10-27"),
            claim("again", "ann", "2025-10-27", ["E11.9"]),
            encounter("joe-office", "joe", "AMB", "2025-10-28", "2025-10-28"),
            refusal("joe"),
        ],
        LATER,
    )
    assert changes == {"done": 2, "withdrawn": 3}  # both of ann; joe wants no calls
    assert practice.rows(LATER) == {}
    history = practice.gateway.outreach.history(item)
    assert [(one.former, one.state) for one in history] == [
        (None, "open"), ("open", "contacted"), ("contacted", "done")
    ]  # fmt: skip
    assert [one.by.partition(":")[0] for one in history] == ["data", "prompt", "data"]
    completed = practice.gateway.resources.ids("CommunicationRequest", [("status", "completed")])
    assert len(completed) == 2
    alerts = find(practice.gateway, LATER)
    assert ("gap-closed", ann["member"]) in [(one.kind, one.member) for one in alerts]
    assert not [one for one in alerts if one.kind == "gap-opened"]


def test_the_list_is_the_same_of_the_same_data(practice: Practice) -> None:
    before = practice.gateway.outreach.items().sort_by("id")
    assert practice.take(FIRST, NOW) == {}
    assert practice.gateway.outreach.items().sort_by("id") == before
