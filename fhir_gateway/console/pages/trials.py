"""What would be: a contract under changed terms, by the calculation that settles it, and where its year will end."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.bands import path_chart, totals_chart
from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.sliders import numbers, sliders
from fhir_gateway.console.waterfall import totals
from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.changes import read_value
from fhir_gateway.contracts.documents import read_document
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.jobs.projections import kept_projections, project_and_keep
from fhir_gateway.jobs.what_if import Outcome, what_if


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-contracts"))]
    Do = Annotated[Form, Depends(frame.do("do-contracts"))]

    @routes.get("/contracts/{contract_id}/what-if")
    def scenarios(request: Request, contract_id: str, session: See) -> Response:
        listed = contracts.get(session.audience, contract_id)
        terms = sliders(read_document(listed.path))
        return frame.page(request, "what_if.html", contract=listed, groups=terms, given={}, **_nothing())

    @routes.post("/contracts/{contract_id}/what-if")
    def compared(request: Request, contract_id: str, form: Do) -> Response:
        """As agreed and as the form says; of our script the part of the page that says so, else the whole page."""
        listed = contracts.get(form.session.audience, contract_id)
        document = read_document(listed.path)
        known = numbers(document)
        given = {path: _number(path, text) for path, text in form.fields.items() if path in known}
        changes = {path: value for path, value in given.items() if value != known[path]}
        part = "hx-request" in request.headers
        if not changes and not part:
            raise InputError("change a term first")
        outcomes = what_if(gateway, str(listed.path), {"changed": changes} if changes else {})
        found: dict[str, Any] = {
            "outcomes": outcomes,
            "chart": totals([(one.name, one.settlement.total) for one in outcomes]),
            "differing": _differing(outcomes),
        }
        if part:
            return frame.page(request, "what_if_outcome.html", contract=listed, **found)
        return frame.page(request, "what_if.html", contract=listed, groups=sliders(document), given=given, **found)

    @routes.get("/contracts/{contract_id}/projection")
    def projections(request: Request, contract_id: str, session: See, as_of: str = "") -> Response:
        """Projections that were made; the chosen one, or the newest, month by month."""
        listed = contracts.get(session.audience, contract_id)
        kept = kept_projections(gateway, contract_id)
        chosen = next((one for one in reversed(kept) if as_of in ("", one.projection.through.isoformat())), None)
        if as_of and chosen is None:
            raise NotFoundError("no projection was made as of this day")
        currency = listed.terms.currency if listed.terms else ""
        return frame.page(
            request,
            "projection.html",
            contract=listed,
            kept=kept,
            chosen=chosen,
            days=_month_ends(listed.terms) if listed.terms else [],
            path_chart=path_chart(chosen.projection, currency) if chosen else None,
            totals_chart=totals_chart([one.projection for one in kept], currency) if len(kept) > 1 else None,
            settled=[one for one in contracts.runs(session.audience, contract_id) if one.kind != "interim"][-1:],
        )

    @routes.post("/contracts/{contract_id}/projection")
    def projected(contract_id: str, form: Do) -> Response:
        """Make one, and keep it."""
        listed = contracts.get(form.session.audience, contract_id)
        day = _day(form.need("as_of"))
        project_and_keep(gateway, str(listed.path), day, form.session.user)
        return RedirectResponse(f"{PATH}/contracts/{contract_id}/projection?as_of={day.isoformat()}", 303)

    return routes


def _nothing() -> dict[str, Any]:
    return {"outcomes": None, "chart": None, "differing": []}


def _differing(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Lines that come out otherwise under the changed terms, and those that only one of both has."""
    if len(outcomes) < 2:
        return []
    before, after = ({line.id: line for line in one.settlement.lines} for one in outcomes[:2])
    found = []
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name), after.get(name)
        values = [None if one is None else one.amount if one.amount is not None else one.value for one in (was, now)]
        if values[0] != values[1] and (either := now or was) is not None:
            found.append({"label": either.label, "unit": either.unit, "was": values[0], "now": values[1]})
    return found


def _number(path: str, text: str) -> Any:
    value = read_value(text)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InputError(f"{path}: a number")
    return value


def _month_ends(terms: Contract) -> list[date]:
    """Days of a contract's period that a projection may be as of: ends of its months but the last."""
    first, last = terms.dates
    found, month = [], first.replace(day=1)
    while month <= last:
        following = (month + timedelta(days=32)).replace(day=1)
        found.append(following - timedelta(days=1))
        month = following
    return [day for day in found if first <= day < last]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError("as of: a day such as 2025-06-30") from None
