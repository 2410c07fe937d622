"""One member: who somebody is, whose patient under which contract, what is open for them; and finding them by name."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import Form, Frame
from fhir_gateway.console.measures_seen import contracts_of
from fhir_gateway.console.persons_seen import person
from fhir_gateway.console.sessions import Session
from fhir_gateway.errors import InputError
from fhir_gateway.jobs.attribution_runs import newest_evidence
from fhir_gateway.jobs.gap_lists import gap_list
from fhir_gateway.jobs.quality_views import Seen, runs_by_measure

#: Members that a search shows.
_FOUND = 50


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-population"))]
    Send = Annotated[Form, Depends(frame.do("see-population"))]

    @routes.get("/members")
    def form(request: Request, _: See) -> Response:
        return frame.page(request, "members.html", found=None, total=0, given={})

    @routes.post("/members")
    def found(request: Request, form: Send) -> Response:
        """Members by name, birth date or number; what is asked for is in no address and in no log."""
        criteria = [(name, form.fields[name]) for name in ("name", "birthdate", "identifier") if name in form.fields]
        if not criteria:
            raise InputError("say a name, a birth date or a number")
        if "birthdate" in form.fields:
            _day(form.fields["birthdate"])
        seen = Seen(gateway, form.session.audience)
        page = seen.store.search("Patient", criteria, _FOUND)
        people = [person(one.json()) for one in page.resources]
        request.state.access.disclose(one.id for one in people)
        return frame.page(request, "members.html", found=people, total=page.total, given=form.fields)

    @routes.get("/members/{member}")
    def one(request: Request, member: str, session: See) -> Response:
        seen = Seen(gateway, session.audience)
        patient = seen.store.read("Patient", member).json()
        request.state.access.disclose([member])
        attributed: list[dict[str, Any]] = []
        for listed in contracts_of(contracts, seen):
            evidence = newest_evidence(gateway, listed.id)
            if evidence is not None:
                attributed += [{"contract": listed} | row for row in _rows_of(evidence / "members.parquet", member)]
        gaps: list[dict[str, Any]] = []
        if session.may("see-quality"):
            for runs in runs_by_measure(gateway).values():
                run, header = runs[0]
                rows = _rows_of(gap_list(gateway, run, None).gaps, member)
                gaps += [{"run": run, "header": header} | row for row in rows if row["status"] != "not-applicable"]
        return frame.page(
            request,
            "person.html",
            person=person(patient),
            patient=patient,
            attributed=attributed,
            gaps=sorted(gaps, key=lambda row: (row["status"] == "closed-gap", row["header"].title)),
        )

    return routes


def _rows_of(file: Path, member: str) -> list[dict[str, Any]]:
    """Rows of a member in a file that is sorted by member."""
    found: list[dict[str, Any]] = pq.read_table(file, filters=pc.field("member") == member).to_pylist()
    return found


def _day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise InputError("birth date: a day such as 1960-06-30") from None
