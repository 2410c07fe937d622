"""Whose patient somebody is: attribution by contract, a member's evidence, churn, differences from a payer's list."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import counts_of, page_of
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs import roster_evidence, rosters
from fhir_gateway.jobs.attribution_runs import evidence_runs, newest_evidence

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

    @routes.get("/population")
    def every(request: Request, session: See) -> Response:
        rows = []
        for contract in contracts.all(session.audience):
            runs = evidence_runs(gateway, contract.id)
            rows.append({"contract": contract, "run": runs[-1][1] if runs else None})
        return frame.page(request, "population.html", rows=rows)

    @routes.get("/population/{contract_id}")
    def one(request: Request, contract_id: str, session: See, step: str = "", tin: str = "", page: int = 1) -> Response:
        contract = contracts.get(session.audience, contract_id)
        file = run_of(contract_id) / "members.parquet"
        among = seen_of(session)
        equal = {name: value for name, value in (("step", step), ("tin", tin)) if value}
        found = page_of(file, "member", page, equal, among)
        request.state.access.disclose(row["member"] for row in found.rows)
        return frame.page(
            request,
            "attribution.html",
            contract=contract,
            found=found,
            counts=counts_of(file, ("participant", "step", "reason"), among),
            step=step,
            tin=tin,
        )

    @routes.get("/population/{contract_id}/churn")
    def churn(request: Request, contract_id: str, session: See) -> Response:
        contract = contracts.get(session.audience, contract_id)
        if session.labels is not None:
            raise NotFoundError("churn is told to those who see everybody")
        several = len(evidence_runs(gateway, contract_id)) > 1
        found = roster_evidence.changed(gateway, str(contract.path)) if several else None
        leaked = roster_evidence.leaked(gateway, str(contract.path))
        return frame.page(request, "churn.html", contract=contract, churn=found, leakage=leaked)

    @routes.get("/population/{contract_id}/members/{member}")
    def member(request: Request, contract_id: str, member: str, session: See) -> Response:
        contract = contracts.get(session.audience, contract_id)
        seen = seen_of(session)
        if seen is not None and member not in seen["member"]:
            raise NotFoundError("there is no such member")
        request.state.access.disclose([member])
        found = roster_evidence.explain(gateway, str(contract.path), member)
        return frame.page(request, "member.html", contract=contract, member=member, found=found)

    @routes.get("/population/{contract_id}/roster")
    def roster(request: Request, contract_id: str, session: See) -> Response:
        contract = contracts.get(session.audience, contract_id)
        return frame.page(
            request, "roster.html", contract=contract, lists=_lists(frame, session, contract_id), found=None
        )

    @routes.post("/population/{contract_id}/roster")
    def compared(request: Request, contract_id: str, form: Send) -> Response:
        contract = contracts.get(form.session.audience, contract_id)
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


def _lists(frame: Frame, session: Session, contract_id: str) -> list[dict[str, Any]]:
    """The attribution lists that a reader sees, those of the contract first."""
    found = frame.gateway.resources.seen_by(session.audience).search("Group", count=200, total=False).resources
    bodies = [one.json() for one in found]
    label = f"contract:{contract_id}"
    return sorted(
        ({"id": one["id"], "name": one.get("name", one["id"]), "other": not _labelled(one, label)} for one in bodies),
        key=lambda one: (one["other"], one["name"]),
    )


def _labelled(resource: dict[str, Any], label: str) -> bool:
    return any(one.get("code") == label for one in resource.get("meta", {}).get("security", ()))
