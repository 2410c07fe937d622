"""Model cards: what a model learned from, how it did, and for whom it does worse; as plain values and for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from fhir_gateway.risk.prediction.targets import Target
from fhir_gateway.risk.prediction.training import SEED

_FIGURES = {"amount": ("r2", "observed_to_expected"), "chance": ("auc", "brier", "observed_to_expected")}


def card(
    about: Target,
    tests: Mapping[str, Any],
    *,
    as_of: date,
    learned_at: datetime,
    lake_version: int,
    learned: int,
    windows: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """The card of a model. ``tests`` are of the same recipe learned a year earlier, which had not seen what judges it.

    ``windows``: ``judged_learned``, ``judged_by`` and ``learned``, each first and last day; ``learned``: how many rows
    the model in force has learned from.
    """
    return {
        "target": about.id,
        "title": about.title,
        "kind": about.kind,
        "unit": about.unit,
        "as_of": as_of.isoformat(),
        "learned_at": learned_at.isoformat(timespec="seconds"),
        "lake_version": lake_version,
        "learned": learned,
        "windows": dict(windows),
        "features": list(about.features),
        "seed": SEED,
        "use": "outreach and care; never settlement",
        "tests": dict(tests),
        **more,
    }


def as_markdown(card: Mapping[str, Any]) -> str:
    """A model card as Markdown."""
    tests, windows, figures = card["tests"], card["windows"], _FIGURES[card["kind"]]
    unit = card["unit"]
    lines = [
        f"# {card['title']}: {card['id']}",
        "",
        f"For {card['use']}. As of {card['as_of']}, lake version {card['lake_version']}: learned from "
        f"{card['learned']:,} {unit} ({_span(windows['learned'])}). Judged by {tests[unit]:,} {unit} "
        f"({_span(windows['judged_by'])}), {tests['outcomes']:,} of them with the outcome, as learned from "
        f"{_span(windows['judged_learned'])}.",
        "",
        f"Features: {', '.join(card['features'])}. Neither race, ethnicity nor address is one: race and ethnicity are "
        f"looked at below only. Gradient boosted trees (scikit-learn {card['scikit_learn']}), "
        f"{'Platt' if card['kind'] == 'chance' else 'isotonic'} calibration on a quarter of the members, seed "
        f"{card['seed']}.",
        "",
        "| metric | value | 95 percent interval |",
        "|---|---|---|",
        *(f"| {name} | {one['value']} | {one['low']} to {one['high']} |" for name, one in tests["metrics"].items()),
        "",
        "| decile | expected | observed |",
        "|---|---|---|",
        *(f"| {one['decile']} | {one['expected']} | {one['observed']} |" for one in tests["calibration"]),
        "",
        f"| subgroup | {unit} | {' | '.join(figures)} | 95 percent interval |",
        "|---" * (3 + len(figures)) + "|",
        *(
            f"| {name} | {one[unit]} | {' | '.join(str(one[figure]) for figure in figures)} "
            f"| {one['low']} to {one['high']} |"
            for name, one in tests["subgroups"].items()
        ),
        "",
        "Intervals of subgroups are of observed to expected: the model is wrong for one whose interval leaves out 1.",
    ]
    if tests["too_few"]:
        lines += ["", f"Too few to judge (below 50): {', '.join(tests['too_few'])}."]
    return "\n".join([*lines, ""])


def _span(days: tuple[str, str] | list[str]) -> str:
    return f"{days[0]} to {days[1]}"
