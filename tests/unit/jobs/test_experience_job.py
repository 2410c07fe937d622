"""Surveys in a lake: scores by provider, points of Hospital VBP, metrics that a contract weighs, the prompt."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from fhir_gateway.cli.app import app as command
from fhir_gateway.cli.context import Context
from fhir_gateway.cli.output import Output
from fhir_gateway.config import Settings
from fhir_gateway.contracts.scoring.hospital_vbp import Rates
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import InputError
from fhir_gateway.experience.instrument import shipped
from fhir_gateway.experience.scoring import Score
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport
from fhir_gateway.jobs.experience import experience_outcomes, publish, read_standards, scores, survey_points
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.r4.models import validate

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
QUESTIONS = "1 2 3 4 5 6 7 8 9 10 12 15 18 19 20 21 22".split()


def survey(number: int, hospital: str, always: bool) -> list[dict[str, Any]]:
    """Everybody is equally well; nurses always explained to some."""
    given = dict.fromkeys(QUESTIONS, 4) | {"10": 2, "12": 2, "15": 1, "18": 9, "24": 2, "25": 2, "26": 3, "29": 1}
    given |= {"16": 1, "17": 2, "1": 4 if always else 3}
    items = [{"linkId": f"q{name}", "answer": [{"valueInteger": value}]} for name, value in given.items()]
    subject = {"reference": f"Patient/{hospital}{number}"}
    patient = {"resourceType": "Patient", "id": f"{hospital}{number}", "name": [{"family": f"{hospital}{number}"}]}
    patient |= {"birthDate": f"19{40 + number % 50}-0{1 + number % 9}-01", "gender": "female" if number % 2 else "male"}
    encounter = {"resourceType": "Encounter", "id": f"e{hospital}{number}", "status": "finished", "subject": subject}
    encounter |= {"class": {"code": "IMP"}, "serviceProvider": {"reference": f"Organization/{hospital}"}}
    response = {"resourceType": "QuestionnaireResponse", "id": f"r{hospital}{number}", "status": "completed"}
    response |= {"questionnaire": "https://vendor.example/Questionnaire/hcahps", "subject": subject, "item": items}
    response |= {"authored": "2025-06-01", "encounter": {"reference": f"Encounter/e{hospital}{number}"}}
    return [patient, encounter, response]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder = tmp_path_factory.mktemp("experience")
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(Settings(encryption_key=key, data_dir=folder / "data", lake_buckets=2))
    lines = [one for n in range(120) for one in survey(n, "h1", n < 90)]
    lines += [one for n in range(30) for one in survey(n, "h2", n < 15)]
    lines += [one for n in range(5) for one in survey(n, "h3", True)]
    sent = folder / "sent" / "surveys.ndjson"
    sent.parent.mkdir()
    sent.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    report = pull_files(gateway, [sent.parent], "vendor")
    assert report.quarantined == 0
    return gateway


def test_scores_by_provider(gateway: Gateway) -> None:
    found = {(one.provider, one.composite): one for one in scores(gateway, shipped("hcahps"), PERIOD)}
    first, second, third = (found[f"Organization/h{n}", "nurses"] for n in (1, 2, 3))
    assert (first.completes, first.public, second.completes, second.public) == (120, True, 30, False)
    assert first.top_box == pytest.approx((0.75 + 1 + 1) / 3)
    assert second.adjusted_top_box == pytest.approx((0.5 + 1 + 1) / 3)
    assert (third.completes, third.top_box) == (5, None)
    assert found["Organization/h1", "discharge"].top_box == 0.5


def test_reports_are_fhir(gateway: Gateway) -> None:
    hcahps = shipped("hcahps")
    ids = publish(gateway, hcahps, scores(gateway, hcahps, PERIOD), PERIOD, datetime(2026, 1, 1, tzinfo=UTC))
    reports = [gateway.resources.read("MeasureReport", one).json() for one in ids]
    assert [one["reporter"]["reference"] for one in reports] == [f"Organization/h{n}" for n in (1, 2, 3)]
    for one in reports:
        validate(one)
    validate(gateway.resources.read("Measure", "patient-experience").json())
    few = reports[2]["group"][0]
    assert few["population"][0]["_count"]["extension"][0]["valueCode"] == "masked"
    assert "measureScore" not in few


def attributed(gateway: Gateway, hospital: str, *metrics: str) -> AttributionReport:
    rows = gateway.lake.read("Patient", ["id"])
    theirs = [
        m for m, i in zip(rows["_member"].to_pylist(), rows["id"].to_pylist(), strict=True) if i.startswith(hospital)
    ]
    measures = [SimpleNamespace(metric=one) for one in metrics]
    contract = SimpleNamespace(dates=PERIOD, measures=measures)
    made = SimpleNamespace(contract=contract, members=pa.array(theirs), lake_version=gateway.lake.version)
    return cast(AttributionReport, made)


def test_a_contract_weighs_a_metric(gateway: Gateway) -> None:
    wanted = attributed(gateway, "h2", "hcahps.nurses", "hcahps.rating.linear", "ed-visits")
    outcomes, stamps = experience_outcomes(gateway, wanted, None)
    base = "https://fhir-gateway.example/fhir/Measure/patient-experience|1#"
    nurses = outcomes[base + "hcahps.nurses"]
    assert (nurses.denominator, nurses.score) == (30, Decimal("0.833333"))
    assert outcomes[base + "hcahps.rating.linear"].score == Decimal("90.000000")
    assert stamps == {"experience.hcahps": "2020"}
    assert len(outcomes) == 2
    nobody, _ = experience_outcomes(gateway, attributed(gateway, "h3", "hcahps.nurses"), None)
    assert (nobody[base + "hcahps.nurses"].score, nobody[base + "hcahps.nurses"].denominator) == (None, 5)


def test_terms_name_metrics() -> None:
    terms = MeasureTerms.model_validate(
        {"id": "nurses", "metric": "hcahps.nurses", "name": "Nurses", "direction": "increase"}
    )
    assert terms.canonical == "https://fhir-gateway.example/fhir/Measure/patient-experience"
    assert terms.group == "hcahps.nurses"
    for wrong in ("hcahps.dinner", "dinner.nurses", "hcahps.nurses.median"):
        with pytest.raises(ValidationError, match="metric"):
            MeasureTerms.model_validate({"id": "x", "metric": wrong, "name": "X", "direction": "increase"})


def test_points_of_the_survey_domain_by_hand() -> None:
    """All dimensions between threshold 70 and benchmark 80: at 75, round(9 x 0.5 + 0.5) = 5 points each.

    Base 5 x 8 = 40; consistency: the lowest, (60 - 50) / (70 - 50) = 0.5 of the way from floor to threshold, is
    round(20 x 0.5 - 0.5) = round(9.5) = 10.
    """
    hcahps = shipped("hcahps")
    assert hcahps.vbp is not None
    dimensions = hcahps.vbp.dimensions
    standards = {one: Rates(Decimal(70), Decimal(80), Decimal(0), None, Decimal(50)) for one in dimensions}

    def hospital(**rates: float) -> list[Score]:
        return [Score("h", one, one, 300, 300, None, rates.get(one, 0.75), None, None, True) for one in dimensions]

    (even,) = survey_points(hcahps, hospital(), standards)
    assert (set(even.dimensions.values()), even.base, even.consistency) == ({5}, 40, 20)
    (one_low,) = survey_points(hcahps, hospital(nurses=0.60), standards)
    assert (one_low.dimensions["nurses"], one_low.base, one_low.consistency) == (0, 35, 10)
    few = [Score("h", one, one, 60, 60, None, 0.75, None, None, False) for one in dimensions]
    (none,) = survey_points(hcahps, few, standards)
    assert (none.base, none.consistency) == (None, None)
    with pytest.raises(InputError, match="there are none of"):
        survey_points(hcahps, hospital(), {})


def test_the_prompt(gateway: Gateway, tmp_path: Path) -> None:
    def run(*arguments: str) -> list[dict[str, str]]:
        here = Context(Output(False))
        here.__dict__["gateway"] = gateway
        with patch("fhir_gateway.cli.app.Context", return_value=here):
            result = CliRunner().invoke(command, ["experience", *arguments])
        assert result.exit_code == 0, result.output
        return list(csv.DictReader(io.StringIO(result.stdout)))

    benchmarks, sampled = tmp_path / "benchmarks.csv", tmp_path / "sampled.csv"
    benchmarks.write_text("composite,percentile,value\nnurses,50,0.8\nnurses,75,0.95\n", encoding="utf-8")
    sampled.write_text("provider,sampled,ineligible\nOrganization/h1,500,20\n", encoding="utf-8")
    options = ["--benchmarks", str(benchmarks), "--sampled", str(sampled), "--csv"]
    rows = run("score", "hcahps", "--period", "2025", *options)
    assert (rows[0]["percentile"], rows[0]["response_rate"]) == ("50.0", "0.25")
    standards = tmp_path / "standards.csv"
    assert shipped("hcahps").vbp is not None
    lines = [f"{one},50%,70%,80%,\n" for one in shipped("hcahps").vbp.dimensions]  # type: ignore[union-attr]
    standards.write_text("composite,floor,threshold,benchmark,baseline\n" + "".join(lines), encoding="utf-8")
    assert read_standards(standards)["nurses"].floor == 50
    (first, *_) = run("points", "--period", "2025", "--standards", str(standards), "--csv")
    # nobody was told about medicines: that dimension is of nobody
    assert first["base"] == ""
