"""Payments shared out: the parts sum to the published amount, whatever the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from contract_parts import exposure, shared_savings
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts import Contract, SettlementInputs, settle
from fhir_gateway.contracts.distribution import ORGANIZATION, Panel
from fhir_gateway.errors import ContractError

D = Decimal


def inputs(cost: str, panels: dict[str, Panel]) -> SettlementInputs:
    return replace(SettlementInputs(exposure(cost), {}), panels={"tin": panels})


def shares(contract: Contract, given_inputs: SettlementInputs) -> dict[str, Decimal]:
    lines = settle(contract, given_inputs).lines
    return {line.id.rpartition(".")[2]: line.value or D(0) for line in lines if ".distribution." in line.id}


def test_months_decide_and_the_reserve_stays(load: Callable[..., Contract]) -> None:
    contract = load(
        rounding="cent",
        distributions=[{"arrangement": "ss", "weight": "member_months", "reserve": D("0.1")}],
        arrangements=[shared_savings(losses={"rate": D("0.5")})],
    )
    panels = {"1": Panel(1, D(3)), "2": Panel(1, D(2)), "3": Panel(1, D(2))}
    gain = shares(contract, inputs("893333.31", panels))  # 53,333.345 -> 53,333.35; reserve 5,333.34
    assert gain == {"1": D("20571.43"), "2": D("13714.29"), "3": D("13714.29"), ORGANIZATION: D("5333.34")}
    assert sum(gain.values()) == D("53333.35")
    loss = shares(contract, inputs("1100000", panels))
    assert loss == {"1": D("-21428.57"), "2": D("-14285.72"), "3": D("-14285.71")}


def test_agreed_shares(load: Callable[..., Contract]) -> None:
    shared = {"arrangement": "ss", "weight": "shares", "shares": {"100000001": D("0.25"), "100000002": D("0.75")}}
    assert shares(load(distributions=[shared]), inputs("900000", {})) == {
        "100000001": D(12_500),
        "100000002": D(37_500),
    }


def test_contradictions(load: Callable[..., Contract]) -> None:
    with pytest.raises(ContractError, match=r"distributions\.other: there is no arrangement 'other'"):
        load(distributions=[{"arrangement": "other"}])
    with pytest.raises(ContractError, match=r"sum to 0\.5, not 1"):
        load(distributions=[{"arrangement": "ss", "weight": "shares", "shares": {"1": D("0.5")}}])
    with pytest.raises(ContractError, match="shares: belong to weight 'shares'"):
        load(distributions=[{"arrangement": "ss", "shares": {"1": D(1)}}])
    with pytest.raises(ContractError, match="nobody to share with"):
        settle(load(distributions=[{"arrangement": "ss"}]), inputs("900000", {}))


@given(
    cost=st.decimals(0, 2_000_000, places=2),
    months=st.lists(st.decimals(0, 1000, places=2), min_size=1, max_size=8),
    reserve=st.decimals(0, 1, places=3),
)
def test_the_parts_sum_to_the_payment(
    load: Callable[..., Contract], cost: Decimal, months: list[Decimal], reserve: Decimal
) -> None:
    contract = load(
        distributions=[{"arrangement": "ss", "reserve": reserve}],
        arrangements=[shared_savings(losses={"rate": D("0.3")})],
    )
    panels = {str(number): Panel(1, share + 1) for number, share in enumerate(months)}
    settlement = settle(contract, inputs(str(cost), panels))
    parts = [line.value or D(0) for line in settlement.lines if ".distribution." in line.id]
    assert sum(parts) == settlement.total
    assert all(part * settlement.total >= 0 for part in parts)
