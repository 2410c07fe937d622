"""What so many members take follows from what was measured, by the formulas that the page states."""

from __future__ import annotations

import pytest

from bench.sizing import RAW, Figures, Plan, size

TEXT = """\
  members  stage          wall s      CPU s  us/member   of first    of last    peak MB
    1,000  ingest            9.0        4.0     4000.0                            500
    1,000  attribute         2.0        1.0     1000.0                            500
    1,000  evaluate          2.0        1.0     1000.0                            500
    1,000  settle            2.0        1.0     1000.0                            500
    1,000  fifty             9.0       10.0    10000.0                          1,500
   10,000  ingest           90.0       36.0     3600.0       0.90       0.90      2,048
   10,000  attribute        20.0        7.2      720.0       0.72       0.72        600
   10,000  evaluate         20.0        7.2      720.0       0.72       0.72        700
   10,000  settle           20.0        3.6      360.0       0.36       0.36        800
10,000 members: 980,000 resources, 1,280 MB of JSON; kept, MB: {'control.db': 100, 'lake': 200, 'results': 5}
"""


def test_figures_are_those_of_the_largest_size_of_each_stage() -> None:
    figures = Figures.read(TEXT)
    assert figures.largest("ingest").each == pytest.approx(0.0036)
    assert figures.largest("ingest").peak_mb == 2048
    assert figures.largest("fifty").members == 1000
    assert figures.resources == {10_000: 980_000}


def test_a_size_follows_by_the_stated_formulas() -> None:
    plan = Plan(members=1_000_000, measures=50, cores=4, commit_cores=2.0, spread=0.5)
    found = size(Figures.read(TEXT), plan)
    assert found.cpu_hours["ingest"] == pytest.approx(1.0)
    assert found.hours["ingest"] == pytest.approx(0.5)
    assert found.cpu_hours["evaluate"] == pytest.approx(10_000 / 3600)  # fifty were measured at 10 ms a member
    assert found.hours["evaluate"] == pytest.approx(10_000 / 3600 / 2)
    assert found.memory_gb["ingest"] == pytest.approx(2.0 + 1.1 * 990_000 / 1024**2)
    assert found.memory_gb["settle"] == pytest.approx(800 / 1024)
    assert found.memory_gb["evaluate"] == pytest.approx(4 * 2.1 * 1000 / 1024)
    assert found.storage_gb["lake"] == pytest.approx(2 * 200 * 100 / 1024)
    assert found.storage_gb["results"] == pytest.approx(5 / 5 * 50 * 100 / 1024)
    assert found.dollars["first load"] == pytest.approx(found.hours["first load"] * 4 * 0.05)


def test_the_kept_figures_have_all_that_a_size_needs() -> None:
    found = size(Figures.read(RAW.read_text(encoding="utf-8")), Plan())
    assert all(amount > 0 for part in (found.hours, found.storage_gb, found.dollars) for amount in part.values())
