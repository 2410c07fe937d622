"""``equity``: measures by who the members are, disparities, and the tables that say where deprivation is."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context, parse_period
from fhir_gateway.errors import ConfigurationError

app = typer.Typer(help="Measures by race, language, payer, area deprivation and more.", no_args_is_help=True)

_SHOWN = ("metric", "dimension", "stratum", "denominator", "numerator", "rate", "low", "high", "suppressed")
_GAPS = ("metric", "dimension", "reference", "stratum", "rate", "gap", "ratio", "standardised", "index", "between")

_Period = Annotated[str, typer.Option(help="Measurement period of the kept results: 2025, or two days.")]
_Measures = Annotated[list[str] | None, typer.Option("--measure", help="A measure by name or canonical; repeatable.")]
_Dimensions = Annotated[list[str] | None, typer.Option("--dimension", help="A dimension; repeatable. Default: all.")]
_On = Annotated[str | None, typer.Option(help="Day of ages, coverage and needs; default: the last of the period.")]
_Utilization = Annotated[
    bool, typer.Option("--utilization", help="Utilization and cost of the period too, out of claims.")
]
_Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


@app.command("strata")
def strata(
    command: typer.Context,
    period: _Period,
    measure: _Measures = None,
    dimension: _Dimensions = None,
    on: _On = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of member, denominator, numerator (CSV, Parquet); repeatable.")
    ] = None,
    kind: Annotated[str, typer.Option(help="What metrics of files are: proportion, rate or mean.")] = "rate",
    scale: Annotated[float, typer.Option(help="Rates of files are times this: 12000 per 1,000 and year.")] = 1.0,
    utilization: _Utilization = False,
    as_csv: _Csv = False,
) -> None:
    """Rates by stratum with 95 % intervals; small numbers, and what would tell them, are hidden."""
    found = _stratified(command, period, measure, dimension, on, metric, kind, scale, utilization)
    rows: list[dict[str, Any]] = [
        {
            "metric": one.metric.id,
            "dimension": one.dimension.id,
            "stratum": cell.stratum or "(all)",
            "denominator": _whole(cell.denominator),
            "numerator": _whole(cell.numerator),
            "rate": _rounded(cell.rate),
            "low": _rounded(cell.low),
            "high": _rounded(cell.high),
            "suppressed": cell.suppressed,
            "missing_share": _rounded(one.missing_share) if cell.stratum is None else None,
        }
        for one in found.breakdowns
        for cell in (one.total, *one.cells)
    ]
    _print(command, f"Strata, {period}", (*_SHOWN, "missing_share"), rows, as_csv)
    for note in found.notes:
        context(command).output.warn(note)


@app.command("disparities")
def disparities(
    command: typer.Context,
    period: _Period,
    measure: _Measures = None,
    dimension: _Dimensions = None,
    on: _On = None,
    reference: Annotated[str | None, typer.Option(help="Stratum to compare with; default: the largest.")] = None,
    utilization: _Utilization = False,
    as_csv: _Csv = False,
) -> None:
    """Gaps to a reference, index of disparity, variance between strata, rates standardised by age and sex."""
    from fhir_gateway.equity.disparity import disparity

    if reference is not None and len(dimension or ()) != 1:
        raise ConfigurationError("--reference goes with one --dimension")
    found = _stratified(command, period, measure, dimension, on, utilization=utilization)
    unequal = [one for one in (disparity(found, each, reference) for each in found.breakdowns) if one is not None]
    rows = [
        {
            "metric": one.breakdown.metric.id,
            "dimension": one.breakdown.dimension.id,
            "reference": one.reference,
            "stratum": gap.stratum,
            "rate": _rounded(gap.rate),
            "gap": _rounded(gap.gap),
            "ratio": _rounded(gap.ratio),
            "standardised": gap.standardised,
            "index": _rounded(one.index),
            "between": _rounded(one.between, 6),
        }
        for one in unequal
        for gap in one.gaps
    ]
    _print(command, f"Disparities, {period}", _GAPS, rows, as_csv)


@app.command("population")
def population(
    command: typer.Context,
    on: Annotated[str, typer.Option(help="Day of ages, coverage and needs.")],
    dimension: _Dimensions = None,
    as_csv: _Csv = False,
) -> None:
    """How many members are in each stratum, and of how many nothing is known."""
    from fhir_gateway.equity.dimensions import DIMENSIONS, chosen
    from fhir_gateway.equity.stratify import stratify
    from fhir_gateway.jobs.equity import member_dimensions

    wanted = {one.id for one in chosen(tuple(dimension or ()))}
    found = stratify([], member_dimensions(context(command).gateway, _day(on)), tuple(DIMENSIONS))
    rows = [
        {"dimension": one.dimension.id, "stratum": code, "title": title, "members": count, "suppressed": count is None}
        for one in found.population
        if one.dimension.id in wanted
        for code, title, count in one.members
    ]
    _print(command, f"Members on {on}", ("dimension", "stratum", "title", "members", "suppressed"), rows, as_csv)


@app.command("import")
def import_table(
    command: typer.Context,
    kind: Annotated[str, typer.Argument(help="adi, ruca or eligibility.")],
    path: Annotated[Path, typer.Argument(help="CSV file with a header.")],
    version: Annotated[str, typer.Option(help="Version of the table, such as 2023.")],
    source: Annotated[str, typer.Option(help="Where it came from.")],
) -> None:
    """Keep a table of area deprivation, rurality or eligibility; the one imported last is in force."""
    from fhir_gateway.jobs.equity import reference_tables

    here = context(command)
    tables = reference_tables(here.gateway)
    made = tables.add(kind, path, name=path.name, version=version, source=source, now=datetime.now(UTC))  # type: ignore[arg-type]
    here.output.table("Imported", ("kind", "version", "rows", "sha256"), [_row(made)])


@app.command("tables")
def tables(command: typer.Context) -> None:
    """The imported tables, with where they came from."""
    from fhir_gateway.jobs.equity import reference_tables

    here = context(command)
    rows = [_row(one) for one in reference_tables(here.gateway).versions()]
    columns = ("kind", "name", "version", "source", "rows", "imported_at", "sha256")
    here.output.table("Tables", columns, rows)


def _row(made: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(made)


def _stratified(
    command: typer.Context,
    period: str,
    measures: list[str] | None,
    dimensions: list[str] | None,
    on: str | None,
    files: list[str] | None = None,
    kind: str = "rate",
    scale: float = 1.0,
    utilization: bool = False,
) -> Any:
    from fhir_gateway.jobs.equity import Question, read_metric, stratified, utilization_metrics

    given = []
    for one in files or ():
        name, equals, path = one.partition("=")
        if not equals:
            raise ConfigurationError("--metric is NAME=FILE")
        given.append(read_metric(Path(path), name, kind, scale))
    days = parse_period(period)
    if utilization:
        given += utilization_metrics(context(command).gateway, days)
    question = Question(tuple(measures or ()), tuple(dimensions or ()), None if on is None else _day(on))
    return stratified(context(command).gateway, days, question, given)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("--on is a day such as 2025-12-31") from None


def _print(
    command: typer.Context, title: str, columns: tuple[str, ...], rows: list[dict[str, Any]], as_csv: bool
) -> None:
    if not as_csv:
        context(command).output.table(title, columns, rows)
        return
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _whole(number: float | None) -> int | float | None:
    return None if number is None else int(number) if number == int(number) else round(number, 4)


def _rounded(number: float | None, places: int = 4) -> float | None:
    return None if number is None else round(number, places)
