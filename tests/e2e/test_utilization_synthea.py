"""Utilization of Synthea's sample agrees with SQL over its JSON that knows nothing of the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.utilization_sql import Pairs, by_gateway, by_sql

YEAR = 2018


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "synthea" / "generated-sample-data-r4"


@pytest.fixture(scope="module")
def ours(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Pairs]:
    return by_gateway(folder, YEAR, tmp_path_factory.mktemp("gateway"))


@pytest.mark.shared
def test_every_metric_is_the_same(folder: Path, ours: dict[str | None, Pairs]) -> None:
    theirs = by_sql(folder, YEAR)
    assert theirs["acute-admissions-per-1000"][0] > 0
    assert theirs["readmissions-30-day"][0] > 0
    assert ours[None] == theirs


@pytest.mark.shared
@pytest.mark.parametrize("sex", ["female", "male"])
def test_every_metric_is_the_same_of_each_sex(folder: Path, ours: dict[str | None, Pairs], sex: str) -> None:
    theirs = by_sql(folder, YEAR, f"gender = '{sex}'")

    def compared(pairs: Pairs) -> Pairs:  # the most expensive are those of everybody; shares of nothing are not shown
        return {name: pair for name, pair in pairs.items() if not name.startswith("top-")}

    assert compared(ours[sex]) == compared(theirs)


@pytest.mark.shared
def test_periods_of_a_year_make_no_stays_of_a_year(shared: Path, tmp_path: Path) -> None:
    """This sample's claims state a period of a year from the end of their Encounter on."""
    folder = shared / "data" / "synthea" / "bulk-data-server-100"
    ours, theirs = by_gateway(folder, YEAR, tmp_path)[None], by_sql(folder, YEAR)
    assert ours == theirs
    days, stays = ours["acute-average-length-of-stay"]
    assert stays is not None
    assert 0 < days < 3 * stays
