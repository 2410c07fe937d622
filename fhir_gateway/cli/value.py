"""Commands that compute: ``evaluate``, ``attribute``, ``settle``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import context, parse_period
from fhir_gateway.errors import ConfigurationError


def evaluate(
    command: typer.Context,
    packages: Annotated[list[str] | None, typer.Argument(help="Measure packages (paths or names); `all`.")] = None,
    period: Annotated[str, typer.Option(help="Measurement period: 2025, or 2025-01-01/2025-12-31.")] = "",
    now: Annotated[str | None, typer.Option(help="Evaluation instant with offset; default: the present.")] = None,
) -> None:
    """Evaluate measures over everybody in the lake."""
    from fhir_gateway.jobs import evaluate as job

    here = context(command)
    if not period:
        raise ConfigurationError("give the measurement period, such as --period 2025")
    wanted = [] if packages in (None, ["all"]) else list(packages or ())
    with here.output.progress() as progress:
        reports = job.evaluate(here.gateway, wanted, parse_period(period), now=_instant(now), progress=progress)
    rows: list[dict[str, Any]] = []
    for report in reports:
        result = report.result
        for group in result.groups:
            score = group.score()
            rows.append(
                {
                    "measure": result.name,
                    "group": group.id,
                    "initial_population": group.count("initial-population"),
                    "denominator": group.count("denominator"),
                    "numerator": group.count("numerator"),
                    "score": None if score is None else format(round(score, 4), "f"),
                    "failed": len(result.failed),
                    "members": len(result.members),
                    "seconds": round(result.seconds, 2),
                    "report": report.run,
                }
            )
    columns = ("measure", "group", "initial_population", "denominator", "numerator", "score", "failed", "seconds")
    here.output.table(f"Measures, {period}", columns, rows)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("--now is an instant such as 2026-01-15T12:00:00+00:00") from None
    if moment.tzinfo is None:
        raise ConfigurationError("--now needs an offset")
    return moment
