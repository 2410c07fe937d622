"""Commands that compute: ``evaluate``, ``attribute``, ``settle``."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context, parse_period
from fhir_gateway.cli.elsewhere import On, SparkMaster, cluster_of, refuse_in_background
from fhir_gateway.cli.jobs import calculate_later
from fhir_gateway.errors import ConfigurationError


def evaluate(
    command: typer.Context,
    packages: Annotated[list[str] | None, typer.Argument(help="Measure packages (paths or names); `all`.")] = None,
    period: Annotated[str, typer.Option(help="Measurement period: 2025, or 2025-01-01/2025-12-31.")] = "",
    now: Annotated[str | None, typer.Option(help="Evaluation instant with offset; default: the present.")] = None,
    everybody: Annotated[
        bool, typer.Option(help="Evaluate all, not only those whose data changed since an earlier run.")
    ] = False,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
    on: On = "here",
    spark_master: SparkMaster = None,
) -> None:
    """Evaluate measures over everybody in the lake."""
    from fhir_gateway.jobs import evaluate as job

    here = context(command)
    if not period:
        raise ConfigurationError("give the measurement period, such as --period 2025")
    wanted = [] if packages in (None, ["all"]) else list(packages or ())
    if background:
        refuse_in_background(on)
        days = [day.isoformat() for day in parse_period(period)]
        calculate_later(here, "evaluate", packages=wanted, period=days, now=parse_instant(now), everybody=everybody)
        return
    with cluster_of(on, spark_master) as cluster, here.output.progress() as progress:
        reports = job.evaluate(
            here.gateway,
            wanted,
            parse_period(period),
            now=parse_instant(now),
            everybody=everybody,
            progress=progress,
            cluster=cluster,
        )
    rows: list[dict[str, Any]] = []
    for report in reports:
        rows += [
            {
                "measure": report.measure,
                "group": rate.group,
                "initial_population": rate.initial_population,
                "denominator": rate.denominator,
                "numerator": rate.numerator,
                "score": None if rate.score is None else format(round(rate.score, 4), "f"),
                "failed": report.failed,
                "members": report.members,
                "seconds": round(report.seconds, 2),
                "report": report.run,
            }
            for rate in report.rates
        ]
    columns = ("measure", "group", "initial_population", "denominator", "numerator", "score", "failed", "seconds")
    here.output.table(f"Measures, {period}", columns, rows)


def parse_instant(text: str | None) -> datetime | None:
    """An instant given at the prompt; None when none was."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("--now is an instant such as 2026-01-15T12:00:00+00:00") from None
    if moment.tzinfo is None:
        raise ConfigurationError("--now needs an offset")
    return moment


def _day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} is a day such as 2025-03-31") from None


def attribute(
    command: typer.Context,
    contract: Annotated[str, typer.Argument(help="A contract (path or name).")],
    now: Annotated[str | None, typer.Option(help="Instant of the roster, with offset; default: the present.")] = None,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
    on: On = "here",
    spark_master: SparkMaster = None,
) -> None:
    """Say who is whose patient under a contract, and serve its roster."""
    from fhir_gateway.jobs import attribute as job

    here = context(command)
    if background:
        refuse_in_background(on)
        calculate_later(here, "attribute", contract=contract, now=parse_instant(now))
        return
    with cluster_of(on, spark_master) as cluster, here.output.progress() as progress:
        report = job.attribute(here.gateway, contract, now=parse_instant(now), progress=progress, cluster=cluster)
    table = report.attribution.table
    rows: list[dict[str, Any]] = [
        {"members": len(report.members), "of": report.contract.provider.entity, "why": "attributed to the contract"}
    ]
    others = table.num_rows - len(report.members) - sum(report.reasons.values())
    rows.append({"members": others, "of": "others", "why": "attributed to somebody else"})
    rows += [{"members": count, "of": "nobody", "why": reason} for reason, count in sorted(report.reasons.items())]
    if here.output.json:
        here.output.value({"contract": report.contract.id, "group": report.group["id"], "members": rows})
        return
    here.output.table(f"{report.contract.title}: {table.num_rows:,} members", ("members", "of", "why"), rows)
    here.output.say(f"roster: Group/{report.group['id']}, version {report.group['meta']['versionId']}")


def settle(
    command: typer.Context,
    contract: Annotated[str, typer.Argument(help="A contract (path or name).")],
    now: Annotated[str | None, typer.Option(help="Instant of the settlement, with offset; default: now.")] = None,
    explain: Annotated[bool, typer.Option(help="Show every number that each payment comes from.")] = False,
    interim: Annotated[str | None, typer.Option(help="Settle up to this cut of the contract's calendar.")] = None,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Settle a contract for its period, and serve the performance report."""
    from fhir_gateway.jobs import settle as job

    here = context(command)
    if background:
        if interim is not None:
            raise ConfigurationError("an interim settlement is made at once, not in the background")
        calculate_later(here, "settle", contract=contract, now=parse_instant(now))
        return
    with here.output.progress() as progress:
        report = job.settle(
            here.gateway, contract, now=parse_instant(now), progress=progress, interim=_day("--interim", interim)
        )
    settlement = report.settlement
    if here.output.json:
        here.output.value({"report": report.report, **settlement.to_dict()})
        return
    rows = [
        {"line": line.id, "what": line.label, "amount": f"{line.amount:,} {settlement.currency}", "term": line.term}
        for line in settlement.payable()
    ]
    here.output.table(report.contract.title, ("line", "what", "amount", "term"), rows)
    if explain:
        for line in settlement.payable():
            here.output.say(settlement.explain(line.id))
    owed = "owes the provider" if settlement.total >= 0 else "is owed by the provider"
    here.output.say(f"{report.contract.payer.name} {owed} {abs(settlement.total):,} {settlement.currency}")
    here.output.say(f"report: MeasureReport/{report.report}; posted: {report.run.posted:,} {settlement.currency}")
