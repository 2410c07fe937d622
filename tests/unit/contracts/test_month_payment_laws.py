"""Laws of payments by member month: parts add up, corrections cancel, risk keeps the sum, rows are lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract, settle
from fhir_gateway.contracts.arrangements.audited import AuditedTerms
from fhir_gateway.contracts.audit import total

D = Decimal
Terms = dict[str, Any]
Make = Callable[[Terms], Contract]
few = settings(max_examples=8)  # each example is several settlements
LEDGER = {"window_months": 24, "cycle": date(2025, 1, 1)}

rates = st.lists(st.decimals(0, 2000, places=2), min_size=3, max_size=3).map(
    lambda found: [
        {"cell": "child", "rate": found[0], "age_through": 17},
        {"cell": "adult", "rate": found[1], "age_from": 18, "effective_through": date(2024, 6, 30)},
        {"cell": "adult", "rate": found[2], "age_from": 18, "effective_from": date(2024, 7, 1)},
    ]
)
populations = st.dictionaries(
    st.sampled_from("abcdefgh"), st.sets(st.integers(1, 12), min_size=1), min_size=1, max_size=6
)
PEOPLE = [{"member": name, "birth_date": date(1990 + 5 * n, 5, 5)} for n, name in enumerate("abcdefgh")]


@pytest.fixture(scope="session")
def make(contract_terms: Callable[..., Terms]) -> Make:
    """A contract with one arrangement."""
    return lambda stated: contract_of(contract_terms(rounding="cent", arrangements=[stated]))


def capitation(**changes: Any) -> Terms:
    return {"kind": "capitation", "id": "cap", "pool": "capitation"} | changes


def rows_of(
    contract: Contract, months: Mapping[str, Sequence[int]], tables: Mapping[str, Sequence[Terms]], **more: Any
) -> list[Terms]:
    terms = contract.arrangements[0]
    assert isinstance(terms, AuditedTerms)
    people = [one for one in PEOPLE if one["member"] in months]
    found: list[Terms] = terms.audit(inputs_of(contract, months_of(months), people, tables=tables, **more)).to_pylist()
    return found


def in_order(months: Mapping[str, set[int]]) -> dict[str, list[int]]:
    return {name: sorted(numbers) for name, numbers in months.items()}


@few
@given(populations, rates, st.sets(st.sampled_from("abcdefgh")))
def test_parts_of_a_population_add_up(make: Make, months: Any, agreed: Any, part: set[str]) -> None:
    contract = make(capitation(risk={"normalise": "reference", "reference": D("1.37"), "missing": D("1.2")}))
    tables = {"rates": agreed, "risk_scores": [{"member": "a", "score": D("0.613")}]}
    whole = in_order(months)
    inside = {name: numbers for name, numbers in whole.items() if name in part}
    outside = {name: numbers for name, numbers in whole.items() if name not in part}
    rows = rows_of(contract, whole, tables)
    assert sorted(map(repr, rows)) == sorted(
        map(repr, rows_of(contract, inside, tables) + rows_of(contract, outside, tables))
    )


@few
@given(populations, populations, rates, rates)
def test_a_retroactive_change_and_its_reversal_leave_zero(
    make: Make, first: Any, second: Any, old: Any, new: Any
) -> None:
    contract = make(capitation(retro=LEDGER))
    posted: list[Terms] = []
    sums = []
    for months, agreed in ((first, old), (second, new), (first, old)):
        tables = {"rates": agreed, "capitation_posted": posted}
        posted = [*posted, *({**row, "cycle": LEDGER["cycle"]} for row in rows_of(contract, in_order(months), tables))]
        sums.append(sum(row["amount"] for row in posted))
    assert sums[0] == sums[2]
    now = total_of(make(capitation()), in_order(second), new)
    assert sums[1] == now  # all that was posted is what it would be today


def total_of(contract: Contract, months: Mapping[str, Sequence[int]], agreed: Sequence[Terms]) -> Decimal:
    return sum((row["amount"] for row in rows_of(contract, months, {"rates": agreed})), D(0))


@few
@given(populations, rates, st.lists(st.decimals("0.001", 9, places=3), min_size=8, max_size=8))
def test_budget_neutral_risk_keeps_the_sum(make: Make, months: Any, agreed: Any, scores: list[Decimal]) -> None:
    plain, adjusted = make(capitation()), make(capitation(risk={"normalise": "budget_neutral"}))
    given_scores = [{"member": name, "score": score} for name, score in zip("abcdefgh", scores, strict=True)]
    tables = {"rates": agreed, "risk_scores": given_scores}
    whole = in_order(months)
    rows = rows_of(adjusted, whole, tables)
    assert sum(row["amount"] for row in rows) == total_of(plain, whole, agreed)
    assert all(abs(row["amount"]) < D("0.0001") for row in rows if row["cell"] == "places")


@few
@given(populations, st.decimals(0, 3000, places=2), st.integers(1, 28))
def test_lines_are_the_sums_of_rows(make: Make, months: Any, cost: Decimal, day: int) -> None:
    assessments = [
        {"member": name, "tier": tier, "effective_from": date(2024, month, day)}
        for name in "abcdefgh" for tier, month in (("1", 1), ("2", 6))
    ]  # fmt: skip
    case = {"kind": "case_rate", "id": "case", "pool": "cases", "tier_change": "prorate",
            "rates": [{"tier": "1", "rate": D("700.01")}, {"tier": "2", "rate": D("333.33")}],
            "outlier": {"multiple": D("1.1"), "share": D("0.3")}}  # fmt: skip
    fee = {"kind": "care_management_fee", "id": "fee", "pool": "fees", "fees": [{"pmpm": D("7.77")}],
           "payment": "prospective_quarterly", "as_of": date(2025, 1, 1), "retro_quarters": 4}  # fmt: skip
    whole = in_order(months)
    lines = [line(name, date(2024, number, day), allowed=cost) for name, numbers in whole.items() for number in numbers]
    for stated, tables in ((case, {"assessments": assessments}), (fee, {})):
        contract = make(stated)
        inputs = inputs_of(contract, months_of(whole), lines=lines, tables=tables)
        terms = contract.arrangements[0]
        assert isinstance(terms, AuditedTerms)
        rows = terms.audit(inputs)
        assert settle(contract, inputs).line(f"{terms.id}.balance").value == total(rows)


@few
@given(populations)
def test_quarters_paid_ahead_come_to_what_counted(make: Make, months: Any) -> None:
    """Who counts in a quarter's first month is paid for the months of that quarter that count, in the end."""
    contract = make(
        {"kind": "care_management_fee", "id": "fee", "pool": "fees", "fees": [{"pmpm": D(1)}],
         "payment": "prospective_quarterly", "as_of": date(2025, 1, 1), "retro_quarters": 4}
    )  # fmt: skip
    counted = sum(1 for numbers in months.values() for number in numbers if (number - 1) // 3 * 3 + 1 in numbers)
    assert settle(contract, inputs_of(contract, months_of(in_order(months)))).total == counted
