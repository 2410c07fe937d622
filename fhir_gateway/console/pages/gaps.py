"""Who has a gap: a work list by status, practice and clinician, in pages and as CSV."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from typing import Annotated

import pyarrow as pa
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.contracts_seen import ContractsSeen, Listed
from fhir_gateway.console.files import csv_of_table
from fhir_gateway.console.frame import Frame
from fhir_gateway.console.measures_seen import contracts_of, run_seen
from fhir_gateway.console.persons_seen import names_of
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import ROWS, Rows
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.attribution_runs import newest_evidence
from fhir_gateway.jobs.gap_lists import STATUSES, Filter, GapList, gap_list
from fhir_gateway.jobs.quality_views import Seen
from fhir_gateway.measures.model import RunHeader

_QUERY = ("status", "group", "contract", "tin", "npi")


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-quality"))]

    def chosen(request: Request, session: Session, run: str) -> "_Chosen":
        """The list that is asked for, by the query."""
        seen = Seen(gateway, session.audience)
        header = run_seen(gateway, seen, run)
        asked = {name: request.query_params.get(name, "") for name in _QUERY}
        listed = [(one, newest_evidence(gateway, one.id)) for one in contracts_of(contracts, seen)]
        attributed = [(one, found) for one, found in listed if found is not None]
        if asked["contract"] and asked["contract"] not in [one.id for one, _ in attributed]:
            raise NotFoundError("there is no such contract, or it was not attributed yet")
        evidence = next((found for one, found in attributed if asked["contract"] in ("", one.id)), None)
        asked["contract"] = asked["contract"] or next((one.id for one, _ in attributed), "")
        wanted = Filter(asked["status"], asked["group"], asked["tin"], asked["npi"], seen.members)
        return _Chosen(header, gap_list(gateway, run, evidence), wanted, asked, [one for one, _ in attributed])

    @routes.get("/quality/{run}/gaps")
    def work_list(request: Request, run: str, session: See, page: int = 1) -> Response:
        one = chosen(request, session, run)
        shown = one.gaps.page(one.wanted, ROWS, page)
        members = [row["member"] for row in shown.rows]
        request.state.access.disclose(members)
        return frame.page(
            request,
            "gaps.html",
            run=run,
            header=one.header,
            found=Rows(shown.rows, shown.total, min(max(1, page), max(1, -(-shown.total // ROWS)))),
            names=names_of(gateway, members),
            asked=one.asked,
            statuses=STATUSES,
            contracts=one.contracts,
            shown=shown,
        )

    @routes.get("/quality/{run}/gaps.csv")
    def work_list_csv(request: Request, run: str, session: See) -> Response:
        one = chosen(request, session, run)
        table = one.gaps.all(one.wanted)
        request.state.access.disclose(table["member"].to_pylist())
        named = pa.repeat(pa.scalar(one.header.name), table.num_rows)
        return csv_of_table(table.add_column(0, "measure", named), f"gaps-{run}")

    return routes


class _Chosen:
    """A work list and what was asked of it."""

    def __init__(
        self, header: RunHeader, gaps: GapList, wanted: Filter, asked: dict[str, str], contracts: list[Listed]
    ) -> None:
        self.header, self.gaps, self.wanted, self.asked, self.contracts = header, gaps, wanted, asked, contracts
