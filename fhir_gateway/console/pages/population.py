"""Whose patient somebody is: attribution by contract, a member's evidence, churn, differences from a payer's list."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console import quality_charts as charts
from fhir_gateway.console.contracts_seen import ContractsSeen, Listed
from fhir_gateway.console.frame import Form, Frame
from fhir_gateway.console.measures_seen import contracts_of
from fhir_gateway.console.persons_seen import names_of
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import counts_of, page_of
from fhir_gateway.db.audience import SYSTEM
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs import roster_evidence, rosters
from fhir_gateway.jobs.attribution_runs import evidence_runs, newest_evidence
from fhir_gateway.jobs.population_views import course_view, leakage_view, practices_view
from fhir_gateway.jobs.quality_views import Seen

_DIFFERENCES_SHOWN = 200


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-population"))]
    Send = Annotated[Form, Depends(frame.do("see-population"))]

    def run_of(contract_id: str) -> Path:
        found = newest_evidence(gateway, contract_id)
        if found is None:
            raise NotFoundError("this contract was not attributed yet")
        return found

    def seen_of(session: Session) -> dict[str, list[str]] | None:
        """The members that a limited reader may see, as a filter."""
        members = gateway.resources.seen_by(session.audience).members()
        return None if members is None else {"member": members}

    def contract_of(session: Session, contract_id: str) -> Listed:
        """A contract whose attribution this reader may look at, as far as his own members."""
        for listed in contracts_of(contracts, Seen(gateway, session.audience)):
            if listed.id == contract_id:
                return listed
        raise NotFoundError("there is no such contract")

    def practices(session: Session, contract: Listed, folder: Path) -> list[dict[str, Any]]:
        """Practices of the contract by their members; of a limited reader none."""
        if session.labels is not None or contract.terms is None:
            return []
        return practices_view(gateway, contract.terms, folder)

    @routes.get("/population")
    def every(request: Request, session: See) -> Response:
        seen = Seen(gateway, session.audience)
        rows: list[dict[str, Any]] = []
        for contract in contracts_of(contracts, seen):
            runs = evidence_runs(gateway, contract.id)
            rows.append({"contract": contract, "run": runs[-1][1] if runs else None, "last": None})
            if runs and contract.terms and not seen.limited:
                rows[-1]["last"] = course_view(gateway, contract.terms)[-1]
        return frame.page(request, "population.html", rows=rows)

    @routes.get("/population/{contract_id}")
    def one(
        request: Request, contract_id: str, session: See, step: str = "", tin: str = "", npi: str = "", page: int = 1
    ) -> Response:
        contract = contract_of(session, contract_id)
        folder = run_of(contract_id)
        file = folder / "members.parquet"
        among = seen_of(session)
        equal = {name: value for name, value in (("step", step), ("tin", tin), ("npi", npi)) if value}
        found = page_of(file, "member", page, equal, among)
        request.state.access.disclose(row["member"] for row in found.rows)
        return frame.page(
            request,
            "attribution.html",
            contract=contract,
            found=found,
            names=names_of(gateway, [row["member"] for row in found.rows]),
            counts=counts_of(file, ("participant", "step", "reason"), among),
            practices=practices(session, contract, folder),
            asked={"step": step, "tin": tin, "npi": npi},
        )

    @routes.get("/population/{contract_id}/churn")
    def churn(request: Request, contract_id: str, session: See) -> Response:
        contract = contract_of(session, contract_id)
        if session.labels is not None or contract.terms is None:
            raise NotFoundError("churn is told to those who see everybody")
        folder = run_of(contract_id)
        course = course_view(gateway, contract.terms)
        leaked = leakage_view(gateway, contract.terms, contract.path, folder.name)
        chart = charts.course(course)
        return frame.page(request, "churn.html", contract=contract, course=course, leakage=leaked, chart=chart)

    @routes.get("/population/{contract_id}/members/{member}")
    def member(request: Request, contract_id: str, member: str, session: See) -> Response:
        contract = contract_of(session, contract_id)
        if not Seen(gateway, session.audience).sees(member):
            raise NotFoundError("there is no such member")
        request.state.access.disclose([member])
        found = roster_evidence.explain(gateway, str(contract.path), member)
        who = names_of(gateway, [member]).get(member)
        return frame.page(request, "member.html", contract=contract, member=member, found=found, who=who)

    @routes.get("/population/{contract_id}/roster")
    def roster(request: Request, contract_id: str, session: See) -> Response:
        contract = contract_of(session, contract_id)
        return frame.page(
            request, "roster.html", contract=contract, lists=_lists(frame, session, contract_id), found=None
        )

    @routes.post("/population/{contract_id}/roster")
    def compared(request: Request, contract_id: str, form: Send) -> Response:
        contract = contract_of(form.session, contract_id)
        theirs = rosters.of_csv(gateway, form.need("roster").encode())
        found = rosters.compare(gateway, form.need("list"), theirs, form.session.audience)
        differing = found.differences()
        request.state.access.disclose(_members(differing))
        return frame.page(
            request,
            "roster.html",
            contract=contract,
            lists=_lists(frame, form.session, contract_id),
            found=found,
            differences=differing.slice(0, _DIFFERENCES_SHOWN).to_pylist(),
            total=differing.num_rows,
        )

    return routes


def _members(table: pa.Table) -> list[str]:
    return [one for one in table["member"].to_pylist() if one]


def _lists(frame: Frame, session: Session, contract_id: str) -> list[dict[str, str]]:
    """The attribution lists that a reader sees, those of the contract first; what they say is not read."""
    seen = frame.gateway.resources.seen_by(session.audience)
    own = seen.ids("Group", [("_security", f"{SYSTEM}|contract:{contract_id}")])
    every = [*sorted(own), *(one for one in sorted(seen.ids("Group")) if one not in own)]
    return [{"id": one, "name": one} for one in every]
