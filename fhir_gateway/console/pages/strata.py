"""A measure by who the members are, and by provider: strata with intervals, a funnel plot; as pages and as CSV."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console import quality_charts as charts
from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.files import csv_file
from fhir_gateway.console.frame import Frame
from fhir_gateway.console.measures_seen import contracts_of, run_seen
from fhir_gateway.console.sessions import Session
from fhir_gateway.equity.dimensions import DIMENSIONS
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.attribution_runs import newest_evidence
from fhir_gateway.jobs.comparison import BY, LIMITS
from fhir_gateway.jobs.quality_views import Seen, comparison_view, strata_view

#: What is shown without a choice; of the others the page has links.
_FIRST = ("race", "ethnicity", "sex", "age", "payer", "language", "adi-quintile", "rurality")
_CELL = ("denominator", "numerator", "rate", "low", "high")
_FUNNEL = (*LIMITS, "position", "position_widened")

Json = dict[str, Any]


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-quality"))]

    def broken_down(session: Session, run: str) -> tuple[Json, Json]:
        """The view of the run's period, and the run's measure in it."""
        seen = Seen(gateway, session.audience)
        header = run_seen(gateway, seen, run)
        view = strata_view(seen, header.period)
        metrics = [one for one in view["metrics"] if one["measure"] == header.canonical]
        return {"header": header, "notes": _notes(view["notes"], header.name), "members": view["members"]}, {
            "metrics": metrics
        }

    @routes.get("/quality/{run}/strata")
    def strata(request: Request, run: str, session: See, dimension: str = "") -> Response:
        about, view = broken_down(session, run)
        names = (dimension,) if dimension in DIMENSIONS else _FIRST
        metrics = [
            one
            | {
                "dimensions": [
                    of | {"chart": charts.strata(of["cells"], one["total"]["rate"])}
                    for of in one["dimensions"]
                    if of["id"] in names
                ]
            }
            for one in view["metrics"]
        ]
        every = {of["id"]: of["title"] for one in view["metrics"] for of in one["dimensions"]}
        chosen = dimension if dimension in every else ""
        return frame.page(request, "strata.html", run=run, metrics=metrics, dimensions=every, chosen=chosen, **about)

    @routes.get("/quality/{run}/strata.csv")
    def strata_csv(run: str, session: See) -> Response:
        _, view = broken_down(session, run)
        rows = (
            [one["id"], of["id"], cell["stratum"], cell["title"], *(cell[name] for name in _CELL), _hidden(cell)]
            for one in view["metrics"]
            for of in one["dimensions"]
            for cell in of["cells"]
        )
        return csv_file(["metric", "dimension", "stratum", "title", *_CELL, "hidden"], rows, f"strata-{run}")

    def compared(session: Session, run: str, contract: str, by: str) -> tuple[Json, Json]:
        """What a comparison is of, and the comparison; empty where no contract was attributed that is seen."""
        seen = Seen(gateway, session.audience)
        header = run_seen(gateway, seen, run)
        listed = [(one, newest_evidence(gateway, one.id)) for one in contracts_of(contracts, seen)]
        attributed = {one.id: (one, found) for one, found in listed if found is not None}
        if by not in BY or (contract and contract not in attributed):
            raise NotFoundError("there is no such comparison")
        chosen = contract or next(iter(attributed), "")
        about: Json = {
            "header": header,
            "by": by,
            "contract": chosen,
            "contracts": [one for one, _ in attributed.values()],
            "limited": seen.limited,
        }
        if not chosen:
            return about, {"notes": [], "groups": []}
        evidence = attributed[chosen][1]
        return about, comparison_view(seen, run, chosen, evidence.name if evidence else "", by)

    @routes.get("/quality/{run}/providers")
    def providers(request: Request, run: str, session: See, contract: str = "", by: str = "practice") -> Response:
        about, view = compared(session, run, contract, by)
        groups = [one | {"chart": charts.funnel(one)} for one in view["groups"]]
        return frame.page(request, "providers.html", run=run, groups=groups, notes=view["notes"], kinds=BY, **about)

    @routes.get("/quality/{run}/providers.csv")
    def providers_csv(run: str, session: See, contract: str = "", by: str = "practice") -> Response:
        _, view = compared(session, run, contract, by)
        rows = (
            [
                one["id"],
                cell["stratum"],
                cell["title"],
                *(cell[name] for name in _CELL),
                *(cell[name] for name in _FUNNEL),
                _hidden(cell),
            ]
            for one in view["groups"]
            for cell in one["rows"]
        )
        return csv_file(["metric", "provider", "title", *_CELL, *_FUNNEL, "hidden"], rows, f"providers-{run}")

    return routes


def _notes(notes: Sequence[str], name: str) -> list[str]:
    """Notes on a measure, and those on everything."""
    return [
        one for one in notes if ":" not in one or one.partition(":")[0].partition("#")[0] == name or "answer" in one
    ]


def _hidden(cell: Json) -> str:
    return "yes" if cell["suppressed"] else ""
