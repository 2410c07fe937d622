"""The first page: what there is, by what the reader may see."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.frame import Frame, SignInNeeded
from fhir_gateway.console.sessions import Session
from fhir_gateway.server.access import access_of


def router(frame: Frame) -> APIRouter:
    """Its route."""
    routes = APIRouter()
    gateway = frame.gateway

    def signed_in(request: Request) -> Session:
        access = access_of(request)
        access.interaction, access.resource_id = "console-page", "overview"
        session = frame.signed_in(request)
        if session is None:
            raise SignInNeeded
        access.identify(f"console/{session.user}"[:255], None)
        return session

    @routes.get("/")
    def overview(request: Request, session: Annotated[Session, Depends(signed_in)]) -> Response:
        cards: list[dict[str, Any]] = []

        def card(address: str, title: str, *facts: tuple[str, Any]) -> None:
            cards.append({"address": address, "title": title, "facts": facts})

        if session.may("see-endpoints"):
            recent = gateway.pulls.recent(1)
            last = f"{recent[0].source}: {recent[0].state}" if recent else "none yet"
            card("endpoints", "Endpoints", ("Registered", len(gateway.endpoints.all())), ("Last pull", last))
        seen = gateway.resources.seen_by(session.audience)
        if session.may("see-population"):
            lists = seen.search("Group", count=0).total
            card("population", "Population", ("Attribution lists", lists))
        if session.may("see-quality"):
            card("quality", "Quality", ("Runs of measures", len(gateway.results.runs())))
        if session.may("see-contracts"):
            runs = gateway.settlements.runs()
            mine = {one.id for one in seen.read_many(("MeasureReport", run.id) for run in runs)}
            disputes = sum(one.state == "open" and one.run in mine for one in gateway.settlements.disputes())
            card("contracts", "Contracts", ("Settlements", len(mine)), ("Open disputes", disputes))
        if session.may("see-operations"):
            card("operations", "Operations", ("Version of the lake", gateway.lake.version))
        return frame.page(request, "overview.html", cards=cards)

    return routes
