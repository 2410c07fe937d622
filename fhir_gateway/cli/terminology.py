"""``terminology``: import value sets, what is in force when, and where data lack the codes that measures look for."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_gateway.cli.context import Context, context
from fhir_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from fhir_gateway.terminology.store import Imported

app = typer.Typer(help="Value sets, code systems and concept maps.", no_args_is_help=True)

From = Annotated[str | None, typer.Option("--from", help="First day in force; default: what the resource says.")]
To = Annotated[str | None, typer.Option("--to", help="Last day in force.")]
Replace = Annotated[bool, typer.Option("--replace", help="Other content under a stored url|version takes its place.")]
On = Annotated[str | None, typer.Option(help="Day; default: today.")]


@app.command("import")
def import_(
    command: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="FHIR package (.tgz), .ndjson, .json, or a folder of these.")],
    start: From = None,
    end: To = None,
    replace: Replace = False,
) -> None:
    """Import ValueSets, CodeSystems and ConceptMaps from files."""
    from fhir_gateway.jobs import terminology as job

    here = context(command)
    _say(here, job.import_files(here.gateway, paths, _effective(start, end), replace=replace))


@app.command()
def expand(
    command: typer.Context,
    server: Annotated[str, typer.Argument(help="A registered endpoint, or a FHIR base URL.")],
    urls: Annotated[list[str] | None, typer.Argument(help="Value sets: url or url|version.")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="All that this measure package lacks; repeatable.")] = None,
    start: From = None,
    end: To = None,
    user: Annotated[
        str | None, typer.Option(help="User for HTTP Basic; its secret is in FHIR_GATEWAY_TERMINOLOGY_SECRET.")
    ] = None,
    on: On = None,
    replace: Replace = False,
) -> None:
    """Have value sets expanded by a terminology server, and import them."""
    from fhir_gateway.jobs import terminology as job

    here = context(command)
    wanted = list(urls or ())
    if missing:
        wanted += job.missing(here.gateway, missing, _day(on) or _today(here))
    elif not wanted:
        raise ConfigurationError("name value sets, or a package whose value sets are missing (--missing)")
    basic = None
    if user is not None:
        secret = os.environ.get("FHIR_GATEWAY_TERMINOLOGY_SECRET")
        if not secret:
            raise ConfigurationError("set FHIR_GATEWAY_TERMINOLOGY_SECRET to the secret of --user")
        basic = (user, secret)
    with here.output.progress() as progress:
        done = job.import_expansions(
            here.gateway, server, wanted, _effective(start, end), basic=basic, replace=replace, progress=progress
        )
    _say(here, done)


@app.command("list")
def list_(
    command: typer.Context,
    url: Annotated[str | None, typer.Argument(help="Of this url only.")] = None,
    on: On = None,
) -> None:
    """List what is stored, and whether it is in force."""
    here = context(command)
    day = _day(on) or _today(here)
    rows = [
        {
            "resource": one.canonical,
            "type": one.resource_type,
            "codes": one.codes,
            "from": one.effective_from,
            "to": one.effective_to,
            "in_force": one.in_force(day) and one.replaced_at is None,
            "sha256": one.digest[:12],
            "origin": one.origin,
            "imported": one.imported_at[:19],
            "replaced": (one.replaced_at or "")[:19] or None,
        }
        for one in here.gateway.terminology.entries(url=url)
    ]
    columns = ("resource", "type", "codes", "from", "to", "in_force", "sha256", "origin", "imported", "replaced")
    here.output.table(f"Terminology, {day.isoformat()}", columns, rows)


@app.command("date")
def date_(
    command: typer.Context,
    resource: Annotated[str, typer.Argument(help="url or url|version.")],
    start: From = None,
    end: To = None,
) -> None:
    """Say from when to when stored terminology is in force; without days, always."""
    here = context(command)
    count = here.gateway.terminology.set_effective(resource, _day(start), _day(end))
    if not count:
        raise ConfigurationError("nothing is stored under that url and version")
    here.output.say(f"{count} dated anew")


@app.command()
def lookup(
    command: typer.Context,
    system: Annotated[str, typer.Argument(help="Url of a code system.")],
    code: Annotated[str, typer.Argument(help="A code.")],
    on: On = None,
) -> None:
    """Say whether a code was in a code system on a day."""
    here = context(command)
    day = _day(on) or _today(here)
    entry = here.gateway.terminology.lookup(system, code, day)
    told = {"system": system, "code": code, "on": day.isoformat(), "valid": entry is not None}
    if here.output.json:
        here.output.value(told | {"version": entry.version if entry else None})
        return
    here.output.say(f"{code} is in {entry.canonical}" if entry else f"{code} is not in {system} on {day.isoformat()}")


@app.command()
def lock(
    command: typer.Context,
    package: Annotated[str, typer.Argument(help="A measure package.")],
    on: On = None,
) -> None:
    """Write down which stored terminology a package uses; from then on it is held to it."""
    from fhir_gateway.jobs import terminology as job

    here = context(command)
    path, made = job.lock(here.gateway, package, _day(on) or _today(here))
    here.output.say(f"{path}: {len(made.entries)} from the store, {len(made.maps)} concept maps")


@app.command()
def coverage(
    command: typer.Context,
    packages: Annotated[list[str] | None, typer.Argument(help="Measure packages; default: all.")] = None,
    on: Annotated[str | None, typer.Option(help="First day of the measurement period; default: this year's.")] = None,
    lacking: Annotated[
        bool, typer.Option("--lacking", help="Only criteria that no resource of a source meets.")
    ] = False,
) -> None:
    """Say which criteria of measures have no coded data in which source, and what is there instead."""
    from fhir_gateway.jobs import terminology as job

    here = context(command)
    day = _day(on) or _today(here).replace(month=1, day=1)
    rows: list[dict[str, Any]] = []
    for one in job.criteria_coverage(here.gateway, packages or (), day):
        if lacking and one.covered:
            continue
        found = one.coverage
        count = found.resources if found else 0
        rows.append(
            {
                "measure": one.measure,
                "criterion": f"{one.retrieve.resource_type}.{one.retrieve.path}",
                "codes": one.retrieve.label,
                "definitions": list(one.retrieve.definitions),
                "source": one.source,
                "resources": count,
                "in_set": found.member if found else 0,
                "local": found.local if found else 0,
                "uncoded": found.uncoded if found else 0,
                "unmapped": list(found.unmapped) if found else [],
                "lacking": not one.covered,
            }
        )
    columns = ("measure", "criterion", "codes", "source", "resources", "in_set", "local", "uncoded", "unmapped")
    here.output.table(f"Coded data for measures, {day.isoformat()}", columns, rows)
    without = sum(row["lacking"] for row in rows)
    here.output.say(f"{without:,} criteria without a coded resource")


def _effective(start: str | None, end: str | None) -> tuple[date | None, date | None] | None:
    return None if start is None and end is None else (_day(start), _day(end))


def _today(here: Context) -> date:
    from fhir_gateway.jobs.clock import instant

    return instant(here.gateway, None).date()


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("a day is written 2026-01-31") from None


def _say(here: Context, done: Imported) -> None:
    if here.output.json:
        here.output.value(
            {"stored": list(done.stored), "unchanged": list(done.unchanged), "replaced": list(done.replaced)}
        )
        return
    here.output.say(
        f"{len(done.stored):,} stored, {len(done.unchanged):,} were there already, {len(done.replaced):,} replaced"
    )
