"""The commands on hospital programmes: tables of other years, made up here, and the published ones (reference data)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.contract.public_tables import hac, hrrp, hvbp
from tests.contract.public_tables.__main__ import main
from tests.contract.public_tables.report import NotSuchATable, Report

Rows = Sequence[Mapping[str, object]]


def write(path: Path, rows: Rows, title: str = "", encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as stream:
        if title:
            stream.write(f"{title}{',' * 20}\n")
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def tallies(report: Report) -> dict[str, tuple[int, int]]:
    return {name: (tally.matched, tally.total) for name, tally in report.tallies.items()}


def stated(name: str, *values: object, score: str = "Measure Score") -> dict[str, object]:
    parts = ("Achievement Threshold", "Benchmark", "Baseline Rate", "Performance Rate")
    points = ("Achievement Points", "Improvement Points", score)
    return {f"{name} {part}": value for part, value in zip((*parts, *points), values, strict=True)}


NOTHING = ("Not Available",) * 3


def programme(folder: Path, encoding: str = "utf-8") -> Path:
    """A year with a measure that no table of ours knows by its column, another name for hospitals, footnotes."""
    head = {"Fiscal Year": 2026, "Facility Name": "Sañta Clara"}
    first, second = {**head, "CCN": "10001"}, {**head, "CCN": "10005"}
    safety = [
        first
        | stated("SEP-1", 0.5, 0.8, 0.5, 0.65, "5 out of 10", "5 out of 9", "5 out of 10")
        | stated("HAI-1", 1, 0, 1, 0, "10 out of 10", "9 out of 9", "10 out of 10"),
        second
        | stated("SEP-1", 0.5, 0.8, "Not Available (5)", 0.8, "10 out of 10", "Not Available", "10 out of 10")
        | stated("HAI-1", 1, 0, "Not Available", "Not Available", *NOTHING),
    ]
    write(folder / "hvbp_safety_07_2026.csv", safety, encoding=encoding)
    cost = [hospital | stated("MSPB-1", 1, 0.8, 1, 0.9, 5, 5, 5) for hospital in (first, second)]
    write(folder / "hvbp_efficiency_and_cost_reduction_07_2026.csv", cost, encoding=encoding)
    clinical = [
        first
        | stated("MORT-30-AMI", "0.8", "0.9", "0.8", "0.9", "10 out of 10", "9 out of 9", "10 out of 10")
        | stated("MORT-30-HF", "0.8", "0.9", "0.8", "0.7", "0 out of 10", "0 out of 9", "0 out of 10"),
        second
        | stated("MORT-30-AMI", "0.8", "0.9", "0.8", "0.9", "10 out of 10", "9 out of 9", "10 out of 10")
        | stated("MORT-30-HF", "0.8", "0.9", "0.8", "0.7", "0 out of 10", "0 out of 9", "0 out of 10"),
    ]
    write(folder / "hvbp_clinical_outcomes_07_2026.csv", clinical, encoding=encoding)
    third = 100 / 3
    total = [
        first
        | {
            "Unweighted Normalized Clinical Outcomes Domain Score": "50.000000",
            "Weighted Normalized Clinical Outcomes Domain Score": f"{50 / 3:.6f}",
            "Unweighted Person And Community Engagement Domain Score": "Not Available",
            "Weighted Person And Community Engagement Domain Score": "Not Available",
            "Unweighted Normalized Safety Domain Score": "75.000000",
            "Weighted Safety Domain Score": "25.000000",
            "Unweighted Normalized Efficiency And Cost Reduction Domain Score": "50.000000",
            "Weighted Efficiency And Cost Reduction Domain Score": f"{50 / 3:.6f}",
            "Total Performance Score": f"{25 + third:.6f}",
        },
        second
        | {
            "Unweighted Normalized Clinical Outcomes Domain Score": "50.000000",
            "Weighted Normalized Clinical Outcomes Domain Score": "Not Available",
            "Unweighted Person And Community Engagement Domain Score": "Not Available",
            "Weighted Person And Community Engagement Domain Score": "Not Available",
            "Unweighted Normalized Safety Domain Score": "Not Available",  # one measure, two are needed
            "Weighted Safety Domain Score": "Not Available",
            "Unweighted Normalized Efficiency And Cost Reduction Domain Score": "50.000000",
            "Weighted Efficiency And Cost Reduction Domain Score": "Not Available",
            "Total Performance Score": "Not Available",  # two domains, three are needed
        },
    ]
    write(folder / "hvbp_tps_07_2026.csv", total, encoding=encoding)
    (folder / "README.txt").write_text("Tables of a year", encoding="utf-8")
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_another_year_of_value_based_purchasing(tmp_path: Path, encoding: str) -> None:
    (report,) = hvbp.check([programme(tmp_path, encoding)])
    assert "FY2026" in report.title
    assert tallies(report) == {
        "achievement points": (9, 9),
        "improvement points": (8, 8),
        "measure scores": (9, 9),
        "clinical-outcomes domain score": (2, 2),
        "safety domain score": (2, 2),
        "efficiency domain score": (2, 2),
        "Total Performance Score": (2, 2),
        "  of these with a missing domain": (1, 1),
        "weighted domain scores": (4, 4),
    }
    assert {"survey base", "survey consistency", "engagement domain score", "payment factor"} <= report.absent.keys()


def test_without_its_tables_a_domain_is_taken_as_published(tmp_path: Path) -> None:
    folder = programme(tmp_path)
    (folder / "hvbp_safety_07_2026.csv").unlink()
    (report,) = hvbp.check([folder])
    assert tallies(report)["Total Performance Score"] == (2, 2)
    assert "safety domain score" not in report.tallies


def test_a_year_without_scores_and_a_wrong_number(tmp_path: Path) -> None:
    folder = programme(tmp_path)
    text = (folder / "hvbp_tps_07_2026.csv").read_text()
    (folder / "hvbp_tps_07_2026.csv").write_text(text.replace("58.333333", "58.333334"))
    (report,) = hvbp.check([folder])
    assert tallies(report)["Total Performance Score"] == (1, 2)
    assert "010001: computed 58.333333, published 58.333334" in report.render(5)
    (folder / "hvbp_tps_07_2026.csv").write_text(text.replace("58.333333", "Not Available"))
    (report,) = hvbp.check([folder])
    assert report.absent["Total Performance Score"] == "no hospital has one"


SURVEY = {"Fiscal Year": 2027, "Facility ID": "010001"}


def test_a_survey_of_six_dimensions(tmp_path: Path) -> None:
    row: dict[str, object] = dict(SURVEY)
    for number in range(6):
        name = f"Dimension {number}"
        row[f"{name} Floor"] = "40.00%"
        points = ("5 out of 10", "5 out of 9", "5 out of 10")
        row |= stated(name, "60.00%", "80.00%", "60.00%", "70.00%", *points, score="Dimension Score")
    row |= {"HCAHPS Base Score": "40", "HCAHPS Consistency Score": "20"}
    path = write(tmp_path / "hvbp_person_and_community_engagement.csv", [row])
    (report,) = hvbp.check([path])
    assert tallies(report)["survey base"] == (1, 1)  # 30 of 60 are 40 of 80
    assert tallies(report)["survey consistency"] == (1, 1)


def supplement(**changes: object) -> dict[str, object]:
    condition = {
        "Number of eligible discharges for HF": 681,
        "ERR for HF": "1.0597",
        "Peer group median ERR for HF": "0.9875",
        "Penalty indicator for HF": "Y",
        "DRG payment ratio for HF": "0.0363",
    }
    basis = {
        "Hospital CCN": "10001",
        "FY 2026 Payment adjustment factor": "0.9975",
        "Payment reduction percentage": "0.25%",
        "Dual proportion": "0.1731",
        "Peer group assignment": 3,
        "Neutrality modifier": "0.9652",
    }
    return basis | condition | changes


def test_another_year_of_readmissions(tmp_path: Path) -> None:
    fine = {"Hospital CCN": "10005", "FY 2026 Payment adjustment factor": "1.0000", "ERR for HF": "0.9"}
    fine |= {"Penalty indicator for HF": "N", "Payment reduction percentage": "0.00%", "Peer group assignment": 2}
    few = {"Number of eligible discharges for HF": "<11", "ERR for HF": "NQ", "Penalty indicator for HF": "N"}
    rows = [supplement(), supplement(**fine), supplement(**fine | few | {"Hospital CCN": "10006"})]
    path = write(tmp_path / "supplement.csv", rows, title="FY 2026 IPPS Final Rule: HRRP Supplemental Data")
    (report,) = hrrp.check([path])
    assert "FY2026" in report.title
    assert tallies(report)["payment adjustment factor"] == (3, 3)
    assert tallies(report)["penalty indicators"] == (2, 2)
    assert tallies(report)["payment reduction percentage (of the published factor)"] == (3, 3)


def test_peers_of_all_hospitals_and_of_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        supplement(**{"Hospital CCN": str(n), "Dual proportion": n / 100, "Peer group assignment": 1 + (n - 1) // 3})
        | {"ERR for HF": f"0.9{n % 3}", "Peer group median ERR for HF": "0.91"}
        for n in range(1, 16)
    ]
    path = write(tmp_path / "FY2025.csv", rows)
    (report,) = hrrp.check([path])
    assert tallies(report)["peer groups in the order of dual proportions"] == (15, 15)
    assert "need every hospital" in report.absent["peer medians"]
    monkeypatch.setattr(hrrp, "EVERYBODY", 15)
    (report,) = hrrp.check([path])
    assert tallies(report)["peer groups"] == (15, 15)
    assert tallies(report)["peer medians within 0.0001"] == (5, 5)


def test_readmissions_without_a_modifier_say_what_is_not_there(tmp_path: Path) -> None:
    row = supplement()
    del row["Neutrality modifier"]
    (report,) = hrrp.check([write(tmp_path / "FY2021.csv", [row])])
    assert "neutrality modifier" in report.absent["payment adjustment factor"]
    assert "payment adjustment factor: not in file" in report.render(5)


def test_readmission_measures(tmp_path: Path) -> None:
    row = {
        "Facility ID": "010001",
        "Measure Name": "READM-30-HF-HRRP",
        "Excess Readmission Ratio": "1.1003",
        "Predicted Readmission Rate": "23.1263",
        "Expected Readmission Rate": "21.0184",
    }
    few = row | dict.fromkeys(list(row)[2:], "N/A")
    (report,) = hrrp.check([write(tmp_path / "measures.csv", [row, few])])
    assert tallies(report)["excess readmission ratio within 0.0001"] == (1, 1)


def test_acquired_conditions(tmp_path: Path) -> None:
    rows = [
        {
            "Facility ID": f"{n:06}",
            "Fiscal Year": 2025,
            "CLABSI SIR": f"{n}",
            "CLABSI W Z Score": "Not Available",
            "CDI W Z Score": f"{n}.0000",
            "Total HAC Score": f"{n}.0000",
            "Payment Reduction": "Yes" if n > 6 else "No",
        }
        for n in range(1, 9)
    ]
    (report,) = hac.check([write(tmp_path / "hac.csv", rows)])
    assert tallies(report)["total score within 0.0001"] == (8, 8)
    assert tallies(report)["payment reductions (the worst of the 8 hospitals in this file)"] == (8, 8)
    assert "z-scores of cdi" in report.absent


@pytest.mark.parametrize("name", ["hvbp", "hrrp", "hac"])
def test_what_is_no_such_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(tmp_path / "other.csv", [{"a": 1, "b": 2}])
    assert main([name, str(other)]) == 2
    assert main([name, str(tmp_path / "absent")]) == 2
    (tmp_path / "empty").mkdir()
    assert main([name, str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.count(f"{name}: ") == 3
    with pytest.raises(NotSuchATable):
        list({"hvbp": hvbp, "hrrp": hrrp, "hac": hac}[name].check([tmp_path]))


@pytest.mark.shared
def test_value_based_purchasing_as_published(shared: Path) -> None:
    (report,) = hvbp.check([shared / "data/public-tables/hvbp"])
    assert all(matched == total > 0 for matched, total in tallies(report).values()), tallies(report)
    assert tallies(report)["achievement points"][1] > 20_000
    assert tallies(report)["Total Performance Score"][1] > 1_000


@pytest.mark.shared
def test_readmissions_as_published(shared: Path) -> None:
    measures, factors = hrrp.check([shared / "data/public-tables/hrrp"])
    matched, total = tallies(measures)["excess readmission ratio within 0.0001"]
    assert matched == total > 5_000
    found = tallies(factors)
    assert found["payment adjustment factor within 0.0001"][0] == found["payment adjustment factor within 0.0001"][1]
    exact, total = found["payment adjustment factor"]
    assert exact / total > 0.97
    assert found["penalty indicators"][1] - found["penalty indicators"][0] <= 2  # digits that are not published
