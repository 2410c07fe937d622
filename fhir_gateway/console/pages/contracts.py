"""Contracts: settlements, each dollar traced to what it rests on, notices, disputes, what-if, projection."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

import re
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.waterfall import totals, waterfall
from fhir_gateway.contracts import Contract, Settlement
from fhir_gateway.contracts.changes import read_value
from fhir_gateway.contracts.disputes import DECISIONS, REASONS, Dispute, Reason, State
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.contracts.runs import Run
from fhir_gateway.contracts.statement_forms import statement_csv, statement_pdf
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.jobs import settlement_runs
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.calculations import calculation_id
from fhir_gateway.jobs.settle import statement
from fhir_gateway.jobs.what_if import project, what_if

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,10})?")
_FORMS = {"json": "application/json", "csv": "text/csv", "pdf": "application/pdf"}


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-contracts"))]
    Do = Annotated[Form, Depends(frame.do("do-contracts"))]

    def settled(session: Session, run_id: str) -> tuple[Run, Contract, Settlement]:
        """A settlement that this reader sees."""
        gateway.resources.seen_by(session.audience).read("MeasureReport", run_id)
        return settlement_runs.settled(gateway, run_id)

    def disputed(session: Session, dispute_id: str) -> Dispute:
        dispute = gateway.settlements.dispute(dispute_id)
        settled(session, dispute.run)
        return dispute

    @routes.get("/contracts")
    def every(request: Request, session: See) -> Response:
        listed = contracts.all(session.audience)
        seen = gateway.resources.seen_by(session.audience)
        runs = gateway.settlements.runs()
        mine = {one.id for one in seen.read_many(("MeasureReport", run.id) for run in runs)}
        shown = sorted((run for run in runs if run.id in mine), key=lambda one: one.made, reverse=True)
        open_ones = [one for one in gateway.settlements.disputes() if one.state == "open" and one.run in mine]
        return frame.page(request, "contracts.html", contracts=listed, runs=shown, disputes=open_ones)

    @routes.get("/contracts/{contract_id}")
    def terms(request: Request, contract_id: str, session: See) -> Response:
        listed = contracts.get(session.audience, contract_id)
        document = read_document(listed.path)
        runs = gateway.settlements.runs(contract_id)
        return frame.page(
            request,
            "contract.html",
            contract=listed,
            document=document,
            runs=runs,
            owed=gateway.settlements.owed(contract_id),
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

    @routes.get("/contracts/{contract_id}/what-if")
    def scenarios(request: Request, contract_id: str, session: See) -> Response:
        listed = contracts.get(session.audience, contract_id)
        numbers = _numbers(read_document(listed.path))
        return frame.page(
            request, "what_if.html", contract=listed, numbers=numbers, outcomes=None, chart=None, given={}
        )

    @routes.post("/contracts/{contract_id}/what-if")
    def compared(request: Request, contract_id: str, form: Do) -> Response:
        listed = contracts.get(form.session.audience, contract_id)
        numbers = _numbers(read_document(listed.path))
        known = dict(numbers)
        given = {path: read_value(text) for path, text in form.fields.items() if path in known}
        changes = {path: value for path, value in given.items() if value != known[path]}
        if not changes:
            raise InputError("change a term first")
        outcomes = what_if(gateway, str(listed.path), {"changed": changes})
        chart = totals([(one.name, one.settlement.total) for one in outcomes])
        return frame.page(
            request, "what_if.html", contract=listed, numbers=numbers, outcomes=outcomes, chart=chart, given=given
        )

    @routes.get("/contracts/{contract_id}/projection")
    def projection(request: Request, contract_id: str, session: See, as_of: str = "") -> Response:
        listed = contracts.get(session.audience, contract_id)
        found = project(gateway, str(listed.path), _day(as_of)) if as_of else None
        return frame.page(request, "projection.html", contract=listed, found=found, as_of=as_of)

    @routes.get("/settlements/{run_id}")
    def one(request: Request, run_id: str, session: See) -> Response:
        run, contract, settlement = settled(session, run_id)
        return frame.page(
            request,
            "settlement.html",
            run=run,
            contract=contract,
            settlement=settlement,
            due=settlement_runs.calendar_of(gateway, run_id),
            disputes=gateway.settlements.disputes(run=run_id),
            chart=waterfall(settlement),
        )

    @routes.get("/settlements/{run_id}/statement.{form}")
    def written(run_id: str, form: str, session: See) -> Response:
        """The statement as a file."""
        run, contract, settlement = settled(session, run_id)
        if form not in _FORMS:
            raise NotFoundError("a statement is written as json, csv or pdf")
        body = (
            statement_pdf(settlement, contract, run.id, run.state)
            if form == "pdf"
            else statement_csv(settlement)
            if form == "csv"
            else statement(settlement)
        )
        disposition = {"Content-Disposition": f'attachment; filename="{run.id}.{form}"'}
        return Response(body, media_type=_FORMS[form], headers=disposition)

    @routes.get("/settlements/{run_id}/lines/{line_id:path}")
    def line(request: Request, run_id: str, line_id: str, session: See) -> Response:
        """One line with everything it comes from."""
        run, contract, settlement = settled(session, run_id)
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
        settled(form.session, run_id)
        settlement_runs.notify(gateway, run_id)
        return _to(run_id)

    @routes.post("/settlements/{run_id}/final")
    def final(run_id: str, form: Do) -> Response:
        settled(form.session, run_id)
        settlement_runs.finalise(gateway, run_id, agreed="agreed" in form.fields)
        return _to(run_id)

    @routes.post("/settlements/{run_id}/recompute")
    def again(request: Request, run_id: str, form: Do) -> Response:
        settled(form.session, run_id)
        return frame.page(request, "recomputed.html", made=settlement_runs.recompute(gateway, run_id))

    @routes.post("/settlements/{run_id}/disputes")
    def dispute(run_id: str, form: Do) -> Response:
        settled(form.session, run_id)
        filed = settlement_runs.open_dispute(
            gateway,
            run_id,
            form.need("line"),
            cast("Reason", form.need("reason")),
            _amount(form.need("amount")),
            form.need("text"),
            form.session.user,
        )
        return RedirectResponse(f"{PATH}/disputes/{filed.id}", 303)

    @routes.get("/disputes/{dispute_id}")
    def about(request: Request, dispute_id: str, session: See) -> Response:
        found = disputed(session, dispute_id)
        return frame.page(request, "dispute.html", dispute=found, decisions=[(one, one) for one in DECISIONS])

    @routes.post("/disputes/{dispute_id}")
    def decide(dispute_id: str, form: Do) -> Response:
        found = disputed(form.session, dispute_id)
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
        return RedirectResponse(f"{PATH}/disputes/{dispute_id}", 303)

    return routes


def _to(run_id: str) -> Response:
    return RedirectResponse(f"{PATH}/settlements/{run_id}", 303)


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text.replace(",", "").removeprefix("$"))
    except InvalidOperation:
        raise InputError("amount: a decimal number") from None
    if not amount.is_finite():
        raise InputError("amount: a decimal number")
    return amount


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError("as of: a day such as 2025-06-30") from None


def _numbers(document: Any, path: str = "") -> list[tuple[str, Any]]:
    """The numeric terms of arrangements and measures, by their path as what-if names it; amounts may be texts."""
    found: list[tuple[str, Any]] = []
    if not path:
        for name in ("arrangements", "measures"):
            for one in document.get(name, ()):
                if isinstance(one, dict) and "id" in one:
                    found += _numbers(one, f"{name}.{one['id']}")
        return found
    for key, value in document.items():
        here = f"{path}.{key}"
        if isinstance(value, dict):
            found += _numbers(value, here)
        elif isinstance(value, str):
            found += [(here, Decimal(value))] if _NUMBER.fullmatch(value) else []
        elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            found.append((here, value))
    return found
