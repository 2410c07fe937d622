"""From when to when a stay was, by what inpatient claims say of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from utilization_parts import day, lines, stay

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.risk.utilization import Rules, stays

YEAR_LONG = {"claim_from": day("03-01"), "claim_thru": day("2027-03-01")}


def days_of(*claims: dict[str, Any], rules: Rules | None = None) -> list[tuple[date, date, int]]:
    """Admission, discharge and length of the stays of claims."""
    found = stays(lines(*claims), rules)
    return list(zip(*(found[name].to_pylist() for name in ("admitted", "discharged", "days")), strict=True))


def test_the_statement_period_is_the_stay() -> None:
    period = {"claim_from": day("03-01"), "claim_thru": day("03-06")}
    assert days_of(stay("a", "c", "03-02", "03-02", **period)) == [(day("03-01"), day("03-06"), 5)]


def test_a_statement_that_does_not_hold_its_lines_is_none() -> None:
    period = {"claim_from": day("05-01"), "claim_thru": day("05-06")}
    assert days_of(stay("a", "c", "03-02", "03-04", **period)) == [(day("03-02"), day("03-04"), 2)]


def test_a_year_is_no_stay() -> None:
    assert days_of(stay("a", "c", "03-01", "03-04", **YEAR_LONG)) == [(day("03-01"), day("03-04"), 3)]
    whole = stay("a", "c", "03-01", "2027-03-01", **YEAR_LONG)  # its line has no days of its own
    assert days_of(whole) == [(day("03-01"), day("03-01"), 1)]


def test_nights_that_were_billed_say_how_long_it_was() -> None:
    bed = stay("a", "c", "03-01", "03-01", revenue_code="0120", units=Decimal(110), **YEAR_LONG)
    more = stay("a", "c", "03-02", "03-02", revenue_code="0300", units=Decimal(9), **YEAR_LONG)
    assert days_of(bed, more) == [(day("03-01"), day("03-01") + timedelta(110), 110)]


def test_days_of_admission_and_discharge_go_before_all_else() -> None:
    stated = {"admitted": day("02-27"), "discharged": day("06-30")}
    assert days_of(stay("a", "c", "03-01", "03-04", **YEAR_LONG, **stated)) == [(day("02-27"), day("06-30"), 123)]
    still = {"admitted": day("02-27")}
    assert days_of(stay("a", "c", "03-01", "03-04", **YEAR_LONG, **still)) == [(day("02-27"), day("03-04"), 5)]


@pytest.mark.parametrize(("length", "nights"), [(100, 100), (101, 1)])
def test_how_long_a_statement_may_be_is_a_rule(length: int, nights: int) -> None:
    claim = stay("a", "c", "03-01", "03-02", claim_thru=day("03-01") + timedelta(length))
    assert days_of(claim)[0][2] == nights
    assert days_of(claim, rules=replace(Rules.load(), longest_statement=120))[0][2] == length


def test_rules_that_say_no_number_of_days_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('version = "1"\nlongest_statement = "long"\nstay = []\nvisit = []\ncategory = []\n')
    with pytest.raises(ConfigurationError, match="longest_statement"):
        Rules.load(path)
