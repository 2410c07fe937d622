"""Laws of settlement: monotone in cost and quality, lines add up, members in any order."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from contract_parts import inputs, measure, shared_savings
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts import Contract, MeasureScore, Settlement, settle

D = Decimal
fractions = st.decimals(0, 1, places=3)
costs = st.decimals(500_000, 1_500_000, places=2)

two_sided = st.fixed_dictionaries(
    {
        "rate": fractions,
        "cap": st.decimals("0.01", "0.5", places=2),
        "sequestration": st.sampled_from([D(0), D("0.02")]),
        "corridor": st.one_of(
            st.just({"kind": "none"}),
            st.just({"kind": "variable"}),
            st.builds(
                lambda msr, first: {"kind": "fixed", "msr": msr, "first_dollar": first},
                st.decimals(0, "0.1", places=3),
                st.booleans(),
            ),
        ),
        "quality": st.sampled_from(
            [
                {"mode": "gate", "gate": D("0.6")},
                {"mode": "gate", "gate": D("0.6"), "below_gate": "multiplicative"},
                {"mode": "multiplicative"},
                {"mode": "ladder", "steps": [{"at": D("0.3"), "points": D("0.5")}, {"at": D("0.8"), "points": 1}]},
            ]
        ),
        "losses": st.sampled_from(
            [
                None,
                {"rate": D("0.3"), "limit": D("0.04")},
                {"rate": D("0.75"), "quality_adjusted": True, "floor": D("0.4"), "limit": D("0.15")},
                {"rate": D("0.5"), "limit_amount": 20_000, "relief": D("0.1")},
            ]
        ),
    }
)


def total(contract: Contract, cost: Decimal, quality: Decimal) -> Decimal:
    return settled(contract, cost, quality).total


def settled(contract: Contract, cost: Decimal, quality: Decimal) -> Settlement:
    outcomes = {"q": MeasureScore(None, 100, quality)}
    settlement = settle(contract, inputs(cost, outcomes=outcomes))
    amounts = [line.amount for line in settlement.payable() if line.amount is not None]
    assert settlement.total == sum(amounts)
    assert all(amount == round(amount, 2) for amount in amounts)
    return settlement


@given(terms=two_sided, cost=costs, more=costs, quality=fractions)
def test_more_cost_never_pays_more(
    load: Callable[..., Contract], terms: dict[str, object], cost: Decimal, more: Decimal, quality: Decimal
) -> None:
    contract = load(measures=[measure("q", "1")], arrangements=[shared_savings(**terms)], rounding="cent")
    low, high = sorted((cost, more))
    assert total(contract, low, quality) >= total(contract, high, quality)


@given(terms=two_sided, cost=costs, quality=fractions, better=fractions)
def test_better_quality_never_pays_less(
    load: Callable[..., Contract], terms: dict[str, object], cost: Decimal, quality: Decimal, better: Decimal
) -> None:
    contract = load(measures=[measure("q", "1")], arrangements=[shared_savings(**terms)], rounding="cent")
    low, high = sorted((quality, better))
    assert total(contract, cost, low) <= total(contract, cost, high)


@given(
    scores=st.lists(fractions, min_size=3, max_size=3),
    better=fractions,
    index=st.integers(0, 2),
    inverse=st.booleans(),
    gate=st.one_of(st.none(), fractions),
)
def test_pay_for_performance_is_monotone(
    load: Callable[..., Contract],
    scores: list[Decimal],
    better: Decimal,
    index: int,
    inverse: bool,
    gate: Decimal | None,
) -> None:
    direction = {"direction": "decrease", "scoring": {"kind": "linear", "threshold": 1, "target": 0}} if inverse else {}
    improving = {"kind": "attainment_or_improvement", "threshold": D("0.3"), "target": D("0.9"), "baseline": D("0.2")}
    measures = [
        measure("a", "0.2", **direction),
        measure("b", "0.3", scoring=improving),
        measure("c", "0.5"),
    ]
    arrangement = {"kind": "pay_for_performance", "id": "p", "pool": "p", "budget": {"kind": "fixed", "amount": 9999}}
    contract = load(measures=measures, arrangements=[arrangement | {"gate": gate}], rounding="cent")

    def pay(values: list[Decimal]) -> Decimal:
        outcomes = {name: MeasureScore(None, 50, value) for name, value in zip("abc", values, strict=True)}
        return settle(contract, inputs("1", outcomes=outcomes)).total

    other = scores.copy()
    other[index] = better
    improved = (better > scores[index]) != (inverse and index == 0)
    worse, best = (scores, other) if improved else (other, scores)
    assert pay(worse) <= pay(best)
    settlement = settle(
        contract, inputs("1", outcomes={n: MeasureScore(None, 50, v) for n, v in zip("abc", scores, strict=True)})
    )
    earned = [line.value for line in settlement.lines if line.metric == "quality-metric-performance-incentive"]
    assert sum(value for value in earned if value is not None) == settlement.line("p.earned").value
