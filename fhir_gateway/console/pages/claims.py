"""Claims: how clean they are by edit, provider and payer, what is wrong with which, and what payers denied.

Pages read the check that was kept last (``jobs.claim_quality``); a new one is a job.
"""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.claim_edits import edits
from fhir_gateway.claim_edits.models import SEVERITIES
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import page_of
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.calculations import calculation_id
from fhir_gateway.jobs.claim_quality import KeptCheck, newest_check

Page = Annotated[int, Query(ge=1, le=1_000_000)]
_MOST_SHOWN = 50


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-population"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    def mine(session: Session) -> list[str] | None:
        return gateway.resources.seen_by(session.audience).members()

    def kept() -> KeptCheck:
        found = newest_check(gateway)
        if found is None:
            raise NotFoundError("claims were not checked yet")
        return found

    @routes.get("/claims")
    def overview(request: Request, session: See) -> Response:
        """Rates of everybody's claims, or of those of the members that a reader sees."""
        found, seen = newest_check(gateway), mine(session)
        rates = None if found is None else found.rates if seen is None else found.rates_of(seen)
        return frame.page(
            request,
            "claims.html",
            kept=found,
            rates=rates,
            denials=found.denials if found and seen is None else None,
            known=edits(),
            most=_MOST_SHOWN,
            chart=_edit_chart(rates["edits"]) if rates and rates["edits"] else None,
        )

    @routes.get("/claims/findings")
    def findings(
        request: Request, session: See, edit: str = "", provider: str = "", payer: str = "", page: Page = 1
    ) -> Response:
        """What is wrong with which claim, in which element, and what sets it right."""
        given = {"edit": edit, "provider": provider.strip(), "payer": payer.strip()}
        seen = mine(session)
        among = {} if seen is None else {"member": seen}
        equal = {name: value for name, value in given.items() if value}
        rows = page_of(kept().findings, ("key", "edit", "path"), page, equal, among)
        request.state.access.disclose({row["member"] for row in rows.rows if row["member"]})
        return frame.page(
            request,
            "claim_findings.html",
            found=rows,
            given=given,
            known=edits(),
            choices=[("", "all"), *((one.id, f"{one.id}: {one.message}") for one in edits().values())],
        )

    @routes.get("/claims/edits")
    def rules(request: Request, _: See) -> Response:
        """The edits: what each checks, how bad a finding is, what it needs."""
        by_severity = sorted(edits().values(), key=lambda one: (SEVERITIES.index(one.severity), one.family, one.id))
        return frame.page(request, "claim_edits.html", edits=by_severity)

    @routes.post("/claims/check")
    def check(_: Do) -> Response:
        """Check all claims anew, in the background."""
        job = calculation_id("claims")
        with closing(JobBook(gateway)) as book:
            book.submit("claims", job, asked={"now": datetime.now(UTC).isoformat()})
        return RedirectResponse(f"{PATH}/operations/jobs/{job}", 303)

    return routes


def _edit_chart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The edits with the most claims."""
    shown = rows[:15]
    return {
        "xAxis": {
            "type": "category",
            "data": [one["edit"] for one in shown],
            "axisLabel": {"interval": 0, "rotate": 30},
        },
        "yAxis": {"type": "value"},
        "series": [
            {
                "type": "bar",
                "name": "claims",
                "itemStyle": {"color": "#1b6ca8"},
                "data": [one["claims"] for one in shown],
            }
        ],
    }
