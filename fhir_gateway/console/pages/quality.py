"""Measures: what each came to over time against targets and benchmarks, and why one member counts or not."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console import quality_charts as charts
from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import Frame
from fhir_gateway.console.measures_seen import (
    OWN,
    contracts_of,
    group_of,
    kept_run,
    own_points,
    report_points,
    reports_seen,
    run_seen,
    whose,
)
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.targets import targets_of
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.quality_views import Seen, runs_by_measure, totals_view
from fhir_gateway.measures.explain import explain
from fhir_gateway.measures.explain_page import content
from fhir_gateway.measures.population import LakePopulation
from fhir_gateway.measures.supplement import maps_of

Json = dict[str, Any]


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-quality"))]

    def own_rows(seen: Seen) -> list[Json]:
        """Of a limited reader: each measure's newest run over the members he sees."""
        rows = []
        for runs in runs_by_measure(gateway).values() if seen.lists else ():
            run, header = runs[0]
            for metric in totals_view(seen, run)["metrics"]:
                points = own_points(seen, runs, metric["group"])
                about = {"title": header.title, "whose": OWN, "run": run, "unit": "", "limited": True}
                rows.append(about | _newest(points, header.canonical, metric["group"], metric["scale"]))
        return rows

    @routes.get("/quality")
    def every(request: Request, session: See) -> Response:
        """Each measure that was reported to this reader, by whose population: rate, target, benchmark, change."""
        seen = Seen(gateway, session.audience)
        titles = {one.url: one.title for one in gateway.measures.packages()}
        rows = own_rows(seen)
        for (url, name), reports in reports_seen(gateway, seen).items():
            for group in reports[0].get("group", ()):
                shown = group_of(group, limited=seen.limited)
                points = report_points(reports, shown["id"], limited=seen.limited)
                about = {"title": titles.get(url, url.rsplit("/", 1)[-1]), "whose": name, "run": reports[0]["id"]}
                about |= {"unit": shown["unit"], "limited": False}
                rows.append(about | _newest(points, reports[0]["measure"], shown["id"], 1.0))
        listed = contracts_of(contracts, seen)
        for row in rows:
            row["targets"] = targets_of(listed, row["canonical"], row["group"])
        rows.sort(key=lambda one: (one["title"], one["whose"], one["group"]))
        return frame.page(request, "quality.html", rows=rows)

    @routes.get("/quality/{run}")
    def one(request: Request, run: str, session: See) -> Response:
        """One measure: rates over time, targets, populations, the measure's own strata."""
        seen = Seen(gateway, session.audience)
        listed = contracts_of(contracts, seen)
        report = _report(seen, run)
        if report is None:
            about, groups = own(seen, run)
        else:
            name = whose(report)
            reports = reports_seen(gateway, seen).get((report["measure"].partition("|")[0], name), [report])
            about = {
                "title": report["measure"].partition("|")[0].rpartition("/")[2],
                "canonical": report["measure"],
                "whose": name,
                "period": [report["period"][end][:10] for end in ("start", "end")],
                "date": report.get("date"),
                "kept": kept_run(gateway, report),
            }
            groups = [group_of(group, limited=seen.limited) for group in report.get("group", ())]
            for group in groups:
                group["points"] = report_points(reports, group["id"], limited=seen.limited)
        for group in groups:
            group["targets"] = targets_of(listed, about["canonical"], group["id"])
            lines = [
                (f"target: {one.contract}", float(one.target)) for one in group["targets"] if one.target is not None
            ]
            group["chart"] = charts.trend(group["points"], lines)
        return frame.page(request, "measure.html", about=about, groups=groups, limited=seen.limited)

    def own(seen: Seen, run: str) -> tuple[Json, list[Json]]:
        """A kept run over the members that a limited reader sees."""
        header = run_seen(gateway, seen, run)
        found = totals_view(seen, run)
        about = {
            "title": header.name,
            "canonical": header.canonical,
            "whose": OWN,
            "period": [day.isoformat() for day in header.period],
            "date": header.evaluated_at.isoformat(),
            "kept": run,
        }
        runs = runs_by_measure(gateway)[header.canonical.partition("|")[0]]
        groups = []
        for metric in found["metrics"]:
            total = metric["total"]
            counts = [("denominator", "denominator", _whole(total["denominator"]))]
            counts.append(("numerator", "numerator", _whole(total["numerator"])))
            groups.append(
                {
                    "id": metric["group"],
                    "title": metric["group"],
                    "score": total["rate"],
                    "unit": "",
                    "hidden": total["suppressed"],
                    "populations": counts,
                    "strata": [],
                    "points": own_points(seen, runs, metric["group"]),
                }
            )
        return about, groups

    @routes.get("/quality/{run}/members/{member}")
    def why(request: Request, run: str, member: str, session: See) -> Response:
        """Why a member counts or not: the criteria with their values, by the run's own content and instant."""
        seen = Seen(gateway, session.audience)
        if seen.limited and not seen.sees(member):
            raise NotFoundError("there is no such member")
        header = gateway.results.header(run)
        package = gateway.measures.by_canonical(header.canonical)
        evaluator = gateway.measures.evaluator(package, header.period[0])
        request.state.access.disclose([member])
        population = LakePopulation(
            gateway.lake,
            version=header.lake_version,
            members=[member],
            maps=maps_of([evaluator.package]),
            copies="once" if header.copies == "once" else "all",
        )
        explanation = explain(evaluator, population, member, header.period, header.evaluated_at)
        return frame.page(request, "why.html", run=run, member=member, header=header, text=content(explanation))

    return routes


def _report(seen: Seen, run: str) -> Json | None:
    """A report of that id, as far as it is seen; None of a run that is not served to a limited reader."""
    try:
        return dict(seen.store.read("MeasureReport", run).json())
    except NotFoundError:
        if not seen.limited:
            raise
        return None


def _newest(points: list[Json], canonical: str, group: str, scale: float) -> Json:
    """The last of some points and how far it is from the one before."""
    last = points[-1] if points else {"period": ["", ""], "denominator": None, "numerator": None, "rate": None}
    before = next((one["rate"] for one in reversed(points[:-1]) if one["rate"] is not None), None)
    change = None if before is None or last["rate"] is None else last["rate"] - before
    return {**last, "change": change, "canonical": canonical, "group": group, "scale": scale}


def _whole(count: float | None) -> int | None:
    return None if count is None else round(count)
