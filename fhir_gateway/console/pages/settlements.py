"""Settlements: each dollar traced to what it rests on, statements, notice, final, made again as of then."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.pages.reports import answer
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.waterfall import bridge, steps, waterfall
from fhir_gateway.contracts.disputes import REASONS
from fhir_gateway.contracts.statement_forms import statement_csv
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs import settlement_runs
from fhir_gateway.jobs.settle import statement as stated
from fhir_gateway.reports.forms import FORMS
from fhir_gateway.reports.statement import statement

_EXACT = {"json": "application/json", "csv": "text/csv"}


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-contracts"))]
    Do = Annotated[Form, Depends(frame.do("do-contracts"))]

    @routes.get("/settlements/{run_id}")
    def one(request: Request, run_id: str, session: See) -> Response:
        run, contract, settlement = contracts.settled(session.audience, run_id)
        bridges = [(line, found) for line in settlement.payable() if (found := steps(settlement, line))]
        return frame.page(
            request,
            "settlement.html",
            run=run,
            contract=contract,
            settlement=settlement,
            due=settlement_runs.calendar_of(gateway, run_id),
            disputes=gateway.settlements.disputes(run=run_id),
            bridges=[(line, found, bridge(settlement, found)) for line, found in bridges],
            chart=waterfall(settlement) if len(bridges) > 1 else None,
        )

    @routes.get("/settlements/{run_id}/statement.{form}")
    async def written(run_id: str, form: str, session: See) -> Response:
        """The statement as a page or a file."""

        def make() -> Response:
            run, contract, settlement = contracts.settled(session.audience, run_id)
            if form in FORMS:
                return answer(statement(settlement, contract, run.id, run.state), form, run.id)
            if form not in _EXACT:
                raise NotFoundError(f"a statement is written as {', '.join((*FORMS, *_EXACT))}")
            body = statement_csv(settlement) if form == "csv" else stated(settlement)
            disposition = {"Content-Disposition": f'attachment; filename="{run.id}.{form}"'}
            return Response(body, media_type=_EXACT[form], headers=disposition)

        return await frame.in_turn(make)

    @routes.get("/settlements/{run_id}/lines/{line_id:path}")
    def line(request: Request, run_id: str, line_id: str, session: See) -> Response:
        """One line with everything it comes from."""
        run, contract, settlement = contracts.settled(session.audience, run_id)
        by_id = {one.id: one for one in settlement.lines}
        if line_id not in by_id:
            raise NotFoundError("the settlement has no such line")
        return frame.page(
            request,
            "line.html",
            run=run,
            contract=contract,
            settlement=settlement,
            line=by_id[line_id],
            by_id=by_id,
            reasons=[(one, one) for one in REASONS],
            disputes=[one for one in gateway.settlements.disputes(run=run_id) if one.line == line_id],
        )

    @routes.post("/settlements/{run_id}/notice")
    def notice(run_id: str, form: Do) -> Response:
        contracts.settled(form.session.audience, run_id)
        settlement_runs.notify(gateway, run_id)
        return _to(run_id)

    @routes.post("/settlements/{run_id}/final")
    def final(run_id: str, form: Do) -> Response:
        contracts.settled(form.session.audience, run_id)
        settlement_runs.finalise(gateway, run_id, agreed="agreed" in form.fields)
        return _to(run_id)

    @routes.post("/settlements/{run_id}/recompute")
    def again(request: Request, run_id: str, form: Do) -> Response:
        contracts.settled(form.session.audience, run_id)
        return frame.page(request, "recomputed.html", made=settlement_runs.recompute(gateway, run_id))

    return routes


def _to(run_id: str) -> Response:
    return RedirectResponse(f"{PATH}/settlements/{run_id}", 303)
