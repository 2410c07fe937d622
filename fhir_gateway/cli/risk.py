"""Commands about risk adjustment: ``risk score``, ``risk explain``, ``risk gaps``, ``risk import``, ``risk runs``."""

from __future__ import annotations

import getpass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.cli.predict import parse_day
from fhir_gateway.errors import ConfigurationError, Location, NotFoundError

app = typer.Typer(help="Risk scores and coding gaps.", no_args_is_help=True)

_SHOWN = 50  # rows of a table at the prompt; --json and --output give all
_Year = Annotated[int, typer.Argument(help="Payment year; services of the year before count.")]
_Proposed = Annotated[bool, typer.Option("--proposed", help="Use tables that are only proposed yet.")]


@app.command()
def score(
    command: typer.Context,
    model: Annotated[str, typer.Argument(help="CMS-HCC (as Medicare pays), CMS-HCC-V24 or CMS-HCC-V28.")],
    year: _Year,
    output: Annotated[Path | None, typer.Option(help="Write all scores as CSV.")] = None,
    proposed: _Proposed = False,
) -> None:
    """Score everybody in the lake, and keep the scores with what each is made of."""
    from fhir_gateway.jobs import risk as job

    here = context(command)
    report = job.score_members(here.gateway, model, year, proposed=proposed)
    if output is not None:
        _write(output, report.run.table("scores"))
    if here.output.json:
        here.output.value(
            {"run": report.run.id, "model": model, "year": year, "scored": report.scored,
             "unscored": dict(report.unscored), "mean": report.mean, "stamps": dict(report.run.header)}
        )  # fmt: skip
        return
    mean = "" if report.mean is None else f", mean {report.mean:.3f}"
    here.output.say(
        f"{report.run.id}: {model} {year} of lake version {report.lake_version}: {report.scored:,} scored{mean}"
    )
    for reason, count in sorted(report.unscored.items()):
        here.output.say(f"  without a score, {reason}: {count:,}")
    trust = report.run.header["trust"]
    if trust != "V":
        here.output.say(f"  the numbers of {year} have the trust mark {trust}: {report.run.header['source']}")


@app.command()
def explain(
    command: typer.Context,
    member: Annotated[str, typer.Argument(help="Id of a person.")],
    model: Annotated[str, typer.Argument(help="CMS-HCC, CMS-HCC-V24 or CMS-HCC-V28.")],
    year: _Year,
) -> None:
    """Show what a member's score is the sum of, and the claims behind each condition category."""
    import pyarrow.compute as pc

    here = context(command)
    run = here.gateway.risk.newest("scores", model=model, year=year)
    if run is None:
        raise NotFoundError(f"no scores of {model} {year} are kept: risk score makes them")
    tables = {}
    for name in ("scores", "components", "evidence"):
        table = run.table(name)
        tables[name] = table.filter(pc.equal(table["member"], member)).to_pylist()
    if not tables["scores"]:
        raise NotFoundError("there is no such member among the scores")
    if here.output.json:
        here.output.value({"run": run.id, **tables})
        return
    here.output.table(f"Score ({run.id})", ("raw", "normalised", "score", "reason"), tables["scores"])
    here.output.table("What it is made of", ("model", "kind", "variable", "coefficient"), tables["components"])
    columns = ("model", "cc", "superseded", "diagnosis", "eob", "line", "service_date", "provider_type", "npi")
    here.output.table("Evidence", columns, tables["evidence"])


@app.command()
def gaps(
    command: typer.Context,
    year: _Year,
    model: Annotated[str, typer.Option(help="V24 or V28.")] = "V28",
    as_of: Annotated[str | None, typer.Option(help="Last day of claims and evidence; default: today.")] = None,
    rate: Annotated[str, typer.Option(help="What a score of 1 pays in a year, for the value of gaps.")] = "0",
    lookback: Annotated[int, typer.Option(help="Months before the period that recapture looks at.")] = 24,
    deadline: Annotated[str | None, typer.Option(help="Last day that evidence is accepted.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write all gaps as CSV.")] = None,
    proposed: _Proposed = False,
) -> None:
    """Find coding gaps of everybody, and serve them through MeasureReport/$report."""
    import pyarrow.compute as pc

    from fhir_gateway.jobs import risk_gaps as job

    here = context(command)
    report = job.compute_gaps(
        here.gateway,
        model,
        year,
        as_of=parse_day(as_of, "--as-of"),
        rate=_amount(rate, "--rate"),
        lookback_months=lookback,
        deadline=parse_day(deadline, "--deadline"),
        proposed=proposed,
    )
    table = report.run.table("gaps")
    if output is not None:
        _write(output, table)
    opened = table.filter(pc.equal(table["evidence_status"], "open-gap")).sort_by([("value", "descending")])
    counts = [
        {"type": kind, "status": status, "gaps": count} for (kind, status), count in sorted(report.counts.items())
    ]
    if here.output.json:
        here.output.value({"run": report.run.id, "counts": counts, "value": report.value, "open": opened.to_pylist()})
        return
    here.output.table(f"Coding gaps, {model} {year} ({report.run.id})", ("type", "status", "gaps"), counts)
    columns = ("member", "cc", "label", "cc_type", "confidence", "last", "weight", "value")
    shown = opened.slice(0, _SHOWN)
    here.output.table(f"Open gaps, {shown.num_rows} of {opened.num_rows}", columns, shown.to_pylist())
    here.output.say(f"{report.members:,} members; open gaps are worth {report.value:,}")


@app.command("import")
def import_(
    command: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV file with a header; members by member_id and member_system.")],
    kind: Annotated[
        str,
        typer.Option(
            help="scores (of another model), members (what FHIR does not say), or decisions (of the payer on gaps)."
        ),
    ] = "scores",
) -> None:
    """Keep scores of other models, facts about members, or decisions on gaps."""
    from fhir_gateway.jobs import risk_imports as job

    here = context(command)
    if not file.is_file():
        raise ConfigurationError("no such file", location=Location(file=str(file)))
    found = job.import_file(here.gateway, file, kind, by=f"prompt:{getpass.getuser()}")
    rows: list[dict[str, Any]] = [
        {"import": one.run, "what": one.what, "rows": one.rows, "unknown": one.unknown} for one in found
    ]
    here.output.table("Imported", ("import", "what", "rows", "unknown"), rows)


@app.command()
def runs(command: typer.Context) -> None:
    """Show what is kept: scores computed and imported, gaps, statements and decisions."""
    here = context(command)
    rows: list[dict[str, Any]] = [
        {"kind": kind, "run": one.id, "rows": one.header.get("rows")}
        | {name: one.header.get(name) for name in ("model", "version", "year", "lake_version", "imported")}
        for kind in ("scores", "gaps", "members", "decisions")
        for one in here.gateway.risk.runs(kind)
    ]
    here.output.table("Risk", ("kind", "run", "model", "version", "year", "lake_version", "rows", "imported"), rows)


def _amount(text: str, option: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ConfigurationError(f"{option} is an amount such as 11500") from None
    if not found.is_finite() or found < 0:
        raise ConfigurationError(f"{option} is an amount such as 11500")
    return found


def _write(path: Path, table: Any) -> None:
    """A table as CSV: lists as words."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    columns = [
        pc.binary_join(column.cast(pa.list_(pa.string())), " ") if pa.types.is_list(column.type) else column
        for column in table.columns
    ]
    pyarrow.csv.write_csv(pa.table(columns, names=table.column_names), path)
