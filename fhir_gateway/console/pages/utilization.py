"""Utilization and cost: the metrics that were reported, by whom they are about, with strata and how they went.

Pages read the MeasureReports that ``jobs.utilization`` serves; they count nothing.
"""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.frame import Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.db.audience import SYSTEM
from fhir_gateway.errors import NotFoundError
from fhir_gateway.risk.utilization.metrics import Metric, metrics
from fhir_gateway.risk.utilization.reports import MEASURE_URL

#: Reports that a page looks at, the newest.
_MOST_REPORTS = 200
_HEADLINES = ("members", "paid-pmpm", "acute-admissions-per-1000", "ed-visits-per-1000", "readmissions-30-day")
#: Units in words that people read; money is shown as such.
_UNITS = {
    "1": "",
    "d": "days",
    "/a": "a year",
    "/(10*2.a)": "per 100 a year",
    "/(10*3)": "per 1,000",
    "/(10*3.a)": "per 1,000 a year",
    "/(10*5.a)": "per 100,000 a year",
}
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a report says of a metric or stratum; ``value`` is null where there is nothing to divide by."""

    value: Decimal | None
    numerator: int | None
    denominator: int | None


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-population"))]

    def reports(session: Session) -> dict[str, list[Report]]:
        """Reports that a reader sees by whose members they are of, each by period, of a period the newest."""
        store = gateway.resources.seen_by(session.audience)
        page = store.search("MeasureReport", [("measure", MEASURE_URL)], _MOST_REPORTS, sort="-date", total=False)
        found: dict[str, dict[tuple[str, str], Report]] = {}
        for report in reversed([one.json() for one in page.resources]):  # of a period the newest stays
            if report["measure"].partition("|")[0] == MEASURE_URL and report["type"] == "summary":
                found.setdefault(_whose(report), {})[_period(report)] = report
        return {whose: [one for _, one in sorted(those.items())] for whose, those in sorted(found.items())}

    @routes.get("/utilization")
    def every(request: Request, session: See) -> Response:
        rows = [
            {"whose": whose, "report": those[-1], "periods": len(those), "results": _results(those[-1])}
            for whose, those in reports(session).items()
        ]
        known = metrics()
        headlines = [known[one] for one in _HEADLINES if one in known]
        return frame.page(request, "utilization.html", rows=rows, headlines=headlines, units=_UNITS)

    @routes.get("/utilization/{report_id}")
    def one(request: Request, report_id: str, session: See, metric: str = "paid-pmpm") -> Response:
        """All metrics of a report, and one of them by stratum and over periods."""
        found = [(whose, those) for whose, those in reports(session).items() if report_id in _ids(those)]
        if not found:
            raise NotFoundError("there is no such report")
        whose, those = found[0]
        place = _ids(those).index(report_id)
        report = those[place]
        groups = {group["id"]: group for group in report.get("group", ())}
        chosen = metric if metric in groups else next(iter(groups), None)
        if chosen is None:
            raise NotFoundError("the report has no metric")
        before = _results(those[place - 1]) if place else {}
        about = metrics()[chosen]
        course = [(_period(one), _results(one).get(chosen)) for one in those]
        strata = _strata(groups[chosen])
        return frame.page(
            request,
            "utilization_report.html",
            report=report,
            units=_UNITS,
            whose=whose,
            period=_period(report),
            before=_period(those[place - 1]) if place else None,
            rows=[(metrics()[name], result, before.get(name)) for name, result in _results(report).items()],
            about=about,
            course=course,
            course_chart=_course_chart(about, course) if len(course) > 1 else None,
            strata=[(name, rows, _strata_chart(about, rows)) for name, rows in strata],
        )

    return routes


def _ids(reports: Sequence[Report]) -> list[str]:
    return [one["id"] for one in reports]


def _whose(report: Report) -> str:
    codes = [one["code"] for one in report.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]
    return ", ".join(sorted(code.partition(":")[2] for code in codes)) or "everybody"


def _period(report: Report) -> tuple[str, str]:
    return report["period"]["start"][:10], report["period"]["end"][:10]


def _results(report: Report) -> dict[str, Result]:
    known = metrics()
    return {group["id"]: _result(group) for group in report.get("group", ()) if group.get("id") in known}


def _result(part: Mapping[str, Any]) -> Result:
    score = part.get("measureScore", {})
    value = score.get("value")
    for extension in score.get("extension", ()):
        value = extension.get("valueMoney", {}).get("value", value)
    counts = {one["code"]["coding"][0]["code"]: one.get("count") for one in part.get("population", ())}
    exact = None if value is None else Decimal(str(value))
    return Result(exact, counts.get("numerator"), counts.get("denominator"))


def _strata(group: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Result]]]]:
    """Strata by dimension, the greatest first."""
    return [
        (
            stratifier["code"][0]["text"],
            sorted(
                ((one["value"]["text"], _result(one)) for one in stratifier["stratum"]),
                key=lambda pair: (pair[1].value is None, -(pair[1].value or 0), pair[0]),
            ),
        )
        for stratifier in group.get("stratifier", ())
    ]


def _course_chart(about: Metric, course: Sequence[tuple[tuple[str, str], Result | None]]) -> dict[str, Any]:
    values = [None if one is None or one.value is None else float(one.value) for _, one in course]
    series = {"type": "line", "name": about.title, "symbolSize": 9, "itemStyle": {"color": "#1b6ca8"}, "data": values}
    return {
        "xAxis": {"type": "category", "data": [f"{first} to {last}" for (first, last), _ in course]},
        "yAxis": {"type": "value", "scale": True},
        "series": [series],
    }


def _strata_chart(about: Metric, rows: Sequence[tuple[str, Result]]) -> dict[str, Any]:
    """The twenty greatest; the table has all."""
    shown = [(name, float(one.value)) for name, one in rows[:20] if one.value is not None]
    return {
        "xAxis": {"type": "category", "data": [name for name, _ in shown], "axisLabel": {"rotate": 30}},
        "yAxis": {"type": "value"},
        "series": [
            {"type": "bar", "name": about.title, "itemStyle": {"color": "#1b6ca8"}, "data": [one for _, one in shown]}
        ],
    }
