"""Reports to hand round: quality, medical loss ratio and the board's summary, as a page or a file."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from calendar import monthrange
from collections.abc import Iterator
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.frame import Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.errors import InputError
from fhir_gateway.jobs import reports
from fhir_gateway.reports.document import Document
from fhir_gateway.reports.forms import FORMS, write
from fhir_gateway.reports.html import POLICY


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    SeeQuality = Annotated[Session, Depends(frame.see("see-quality"))]
    SeeContracts = Annotated[Session, Depends(frame.see("see-contracts"))]

    @routes.get("/reports")
    def every(request: Request, session: SeeQuality) -> Response:
        """What can be reported, by the periods that there are results of."""
        headers = [gateway.results.header(run) for run in gateway.results.runs()]
        periods = sorted({one.period for one in headers}, reverse=True)
        named = [f"{start}/{end}" for start, end in periods]
        days = sorted({day for period in periods for day in _month_ends(*period)}, reverse=True)
        return frame.page(request, "reports.html", periods=named, days=days, forms=tuple(FORMS))

    @routes.get("/reports/quality.{form}")
    async def quality(form: str, session: SeeQuality, period: str = "") -> Response:
        def make() -> Response:
            return answer(reports.quality_report(gateway, _period(period), session.audience), form, "quality")

        return await frame.in_turn(make)

    @routes.get("/reports/board.{form}")
    async def board(form: str, session: SeeContracts, period: str = "", as_of: str = "") -> Response:
        def make() -> Response:
            day = _day(as_of, "as of") if as_of else None
            return answer(reports.board_report(gateway, _period(period), session.audience, day), form, "board")

        return await frame.in_turn(make)

    @routes.get("/reports/loss-ratio.{form}")
    async def loss_ratio(form: str, session: SeeContracts) -> Response:
        return await frame.in_turn(
            lambda: answer(reports.loss_ratio_report(gateway, session.audience), form, "loss-ratio")
        )

    return routes


def answer(report: Document, form: str, name: str) -> Response:
    """A report as it is sent: a page of its own policy to look at, a PDF to keep."""
    body = write(report, form)
    if form == "html":
        return Response(body, media_type=FORMS[form], headers={"Content-Security-Policy": POLICY})
    return Response(
        body, media_type=FORMS[form], headers={"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    )


def _month_ends(start: date, end: date) -> Iterator[date]:
    """The last days of the months of a period: claims are known as of one of them."""
    for month in range(start.year * 12 + start.month - 1, end.year * 12 + end.month):
        year, number = divmod(month, 12)
        yield date(year, number + 1, monthrange(year, number + 1)[1])


def _period(text: str) -> tuple[date, date]:
    start, slash, end = text.partition("/")
    if not slash:
        raise InputError("period: two days, such as 2025-01-01/2025-12-31")
    found = _day(start, "period"), _day(end, "period")
    if found[1] < found[0]:
        raise InputError("period: ends before it starts")
    return found


def _day(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{name}: a day such as 2025-06-30") from None
