"""Commands about who is likely to need care: ``predict scores``, models of the own lake, and the lists they make."""

from __future__ import annotations

import getpass
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from fhir_gateway.cli.context import Context
    from fhir_gateway.jobs.work_lists import WorkList

app = typer.Typer(help="Risk scores, models of the own lake, and work lists; nothing settles.", no_args_is_help=True)

_AsOf = Annotated[str | None, typer.Option(help="Day that is asked about, such as 2025-12-31; default: today.")]
_Limit = Annotated[int, typer.Option(min=1, help="Rows that are shown.")]
_Model = Annotated[str, typer.Argument(help="Id of a model, as `predict models` lists it.")]


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


@app.command()
def learn(
    command: typer.Context,
    as_of: _AsOf = None,
    target: Annotated[list[str] | None, typer.Option(help="What is foreseen (repeatable); default: all.")] = None,
) -> None:
    """Learn models from the own lake, judge them by the last year, and keep them as versions with their cards."""
    from fhir_gateway.jobs import prediction_models as job
    from fhir_gateway.risk.prediction.targets import TARGETS

    here = context(command)
    found = job.learn(here.gateway, parse_day(as_of, "--as-of"), target or tuple(TARGETS))
    rows = [
        {
            "target": one.model.target,
            "model": one.id,
            "learned": one.card["learned"],
            "judged": one.card["tests"][one.model.about.unit],
            "observed_to_expected": one.card["tests"]["metrics"]["observed_to_expected"]["value"],
        }
        for one in found
    ]
    here.output.table("Models", ("target", "model", "learned", "judged", "observed_to_expected"), rows)


@app.command()
def models(command: typer.Context) -> None:
    """List all versions of models, the newest last, and which of them were retired."""
    from fhir_gateway.jobs import prediction_models as job

    here = context(command)
    rows = [
        {
            "model": one.id,
            "target": one.model.target,
            "as_of": one.card["as_of"],
            "lake_version": one.card["lake_version"],
            "learned": one.card["learned"],
            "learned_at": one.card["learned_at"],
            "retired": None if one.retired is None else "{at} by {by}: {why}".format_map(one.retired),
        }
        for one in job.model_store(here.gateway).models()
    ]
    columns = ("model", "target", "as_of", "lake_version", "learned", "learned_at", "retired")
    here.output.table("Models", columns, rows)


@app.command()
def card(command: typer.Context, model: _Model) -> None:
    """Print the card of a model: what it learned from, how it did, and for whom it does worse."""
    from fhir_gateway.jobs import prediction_models as job
    from fhir_gateway.risk.prediction.cards import as_markdown

    here = context(command)
    found = job.model_store(here.gateway).load(model)
    if here.output.json:
        here.output.value({**found.card, "retired": found.retired})
    else:
        typer.echo(as_markdown(found.card))


@app.command()
def retire(
    command: typer.Context,
    model: _Model,
    why: Annotated[str, typer.Option(help="Why, in one line.")],
) -> None:
    """Take a model out of force: it scores nobody any more, its card stays."""
    from fhir_gateway.jobs import prediction_models as job

    here = context(command)
    found = job.retire(here.gateway, model, f"prompt:{getpass.getuser()}", why)
    here.output.say(f"{found.id} is retired")


@app.command()
def check(command: typer.Context, as_of: _AsOf = None) -> None:
    """Judge the models in force by what came after they were learned, and say which features have drifted."""
    from fhir_gateway.jobs import prediction_models as job
    from fhir_gateway.risk.prediction.drift import drifted

    here = context(command)
    rows = [
        {
            "target": one.model.model.target,
            "model": one.model.id,
            "judged": one.tests[one.model.model.about.unit],
            "observed_to_expected": one.tests["metrics"]["observed_to_expected"]["value"],
            "drifted": ", ".join(drifted(one.drift)),
        }
        for one in job.check(here.gateway, parse_day(as_of, "--as-of"))
    ]
    here.output.table(
        "Models by what came since", ("target", "model", "judged", "observed_to_expected", "drifted"), rows
    )


@app.command("work-list")
def work_list(command: typer.Context, as_of: _AsOf = None, limit: _Limit = 25) -> None:
    """Rank everybody by expected unplanned acute cost of the next year, by models of the own lake."""
    from fhir_gateway.jobs import work_lists as job

    here = context(command)
    found = job.work_list(here.gateway, parse_day(as_of, "--as-of"))
    columns = ("member", "tier", "expected_avoidable", "expected_cost", "reasons")
    _show(here, "Work list", found, columns, limit)


@app.command()
def readmissions(command: typer.Context, as_of: _AsOf = None, limit: _Limit = 25) -> None:
    """Rank who left hospital within 30 days by the chance of an unplanned readmission, by a model of the own lake."""
    from fhir_gateway.jobs import work_lists as job

    here = context(command)
    found = job.readmission_list(here.gateway, parse_day(as_of, "--as-of"))
    _show(here, "Readmissions", found, ("stay", "member", "discharged", "tier", "probability", "reasons"), limit)


def _show(here: Context, title: str, found: WorkList, columns: tuple[str, ...], limit: int) -> None:
    rows: list[dict[str, Any]] = found.table.slice(0, limit).to_pylist()
    here.output.table(f"{title}, {found.as_of}", columns, rows)
    ids = ", ".join(one.id for one in found.models.values())
    here.output.say(f"{found.served:,} RiskAssessments are served; models: {ids}")
    for one in found.warnings():
        here.output.warn(one)
