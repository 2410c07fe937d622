"""Risk adjustment: scores that were computed or imported, what they rest on, and coding gaps to be looked at.

Pages read what runs keep (``jobs.risk``, ``jobs.risk_gaps``); they compute no score.
"""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.frame import Frame
from fhir_gateway.console.persons_seen import rows_seen
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import counts_of, page_of
from fhir_gateway.errors import NotFoundError
from fhir_gateway.risk.store import Kind, RiskRun

Page = Annotated[int, Query(ge=1, le=1_000_000)]
STATUSES = ("open-gap", "pending", "closed-gap", "invalid-gap")
TYPES = ("historic", "suspected", "net-new")


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-population"))]

    def newest(kind: Kind, *names: str) -> list[RiskRun]:
        """The newest run of each combination of what headers say, the newest first."""
        found = {tuple(run.header.get(one) for one in names): run for run in gateway.risk.runs(kind)}
        return list(reversed(found.values()))

    def run_of(kind: Kind, run_id: str) -> RiskRun:
        for run in gateway.risk.runs(kind):
            if run.id == run_id:
                return run
        raise NotFoundError("there is no such run")

    @routes.get("/risk")
    def overview(request: Request, session: See) -> Response:
        """Scores by model and year, and coding gaps by model and year."""
        seen = rows_seen(gateway, session)
        scores = [(run, _scored(run, seen)) for run in newest("scores", "model", "year")]
        gaps = [(run, _gaps(run, seen)) for run in newest("gaps", "model", "year")]
        return frame.page(request, "risk.html", scores=scores, gaps=gaps)

    @routes.get("/risk/gaps/{run_id}")
    def gaps(
        request: Request,
        run_id: str,
        session: See,
        status: str = "open-gap",
        type: str = "",
        cc: str = "",
        page: Page = 1,
    ) -> Response:
        """A work list of coding gaps, those worth most first."""
        run = run_of("gaps", run_id)
        chosen = {"evidence_status": status, "cc_type": type, "cc": cc.strip()}
        equal = {name: value for name, value in chosen.items() if value}
        found = page_of(_file(run, "gaps"), ("-value", "member", "cc"), page, equal, rows_seen(gateway, session))
        request.state.access.disclose(row["member"] for row in found.rows)
        return frame.page(
            request,
            "risk_gaps.html",
            run=run,
            found=found,
            given={"status": status, "type": type, "cc": cc},
            statuses=[("", "all"), *((one, one) for one in STATUSES)],
            types=[("", "all"), *((one, one) for one in TYPES)],
        )

    @routes.get("/risk/members/{member}")
    def one(request: Request, member: str, session: See) -> Response:
        """One member: scores by model, the categories and claims behind them, and gaps."""
        seen = rows_seen(gateway, session)
        if seen and member not in set(seen["member"]):
            raise NotFoundError("there is no such member")
        only = {"member": member}
        scores = [
            {
                "run": run,
                "score": rows[0],
                "components": _rows(run, "components", only),
                "evidence": _rows(run, "evidence", only),
            }
            for run in newest("scores", "model", "year")
            if (rows := _rows(run, "scores", only))
        ]
        gaps = [(run, rows) for run in newest("gaps", "model", "year") if (rows := _rows(run, "gaps", only))]
        if not scores and not gaps:
            raise NotFoundError("there is no such member")
        request.state.access.disclose([member])
        return frame.page(request, "risk_member.html", member=member, scores=scores, gaps=gaps)

    return routes


def _file(run: RiskRun, name: str) -> Path:
    path = run.folder / f"{name}.parquet"
    if not path.exists():
        raise NotFoundError(f"this run keeps no {name}")
    return path


def _rows(run: RiskRun, name: str, equal: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of one member; none where a run keeps no such table, as imported scores do."""
    path = run.folder / f"{name}.parquet"
    return page_of(path, "member", 1, equal).rows if path.exists() else []


def _scored(run: RiskRun, seen: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How many members have a score, the exact mean, and how many have none by why."""
    columns = ("reason",) if run.header.get("models") else ()
    found = counts_of(_file(run, "scores"), columns, seen, sums=("score",))
    scored = sum(one["score_filled"] for one in found)
    total = sum(one["score"] or 0 for one in found)
    missing = {one["reason"] or "not known": one["rows"] for one in found if one.get("reason")}
    return {"scored": scored, "mean": total / scored if scored else None, "missing": missing}


def _gaps(run: RiskRun, seen: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Gaps by type and status with what they are worth, and the categories with the most open ones."""
    by_type = counts_of(_file(run, "gaps"), ("cc_type", "evidence_status"), seen, sums=("value",))
    top = counts_of(_file(run, "gaps"), ("cc", "label"), seen, equal={"evidence_status": "open-gap"}, sums=("value",))
    value = sum(one["value"] or 0 for one in by_type if one["evidence_status"] == "open-gap")
    return {"by_type": by_type, "top": top[:10], "value": value}
