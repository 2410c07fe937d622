"""Bands: parts that add up, the same on both sides."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts.bands import Band, band_parts, band_problems, shared

D = Decimal
REACH = [  # corridors of ACO REACH, global: parts of the benchmark
    Band(through=D("0.25"), share=D(1)),
    Band(through=D("0.35"), share=D("0.5")),
    Band(through=D("0.5"), share=D("0.25")),
    Band(share=D("0.1")),
]


@st.composite
def bands(draw: st.DrawFn) -> list[Band]:
    edges = sorted(draw(st.sets(st.decimals("0.01", 2, places=2), max_size=4)))
    shares = draw(st.lists(st.decimals(0, 1, places=2), min_size=len(edges) + 1, max_size=len(edges) + 1))
    return [Band(through=edge, share=share) for edge, share in zip([*edges, None], shares, strict=True)]


amounts = st.decimals(-3_000_000, 3_000_000, places=2)


def test_corridors_of_a_programme() -> None:
    assert shared(D(400), D(1000), REACH) == 250 + 50 + D("12.5")
    assert [part.amount for part in band_parts(D(-260), D(1000), REACH)] == [-250, -10, 0, 0]


@given(amounts, bands())
def test_parts_add_up_and_are_symmetric(deviation: Decimal, agreed: list[Band]) -> None:
    reference = D(1_000_000)
    parts = band_parts(deviation, reference, agreed)
    assert sum(part.amount for part in parts) == deviation
    assert shared(-deviation, reference, agreed) == -shared(deviation, reference, agreed)
    assert abs(shared(deviation, reference, agreed)) <= abs(deviation)


@given(amounts, amounts, bands())
def test_more_savings_never_share_less(one: Decimal, other: Decimal, agreed: list[Band]) -> None:
    low, high = sorted((one, other))
    assert shared(low, D(1_000_000), agreed) <= shared(high, D(1_000_000), agreed)


@pytest.mark.parametrize(
    ("agreed", "message"),
    [
        ([], "no band"),
        ([Band(through=D(1), share=D(1))], "last band has no end"),
        ([Band(through=D("0.2"), share=D(1)), Band(through=D("0.1"), share=D(1)), Band(share=D(0))], "not above"),
        ([Band(share=D(1)), Band(share=D(0))], "after a band without an end"),
    ],
)
def test_contradictions(agreed: list[Band], message: str) -> None:
    assert any(message in one for one in band_problems("corridor", agreed))
