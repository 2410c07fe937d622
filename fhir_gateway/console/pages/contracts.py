"""Contracts: what there is, the terms of one, how it does against its targets, and settling it."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.performance import chart, courses, money_course
from fhir_gateway.console.sessions import Session
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.calculations import calculation_id

#: Settlements that a chart goes back to.
_MOST_RUNS = 36


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-contracts"))]
    Do = Annotated[Form, Depends(frame.do("do-contracts"))]

    @routes.get("/contracts")
    def every(request: Request, session: See) -> Response:
        listed = contracts.all(session.audience)
        shown = sorted(contracts.runs(session.audience), key=lambda one: one.made, reverse=True)
        mine = {one.id for one in shown}
        open_ones = [one for one in gateway.settlements.disputes() if one.state == "open" and one.run in mine]
        return frame.page(request, "contracts.html", contracts=listed, runs=shown, disputes=open_ones)

    @routes.get("/contracts/{contract_id}")
    def terms(request: Request, contract_id: str, session: See) -> Response:
        listed = contracts.get(session.audience, contract_id)
        document = read_document(listed.path)
        return frame.page(
            request,
            "contract.html",
            contract=listed,
            document=document,
            runs=contracts.runs(session.audience, contract_id),
            owed=gateway.settlements.owed(contract_id),
        )

    @routes.get("/contracts/{contract_id}/performance")
    def performance(request: Request, contract_id: str, session: See) -> Response:
        """Results against targets, and amounts, settlement by settlement."""
        listed = contracts.get(session.audience, contract_id)
        runs = contracts.runs(session.audience, contract_id)[-_MOST_RUNS:]
        found = courses([contracts.settled(session.audience, run.id) for run in runs])
        return frame.page(
            request,
            "performance.html",
            contract=listed,
            runs=runs,
            courses=[(one, chart(one)) for one in found],
            money_chart=money_course(runs) if runs else None,
        )

    @routes.post("/contracts/{contract_id}/settle")
    def settle(contract_id: str, form: Do) -> Response:
        """Settle it in the background, as of now."""
        listed = contracts.get(form.session.audience, contract_id)
        job = calculation_id("settle")
        asked = {"contract": str(listed.path), "now": datetime.now(UTC).isoformat()}
        with closing(JobBook(gateway)) as book:
            book.submit("settle", job, asked=asked)
        return RedirectResponse(f"{PATH}/contracts/{contract_id}", 303)

    return routes
