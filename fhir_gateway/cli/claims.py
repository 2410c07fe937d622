"""Commands about claims: ``claims check``, ``denials``, ``edits``, ``tables``, ``import``."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from fhir_gateway.claim_edits import Checked

app = typer.Typer(help="Check claims before they are submitted, and see what payers denied.", no_args_is_help=True)
_UNCLEAN = 1
"""Exit code where a claim is not clean: not an error of the command."""


@app.command()
def check(
    command: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(help="NDJSON, Bundles, folders or zips with Claims.")] = None,
    lake: Annotated[bool, typer.Option("--lake", help="Check the claims of the lake.")] = False,
    source: Annotated[str | None, typer.Option(help="Source whose ids they name; of --lake: only its claims.")] = None,
    edit: Annotated[list[str] | None, typer.Option(help="Only this edit or family; repeatable.")] = None,
    submitted: Annotated[str | None, typer.Option(help="Day of submission; default: the day each was created.")] = None,
    rates: Annotated[str | None, typer.Option(help="Rates by `provider` or `payer` instead of findings.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print findings as CSV.")] = False,
    most: Annotated[int, typer.Option(help="Most findings of a table; 0: all.")] = 50,
) -> None:
    """Check claims by all edits. Ends with 1 when a claim is not clean."""
    from fhir_gateway.claim_edits.rates import clean_rates, edit_rates, unchecked_edits
    from fhir_gateway.jobs import claim_checks as job

    here = context(command)
    if lake == bool(files):
        raise ConfigurationError("name files with claims, or --lake")
    if rates not in (None, "provider", "payer"):
        raise ConfigurationError("--rates is provider or payer")
    if lake:
        if submitted:
            raise ConfigurationError(
                "--submitted is for files: claims of the lake were submitted when they were created"
            )
        checked = job.check_lake(here.gateway, edit or None, source)
    else:
        checked = job.check_files(here.gateway, files or [], source, edit or None, _day("--submitted", submitted))
    found = _findings(checked)
    unchecked = unchecked_edits(checked)
    if here.output.json:
        here.output.value(
            {
                "rates": clean_rates(checked, rates),
                "edits": edit_rates(checked, rates),
                "not_checked": unchecked,
                "findings": found,
                "tables": list(checked.tables),
            }
        )
    elif as_csv:
        _csv(found, ("claim", "edit", "severity", "path", "other", "message", "fix"))
    else:
        if rates is None:
            shown = found if not most else found[:most]
            here.output.table("Findings", ("claim", "severity", "edit", "path", "message"), shown)
            if len(shown) < len(found):
                here.output.say(f"{len(found) - len(shown):,} more findings: --most 0 shows all, --csv prints them")
        here.output.table("Edits", ("edit", "severity", "claims", "findings", "share"), edit_rates(checked))
        columns = ("claims", "clean", "clean_claim_rate", "deny_likely", "denial_likely_rate")
        here.output.table("Clean claims", (rates or "claims_of", *columns), clean_rates(checked, rates))
        lacking = Counter(ground for one in unchecked for ground in one["lacking"])
        if unchecked:
            here.output.say(
                f"not checked of some claims: {len(unchecked)} edits, for want of {', '.join(sorted(lacking))}"
            )
    if not all(checked.claims["clean"].to_pylist()):
        raise typer.Exit(_UNCLEAN)


@app.command()
def keep(
    command: typer.Context,
    background: Annotated[bool, typer.Option("--background", help="Leave it to a worker.")] = False,
) -> None:
    """Check the claims of the lake, sum up denials, and keep both for the console."""
    from fhir_gateway.cli.jobs import calculate_later
    from fhir_gateway.jobs.claim_quality import check_and_keep

    here = context(command)
    if background:
        calculate_later(here, "claims")
        return
    kept = check_and_keep(here.gateway)
    here.output.table("Edits", ("edit", "severity", "claims", "findings", "share"), kept.rates["edits"])
    columns = ("claims", "clean", "clean_claim_rate", "deny_likely", "denial_likely_rate")
    here.output.table("Clean claims", columns, kept.rates["overall"])


@app.command()
def denials(
    command: typer.Context,
    by: Annotated[str, typer.Option(help="reason, payer, provider, code or month.")] = "reason",
    since: Annotated[str | None, typer.Option(help="Claims first answered on or after this day.")] = None,
    until: Annotated[str | None, typer.Option(help="Claims first answered on or before this day.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
) -> None:
    """What payers denied: lines, amounts, first-pass denials, what was overturned, and what could be avoided."""
    from fhir_gateway.claim_edits.denials import BY
    from fhir_gateway.jobs.denials import denials as job

    here = context(command)
    what = next((one for one in BY if one == by), None)
    if what is None:
        raise ConfigurationError(f"--by is one of {', '.join(BY)}")
    with job(here.gateway, None, _day("--since", since), _day("--until", until)) as found:
        rows, overall, avoidable = found.by(what), found.overall(), found.top_avoidable()
    if here.output.json:
        here.output.value({"overall": overall, by: rows, "avoidable": avoidable})
        return
    if as_csv:
        _csv(rows, tuple(rows[0]) if rows else (by,))
        return
    here.output.table("Claims", tuple(overall), [overall])
    columns = ("reason", "list", "denied_lines", "claims", "denied_amount", "edits")
    others = (by, "lines", "denied_lines", "denial_rate", "claims", "denied_amount")
    here.output.table(f"Denials by {by}", columns if by == "reason" else others, rows)
    avoided = ("reason", "edits", "provider", "code", "denied_lines", "denied_amount")
    here.output.table("Avoidable: an edit finds them", avoided, avoidable)


@app.command()
def edits(command: typer.Context) -> None:
    """The edits: what each checks, how bad a finding is, what it needs."""
    from fhir_gateway.claim_edits import edits as known

    rows: list[dict[str, Any]] = [
        {
            "edit": one.id,
            "family": one.family,
            "severity": one.severity,
            "needs": ", ".join(one.needs),
            "message": one.message,
            "fix": one.fix,
            "source": one.source,
        }
        for one in known().values()
    ]
    context(command).output.table("Edits", ("edit", "family", "severity", "needs", "message"), rows)


@app.command()
def tables(command: typer.Context) -> None:
    """Reference tables: what is imported, and what is not."""
    from dataclasses import asdict

    from fhir_gateway.claim_edits.specs import SPECS
    from fhir_gateway.jobs.claim_checks import claim_tables

    here = context(command)
    known = claim_tables(here.gateway).versions()
    rows = [asdict(one) for one in known]
    rows += [{"name": name} for name in SPECS if name not in {one.name for one in known}]
    here.output.table("Tables", ("name", "version", "first", "last", "rows", "source", "imported_at"), rows)


@app.command("import")
def import_table(
    command: typer.Context,
    table: Annotated[str, typer.Argument(help="A table of docs/use/claims.md, such as ncci-ptp.")],
    file: Annotated[Path, typer.Argument(help="CSV with the table's columns, plain or gzipped.")],
    version: Annotated[str, typer.Option(help="What this version is called, such as 2026Q1.")],
    first: Annotated[str, typer.Option("--from", help="First day of service that it holds for.")],
    last: Annotated[str | None, typer.Option("--to", help="Last day; default: until the next version.")] = None,
    origin: Annotated[str, typer.Option("--origin", help="Where it is from and by what licence.")] = "",
) -> None:
    """Import a reference table for edits."""
    from fhir_gateway.jobs.claim_checks import claim_tables

    here = context(command)
    day = _day("--from", first)
    if day is None:
        raise ConfigurationError("--from is a day such as 2026-01-01")
    made = claim_tables(here.gateway).load(table, file, version, day, _day("--to", last), origin)
    if here.output.json:
        here.output.value({"table": made.name, "version": made.version, "rows": made.rows, "sha256": made.sha256})
    here.output.say(f"{made.label}: {made.rows:,} rows from {made.first}")


def _findings(checked: Checked) -> list[dict[str, Any]]:
    from fhir_gateway.claim_edits import edits as known

    keys, every = checked.claims["key"].to_pylist(), known()
    return [
        {
            "claim": keys[row["rid"]],
            "edit": row["edit"],
            "severity": every[row["edit"]].severity,
            "path": row["path"],
            "other": row["other"],
            "message": every[row["edit"]].message,
            "fix": every[row["edit"]].fix,
        }
        for row in checked.findings.to_pylist()
    ]


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} is a day such as 2026-01-31") from None
