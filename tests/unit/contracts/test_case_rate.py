"""Case rates: tiers that change, contacts, parts of periods, outliers, claw-back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract, settle
from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.contracts.arrangements.case_rate import CaseRate
from fhir_gateway.contracts.audit import amount_of
from fhir_gateway.errors import ContractError

D = Decimal
Terms = dict[str, Any]
Make = Callable[..., Contract]
RATES = [{"tier": "3", "rate": 600}, {"tier": "4", "rate": 900}]
REASSESSED = [
    {"member": "a", "tier": "3", "effective_from": date(2024, 1, 1)},
    {"member": "a", "tier": "4", "effective_from": date(2024, 4, 11)},
]


@pytest.fixture
def make(contract_terms: Callable[..., Terms]) -> Make:
    """A contract with one case rate."""

    def of(**changes: Any) -> Contract:
        stated = {"kind": "case_rate", "id": "case", "pool": "cases", "rates": RATES} | changes
        return contract_of(contract_terms(rounding="cent", arrangements=[stated]))

    return of


def amounts(contract: Contract, inputs: Any) -> dict[tuple[str, int], Decimal]:
    terms = contract.arrangements[0]
    assert isinstance(terms, CaseRate)
    rows = terms.audit(inputs).to_pylist()
    for row in rows:
        if row["status"] == "paid":
            assert row["amount"] == amount_of(row["quantity"], row["rate"], row["factor"])
    found: dict[tuple[str, int], Decimal] = {}
    for row in rows:
        key = (row["member"], row["month"].month)
        found[key] = found.get(key, D(0)) + row["amount"]
    assert settle(contract, inputs).total == sum(found.values())
    return found


@pytest.mark.parametrize(("change", "april"), [("prorate", 800), ("next_period", 600), ("higher_of", 900)])
def test_a_tier_that_changes_within_the_period(make: Make, change: str, april: int) -> None:
    contract = make(tier_change=change)
    inputs = inputs_of(contract, months_of({"a": (3, 4, 5)}), tables={"assessments": REASSESSED})
    assert amounts(contract, inputs) == {("a", 3): 600, ("a", 4): april, ("a", 5): 900}


def test_february_has_28_or_29_days(make: Make) -> None:
    contract = make(tier_change="prorate")
    for year, days in ((2023, 28), (2024, 29)):
        assessments = [
            {"member": "a", "tier": "3", "effective_from": date(year, 1, 1)},
            {"member": "a", "tier": "4", "effective_from": date(year, 2, 15)},
        ]
        inputs = inputs_of(contract, months_of({"a": [2]}, year), tables={"assessments": assessments})
        rows = contract.arrangements[0].audit(inputs).to_pylist()  # type: ignore[attr-defined]
        total = sum(row["amount"] for row in rows)
        assert abs(total - (D(600) * 14 + D(900) * (days - 14)) / days) < D("1e-7")


def test_tiers_by_the_score_of_an_instrument(make: Make) -> None:
    contract = make(instrument="LOCUS", cut_points=[{"at": 17, "tier": "3"}, {"at": 20, "tier": "4"}], valid_months=6)
    assessments = [
        {"member": "a", "instrument": "LOCUS", "score": D(19), "effective_from": date(2023, 12, 5)},
        {"member": "b", "instrument": "LOCUS", "score": D(20), "effective_from": date(2024, 2, 1)},
        {"member": "c", "instrument": "LOCUS", "score": D(9), "effective_from": date(2024, 1, 1)},
        {"member": "c", "instrument": "CANS", "score": D(90), "effective_from": date(2024, 1, 1)},
    ]
    months = months_of({"a": (5, 6, 7), "b": (2,), "c": (2,)})
    inputs = inputs_of(contract, months, tables={"assessments": assessments})
    assert amounts(contract, inputs) == {("a", 5): 600, ("a", 6): 600, ("a", 7): 0, ("b", 2): 900, ("c", 2): 0}
    unpaid = [one for one in settle(contract, inputs).lines if "not paid, no-assessment" in one.label]
    assert [one.value for one in unpaid] == [0]


def test_contacts_make_a_case(make: Make) -> None:
    contract = make(min_contacts=2, contacts={"procedure": ["H2015", "T10*"]}, tins=["1"])
    lines = [
        line("a", date(2024, 1, 3), procedure="H2015", tin="1"),
        line("a", date(2024, 1, 9), procedure="T1017", tin="1"),
        line("b", date(2024, 1, 3), procedure="H2015", tin="1"),
        line("b", date(2024, 1, 3), procedure="T1017", tin="1"),  # the same day
        line("b", date(2024, 1, 9), procedure="T1017", tin="2"),
        line("b", date(2024, 1, 9), procedure="99213", tin="1"),
        line("b", date(2024, 1, 10), procedure="H2015", tin="1", denied=True),
    ]
    assessments = [{"member": member, "tier": "3", "effective_from": date(2023, 1, 1)} for member in "ab"]
    inputs = inputs_of(contract, months_of({"a": [1], "b": [1]}), lines=lines, tables={"assessments": assessments})
    assert amounts(contract, inputs) == {("a", 1): 600, ("b", 1): 0}


@pytest.mark.parametrize(
    ("partial", "more", "expected"),
    [("full", {}, 600), ("months", {}, 400), ("full_with_contacts", {"full_contacts": 1}, 600),
     ("full_with_contacts", {"full_contacts": 2}, 400)],
)  # fmt: skip
def test_parts_of_a_quarter(make: Make, partial: str, more: Terms, expected: int) -> None:
    contract = make(period="quarter", partial=partial, **more)
    assessments = [{"member": "a", "tier": "3", "effective_from": date(2024, 1, 1)}]
    lines = [line("a", date(2024, 5, 3), procedure="H2015")]
    inputs = inputs_of(contract, months_of({"a": (4, 6)}), lines=lines, tables={"assessments": assessments})
    assert amounts(contract, inputs) == {("a", 4): expected}


def test_rates_have_versions(make: Make) -> None:
    contract = make(
        period="year",
        rates=[*RATES, {"tier": "3", "rate": 1, "effective_from": date(2024, 1, 1)}],
        tier_change="prorate",
    )
    inputs = inputs_of(contract, months_of({"a": (2, 3)}), tables={"assessments": REASSESSED[:1]})
    assert amounts(contract, inputs) == {("a", 1): 1}


def test_outliers_and_claw_back(make: Make) -> None:
    contract = make(
        outlier={"multiple": 2, "share": D("0.5")}, documentation="missing_documents", claw_back=D("0.5"), advance=100
    )
    lines = [
        line("a", date(2024, 3, 3), allowed=D(1000)),
        line("a", date(2024, 3, 4), allowed=D(700)),
        line("a", date(2024, 5, 4), allowed=D(1800)),
    ]
    tables = {"assessments": REASSESSED, "missing_documents": [{"member": "a", "day": date(2024, 3, 20)}]}
    inputs = inputs_of(contract, months_of({"a": (3, 5)}), lines=lines, tables=tables)
    settlement = settle(contract, inputs)
    # March: 600 + half of 1700 - 1200, of which half is taken back; May: 900, and 1800 is not above 1800
    assert settlement.total == (600 + 250) / 2 + 900 - 100


def test_assessments_that_cannot_be_meant(make: Make) -> None:
    contract = make()
    months = months_of({"a": [1]})
    twice = [REASSESSED[0], REASSESSED[0] | {"tier": "4"}]
    with pytest.raises(ContractError, match="two assessments of one day"):
        settle(contract, inputs_of(contract, months, tables={"assessments": twice}))
    with pytest.raises(ContractError, match="has a tier without a rate"):
        settle(contract, inputs_of(contract, months, tables={"assessments": [REASSESSED[0] | {"tier": "9"}]}))
    later = make(rates=[{"tier": "3", "rate": 1, "effective_from": date(2024, 6, 1)}])
    with pytest.raises(ContractError, match="no rate yet"):
        settle(later, inputs_of(later, months, tables={"assessments": REASSESSED[:1]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": [RATES[0], RATES[0]]}, "two rates at once"),
        ({"cut_points": [{"at": 1, "tier": "9"}]}, "no rate of tier '9'"),
        ({"cut_points": [{"at": 2, "tier": "3"}, {"at": 1, "tier": "4"}]}, "cut_points[2]"),
        ({"partial": "full_with_contacts"}, "case.full_contacts"),
        ({"contacts": {"procedure": ["H2015"]}}, "nothing asks for contacts"),
    ],
)
def test_contradictions(changes: Terms, message: str) -> None:
    stated = {"kind": "case_rate", "id": "case", "pool": "cases", "rates": RATES} | changes
    found = ARRANGEMENTS["case_rate"].model_validate(stated).problems()
    assert any(message in one for one in found), found
