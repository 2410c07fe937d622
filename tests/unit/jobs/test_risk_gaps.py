"""Coding gaps out of a lake: recapture, suspecting with evidence, decisions, hierarchy, value; as RA reports."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.errors import ContractError, InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.risk import members_of, score_members
from fhir_gateway.jobs.risk_gaps import compute_gaps
from fhir_gateway.jobs.risk_imports import import_file
from fhir_gateway.risk import coding_gap_report
from fhir_gateway.risk.kept_gaps import RISK_MODELS
from fhir_gateway.risk.suspecting import suspect_rules
from tests.support.risk_lake import ICD, RESOURCES, SYSTEM, claim, coverage, lake_of, patient, person

V28 = RISK_MODELS[1]
NOW = datetime(2026, 1, 10, tzinfo=UTC)


def observation(name: str, who: str, day: str, code: str, value: float, unit: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{who}"},
        "effectiveDateTime": day,
        "valueQuantity": {"value": value, "unit": unit},
    }


def drug(name: str, who: str, day: str, words: str) -> dict[str, Any]:
    rxnorm = "http://www.nlm.nih.gov/research/umls/rxnorm"
    return {
        "resourceType": "MedicationRequest",
        "id": name,
        "status": "active",
        "intent": "order",
        "subject": {"reference": f"Patient/{who}"},
        "authoredOn": day,
        "medicationCodeableConcept": {"coding": [{"system": rxnorm, "code": "1", "display": words}]},
    }


def problem(name: str, who: str, code: str, verified: str = "confirmed") -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": name,
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "verificationStatus": {"coding": [{"code": verified}]},
        "code": {"coding": [{"system": ICD, "code": code}]},
        "subject": {"reference": f"Patient/{who}"},
        "recordedDate": "2024-11-05",
    }


EVIDENCE = [
    patient("g", "1950-01-01"),
    coverage("g", orec="0", rfrnc_yr="2025"),
    claim("g1", "g", "2024-03-01", ["N18.31", "I50.9", "A41.9"], "99214"),
    claim("g2", "g", "2025-03-01", ["I50.84", "E11.9"], "99214"),
    observation("egfr1", "g", "2025-01-10", "62238-1", 24, "mL/min/{1.73_m2}"),
    observation("egfr2", "g", "2025-06-10", "62238-1", 22, "mL/min/{1.73_m2}"),
    observation("bmi", "g", "2025-06-10", "39156-5", 39.9, "kg/m2"),
    observation("a1c1", "g", "2025-06-10", "4548-4", 8.0, "%"),
    observation("a1c2", "g", "2025-09-10", "4548-4", 8.0, "%"),
    drug("insulin", "g", "2025-02-02", "insulin glargine 100 UNT/ML"),
    drug("donepezil", "g", "2025-02-02", "Donepezil hydrochloride 10 MG Oral Tablet"),
    drug("old", "g", "2022-02-02", "bictegravir 50 MG"),
    problem("copd", "g", "J44.9"),
    problem("refuted", "g", "B20", "refuted"),
    claim("g3", "g", "2025-08-01", ["R09.02"], "E1390"),
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return lake_of(tmp_path_factory.mktemp("gaps"), RESOURCES + EVIDENCE)


def of(gateway: Gateway, name: str, **options: Any) -> dict[str, dict[str, Any]]:
    report = compute_gaps(gateway, "V28", 2026, now=NOW, rate=D(12_000), **options)
    rows = report.run.table("gaps").to_pylist()
    return {row["cc"]: row for row in rows if row["member"] == person(gateway, name)}


def test_what_was_said_before_and_not_again_is_open(gateway: Gateway) -> None:
    found = of(gateway, "a")
    assert (found["280"]["cc_type"], found["280"]["evidence_status"]) == ("historic", "open-gap")
    assert (found["280"]["last"], found["280"]["npi"]) == (date(2024, 5, 1), "1234567893")
    assert found["280"]["references"] == ["ExplanationOfBenefit/payer-a4"]
    assert found["280"]["weight"] == D("0.281")  # 0.319 / 1.067 = 0.299; x 0.941
    assert found["280"]["value"] == D("3372.00")
    assert (found["37"]["cc_type"], found["37"]["evidence_status"]) == ("net-new", "closed-gap")
    assert found["38"]["hierarchical_status"] == "applied-superseded"  # by 37
    assert found["38"]["value"] == 0


def test_recapture_looks_back_as_far_as_it_is_told_and_at_lasting_conditions_only(gateway: Gateway) -> None:
    assert "151" in of(gateway, "a")
    assert "151" not in of(gateway, "a", lookback_months=12)  # of June 2023
    assert "2" not in of(gateway, "g")  # sepsis is not expected again
    with pytest.raises(InputError, match="lookback"):
        of(gateway, "a", lookback_months=25)


def test_as_of_a_day_later_claims_close_nothing(gateway: Gateway) -> None:
    assert "37" not in of(gateway, "a", as_of=date(2025, 2, 28))
    with pytest.raises(InputError, match="begin on 2025-01-01"):
        of(gateway, "a", as_of=date(2024, 12, 31))


def test_suspecting_has_evidence_and_leaves_out_what_is_known(gateway: Gateway) -> None:
    found = of(gateway, "g")
    suspected = {cc: (row["rules"], row["confidence"]) for cc, row in found.items() if row["cc_type"] == "suspected"}
    assert suspected == {
        "327": (["egfr-stage-4"], "high"),
        "127": (["dementia-drugs"], "medium"),
        "280": (["problem-list"], "high"),
        "213": (["home-oxygen"], "low"),
    }
    assert found["327"]["references"] == ["Observation/payer-egfr2", "Observation/payer-egfr1"]
    assert found["329"]["evidence_status"] == "open-gap"  # moderate, of last year; a suspicion supersedes nothing
    assert found["329"]["hierarchical_status"] == "applied-not-superseded"
    assert all(row["evidence_status"] == "open-gap" for row in found.values() if row["cc_type"] == "suspected")


def test_claims_that_do_not_count_are_evidence_only(gateway: Gateway) -> None:
    found = of(gateway, "a")
    assert (found["17"]["cc_type"], found["17"]["rules"]) == ("suspected", ["unaccepted-service"])
    assert found["198"]["rules"] == ["audio-only-visit"]
    assert found["1"]["rules"] == ["unaccepted-bill"]


def test_a_decision_of_the_payer_stands(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "decisions.csv"
    rows = ["a,280,invalid-gap,2025-10-01", "a,37,open-gap,2025-10-01", "a,226,pending,2024-10-01"]
    lines = [f"M-{one.split(',')[0]},{SYSTEM},V28,{one.split(',', 1)[1]}" for one in rows]
    file.write_text("\n".join(["member_id,member_system,model,cc,status,decided", *lines]) + "\n")
    import_file(gateway, file, "decisions", by="tester")
    found = of(gateway, "a")
    assert (found["280"]["evidence_status"], found["280"]["evidence_date"]) == ("invalid-gap", date(2025, 10, 1))
    assert found["280"]["value"] == 0
    assert found["37"]["evidence_status"] == "closed-gap"  # net-new ones are closed or pending
    assert found["226"]["evidence_status"] == "closed-gap"  # that was about another period
    file.write_text(file.read_text().replace("invalid-gap", "closed-gap"))
    with pytest.raises(InputError, match="a gap is closed by a claim"):
        import_file(gateway, file, "decisions", by="tester")


def test_kept_gaps_are_reports_of_the_guide(gateway: Gateway) -> None:
    of(gateway, "a", deadline=date(2026, 1, 31))
    (source,) = gateway.coding_gaps
    persons = [person(gateway, name) for name in "ag"]
    period = (date(2025, 3, 1), date(2025, 3, 31))
    found = source.gaps(V28, period, persons)
    assert found is not None
    assert {one.person for one in found} == set(persons)
    assert source.gaps(V28, (date(2023, 1, 1), date(2023, 12, 31)), persons) is None
    assert source.gaps(RISK_MODELS[0], period, persons) is None  # V24 was not computed
    for one in found:
        report = coding_gap_report(one, {"reference": "Organization/gateway"})
        assert report["period"] == {"start": "2025-01-01", "end": "2025-12-31"}
        superseded = {g["code"]["coding"][0]["code"] for g in report["group"] if "applied-superseded" in json.dumps(g)}
        assert superseded <= {"38", "226"}
        assert gateway.validator.validate(report).valid
    measure = gateway.resources.read("Measure", "cms-hcc-v28").json()
    assert f"{measure['url']}|{measure['version']}" == V28.canonical
    assert gateway.validator.validate(measure).valid


def test_the_same_inputs_are_the_same_run(gateway: Gateway) -> None:
    one, other = (compute_gaps(gateway, "V28", 2026, now=NOW, rate=D(1)) for _ in range(2))
    assert one.run.id == other.run.id
    assert one.run.table("gaps").equals(other.run.table("gaps"))


def test_statements_about_members_override_what_fhir_says(tmp_path: Path) -> None:
    gateway = lake_of(tmp_path)
    file = tmp_path / "members.csv"
    file.write_text(
        "member_id,member_system,year,dual,lti,esrd,new_enrollee,segment\n"
        f"M-a,{SYSTEM},2026,02,true,,,\n"
        f"M-d,{SYSTEM},2026,,,false,,\n"
        f"{person(gateway, 'f')},,2026,,,,,CPA\n"
        f"nobody,{SYSTEM},2026,02,,,,\n"
        f"M-b,{SYSTEM},2025,00,,,,\n"
    )
    before = score_members(gateway, "CMS-HCC", 2026)
    (done,) = import_file(gateway, file, "members", by="tester")
    assert (done.rows, done.unknown) == (4, 1)
    rows = {row["member"]: row for row in members_of(gateway, 2026, gateway.lake.version).to_pylist()}
    assert (rows[person(gateway, "a")]["dual"], rows[person(gateway, "a")]["lti"]) == ("02", True)
    assert rows[person(gateway, "d")]["esrd"] is False
    assert rows[person(gateway, "b")]["dual"] == "02"
    after = score_members(gateway, "CMS-HCC", 2026)
    assert after.run.id != before.run.id
    segments = {row["member"]: row["segment"] for row in after.run.table("models").to_pylist()}
    assert (segments[person(gateway, "a")], segments[person(gateway, "f")]) == ("INS", "CPA")
    file.write_text(f"member_id,member_system,year,segment\nM-a,{SYSTEM},2026,XYZ\n")
    with pytest.raises(InputError, match="segment is one of"):
        import_file(gateway, file, "members", by="tester")


def test_imported_scores_are_kept_by_model_version_and_period(gateway: Gateway, tmp_path: Path) -> None:
    head = "member_id,member_system,model,version,period_start,period_end,raw,normalised\n"
    line = f"M-a,{SYSTEM},CDPS,7.0,2025-01-01,2025-06-30,1.5,\n"
    file = tmp_path / "scores.csv"
    file.write_text(head + line + line.replace("7.0,2025-01-01", "7.1,2025-01-01"))
    found = import_file(gateway, file, "scores", by="tester")
    assert [one.what for one in found] == [
        "CDPS 7.0, 2025-01-01 to 2025-06-30",
        "CDPS 7.1, 2025-01-01 to 2025-06-30",
    ]
    newest = gateway.risk.newest("scores", model="CDPS", version="7.0")
    assert newest is not None
    assert newest.table("scores").to_pylist()[0]["score"] == D("1.5")
    for content, error, words in (
        (line + line, InputError, "two scores of CDPS 7.0"),
        (line.replace("CDPS", "CMS-HCC"), InputError, "is computed here"),
        (line.replace("1.5", ""), InputError, "neither raw nor normalised"),
        (line.replace("1.5", "high"), ContractError, "raw is not a decimal"),
    ):
        file.write_text(head + content)
        with pytest.raises(error, match=words):
            import_file(gateway, file, "scores", by="tester")


def test_every_rule_says_where_it_is_from() -> None:
    for rule in suspect_rules():
        assert rule.source
        assert rule.trust in ("DOC", "M")
        assert set(rule.categories) == {"V24", "V28"}
        assert rule.codes or rule.words
