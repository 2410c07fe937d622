"""Settlement lines that several arrangements write."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fhir_gateway.contracts.arrangements.base import Exposure
from fhir_gateway.contracts.scoring import ZERO, Scored
from fhir_gateway.contracts.settlement import Ledger, Number


def percent(value: Decimal) -> str:
    """A fraction as text, exact."""
    return f"{(value * 100).normalize():f}%"


def add_exposure(ledger: Ledger, exposure: Exposure) -> tuple[Number, Number]:
    """Members and member months."""
    members = ledger.add(
        "members",
        Decimal(exposure.members),
        "Attributed members",
        "members of the roster",
        "attribution",
        unit="{members}",
        metric="eligible-member",
    )
    months = ledger.add(
        "member-months",
        exposure.member_months,
        "Member months",
        "sum over attributed members",
        "attribution",
        unit="mo",
        metric="member-months",
    )
    return members, months


def add_measures(ledger: Ledger, scored: Sequence[Scored]) -> tuple[Number, ...]:
    """Score, points and weighted points of each measure; returns the weighted points."""
    return tuple(_add_measure(ledger, entry) for entry in scored)


def _add_measure(ledger: Ledger, entry: Scored) -> Number:
    terms, outcome = entry.terms, entry.outcome
    term = f"measures.{terms.id}"
    numerator = "" if outcome.numerator is None else f"numerator {outcome.numerator}, "
    score = ledger.add(
        f"{terms.id}.score",
        outcome.score,
        f"{terms.name}: score",
        f"{numerator}denominator {outcome.denominator}",
        term,
        unit=terms.unit,
        evidence={"measure": terms.canonical},
    )
    formula = f"{terms.scoring.kind} scoring, better is {terms.direction}" if terms.scoring else ""
    if entry.reason == "below-minimum-denominator":
        formula = f"does not take part: denominator below {terms.min_denominator}"
    elif entry.reason:
        formula = f"does not take part: {entry.reason}"
    points = ledger.add(
        f"{terms.id}.points", entry.points, f"{terms.name}: points", formula, f"{term}.scoring", (score,), unit="1"
    )
    return ledger.add(
        f"{terms.id}.weighted",
        ZERO if entry.points is None else entry.weight * entry.points,
        f"{terms.name}: weighted points",
        f"{entry.weight.normalize():f} x points (weight agreed {terms.weight.normalize():f})",
        f"{term}.weight",
        (points,),
        unit="1",
    )
