"""Published results of shared savings programmes: what matches, and what a strange file is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.contract.public_tables.__main__ import main
from tests.contract.public_tables.mssp import check as check_mssp
from tests.contract.public_tables.reach import check as check_reach
from tests.contract.public_tables.report import Report
from tests.contract.public_tables.tables import parse

#: A1001 as published for 2023.
ACO = {
    "ACO_ID": "A1001",
    "Current_Start_Date": "07/01/2019",
    "Current_Track": "EN",
    "N_AB": "78364",
    "Sav_rate": "9.09%",
    "MinSavPerc": "2.00%",
    "GenSaveLoss": "99899684",
    "EarnSaveLoss": "73426268",
    "Met_QPS": "1",
    "QualScore": "89.91%",
    "ABtotBnchmk": "1098668352",
    "ABtotExp": "998768668",
    "FinalShareRate": "75.00%",
    "FinalLossRate": "40.00%",
}
REACH = {
    "aco_id": "D0006", "perf_year": 2021, "risk_arrangement": "Professional", "final_benchmark": 26652184.8599,
    "tot_cost_care": 29623554.29, "tot_cost_care_net": 29659424.4299, "gross_savings": -3007239.57,
    "shared_savings": -1184021.0192, "shared_savings_seq": -1184021.0192, "sav_rate": -11.2833, "discount": 0.0,
}  # fmt: skip

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A table of one row, as CSV."""

    def make(
        row: Mapping[str, str], name: str = "PY2023.csv", encoding: str = "utf-8", delimiter: str = ",", title: str = ""
    ) -> Path:
        path = tmp_path / name
        with path.open("w", encoding=encoding, newline="") as stream:
            stream.write(title)
            writer = csv.DictWriter(stream, list(row), delimiter=delimiter)
            writer.writeheader()
            writer.writerow(dict(row))
        return path

    return make


def results(path: Path) -> Report:
    return next(iter(check_mssp([path])))


def rates(report: Report) -> dict[str, tuple[int, int]]:
    return {quantity: (tally.matched, tally.total) for quantity, tally in report.tallies.items() if tally.total}


def everything_matches(report: Report) -> bool:
    found = rates(report)
    return "earned savings within $1" in found and all(matched == total for matched, total in found.values())


def test_a_row_matches(write: Write) -> None:
    assert everything_matches(results(write(ACO)))


@pytest.mark.parametrize(
    "how",
    [
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
        {"encoding": "cp1252"},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"title": "Results of the program\n\n"},
        {"title": "Results,2023\nof the program,,\n"},
    ],
    ids=str,
)
def test_encodings_and_delimiters(write: Write, how: dict[str, str]) -> None:
    row = ACO | ({"ACO_Name": "Médico"} if how.get("encoding") == "cp1252" else {})
    assert everything_matches(results(write(row, **how)))


def test_columns_in_any_order_and_case_with_other_formats(write: Write) -> None:
    strange = {
        "ABTOTEXP": " $998,768,668 ",
        "abtotbnchmk": "1,098,668,352",
        "aco_num": "A1001",
        "Current Track": "ENHANCED",
        "n_ab": "78,364",
        "EarnSaveLoss": "73426268.0",
        "MinSavPerc": "0.02",
        "QualScore": "89.91",
        "Met QPS": "Yes",
        "Sav_Rate": "0.0909",
        "performance_year": "2023",
    }
    report = results(write(strange, name="results.csv"))
    assert everything_matches(report)
    assert report.absent["final sharing rate"] == "no column FinalShareRate"
    assert report.title.startswith("results.csv (performance year 2023, by its column")


@pytest.mark.parametrize(
    ("text", "value"),
    [("(1,234)", "-1234"), ("$5", "5"), ("7.5%", "0.075"), ("-", None), ("*", None), ("P4R", None), ("\u22123", "-3")],
)
def test_numbers_as_they_are_published(text: str, value: str | None) -> None:
    found = parse(text)
    assert (None if found is None else str(found.normalize() + 0)) == value


def test_flag_columns_name_the_level(write: Write) -> None:
    row = {name: value for name, value in ACO.items() if name != "Current_Track"}
    flags = {"Current_Track_1_Plus": "0", "Current_BASIC_E": "0", "Current_ENHANCED": "1"}
    assert everything_matches(results(write(row | flags)))
    unclear = results(write(row | flags | {"Current_BASIC_E": "1"}))
    assert unclear.unread == [("A1001", "level: no or several level columns are set")]


def test_an_unknown_level_is_reported_not_guessed(write: Write) -> None:
    report = results(write(ACO | {"Current_Track": "PLATINUM"}))
    assert [name for name, _ in report.unread] == ["A1001"]
    assert "'PLATINUM' is no level" in report.unread[0][1]
    assert not rates(report)


@pytest.mark.parametrize(
    ("column", "name", "why"),
    [
        ("MinSavPerc", "PY2023.csv", "no minimum rate, and the level elects it"),
        ("QualScore", "PY2018.csv", "no quality score, and the share depends on it"),
    ],
)
def test_what_is_not_stated_is_not_guessed(write: Write, column: str, name: str, why: str) -> None:
    report = results(write({key: value for key, value in ACO.items() if key != column}, name=name))
    assert report.unread == [("A1001", f"shares and amounts: {why}")]
    assert rates(report)["savings rate"] == (1, 1)
    assert "final sharing rate" not in rates(report)


def test_what_differs_is_listed(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mssp", str(write(ACO | {"EarnSaveLoss": "1"}))]) == 0
    shown = capsys.readouterr().out
    assert "earned savings within $1: 0/1\n  A1001: computed 73426268, published 1\n" in shown
    assert "savings rate: 1/1" in shown
    assert "relief below the minimum rate (low revenue): not in file" in shown


def test_results_of_2024(write: Write) -> None:
    """Half rate for low revenue, alternative standard, adjustments, advance investment payments."""
    low = {
        "ACO_ID": "A5411", "Current_Start_Date": "01/01/2024", "Current_Track": "A", "N_AB": "14670",
        "Rev_Exp_Cat": "Low Revenue", "ABtotBnchmk": "159881358", "ABtotExp": "158744811", "MinSavPerc": "2.72%",
        "EarnSaveLoss": "222763", "FinalShareRate": "20.00%", "ReducedSS": "1", "Met_QPS": "1", "Met_AltQPS": "1",
        "QualScore": "80.1", "RegAdj": "-20", "PriorSavAdj": "", "FinalAdjCat": "No Adjustment", "AIP": "1",
        "AIPBalance": "500000", "AIPRecoup": "222763", "Guardrail": "0",
    }  # fmt: skip
    found = rates(results(write(low, name="PY2024.csv")))
    for quantity in (
        "relief below the minimum rate (low revenue)",
        "final adjustment (regional or prior savings)",
        "advance payments recouped",
        "final sharing rate",
    ):
        assert found[quantity] == (1, 1)
    assert everything_matches(results(write(low, name="PY2024.csv")))


def test_the_guardrail_earns_nothing(write: Write) -> None:
    row = {
        "ACO_ID": "A5309", "Current_Start_Date": "01/01/2024", "Current_Track": "E", "N_AB": "9000",
        "ABtotBnchmk": "116616215", "ABtotExp": "116606559", "MinSavPerc": "0.00%", "EarnSaveLoss": "0", "Met_QPS": "1",
        "GenSaveLoss": "0", "BnchmkMinExp": "9656", "Sav_rate": "0.01%", "QualScore": "80%", "Guardrail": "1",
        "FinalShareRate": "50.00%",
    }  # fmt: skip
    report = results(write(row, name="PY2024.csv"))
    assert everything_matches(report)
    assert rates(report)["final sharing rate"] == (1, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("other.csv", b"a,b\n1,2\n"),
        ("bytes.csv", b"\x00\x01\x02" * 50),
        ("broken.json", b"{]"),
        ("none.json", b"{}"),
    ],
)
@pytest.mark.parametrize("programme", ["mssp", "reach"])
def test_another_file_is_an_error(
    tmp_path: Path, programme: str, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main([programme, str(tmp_path / name)]) == 2
    assert main([programme, str(tmp_path / "missing.csv")]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert "missing.csv: cannot be read" in error


@pytest.mark.parametrize("form", ["json", "list", "csv"])
def test_reach_in_any_form(tmp_path: Path, write: Write, form: str) -> None:
    if form == "csv":
        path = write({name: str(value) for name, value in REACH.items()}, name="reach.csv")
    else:
        path = tmp_path / "reach.json"
        path.write_text(json.dumps({"records": [REACH]} if form == "json" else [REACH]), encoding="utf-8")
    report = next(iter(check_reach([path])))
    found = rates(report)
    assert set(found.values()) == {(1, 1)}
    assert "risk corridors (shared savings) within $1" in found
    assert "benchmark used = final + equity adjustments within $1" in report.absent


def test_reach_benchmark_with_equity_adjustments(tmp_path: Path) -> None:
    record = REACH | {
        "perf_year": 2023,
        "heba_up_amt": 5000,
        "heba_down_amt": -2000,
        "gross_savings": -3007239.57 + 3000,
    }
    path = tmp_path / "reach.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    found = rates(next(iter(check_reach([path]))))
    assert found["benchmark used = final + equity adjustments within $1"] == (1, 1)


def test_an_unknown_risk_arrangement_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "reach.json"
    path.write_text(json.dumps([REACH | {"risk_arrangement": "Total"}]), encoding="utf-8")
    assert next(iter(check_reach([path]))).unread[0][0].startswith("D0006")


@pytest.mark.shared
def test_published_results_of_the_shared_savings_program(shared: Path) -> None:
    files = sorted((shared / "data/public-tables/mssp").glob("PY*.csv"))
    whole = rates(Report.whole(list(check_mssp(files))))
    for quantity in (
        "minimum savings or loss rate (variable)",
        "savings rate",
        "final sharing rate",
        "final loss rate",
        "generated savings or losses",
    ):
        matched, total = whole[quantity]
        assert matched == total, quantity
    for quantity in (
        "earned savings within $1",
        "earned savings within $1 and the rounding of the published score",
        "shared losses within $1 and the rounding of the published score",
        "advance payments recouped",
    ):
        matched, total = whole[quantity]
        assert matched == total, quantity
    matched, total = whole["shared losses within $1"]
    assert matched >= total - 3  # three are limited by a revenue that is not published


@pytest.mark.shared
def test_published_results_of_aco_reach(shared: Path) -> None:
    found = rates(next(iter(check_reach([shared / "data/public-tables/reach/performance.json"]))))
    for quantity in (
        "gross savings within $1",
        "risk corridors (shared savings) within $1",
        "savings rate",
        "discount",
    ):
        assert found[quantity] == (152, 152), quantity
    matched, total = found["after sequestration within $1"]
    assert matched >= total - 1  # one record has shared savings and nothing after sequestration
