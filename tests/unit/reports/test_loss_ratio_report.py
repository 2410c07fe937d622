"""The medical loss ratio report says what the settlement, or the rules, said: of a contract and of accounts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from fhir_gateway.contracts.scoring import medical_loss_ratio as rules
from fhir_gateway.contracts.scoring.medical_loss_ratio import Experience, MedicalLossRatioYear
from fhir_gateway.errors import ContractError, NotFoundError
from fhir_gateway.reports.document import money, percent
from fhir_gateway.reports.forms import write
from fhir_gateway.reports.loss_ratio import loss_ratio_report, of_accounts
from tests.support.pages_read import html_tables, pdf_words

D = Decimal
HEAD = "line_of_business,market,year,claims,premium,taxes,member_months,quality_improvement,net_transfers,deductible\n"
ACCOUNTS = HEAD + (
    "Plans,individual,2024,118000,190000,14000,1080000,500,17500,\n"
    "Plans,individual,2025,121250,200000,15000,1080000,0,17500,\n"
    "Groups,large_group,2025,9000000,10000000,500000,2400000,,0,\n"
    "Small,small_group,2025,500000,1000000,50000,6000,20000,0,\n"
)


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.csv"
    path.write_text(ACCOUNTS, "utf-8")
    return path


def test_each_line_of_business_is_as_the_rules_say(accounts: Path) -> None:
    found = {one.name: one for one in of_accounts(accounts)}
    markets = MedicalLossRatioYear.of(2025).markets
    years = [
        Experience(2024, D(118000), D(190000), D(14000), D(1080000), D(500), net_transfers=D(17500)),
        Experience(2025, D(121250), D(200000), D(15000), D(1080000), D(0), net_transfers=D(17500)),
    ]
    expected = rules.loss_ratio(years, markets["individual"])
    plans = found["Plans"]
    assert (plans.ratio, plans.numerator, plans.denominator) == (
        expected.ratio,
        expected.numerator,
        expected.denominator,
    )
    assert plans.owed == rules.rebate(expected, markets["individual"], years[-1]).quantize(D("0.01"))
    assert plans.owed > 0
    # without quality improvement the flat 0.8 % of the premium counts (45 CFR 158.221)
    assert found["Groups"].numerator == D(9000000) + D("0.008") * D(10000000)
    assert found["Groups"].owed == 0
    assert found["Small"].credibility is None  # 500 life years are too few to judge: presumed to meet the standard
    assert found["Small"].owed == 0


def test_the_report_says_all_of_it_in_both_forms(accounts: Path) -> None:
    found = of_accounts(accounts)
    report = loss_ratio_report(found, "us")
    words, tables = pdf_words(write(report, "pdf")).replace(" ", ""), html_tables(write(report, "html"))
    rows = {row[0]: row for row in tables["Ratios by contract or line of business"]}
    for one in found:
        assert rows[one.name][3:9] == [
            money(one.numerator, "USD"),
            money(one.denominator, "USD"),
            rows[one.name][5],
            percent(one.ratio),
            percent(one.standard),
            f"{money(one.owed, 'USD')} rebate",
        ]
        for said in (money(one.numerator, "USD"), percent(one.ratio), one.name):
            assert said.replace(" ", "") in words
    assert rows["Small"][5] == "–"
    years = [row for row in tables["Accounts by year"] if row[0] == "Plans"]
    assert [row[1] for row in years] == ["2024", "2025"]
    assert years[1][2] == "121,250"


def test_without_premium_the_report_says_what_it_needs() -> None:
    with pytest.raises(NotFoundError, match="premium, which claims do not have"):
        loss_ratio_report([], "us")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("Plans,nowhere,2025,1,10,1,100000,,,\n", "a market is one of individual"),
        ("Plans,individual,2025,1,10,1,100000,,,\nPlans,individual,2025,1,10,1,100000,,,\n", "two rows of a year"),
        ("Plans,individual,2025,1,1,2,100000,,,\n", "premium does not exceed"),
        ("Plans,individual,2025,,10,1,100000,,,\n", "claims"),
    ],
)
def test_wrong_accounts_are_named(tmp_path: Path, rows: str, problem: str) -> None:
    path = tmp_path / "accounts.csv"
    path.write_text(HEAD + rows, "utf-8")
    with pytest.raises(ContractError, match=problem):
        of_accounts(path)
