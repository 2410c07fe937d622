"""Disputes: all that are seen, one with everything that was said about it, opening, answering and deciding it."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, cast

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import rows_of
from fhir_gateway.contracts.disputes import DECISIONS, Answer, Dispute, Reason, State
from fhir_gateway.errors import InputError
from fhir_gateway.jobs import settlement_runs


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-contracts"))]
    Do = Annotated[Form, Depends(frame.do("do-contracts"))]

    @routes.get("/disputes")
    def every(request: Request, session: See, state: str = "", page: int = 1) -> Response:
        """Those about settlements that are seen, the newest first."""
        mine = {one.id for one in contracts.runs(session.audience)}
        listed = [
            one for one in reversed(gateway.settlements.disputes()) if one.run in mine and state in ("", one.state)
        ]
        found = rows_of(listed, page)
        return frame.page(
            request,
            "disputes.html",
            found=found,
            chosen=state,
            states=[("", "all"), *((one, one) for one in ("open", *DECISIONS))],
        )

    @routes.post("/settlements/{run_id}/disputes")
    def dispute(run_id: str, form: Do) -> Response:
        contracts.settled(form.session.audience, run_id)
        filed = settlement_runs.open_dispute(
            gateway,
            run_id,
            form.need("line"),
            cast("Reason", form.need("reason")),
            _amount(form.need("amount")),
            form.need("text"),
            form.session.user,
        )
        return _to(filed.id)

    @routes.get("/disputes/{dispute_id}")
    def about(request: Request, dispute_id: str, session: See) -> Response:
        found = contracts.dispute(session.audience, dispute_id)
        return frame.page(
            request,
            "dispute.html",
            dispute=found,
            history=_history(found, gateway.settlements.answers(dispute_id)),
            decisions=[(one, one) for one in DECISIONS],
        )

    @routes.post("/disputes/{dispute_id}/answers")
    def answer(dispute_id: str, form: Do) -> Response:
        """Say something to it; it stays open."""
        contracts.dispute(form.session.audience, dispute_id)
        settlement_runs.answer_dispute(gateway, dispute_id, form.need("answer"), form.session.user)
        return _to(dispute_id)

    @routes.post("/disputes/{dispute_id}")
    def decide(dispute_id: str, form: Do) -> Response:
        found = contracts.dispute(form.session.audience, dispute_id)
        corrected = found.contract if "corrected" in form.fields else None
        path = str(contracts.get(form.session.audience, corrected).path) if corrected else None
        settlement_runs.decide_dispute(
            gateway,
            dispute_id,
            cast("State", form.need("state")),
            form.need("text"),
            form.session.user,
            corrected=path,
        )
        return _to(dispute_id)

    return routes


def _history(found: Dispute, answers: list[Answer]) -> list[tuple[datetime, str, str, str]]:
    """When, who, what they did and what they said, the first first."""
    said = [(found.filed, found.filed_by, "opened it", found.text)]
    said += [(one.at, one.by, "answered", one.text) for one in answers]
    if found.decided is not None:
        said.append((found.decided, found.decided_by or "", f"decided: {found.state}", found.decision or ""))
    return said


def _to(dispute_id: str) -> Response:
    return RedirectResponse(f"{PATH}/disputes/{dispute_id}", 303)


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text.replace(",", "").removeprefix("$"))
    except InvalidOperation:
        raise InputError("amount: a decimal number") from None
    if not amount.is_finite():
        raise InputError("amount: a decimal number")
    return amount
