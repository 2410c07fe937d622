"""Scores out of a lake: which diagnoses count, who the members are, what is kept of a run."""

from __future__ import annotations

from datetime import date
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.risk import kept_diagnoses, members_of, score_members
from tests.support.risk_lake import lake_of, person


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return lake_of(tmp_path_factory.mktemp("risk"))


def rows_of(gateway: Gateway, table: Any, name: str) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["member"] == person(gateway, name)]


def test_which_diagnoses_count_and_why_others_do_not(gateway: Gateway) -> None:
    found = rows_of(gateway, kept_diagnoses(gateway, gateway.lake.version), "a")
    reasons = {(row["eob"], row["diagnosis"]): row["reason"] for row in found}
    assert reasons == {
        ("a1", "E1169"): None,
        ("a1", "I5030"): None,
        ("a2", "I209"): None,
        ("a3", "I509"): None,
        ("a4", "J449"): None,
        ("a4", "E119"): None,
        ("a5", "C787"): "procedure",
        ("a6", "B20"): "bill-type",
        ("a7", "G35D"): "audio-only",
        ("a8", "G1221"): "version",
        ("a10", "F200"): None,
    }
    of_stay = next(row for row in found if row["eob"] == "a2")
    assert of_stay["provider_type"] == "inpatient"
    assert (of_stay["bill_type"], of_stay["service_date"]) == ("111", date(2025, 4, 1))


def test_members_are_what_patient_and_coverage_say(gateway: Gateway) -> None:
    members = members_of(gateway, 2026, gateway.lake.version)
    of = {name: rows_of(gateway, members, name) for name in "abcdef"}
    assert of["e"] == []  # died before the payment year
    a, b, c, d, f = (of[name][0] for name in "abcdf")
    assert (a["age"], a["sex"], a["dual"], a["new_enrollee"]) == (70, "M", None, False)
    assert (b["age"], b["sex"], b["orec"], b["dual"]) == (46, "F", "1", "02")
    assert (c["dual"], c["new_enrollee"]) == ("03", True)
    assert (d["esrd"], f["esrd"]) == (True, None)


def test_a_run_scores_everybody_and_keeps_what_each_score_is_made_of(gateway: Gateway) -> None:
    report = score_members(gateway, "CMS-HCC", 2026)
    scores = {name: rows_of(gateway, report.run.table("scores"), name) for name in "abcdef"}
    (a,) = scores["a"]
    assert (a["raw"], a["normalised"], a["score"]) == (D("1.034"), D("0.969"), D("0.912"))
    assert scores["d"][0]["reason"] == "esrd"
    assert scores["d"][0]["score"] is None
    assert (report.scored, report.unscored) == (4, {"esrd": 1})
    evidence = rows_of(gateway, report.run.table("evidence"), "a")
    assert {(one["cc"], one["eob"], one["provider_type"], one["superseded"]) for one in evidence} == {
        ("37", "a1", "professional", False),
        ("226", "a1", "professional", False),
        ("226", "a3", "outpatient", False),
    }
    assert {one["npi"] for one in evidence} == {"1234567893"}
    b = {one["variable"] for one in rows_of(gateway, report.run.table("components"), "b")}
    assert b >= {"F45_54", "137", "151", "gSubUseDisorder_gPsych_V28"}
    c = {one["variable"] for one in rows_of(gateway, report.run.table("components"), "c")}
    assert c == {"MCAID_NORIGDIS_NEF65"}


def test_the_same_lake_and_tables_are_the_same_run(gateway: Gateway) -> None:
    first, again = (score_members(gateway, "CMS-HCC-V28", 2026) for _ in range(2))
    assert first.run.id == again.run.id
    assert first.run.header["table.ra_dx_to_cc_2026.csv"]
    assert first.run.header["lake_version"] == gateway.lake.version


def test_a_blend_of_two_models(tmp_path: Path) -> None:
    moved = lake_of(tmp_path)
    report = score_members(moved, "CMS-HCC", 2025)
    (a,) = rows_of(moved, report.run.table("scores"), "a")
    each = {row["model"]: row for row in rows_of(moved, report.run.table("models"), "a")}
    assert set(each) == {"V24", "V28"}
    expected = D("0.33") * each["V24"]["payment"] + D("0.67") * each["V28"]["payment"]
    assert a["score"] == expected.quantize(D("0.001"))
    assert a["raw"] is None


def test_a_model_that_is_not_ours_is_imported(gateway: Gateway) -> None:
    with pytest.raises(InputError, match="import its scores"):
        score_members(gateway, "ACG", 2026)
