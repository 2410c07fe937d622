"""Scores out of a lake: clinical resources and claims, what is served, and what a limited audience sees of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import Audience
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.predictions import newest_scores, score
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.jobs.work_lists import newest_work_list, work_list

NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)
DAY = date(2025, 6, 30)
ICD = "http://hl7.org/fhir/sid/icd-10-cm"


def condition(name: str, code: str, day: str, patient: str = "1", system: str = ICD) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": name,
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": f"Patient/{patient}"},
        "onsetDateTime": day,
    }


def encounter(name: str, kind: str, start: str, end: str, patient: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": name,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": kind},
        "subject": {"reference": f"Patient/{patient}"},
        "period": {"start": start, "end": end},
        **more,
    }


def lab(name: str, code: str, value: float, unit: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2025-06-11T08:00:00Z",
        "valueQuantity": {"value": value, "unit": unit},
    }


#: The worked examples of both scores in one person: 13 by LACE, 8 by HOSPITAL.
RESOURCES: list[dict[str, Any]] = [
    {"resourceType": "Patient", "id": "1", "birthDate": "1950-07-01", "gender": "female"},
    {"resourceType": "Patient", "id": "2", "birthDate": "1990-01-01", "gender": "male"},
    condition("c1", "I50.9", "2025-01-01"),
    condition("c2", "J44.9", "2025-02-01"),
    condition("c3", "44054006", "2025-02-01", "2", "http://snomed.info/sct"),
    encounter("index", "IMP", "2025-06-06T10:00:00Z", "2025-06-11T10:00:00Z",
              hospitalization={"admitSource": {"coding": [{"code": "emd"}]}}),
    encounter("e1", "EMER", "2025-03-01T10:00:00Z", "2025-03-01T12:00:00Z"),
    *(encounter(f"s{month}", "IMP", f"2025-0{month}-10T10:00:00Z", f"2025-0{month}-11T10:00:00Z", priority={"coding":
        [{"code": "EL"}]}) for month in (1, 2, 4)),
    lab("o1", "718-7", 108, "g/L"),
    lab("o2", "2951-2", 133, "mmol/L"),
    {"resourceType": "Procedure", "id": "p1", "status": "completed", "subject": {"reference": "Patient/1"},
     "code": {"text": "x"}, "performedDateTime": "2025-06-07"},
]  # fmt: skip


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=2))
    pull_files(gateway, [staged(tmp_path / "first.ndjson", RESOURCES)], "ehr")
    yield gateway
    gateway.engine.dispose()


def staged(path: Path, resources: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, resources)))
    return path


def test_the_worked_examples_out_of_a_lake(gateway: Gateway) -> None:
    report = score(gateway, DAY, now=NOW)
    assert report.counts == {"charlson": (2, 1), "elixhauser": (2, 1), "hospital": (4, 3), "lace": (4, 0)}
    rows = {(row["score"], row["key"]): row for row in newest_scores(gateway).to_pylist()}
    lace, hospital = rows["lace", "ehr/index"], rows["hospital", "ehr/index"]
    assert (lace["value"], lace["band"]) == (13, "high")
    assert (hospital["value"], hospital["band"]) == (3 + 1 + 2 + 2, "high")
    person = lace["member"]
    assert rows["charlson", person]["value"] == 2 + 1 + 3  # failure, lungs, 74 years
    assert rows["elixhauser", person]["value"] == 7 + 3
    [other] = [row for (name, key), row in rows.items() if name == "charlson" and key != person]
    assert (other["partial"], other["missing"]) == (True, ["icd10_codes"])


def test_what_is_active_counts_however_long_ago_it_began(gateway: Gateway, tmp_path: Path) -> None:
    def old(name: str, code: str, status: str, **more: Any) -> dict[str, Any]:
        system = "http://terminology.hl7.org/CodeSystem/condition-clinical"
        clinical = {"clinicalStatus": {"coding": [{"system": system, "code": status}]}}
        return condition(name, code, "2012-01-01", "2") | clinical | more

    more = [
        old("active", "G20", "active"),  # no comorbidity of Charlson
        old("dementia", "F03.90", "active"),
        old("resolved", "I50.9", "resolved"),
        old("ended", "J44.9", "active", abatementDateTime="2013-01-01"),
        old("later", "B20", "active", onsetDateTime="2025-07-01"),
    ]
    pull_files(gateway, [staged(tmp_path / "more.ndjson", more)], "ehr")
    score(gateway, DAY, now=NOW)
    rows = [one for one in newest_scores(gateway).to_pylist() if one["score"] == "charlson" and one["partial"]]
    assert [(one["value"], [part["name"] for part in one["components"]]) for one in rows] == [(2, ["dementia"])]


def test_scores_are_served_and_go_when_they_hold_no_more(gateway: Gateway) -> None:
    score(gateway, DAY, now=NOW)
    page = gateway.resources.search("RiskAssessment", [("method", "lace")])
    [found] = [one.json() for one in page.resources]
    assert found["encounter"] == {"reference": "Encounter/ehr-index"}
    assert found["status"] == "final"
    [prediction] = found["prediction"]
    assert prediction["extension"][0]["valueInteger"] == 13
    assert prediction["qualitativeRisk"]["coding"][0]["code"] == "high"
    assert "comorbidity +5" in prediction["rationale"]
    score(gateway, date(2025, 9, 30), now=NOW)
    assert gateway.resources.search("RiskAssessment", [("method", "lace")]).resources == ()
    assert len(gateway.resources.search("RiskAssessment", [("method", "charlson")]).resources) == 1


def test_the_same_lake_and_day_are_the_same_run_and_change_nothing(gateway: Gateway) -> None:
    first = score(gateway, DAY, now=NOW)
    versions = {one.id: one.version for one in gateway.resources.search("RiskAssessment", []).resources}
    assert score(gateway, DAY, now=NOW) == first
    assert {one.id: one.version for one in gateway.resources.search("RiskAssessment", []).resources} == versions


def test_an_audience_without_the_person_sees_no_assessment(gateway: Gateway) -> None:
    score(gateway, DAY, now=NOW)
    nobody = gateway.resources.seen_by(Audience.of(["contract:other"]))
    assert nobody.search("RiskAssessment", []).resources == ()


def test_without_scores_there_is_nothing_to_read(gateway: Gateway) -> None:
    with pytest.raises(NotFoundError):
        newest_scores(gateway)


def test_a_lake_of_two_persons_teaches_nothing(gateway: Gateway) -> None:
    with pytest.raises(InputError, match="too little"):
        work_list(gateway, DAY, now=NOW)
    with pytest.raises(NotFoundError):
        newest_work_list(gateway)
