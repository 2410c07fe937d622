"""Measures: what each came to over time, its strata, who has a gap, and why one member has."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

import csv
from collections import defaultdict
from io import StringIO
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.frame import Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import page_of
from fhir_gateway.db.audience import SYSTEM
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.measures.explain import explain
from fhir_gateway.measures.explain_page import content
from fhir_gateway.measures.gap import OPEN, gap_statuses
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.population import LakePopulation
from fhir_gateway.measures.supplement import maps_of, supplemented

_MOST_REPORTS = 1000
_STATUSES = ("open-gap", "prospective-gap", "closed-gap", "not-applicable")


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-quality"))]

    def members_of(session: Session) -> list[str] | None:
        return gateway.resources.seen_by(session.audience).members()

    @routes.get("/quality")
    def every(request: Request, session: See) -> Response:
        """Each measure that was reported to this reader, by whose population: its newest rate, and those before."""
        store = gateway.resources.seen_by(session.audience)
        page = store.search("MeasureReport", [], _MOST_REPORTS, sort="-date", total=False)
        settled = {run.id for run in gateway.settlements.runs()}  # those are the contracts', not of a measure
        by_measure: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for report in (one.json() for one in page.resources):
            if report.get("type") == "summary" and report["id"] not in settled:
                by_measure[report["measure"].partition("|")[0], _whose(report)].append(report)
        titles = {one.url: one.title for one in gateway.measures.packages()}
        rows = [
            _row(titles.get(url, url.rsplit("/", 1)[-1]), whose, found) for (url, whose), found in by_measure.items()
        ]
        return frame.page(request, "quality.html", rows=sorted(rows, key=lambda one: (one["title"], one["whose"])))

    @routes.get("/quality/{run}")
    def one(request: Request, run: str, session: See) -> Response:
        """One summary report: populations, scores, strata."""
        report = gateway.resources.seen_by(session.audience).read("MeasureReport", run).json()
        groups = [_group(group) for group in report.get("group", ())]
        kept = _kept_run(gateway, report)
        return frame.page(request, "measure.html", report=report, groups=groups, kept=kept, whose=_whose(report))

    def gaps(session: Session, run: str, status: str) -> tuple[MeasureResult, pa.Table]:
        """Members of a run with a gap of a status (empty: any that is open), by group."""
        if session.labels is None:
            gateway.resources.read("MeasureReport", run)
        found = gateway.results.load(run)
        wanted = (status,) if status in _STATUSES else OPEN
        parts = []
        for group in found.groups:
            statuses = gap_statuses(group, found.period, found.evaluated_at)
            if statuses is None:
                continue
            column = pa.array(statuses).dictionary_encode()
            numbers = [number for number, name in enumerate(column.dictionary.to_pylist()) if name in wanted]
            chosen = np.flatnonzero(np.isin(column.indices.to_numpy(), numbers))
            taken = pa.array(chosen)
            parts.append(
                pa.table(
                    {
                        "member": found.members.take(taken),
                        "group": pa.repeat(group.id, len(chosen)),
                        "status": column.take(taken).cast(pa.string()),
                    }
                )
            )
        table = pa.concat_tables(parts) if parts else pa.table({n: pa.array([], pa.string()) for n in _GAP_COLUMNS})
        seen = members_of(session)
        if seen is not None:
            table = table.filter(pa.array(np.isin(table["member"].to_numpy(zero_copy_only=False), seen)))
        return found, table

    @routes.get("/quality/{run}/gaps")
    def work_list(request: Request, run: str, session: See, status: str = "", page: int = 1) -> Response:
        result, table = gaps(session, run, status)
        found = page_of(table, "member", page)
        request.state.access.disclose(row["member"] for row in found.rows)
        return frame.page(request, "gaps.html", run=run, result=result, found=found, chosen=status, statuses=_STATUSES)

    @routes.get("/quality/{run}/gaps.csv")
    def work_list_csv(request: Request, run: str, session: See, status: str = "") -> Response:
        result, table = gaps(session, run, status)
        request.state.access.disclose(table["member"].to_pylist())
        text = StringIO()
        writer = csv.writer(text)
        writer.writerow(["measure", *_GAP_COLUMNS])
        writer.writerows([result.name, *row.values()] for row in table.sort_by("member").to_pylist())
        return Response(
            text.getvalue(),
            media_type="text/csv",
            headers={"Content-Disposition": f'attachment; filename="gaps-{run}.csv"'},
        )

    @routes.get("/quality/{run}/members/{member}")
    def why(request: Request, run: str, member: str, session: See) -> Response:
        """Why a member counts or not: the criteria with their values, by the run's own content and instant."""
        seen = members_of(session)
        if seen is not None and member not in seen:
            raise NotFoundError("there is no such member")
        header = gateway.results.header(run)
        package = supplemented(gateway.measures.by_canonical(header.canonical), gateway.terminology, header.period[0])
        request.state.access.disclose([member])
        population = LakePopulation(
            gateway.lake,
            version=header.lake_version,
            members=[member],
            maps=maps_of([package]),
            copies="once" if header.copies == "once" else "all",
        )
        explanation = explain(package, population, member, header.period, header.evaluated_at)
        return frame.page(request, "why.html", run=run, member=member, header=header, text=content(explanation))

    return routes


_GAP_COLUMNS = ("member", "group", "status")


def _whose(report: dict[str, Any]) -> str:
    """Whose population a report is about: contracts and practices by its labels, else everybody."""
    codes = [one["code"] for one in report.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]
    return ", ".join(sorted(code.partition(":")[2] for code in codes)) or "everybody"


def _kept_run(gateway: Gateway, report: dict[str, Any]) -> str | None:
    """The run that a report is of or, of one population's report, the newest of its measure and period."""
    runs = gateway.results.runs()
    if report["id"] in runs:
        return str(report["id"])
    period = tuple(report["period"][end][:10] for end in ("start", "end"))
    found = [
        (header.evaluated_at, run)
        for run in runs
        for header in (gateway.results.header(run),)
        if header.canonical == report["measure"] and tuple(day.isoformat() for day in header.period) == period
    ]
    return max(found)[1] if found else None


def _row(title: str, whose: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """A measure with its newest score and, the oldest first, those of each period."""
    points = []
    for report in reversed(reports):
        for group in report.get("group", ())[:1]:
            score = group.get("measureScore", {}).get("value")
            if score is not None:
                points.append((report["period"]["end"][:10], score))
    return {
        "title": title,
        "whose": whose,
        "report": reports[0],
        "groups": [_group(group) for group in reports[0].get("group", ())],
        "trend": _trend(points),
    }


def _trend(points: list[tuple[str, float]]) -> dict[str, Any] | None:
    if len(points) < 2:
        return None
    return {
        "xAxis": {"type": "category", "data": [day for day, _ in points]},
        "yAxis": {"type": "value", "scale": True},
        "series": [{"type": "line", "name": "score", "data": [score for _, score in points]}],
    }


def _group(group: dict[str, Any]) -> dict[str, Any]:
    """What a group of a report says, for a page."""
    return {
        "id": group.get("id", ""),
        "score": group.get("measureScore", {}),
        "populations": [_population(one) for one in group.get("population", ())],
        "strata": [
            {
                "name": _text(stratifier.get("code", [{}])[0]) if stratifier.get("code") else stratifier.get("id", ""),
                "rows": [
                    {
                        "value": _text(stratum.get("value", {})),
                        "score": stratum.get("measureScore", {}),
                        "populations": [_population(one) for one in stratum.get("population", ())],
                    }
                    for stratum in stratifier.get("stratum", ())
                ],
            }
            for stratifier in group.get("stratifier", ())
        ],
    }


def _population(one: dict[str, Any]) -> tuple[str, int | None]:
    return _text(one.get("code", {})), one.get("count")


def _text(concept: dict[str, Any]) -> str:
    coding = (concept.get("coding") or [{}])[0]
    return str(concept.get("text") or coding.get("display") or coding.get("code") or "–")
