"""Largest remainder: parts that add up."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts.apportion import apportion, apportion_by
from fhir_gateway.errors import ContractError

D = Decimal


def test_the_cent_that_is_left_goes_to_the_largest_remainder() -> None:
    assert apportion(D(100), [D(1), D(1), D(1)]) == (D("33.34"), D("33.33"), D("33.33"))
    assert apportion(D("0.05"), [D(1), D(3)]) == (D("0.01"), D("0.04"))
    assert apportion(D(-100), [D(1), D(1), D(1)]) == (D("-33.34"), D("-33.33"), D("-33.33"))
    assert apportion(D(10), [D(1), D(2)], D(1)) == (D(3), D(7))


def test_by_name_ties_do_not_depend_on_the_order_given() -> None:
    assert apportion_by(D("0.01"), {"b": D(1), "a": D(1)}) == {"a": D("0.01"), "b": D(0)}


def test_nobody_to_share_with() -> None:
    assert apportion(D(0), [D(0)]) == (0,)
    assert apportion(D(0), []) == ()
    with pytest.raises(ContractError, match="no weight"):
        apportion(D(1), [D(0)])
    with pytest.raises(ContractError, match="negative"):
        apportion(D(1), [D(-1), D(2)])


amounts = st.decimals("-1e9", "1e9", places=2)
weights = st.lists(st.decimals(0, 1000, places=3), min_size=1, max_size=20)


@given(total=amounts, shares=weights)
def test_parts_sum_exactly_and_are_within_a_cent_of_the_share(total: Decimal, shares: list[Decimal]) -> None:
    whole = sum(shares)
    if not whole:
        return
    parts = apportion(total, shares)
    assert sum(parts) == total
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - total * share / whole) < D("0.01")
        assert share or not part


@given(total=amounts, shares=weights)
def test_a_larger_weight_never_gets_less(total: Decimal, shares: list[Decimal]) -> None:
    if not sum(shares):
        return
    parts = apportion(abs(total), shares)
    ranked = sorted(zip(shares, parts, strict=True))
    assert all(a[1] <= b[1] for a, b in pairwise(ranked) if a[0] < b[0])
