"""Settlement runs: each settlement of a contract that was made, what it posted, and where it stands.

A run is never changed: a later one posts the difference to what was posted before, so the sum of all postings of a
contract is what is owed now. States follow the contract's calendar::

    interim    posted at once (the interim share of what the year so far gives)
    preliminary -> review (notice given) -> final (after the review, no dispute open) -> superseded (by an amendment)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from fhir_gateway.contracts.calendar import Calendar
from fhir_gateway.contracts.settlement import Rounding, Settlement, publish

Kind = Literal["interim", "final", "amendment"]
State = Literal["interim", "preliminary", "review", "final", "superseded"]
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Posting:
    """What a run changes about an arrangement: ``amount`` is due after it, ``previous`` was before."""

    arrangement: str
    line: str
    amount: Decimal
    previous: Decimal

    @property
    def delta(self) -> Decimal:
        """What is paid (positive: to the provider) because of this run."""
        return self.amount - self.previous


@dataclass(frozen=True, slots=True)
class Run:
    """A settlement that was made. ``evidence`` is the attribution it was made of, ``as_of`` its evaluation instant."""

    id: str
    contract: str
    version: str
    digest: str
    kind: Kind
    state: State
    through: date
    paid_through: date
    lake_version: int
    evidence: str
    as_of: datetime
    total: Decimal
    currency: str
    statement: str  # SHA-256 of the statement's bytes
    by: str
    made: datetime
    reason: str | None = None
    amends: str | None = None
    notice: date | None = None
    postings: tuple[Posting, ...] = ()

    @property
    def posted(self) -> Decimal:
        """Sum of what it posted."""
        return sum((one.delta for one in self.postings), ZERO)


def due(settlement: Settlement, kind: Kind, calendar: Calendar, rounding: Rounding) -> dict[str, tuple[str, Decimal]]:
    """What is due after a run by arrangement: line and amount. Interim: the agreed share, losses only where agreed."""
    found: dict[str, tuple[str, Decimal]] = {}
    for line in settlement.payable():
        amount = line.amount or ZERO
        if kind == "interim":
            amount = publish(amount * calendar.interim_share, rounding)
            amount = amount if amount > 0 or calendar.interim_losses else ZERO
        before = found.get(line.arrangement, (line.id, ZERO))[1]
        found[line.arrangement] = (line.id, before + amount)
    return found


def post(due_now: Mapping[str, tuple[str, Decimal]], earlier: Iterable[Posting]) -> tuple[Posting, ...]:
    """Postings that bring what was posted earlier to what is due now, by arrangement.

    An arrangement that is not there any more is taken back.
    """
    posted: dict[str, tuple[str, Decimal]] = {}
    for one in earlier:
        posted[one.arrangement] = (one.line, posted.get(one.arrangement, ("", ZERO))[1] + one.delta)
    return tuple(
        Posting(
            name,
            due_now[name][0] if name in due_now else posted[name][0],
            due_now.get(name, ("", ZERO))[1],
            posted.get(name, ("", ZERO))[1],
        )
        for name in sorted({*due_now, *posted})
    )
