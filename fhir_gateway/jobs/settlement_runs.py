"""What happens to a settlement after it was made: notice, final, made again as of then, disputes and decisions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import orjson

from fhir_gateway.contracts import Contract, Settlement
from fhir_gateway.contracts.calendar import Cut, Deadlines, deadlines
from fhir_gateway.contracts.disputes import Answer, Dispute, Reason, State, check_decision, check_opening, evidence
from fhir_gateway.contracts.runs import Run
from fhir_gateway.errors import ConflictError, ContractError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import kept_attribution
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.contract_results import results_as_of
from fhir_gateway.jobs.contract_versions import registered
from fhir_gateway.jobs.settle import compute, settle, statement, statements_folder

_LONGEST_ANSWER = 4000


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A settlement made again from what it was made of. ``differing``: ids of lines that came out otherwise."""

    settlement: Settlement
    same: bool
    differing: tuple[str, ...]


def settled(gateway: Gateway, run_id: str) -> tuple[Run, Contract, Settlement]:
    """A run, the contract version it settled, and its statement; NotFoundError."""
    run = gateway.settlements.run(run_id)
    path = statements_folder(gateway, run.contract) / f"{run.id}.json"
    if not path.exists():
        raise NotFoundError("the statement of this settlement is not kept any more")
    return run, registered(gateway, run.contract, run.version), Settlement.from_dict(orjson.loads(path.read_bytes()))


def calendar_of(gateway: Gateway, run_id: str) -> Deadlines | None:
    """The deadlines of a settlement; None before its notice."""
    run, contract, _ = settled(gateway, run_id)
    return None if run.notice is None else deadlines(contract.calendar, run.notice, run.total >= 0)


def notify(gateway: Gateway, run_id: str, now: datetime | None = None) -> Run:
    """Give notice of a preliminary settlement: its windows for review and disputes begin."""
    run = gateway.settlements.run(run_id)
    if run.kind == "interim":
        raise ConflictError("an interim settlement is paid as it is, and settled again at the end")
    return gateway.settlements.move(run_id, ["preliminary"], "review", _today(gateway, now))


def finalise(gateway: Gateway, run_id: str, now: datetime | None = None, *, agreed: bool = False) -> Run:
    """Make a settlement final: after its review, or before when both sides agreed, and never with a dispute open."""
    run, contract, _ = settled(gateway, run_id)
    if open_ones := [one.id for one in gateway.settlements.disputes(run=run_id) if one.state == "open"]:
        raise ConflictError(f"{len(open_ones)} dispute(s) about it are open")
    if run.notice is not None and not agreed:
        ends = deadlines(contract.calendar, run.notice, run.total >= 0).review
        if _today(gateway, now) <= ends:
            raise ConflictError(f"its review ends on {ends.isoformat()}")
    return gateway.settlements.move(run_id, ["review"], "final")


def recompute(gateway: Gateway, run_id: str) -> Recomputed:
    """Make a settlement again as of then: the same lake version, contract version, attribution and measure results.

    NotFoundError when something of it is not kept any more.
    """
    run, contract, was = settled(gateway, run_id)
    attributed = kept_attribution(gateway, contract, run.evidence)
    results = results_as_of(gateway, contract, run.lake_version, was.stamps)
    cut = Cut(run.through, run.paid_through) if run.kind == "interim" else None
    now = compute(gateway, attributed, results, cut, was=was.stamps)
    before = {line.id: line for line in was.lines}
    after = {line.id: line for line in now.lines}
    differing = tuple(sorted(name for name in {*before, *after} if before.get(name) != after.get(name)))
    return Recomputed(now, statement(now) == statement(was), differing)


def open_dispute(
    gateway: Gateway,
    run_id: str,
    line: str,
    reason: Reason,
    amount: Decimal,
    text: str,
    by: str,
    now: datetime | None = None,
) -> Dispute:
    """Open a dispute about a line; what it rests on is frozen with it.

    ContractError for an unknown reason or amount, NotFoundError for a line that is not there, ConflictError outside the
    window.
    """
    run, contract, settlement = settled(gateway, run_id)
    moment = instant(gateway, now)
    ends = None if run.notice is None else deadlines(contract.calendar, run.notice, run.total >= 0).dispute
    check_opening(run.state, reason, amount, ends, _today(gateway, now))
    if not text.strip():
        raise ContractError("text: a dispute says what is wrong")
    if ends is None:
        raise ConflictError("no notice was given")
    frozen = evidence(settlement, line) | {"statement": run.statement, "attribution": run.evidence}
    dispute = Dispute(
        id=f"d{secrets.token_hex(8)}",
        run=run.id,
        contract=run.contract,
        line=line,
        reason=reason,
        amount=amount,
        text=text,
        filed_by=by,
        filed=moment,
        deadline=ends,
        answer_by=_today(gateway, now) + timedelta(days=contract.calendar.response_days),
        evidence=frozen,
    )
    gateway.settlements.file(dispute)
    return dispute


def answer_dispute(gateway: Gateway, dispute_id: str, text: str, by: str, now: datetime | None = None) -> Answer:
    """Say something to a dispute that is open: it stays open until it is decided.

    ContractError for an empty or too long text, ConflictError once it is decided.
    """
    if not text.strip() or len(text) > _LONGEST_ANSWER or "\0" in text:
        raise ContractError(f"text: an answer is a text of at most {_LONGEST_ANSWER} characters")
    answer = Answer(instant(gateway, now), by, text)
    gateway.settlements.answer(dispute_id, answer)
    return answer


def decide_dispute(
    gateway: Gateway,
    dispute_id: str,
    state: State,
    text: str,
    by: str,
    now: datetime | None = None,
    *,
    corrected: str | None = None,
) -> Dispute:
    """Decide a dispute. ``corrected`` names the contract to settle anew, with corrected input (newest lake version,
    decisions about lists) or as an amended version: its run posts the difference, which is the dispute's ``delta``.

    A correction needs a dispute that is upheld, wholly or partly. ConflictError when it was decided before.
    """
    dispute = gateway.settlements.dispute(dispute_id)
    check_decision(dispute, state)
    if corrected is not None and state not in ("upheld", "partly-upheld"):
        raise ContractError("decision: nothing is corrected where the dispute is not upheld")
    moment = instant(gateway, now)
    decided = replace(dispute, state=state, decided_by=by, decided=moment, decision=text)
    if corrected is not None:
        named = Contract.load(gateway.contract(corrected)).id
        if named != dispute.contract:
            raise ContractError(f"{named} is not the contract that is disputed")
        report = settle(gateway, corrected, now=moment, by=by, reason=f"dispute {dispute_id}")
        decided = replace(decided, amendment=report.run.id, delta=report.run.posted)
    gateway.settlements.decide(decided)
    return decided


def _today(gateway: Gateway, now: datetime | None) -> date:
    """The day in the gateway's zone."""
    return instant(gateway, now).astimezone(ZoneInfo(gateway.settings.time_zone)).date()
