"""Charts of settlements, as the data that the page's script draws."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from fhir_gateway.contracts import Settlement
from fhir_gateway.contracts.runs import ZERO
from fhir_gateway.contracts.steps import Step, steps

__all__ = ["Step", "bridge", "steps", "totals", "waterfall"]


def bridge(settlement: Settlement, found: Sequence[Step]) -> dict[str, Any]:
    """The steps as a chart, with the payment as its last bar."""
    return _bars(
        settlement.currency, [*((one.label, one.before, one.after) for one in found), ("Paid", ZERO, found[-1].after)]
    )


def waterfall(settlement: Settlement) -> dict[str, Any] | None:
    """From the first payable line to the total: each bar begins where the one before it ends."""
    lines = [(line.label, line.amount) for line in settlement.payable() if line.amount]
    if not lines:
        return None
    bars, running = [], ZERO
    for name, amount in lines:
        bars.append((name, running, running + amount))
        running += amount
    return _bars(settlement.currency, [*bars, ("Total", ZERO, running)])


def _bars(currency: str, bars: Sequence[tuple[str, Decimal, Decimal]]) -> dict[str, Any]:
    """Bars from one amount to another.

    Drawn as stacked bars, the lower one unseen; where a running sum crosses zero the bar has a part on each side.
    """
    names, hidden, above, below = [], [], [], []
    for name, start, end in bars:
        low, high = (start, end) if start < end else (end, start)
        names.append(name)
        hidden.append(float(low if low > 0 else high if high < 0 else 0))
        above.append(float(max(high, ZERO) - max(low, ZERO)))
        below.append(float(min(low, ZERO) - min(high, ZERO)))
    return {
        "xAxis": {"type": "category", "data": names, "axisLabel": {"interval": 0, "rotate": 20}},
        "yAxis": {"type": "value", "name": currency},
        "series": [
            {"type": "bar", "stack": "all", "data": hidden, "itemStyle": {"color": "transparent"}, "silent": True},
            {"type": "bar", "stack": "all", "name": "above zero", "data": above, "itemStyle": {"color": "#1b6ca8"}},
            {"type": "bar", "stack": "all", "name": "below zero", "data": below, "itemStyle": {"color": "#b23b3b"}},
        ],
    }


def totals(values: Sequence[tuple[str, Decimal]]) -> dict[str, Any]:
    """A bar for each of some totals."""
    return {
        "xAxis": {"type": "category", "data": [name for name, _ in values]},
        "yAxis": {"type": "value"},
        "series": [{"type": "bar", "name": "total", "data": [float(total) for _, total in values]}],
    }
