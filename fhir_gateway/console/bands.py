"""Charts with a band: where something will end, and how far off that may be."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from fhir_gateway.contracts.projection import Projection

_BLUE, _ORANGE = "#1b6ca8", "#b5651d"


def path_chart(found: Projection, currency: str) -> dict[str, Any]:
    """Cost month by month: paid, completed and expected, with the band around the months to come."""
    names = [f"{one.month:%Y-%m}" for one in found.path]
    known = [None if one.paid is None else _number(one.paid) for one in found.path]
    expected = [_number(one.cost) for one in found.path]
    lows, highs = ([_number(one.low) for one in found.path], [_number(one.high) for one in found.path])
    chart = _banded(names, currency, ("expected", expected), lows, highs)
    paid = {"type": "line", "name": "paid so far", "data": known, "itemStyle": {"color": _ORANGE}, "symbolSize": 7}
    chart["series"].append(paid)
    return chart


def totals_chart(found: Sequence[Projection], currency: str) -> dict[str, Any]:
    """What the settlement was thought to come to, as of each day that was asked about."""
    ends = [sorted((one.total_at_low_cost, one.total_at_high_cost)) for one in found]
    return _banded(
        [one.through.isoformat() for one in found],
        currency,
        ("expected settlement", [_number(one.total) for one in found]),
        [_number(min(low, one.total)) for (low, _), one in zip(ends, found, strict=True)],
        [_number(max(high, one.total)) for (_, high), one in zip(ends, found, strict=True)],
    )


def _banded(
    names: Sequence[str], unit: str, line: tuple[str, list[float]], lows: Sequence[float], highs: Sequence[float]
) -> dict[str, Any]:
    """A line within a band: an unseen area up to its lower edge, a shaded one from there to the upper."""
    title, values = line
    seen = {"type": "line", "stack": "band", "stackStrategy": "all", "symbol": "none", "silent": True}
    return {
        "legend": {"top": 0, "data": [title, "band", *([] if title != "expected" else ["paid so far"])]},
        "xAxis": {"type": "category", "data": list(names)},
        "yAxis": {"type": "value", "name": unit, "scale": True},
        "series": [
            {**seen, "name": "lower end", "data": list(lows), "lineStyle": {"opacity": 0}},
            {
                **seen,
                "name": "band",
                "data": [round(high - low, 2) for low, high in zip(lows, highs, strict=True)],
                "lineStyle": {"opacity": 0},
                "itemStyle": {"color": _BLUE},
                "areaStyle": {"color": _BLUE, "opacity": 0.25},
            },
            {"type": "line", "name": title, "data": values, "itemStyle": {"color": _BLUE}, "symbolSize": 7},
        ],
    }


def _number(value: Decimal) -> float:
    return round(float(value), 2)
