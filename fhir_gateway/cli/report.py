"""``report``: medical loss ratio, quality and the board's summary, as PDF or HTML."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_gateway.cli.context import context, parse_period
from fhir_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from fhir_gateway.db.audience import Audience
    from fhir_gateway.reports.document import Document

app = typer.Typer(
    help="Reports as PDF or HTML, with charts. Of a settlement: contract statement.", no_args_is_help=True
)

_Out = Annotated[Path, typer.Option(help="File to write, .pdf or .html.")]
_Period = Annotated[str, typer.Option(help="Measurement period: 2025, or two days.")]
_Contract = Annotated[
    list[str] | None, typer.Option(help="Only what who may see this contract sees, by its id; repeatable.")
]
_Organization = Annotated[
    list[str] | None, typer.Option(help="Only what this practice sees, by its tax number; repeatable.")
]


@app.command("loss-ratio")
def loss_ratio(
    command: typer.Context,
    out: _Out,
    accounts: Annotated[
        Path | None, typer.Option(help="CSV of line_of_business, market, year, claims, premium, taxes and more.")
    ] = None,
    contract: _Contract = None,
    organization: _Organization = None,
) -> None:
    """Medical loss ratios: of the contracts that were settled by one, and of a file of accounts."""
    from fhir_gateway.jobs.reports import loss_ratio_report

    _write(command, loss_ratio_report(context(command).gateway, _audience(contract, organization), accounts), out)


@app.command("quality")
def quality(
    command: typer.Context,
    period: _Period,
    out: _Out,
    dimension: Annotated[
        list[str] | None, typer.Option("--dimension", help="A dimension of strata; repeatable. Default: the usual.")
    ] = None,
    contract: _Contract = None,
    organization: _Organization = None,
) -> None:
    """Measures with rates, targets and benchmarks, their course, and strata with intervals; small numbers hidden."""
    from fhir_gateway.jobs.reports import quality_report

    audience = _audience(contract, organization)
    found = quality_report(context(command).gateway, parse_period(period), audience, tuple(dimension or ()))
    _write(command, found, out)


@app.command("board")
def board(
    command: typer.Context,
    period: _Period,
    out: _Out,
    as_of: Annotated[
        str | None, typer.Option(help="Last day of a month: where contracts will end, from the claims known by then.")
    ] = None,
    contract: _Contract = None,
    organization: _Organization = None,
) -> None:
    """Members, quality, money and outlook of the contracts of a period, on a page or two."""
    from fhir_gateway.jobs.reports import board_report

    try:
        day = None if as_of is None else date.fromisoformat(as_of)
    except ValueError:
        raise ConfigurationError("--as-of is a day such as 2025-06-30") from None
    audience = _audience(contract, organization)
    _write(command, board_report(context(command).gateway, parse_period(period), audience, day), out)


def _audience(contract: list[str] | None, organization: list[str] | None) -> Audience:
    from fhir_gateway.db.audience import EVERYONE, Audience, grants_of

    grants = grants_of(contract=contract, organization=organization)
    return EVERYONE if grants is None else Audience.of(grants)


def _write(command: typer.Context, report: Document, out: Path) -> None:
    from fhir_gateway.reports.forms import FORMS, write

    form = out.suffix.lstrip(".")
    if form not in FORMS:
        raise ConfigurationError("a report is written as PDF or HTML: --out ends in .pdf or .html")
    content = write(report, form)
    out.write_bytes(content)
    context(command).output.say(f"{out}: {len(content):,} bytes")
