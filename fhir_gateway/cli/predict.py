"""Commands about who is likely to need care: ``predict scores``."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError

app = typer.Typer(help="Risk scores, models of the own lake, and work lists; nothing settles.", no_args_is_help=True)

_AsOf = Annotated[str | None, typer.Option(help="Day that is asked about, such as 2025-12-31; default: today.")]


@app.command()
def scores(command: typer.Context, as_of: _AsOf = None) -> None:
    """Compute LACE, HOSPITAL, Charlson and Elixhauser, and serve them as RiskAssessments."""
    from fhir_gateway.jobs import predictions as job

    here = context(command)
    report = job.score(here.gateway, parse_day(as_of, "--as-of"))
    rows = [{"score": name, "rows": rows, "partial": partial} for name, (rows, partial) in report.counts.items()]
    here.output.table(f"Scores, {report.as_of} ({report.run})", ("score", "rows", "partial"), rows)
    here.output.say(f"{report.served:,} RiskAssessments are served")


def parse_day(text: str | None, option: str) -> date | None:
    """A day given at the prompt; None when none was."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} is a day such as 2025-12-31") from None


@app.command("work-list")
def work_list(
    command: typer.Context,
    as_of: _AsOf = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows that are shown.")] = 25,
) -> None:
    """Learn from the own lake who will need unplanned acute care most, and rank everybody by its expected cost."""
    from fhir_gateway.jobs import work_lists as job

    here = context(command)
    found = job.work_list(here.gateway, parse_day(as_of, "--as-of"))
    columns = ("member", "tier", "expected_avoidable", "expected_cost", "reasons")
    here.output.table(f"Work list, {found.as_of}", columns, found.table.slice(0, limit).to_pylist())
    ids = ", ".join(str(one["id"]) for one in found.cards.values())
    here.output.say(f"{found.served:,} RiskAssessments are served; model cards in predictions/: {ids}")
