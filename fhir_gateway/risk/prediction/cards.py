"""Model cards for people: what a model learned from, how it did, and for whom it does worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_markdown(card: Mapping[str, Any]) -> str:
    """A model card (``training.card``) as Markdown."""
    tests = card["tests"]
    lines = [
        f"# {card['target']}: {card['id']}",
        "",
        f"For {card['use']}. Learned from {card['learned']:,} members as of {card['learned_from']}, judged by "
        f"{tests['members']:,} as of {card['judged_by']} and the year after; lake version {card['lake_version']}.",
        f"Features: {', '.join(card['features'])}. Neither race, ethnicity nor address. Gradient boosted trees, "
        f"isotonic calibration on a quarter of the members, seed {card['seed']}.",
        "",
        "| metric | value | 95 percent interval |",
        "|---|---|---|",
        *(f"| {name} | {one['value']} | {one['low']} to {one['high']} |" for name, one in tests["metrics"].items()),
        "",
        "| decile | expected | observed |",
        "|---|---|---|",
        *(f"| {one['decile']} | {one['expected']} | {one['observed']} |" for one in tests["calibration"]),
        "",
        "| subgroup | members | R2 | observed to expected |",
        "|---|---|---|---|",
        *(
            f"| {name} | {one['members']} | {one['r2']} | {one['observed_to_expected']} |"
            for name, one in tests["subgroups"].items()
        ),
        "",
    ]
    return "\n".join(lines)
