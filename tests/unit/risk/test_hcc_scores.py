"""CMS-HCC in columns: the worked example, published golden cases, another package, payment, years, edits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.errors import ConfigurationError, InputError
from fhir_gateway.risk.hcc import RiskScores, age_on_first_february, payment_year, score, years
from fhir_gateway.risk.hcc.payment import blended, decimals
from tests.support.risk_packages import compare_hccinfhir

EXAMPLE = ["E11.69", "I50.30", "I50.9", "I21.1", "I20.9"]


def scored(diagnoses: Sequence[str], model: str = "V28", year: int = 2026, **member: Any) -> RiskScores:
    members = pa.Table.from_pylist([{"member": "a", "age": 70, "sex": "M"} | member])
    rows = pa.table(
        [pa.array(["a"] * len(diagnoses), pa.string()), pa.array(diagnoses, pa.string())], ["member", "diagnosis"]
    )
    return score(members, rows, model, year, proposed=year == 2027)


def only(found: RiskScores) -> dict[str, Any]:
    (row,) = found.scores.to_pylist()
    return dict(row)


def parts(found: RiskScores) -> dict[str, D]:
    return {row["variable"]: row["coefficient"] for row in found.components.to_pylist() if row["coefficient"]}


def test_the_worked_example() -> None:
    v24, v28 = only(scored(EXAMPLE, "V24", 2024)), only(scored(EXAMPLE, "V28", 2026))
    assert (v24["raw"], v24["normalised"], v24["payment"]) == (D("1.283"), D("1.120"), D("1.054"))
    assert (v28["raw"], v28["normalised"], v28["payment"]) == (D("1.034"), D("0.969"), D("0.912"))
    both = {model: scored(EXAMPLE, model, 2024).payments for model in ("V24", "V28")}
    assert decimals(blended(both, payment_year(2024)), np.ones(1, bool)).to_pylist() == [D("1.023")]
    assert parts(scored(EXAMPLE)) == {
        "M70_74": D("0.396"),
        "37": D("0.166"),
        "226": D("0.360"),
        "DIABETES_HF_V28": D("0.112"),
    }


def test_parts_of_a_score_add_up() -> None:
    found = only(scored([*EXAMPLE, "J44.9", "N18.4", "C78.7"], orec="1", dual="02"))
    assert found["demographic"] + found["disease"] + found["interaction"] == found["raw"]
    assert found["segment"] == "CFA"


@pytest.mark.shared
@pytest.mark.parametrize("model", ["V24", "V28"])
def test_golden_cases(shared: Path, model: str) -> None:
    cases = json.loads((shared / "data/public-tables/hcc/golden_cases.json").read_bytes())
    cases = [one for one in cases if one["model"] == model]
    assert len(cases) == 8
    for case in cases:
        member = {name: case[name] for name in ("age", "sex", "orec", "segment") if name in case}
        found = scored(case["dx"], model, 2026, **member)
        assert float(only(found)["raw"]) == case["hccinfhir"]
        assert {name: float(value) for name, value in parts(found).items()} == case["coefs"]


@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")  # how hccinfhir reads its files
@pytest.mark.parametrize(("model", "year"), [("V24", 2025), ("V24", 2026), ("V28", 2025), ("V28", 2026), ("V28", 2027)])
def test_random_members_score_as_by_hccinfhir(model: str, year: int) -> None:
    agree, causes = compare_hccinfhir(400, model, year)
    assert not causes["unexplained"]
    assert agree > 300


def test_a_category_of_a_hierarchy_supersedes_those_below_it() -> None:
    found = scored(["I50.9", "I50.30", "E11.9", "E11.69"], "V24")
    rows = {(one["cc"], one["superseded"]) for one in found.evidence.to_pylist()}
    assert rows == {("85", False), ("18", False), ("19", True)}


def test_evidence_names_the_row_of_the_diagnosis() -> None:
    found = scored(["Z00.00", "E11.9", "E08.3511"], "V24")
    assert sorted((one["row"], one["cc"]) for one in found.evidence.to_pylist()) == [(1, "19"), (2, "122"), (2, "18")]


def test_acute_on_chronic_heart_disease_counts_beside_heart_failure_only() -> None:
    alone = scored(["T82.512A"])
    if "223" not in {one["cc"] for one in alone.evidence.to_pylist()}:
        pytest.fail("the code no longer maps to HCC 223: choose another")
    assert only(alone)["hccs"] == 0
    assert alone.evidence["superseded"].to_pylist() == [True]


@pytest.mark.parametrize(
    ("diagnosis", "member", "expected"),
    [
        ("D66", {"sex": "F"}, ["112"]),
        ("D66", {"sex": "M"}, ["111"]),
        ("C50.919", {"sex": "F", "age": 49}, ["22"]),
        ("C50.919", {"sex": "F", "age": 50}, ["23"]),
        ("I70.231", {"age": 14}, []),
    ],
)
def test_age_and_sex_edits(diagnosis: str, member: dict[str, Any], expected: list[str]) -> None:
    assert scored([diagnosis], **member).evidence["cc"].to_pylist() == expected


@pytest.mark.parametrize(
    ("member", "segment", "cell"),
    [
        ({"age": 64}, "CND", "M60_64"),
        ({"age": 65}, "CNA", "M65_69"),
        ({"dual": "02"}, "CFA", "M70_74"),
        ({"dual": "05", "age": 40}, "CPD", "M35_44"),
        ({"lti": True, "dual": "02"}, "INS", "M70_74"),
        ({"new_enrollee": True, "age": 64}, "NE", "NMCAID_NORIGDIS_NEM65"),
        ({"new_enrollee": True, "age": 64, "orec": "1"}, "NE", "NMCAID_NORIGDIS_NEM60_64"),
        ({"new_enrollee": True, "age": 68, "orec": "1", "dual": "03"}, "NE", "MCAID_ORIGDIS_NEM68"),
        ({"new_enrollee": True, "snp": True, "lti": True}, "SNPNE", "NMCAID_NORIGDIS_NEM70_74"),
        ({"segment": "CPA"}, "CPA", "M70_74"),
    ],
)
def test_segments(member: dict[str, Any], segment: str, cell: str) -> None:
    found = scored([], **member)
    assert only(found)["segment"] == segment
    assert cell in parts(found)


def test_who_cannot_be_scored_says_why_and_has_no_score() -> None:
    for member, reason in (({"age": None}, "no-birth-date"), ({"sex": "unknown"}, "no-sex"), ({"esrd": True}, "esrd")):
        found = scored(EXAMPLE, **member)
        row = only(found)
        assert row["reason"] == reason
        assert [row[name] for name in ("segment", "raw", "normalised", "payment")] == [None] * 4
        assert row["hccs"] == 0
        assert found.components.num_rows == found.evidence.num_rows == 0


def test_without_normalisation_there_is_no_payment() -> None:
    assert only(scored(EXAMPLE, "V24", 2026))["payment"] is None


def test_the_year_is_stated_and_proposed_tables_are_asked_for() -> None:
    with pytest.raises(InputError, match="proposed"):
        payment_year(2027)
    with pytest.raises(InputError, match="there are no CMS-HCC tables for payment year 2019"):
        payment_year(2019)
    with pytest.raises(InputError, match="V24 has no tables for payment year 2027"):
        scored([], "V24", 2027)
    assert payment_year(2026).collection == 2025
    assert payment_year(2026).stamps()["table.ra_dx_to_cc_2026.csv"].startswith("a62234")


def test_a_table_that_says_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ra_labels_2026.csv").write_text("cc,label\n")
    monkeypatch.setattr(years, "_folder", lambda: tmp_path)
    with pytest.raises(ConfigurationError, match=r"ra_labels_2026.csv of hccinfhir .* is another one"):
        years.table_bytes("ra_labels_2026.csv")


def test_age_is_that_of_the_first_of_february() -> None:
    births = pa.array(
        [date(1960, 1, 31), date(1960, 2, 1), date(1960, 2, 2), date(1960, 12, 31), date(2026, 5, 1), None]
    )
    assert age_on_first_february(births, 2026).to_pylist() == [66, 66, 65, 65, 0, None]


def test_batches_do_not_matter() -> None:
    people = pa.table({"member": [f"m{n}" for n in range(70_000)], "age": [70] * 70_000, "sex": ["M"] * 70_000})
    rows = pa.table({"member": [f"m{n}" for n in (0, 32_767, 32_768, 69_999)], "diagnosis": ["E11.9"] * 4})
    found = score(people, rows, "V28", 2026)
    assert found.scores["raw"].to_pylist().count(D("0.562")) == 4
    assert found.components.num_rows == 70_000 * 1 + 4 * 2
