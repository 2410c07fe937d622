"""Charts about measures, as the data that the page's script draws. Each page has the numbers in a table too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

_LIMITS = {
    "high998": "99.8 % above",
    "high95": "95 % above",
    "low95": "95 % below",
    "low998": "99.8 % below",
}


def trend(points: Sequence[Json], targets: Sequence[tuple[str, float]]) -> Json | None:
    """Rates by the last day of their period, with the targets as lines; None of fewer than two."""
    shown = [one for one in points if one["rate"] is not None]
    if len(shown) < 2:
        return None
    days = [one["period"][1] for one in shown]
    lines = [
        {
            "type": "line",
            "name": name,
            "data": [value] * len(days),
            "symbol": "none",
            "lineStyle": {"type": "dashed", "width": 1.5},
        }
        for name, value in targets
    ]
    rates = [float(one["rate"]) for one in shown]
    return {
        "legend": {},
        "xAxis": {"type": "category", "data": days},
        "yAxis": {"type": "value", "scale": True},
        "series": [{"type": "line", "name": "rate", "data": rates, "symbolSize": 8}, *lines],
    }


def strata(cells: Sequence[Json], overall: float | None) -> Json | None:
    """A rate in each stratum with its interval: a box from low to high with a line at the rate, and all as a line."""
    shown = [one for one in cells if one["rate"] is not None and one["low"] is not None]
    if len(shown) < 2:
        return None
    boxes = [[one["low"], one["low"], one["rate"], one["high"], one["high"]] for one in shown]
    whole = {"silent": True, "symbol": "none", "data": [{"yAxis": overall}], "label": {"formatter": "all"}}
    return {
        "xAxis": {
            "type": "category",
            "data": [one["title"] for one in shown],
            "axisLabel": {"interval": 0, "rotate": 25},
        },
        "yAxis": {"type": "value", "scale": True},
        "series": [
            {
                "type": "boxplot",
                "name": "95 % interval",
                "data": boxes,
                "itemStyle": {"color": "#8fb8de", "borderColor": "#3d7ab5"},
                "boxWidth": [8, 40],
                **({"markLine": whole} if overall is not None else {}),
            }
        ],
        "tooltip": {"show": False},
    }


def funnel(group: Mapping[str, Any]) -> Json | None:
    """Providers by denominator and rate between their control limits; those outside have another mark."""
    curve = group.get("curve")
    if not curve:
        return None
    inside: list[Json] = []
    outside: list[Json] = []
    for row in group["rows"]:
        if row.get("position") is not None:
            point = {"name": row["title"], "value": [row["denominator"], row["rate"]]}
            (inside if row["position"] == "inside" else outside).append(point)
    sizes = curve["denominator"]
    lines = [
        {
            "type": "line",
            "name": name,
            "data": [list(one) for one in zip(sizes, curve[key], strict=True)],
            "symbol": "none",
            "silent": True,
            "lineStyle": {"type": "dashed" if "95 %" in name else "solid", "width": 1.2, "color": "#8a8f98"},
            "itemStyle": {"color": "#8a8f98"},
        }
        for key, name in _LIMITS.items()
    ]
    centre = {
        "type": "line",
        "name": "all",
        "data": [[sizes[0], group["centre"]], [sizes[-1], group["centre"]]],
        "symbol": "none",
        "silent": True,
        "itemStyle": {"color": "#3d7ab5"},
    }
    marks = [("within limits", inside, "circle", "#3d7ab5"), ("outside limits", outside, "diamond", "#c4552d")]
    points = [
        {
            "type": "scatter",
            "name": name,
            "data": data,
            "symbol": symbol,
            "symbolSize": 12,
            "itemStyle": {"color": colour, "borderColor": "#ffffff", "borderWidth": 1},
        }
        for name, data, symbol, colour in marks
    ]
    return {
        "legend": {"data": ["within limits", "outside limits", "all"]},
        "tooltip": {"trigger": "item", "formatter": "{b}: {c}", "renderMode": "richText"},
        "xAxis": {"type": "value", "name": "denominator", "nameLocation": "middle", "nameGap": 28, "scale": True},
        "yAxis": {"type": "value", "scale": True},
        "series": [*lines, centre, *points],
    }


def course(steps: Sequence[Json]) -> Json | None:
    """Members over the runs of an attribution; None of one run."""
    if len(steps) < 2:
        return None
    return {
        "legend": {},
        "xAxis": {"type": "category", "data": [one["computed"][:10] for one in steps]},
        "yAxis": {"type": "value"},
        "series": [
            {"type": "line", "name": "members", "data": [one["members"] for one in steps]},
            {"type": "bar", "name": "came", "data": [one["came"] for one in steps]},
            {"type": "bar", "name": "left", "data": [one["left"] for one in steps]},
        ],
    }
