"""Disputes: opened against a line of a settlement, with the evidence frozen, decided within deadlines.

A decision never edits a settlement: what it changes comes as an amendment, whose postings are the difference. The
undisputed part is paid on time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, get_args

from fhir_gateway.contracts.settlement import Settlement
from fhir_gateway.errors import ConflictError, ContractError, NotFoundError

#: What a dispute is about.
Reason = Literal["attribution", "eligibility", "claims", "pricing", "risk", "quality", "rate", "math", "timing"]
REASONS: tuple[str, ...] = get_args(Reason)
State = Literal["open", "upheld", "partly-upheld", "rejected", "withdrawn"]
#: States that a decision leads to; the payer or provider who filed withdraws, the other side decides.
DECISIONS: tuple[str, ...] = ("upheld", "partly-upheld", "rejected", "withdrawn")


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute. ``evidence`` is what the line rested on when it was opened, down to its inputs."""

    id: str
    run: str
    contract: str
    line: str
    reason: Reason
    amount: Decimal
    text: str
    filed_by: str
    filed: datetime
    deadline: date  # last day on which it could be opened
    answer_by: date
    evidence: Mapping[str, Any]
    state: State = "open"
    decided_by: str | None = None
    decided: datetime | None = None
    decision: str | None = None
    amendment: str | None = None  # run that posted what the decision changed
    delta: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said to a dispute before it was decided."""

    at: datetime
    by: str
    text: str


def evidence(settlement: Settlement, line_id: str) -> dict[str, Any]:
    """The line, every line that it comes from, and what the settlement was computed from; NotFoundError."""
    by_id = {line.id: line for line in settlement.lines}
    if line_id not in by_id:
        raise NotFoundError(f"the settlement has no line '{line_id}'")
    wanted, waiting = {line_id}, [line_id]
    while waiting:
        for other in by_id[waiting.pop()].because:
            if other not in wanted:
                wanted.add(other)
                waiting.append(other)
    stated = settlement.to_dict()
    return {
        "line": line_id,
        "lines": [line for line in stated["lines"] if line["id"] in wanted],
        **{name: stated[name] for name in ("contract", "contract_version", "contract_digest", "period", "stamps")},
    }


def check_opening(run_state: str, reason: str, amount: Decimal, deadline: date | None, today: date) -> None:
    """ContractError for what is asked wrongly, ConflictError where the calendar does not allow a dispute any more."""
    if reason not in REASONS:
        raise ContractError(f"reason: one of {', '.join(REASONS)}")
    if amount <= 0:
        raise ContractError("amount: a dispute is about a positive amount")
    if run_state not in ("review", "final") or deadline is None:
        raise ConflictError("a settlement is disputed after its notice was given, and not once it is superseded")
    if today > deadline:
        raise ConflictError(f"disputes could be opened until {deadline.isoformat()}")


def check_decision(dispute: Dispute, state: str) -> None:
    """ContractError for an unknown decision, ConflictError when it was decided before."""
    if state not in DECISIONS:
        raise ContractError(f"decision: one of {', '.join(DECISIONS)}")
    if dispute.state != "open":
        raise ConflictError(f"this dispute is {dispute.state}")
