"""Measures as somebody sees them: reports of whom they may see, kept runs of their own members, and what is too few."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fhir_gateway.console.contracts_seen import ContractsSeen, Listed
from fhir_gateway.db.audience import EVERYONE, SYSTEM
from fhir_gateway.equity.suppression import THRESHOLD
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.quality_views import Seen, runs_by_measure, totals_view
from fhir_gateway.measures.model import RunHeader

_MOST_REPORTS = 1000
#: Whose rates those of a limited reader's own members are.
OWN = "own members"

Json = dict[str, Any]


def reports_seen(gateway: Gateway, seen: Seen) -> dict[tuple[str, str], list[Json]]:
    """Summary reports by measure (url) and by whose members they are about, the newest of each period, newest first."""
    page = seen.store.search("MeasureReport", [("type", "summary")], _MOST_REPORTS, sort="-date", total=False)
    settled = {run.id for run in gateway.settlements.runs()}  # those are the contracts', not of a measure
    found: dict[tuple[str, str], dict[str, Json]] = defaultdict(dict)
    for report in (one.json() for one in page.resources):
        if report.get("type") == "summary" and report["id"] not in settled and "measure" in report:
            of = found[report["measure"].partition("|")[0], whose(report)]
            of.setdefault(f"{report['period']['end'][:10]} {report['period']['start'][:10]}", report)
    return {key: [of[period] for period in sorted(of, reverse=True)] for key, of in found.items()}


def whose(report: Json) -> str:
    """Whose population a report is about: contracts and practices by its labels, else everybody."""
    codes = [one["code"] for one in report.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]
    return ", ".join(sorted(code.partition(":")[2] for code in codes)) or "everybody"


def kept_run(gateway: Gateway, report: Json) -> str | None:
    """The run that a report is of or, of one population's report, the newest of its measure and period."""
    if report["id"] in gateway.results.runs():
        return str(report["id"])
    period = tuple(report["period"][end][:10] for end in ("start", "end"))
    for run, header in runs_by_measure(gateway).get(report["measure"].partition("|")[0], ()):
        if header.canonical == report["measure"] and tuple(day.isoformat() for day in header.period) == period:
            return run
    return None


def own_points(seen: Seen, runs: Sequence[tuple[str, RunHeader]], group: str) -> list[Json]:
    """Rates of a group over the periods, the first period first, of a limited reader's own members."""
    found = []
    for run, header in reversed(runs):
        for metric in totals_view(seen, run)["metrics"]:
            if metric["group"] == group:
                total = metric["total"]
                found.append(
                    {
                        "period": [day.isoformat() for day in header.period],
                        "denominator": total["denominator"],
                        "numerator": total["numerator"],
                        "rate": total["rate"],
                        "run": run,
                    }
                )
    return found


def report_points(reports: Sequence[Json], group: str, *, limited: bool) -> list[Json]:
    """Scores of a group over the periods of some reports (newest first), the first period first."""
    found = []
    for report in reversed(reports):
        for one in report.get("group", ()):
            if one.get("id", "") == group:
                shown = group_of(one, limited=limited)
                counts = {code: count for code, _, count in shown["populations"]}
                found.append(
                    {
                        "period": [report["period"][end][:10] for end in ("start", "end")],
                        "denominator": counts.get("denominator"),
                        "numerator": counts.get("numerator"),
                        "rate": shown["score"],
                        "run": report["id"],
                    }
                )
    return found


def group_of(group: Mapping[str, Any], *, limited: bool) -> Json:
    """What a group of a report says; counts of too few, and scores that tell them, are hidden from who is limited."""
    return {
        "id": group.get("id", ""),
        "title": _text(group["code"]) if group.get("code") else group.get("id", ""),
        **_counts(group, limited=limited),
        "strata": [
            {
                "name": _text(stratifier.get("code", [{}])[0]) if stratifier.get("code") else stratifier.get("id", ""),
                "rows": [
                    {"value": _text(stratum.get("value", {})), **_counts(stratum, limited=limited)}
                    for stratum in stratifier.get("stratum", ())
                ],
            }
            for stratifier in group.get("stratifier", ())
        ],
    }


def _counts(of: Mapping[str, Any], *, limited: bool) -> Json:
    populations = [(_code(one), _text(one.get("code", {})), one.get("count")) for one in of.get("population", ())]
    score, unit = of.get("measureScore", {}).get("value"), of.get("measureScore", {}).get("unit", "")
    counts = {code: count for code, _, count in populations if count is not None}
    few = limited and any(_few(count) for count in (*counts.values(), _rest(counts)))
    return {
        "populations": [(code, name, None if few else count) for code, name, count in populations],
        "score": None if few else score,
        "unit": unit,
        "hidden": few,
    }


def _few(count: int) -> bool:
    return 0 < count < THRESHOLD


def _rest(counts: Mapping[str, int]) -> int:
    """Those of the denominator who did not meet the measure."""
    return max(0, counts.get("denominator", 0) - counts.get("numerator", 0))


def contracts_of(contracts: ContractsSeen, seen: Seen) -> list[Listed]:
    """Contracts whose attribution may be looked at: of a practice those it takes part in, as far as its own members."""
    listed = [one for one in contracts.all(EVERYONE) if one.terms is not None]
    labels = seen.audience.labels
    if labels is None:
        return listed
    return [
        one
        for one in listed
        if one.terms is not None
        and labels
        & {f"contract:{one.id}", f"group:{one.id}", *(f"organization:{tin}" for tin in one.terms.provider.tins)}
    ]


def run_seen(gateway: Gateway, seen: Seen, run: str) -> RunHeader:
    """A kept run by its id; NotFoundError also where a limited reader has no members."""
    header = gateway.results.header(run)
    if not seen.limited:
        gateway.resources.read("MeasureReport", run)
    elif not seen.lists:
        raise NotFoundError("there is no list of yours")
    return header


def _code(one: Mapping[str, Any]) -> str:
    return str((one.get("code", {}).get("coding") or [{}])[0].get("code", ""))


def _text(concept: Mapping[str, Any]) -> str:
    coding = (concept.get("coding") or [{}])[0]
    return str(concept.get("text") or coding.get("display") or coding.get("code") or "–")
