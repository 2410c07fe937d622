"""``experience``: surveys of patients, scored by provider."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context, parse_period

app = typer.Typer(help="Patient experience: CAHPS-type surveys.", no_args_is_help=True)

_COLUMNS = (
    *("provider", "composite", "completes", "answered", "top_box", "adjusted_top_box", "linear", "adjusted_linear"),
    *("public", "percentile", "response_rate"),
)

_Instrument = Annotated[str, typer.Argument(help="hcahps, cg-cahps, or a TOML file of your own.")]
_Period = Annotated[str, typer.Option(help="When the surveys were answered: 2025, or two days.")]
_Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


@app.command("score")
def score(
    command: typer.Context,
    instrument: _Instrument,
    period: _Period,
    coefficients: Annotated[
        Path | None, typer.Option(help="CSV of top-box case-mix coefficients (item, characteristic, coefficient).")
    ] = None,
    linear_coefficients: Annotated[Path | None, typer.Option(help="The same for linear means.")] = None,
    benchmarks: Annotated[Path | None, typer.Option(help="CSV of composite, percentile, value.")] = None,
    sampled: Annotated[Path | None, typer.Option(help="CSV of provider, sampled, ineligible.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Serve a MeasureReport of each provider.")] = False,
    as_csv: _Csv = False,
) -> None:
    """Top-box rates and linear means of every composite by provider, as they are and adjusted for case mix."""
    from fhir_gateway.experience.scoring import percentile, response_rate
    from fhir_gateway.jobs import experience as job

    here = context(command)
    known, days = job.instrument_of(instrument), parse_period(period)
    found = job.scores(
        here.gateway,
        known,
        days,
        top_box_coefficients=None if coefficients is None else job.read_coefficients(coefficients),
        linear_coefficients=None if linear_coefficients is None else job.read_coefficients(linear_coefficients),
    )
    tables = {} if benchmarks is None else job.read_benchmarks(benchmarks)
    sent = {} if sampled is None else job.read_sampled(sampled)
    rows: list[dict[str, Any]] = []
    for one in found:
        rate, table = one.adjusted_top_box, tables.get(one.composite)
        asked = sent.get(one.provider)
        rows.append(
            {
                "provider": one.provider,
                "composite": one.composite,
                "completes": one.completes,
                "answered": one.answered,
                "top_box": _rounded(one.top_box),
                "adjusted_top_box": _rounded(rate),
                "linear": _rounded(one.linear, 2),
                "adjusted_linear": _rounded(one.adjusted_linear, 2),
                "public": one.public,
                "percentile": percentile(rate, table) if table and rate is not None and one.public else None,
                "response_rate": None if asked is None else round(response_rate(one.completes, *asked), 4),
            }
        )
    if publish:
        job.publish(here.gateway, known, found, days, datetime.now(UTC))
    _print(command, f"{known.title}, {period}", _COLUMNS, rows, as_csv)


@app.command("points")
def points(
    command: typer.Context,
    period: _Period,
    standards: Annotated[Path, typer.Option(help="CSV of composite, floor, threshold, benchmark, baseline (percent).")],
    as_csv: _Csv = False,
) -> None:
    """Base and consistency points of hospitals in the survey domain of Hospital Value-Based Purchasing."""
    from fhir_gateway.jobs import experience as job

    here = context(command)
    known = job.instrument_of("hcahps")
    found = job.survey_points(
        known, job.scores(here.gateway, known, parse_period(period)), job.read_standards(standards)
    )
    dimensions = known.vbp.dimensions if known.vbp else ()
    rows = [
        {"provider": one.provider, "base": one.base, "consistency": one.consistency}
        | {name: one.dimensions.get(name) for name in dimensions}
        for one in found
    ]
    _print(command, f"Survey domain, {period}", ("provider", "base", "consistency", *dimensions), rows, as_csv)


@app.command("instruments")
def instruments(command: typer.Context) -> None:
    """The instruments that come with the gateway, and the metrics that contracts may weigh."""
    from fhir_gateway.experience.instrument import shipped, shipped_names
    from fhir_gateway.experience.metrics import ExperienceMetric

    rows = [
        {
            "instrument": name,
            "version": shipped(name).version,
            "metric": ExperienceMetric(name, composite).id,
            "title": one.title,
        }
        for name in shipped_names()
        for composite, one in shipped(name).composites.items()
    ]
    context(command).output.table("Instruments", ("instrument", "version", "metric", "title"), rows)


def _print(
    command: typer.Context, title: str, columns: tuple[str, ...], rows: list[dict[str, Any]], as_csv: bool
) -> None:
    if not as_csv:
        context(command).output.table(title, columns, rows)
        return
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _rounded(number: float | None, places: int = 4) -> float | None:
    return None if number is None else round(number, places)
