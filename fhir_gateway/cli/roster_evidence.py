"""``roster`` beyond the lists: selections, why a member is whose, near misses, churn, leakage, overlap, member
months."""

from __future__ import annotations

import getpass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError, Location

if TYPE_CHECKING:
    import pyarrow as pa

_Contract = Annotated[str, typer.Argument(help="A contract (path or name).")]
_SHOWN = 200  # rows of a table at the prompt; --json gives all


def register(app: typer.Typer) -> None:
    """Add the commands to ``roster``."""
    for name, command in (
        ("select", select),
        ("selections", selections),
        ("deselect", deselect),
        ("explain", explain),
        ("near", near),
        ("churn", churn),
        ("leakage", leakage),
        ("overlap", overlap),
        ("months", months),
    ):
        app.command(name)(command)


def select(
    command: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="CSV: member_id, member_system, provider_tin, provider_npi, start, end.")
    ],
    kind: Annotated[
        str,
        typer.Option(help="voluntary, member_selected_pcp, plan_assigned_pcp, roster, or programme:NAME."),
    ],
    contract: Annotated[str | None, typer.Option(help="Id of the contract it is for; default: all.")] = None,
) -> None:
    """Load selections of clinicians, a roster, or who is in another programme."""
    from fhir_gateway.jobs import selections as job

    here = context(command)
    if not file.is_file():
        raise ConfigurationError("no such file", location=Location(file=str(file)))
    by = f"prompt:{getpass.getuser()}"
    batch, unknown = job.load(here.gateway, file.read_bytes(), kind, name=file.name, by=by, contract=contract)
    if here.output.json:
        here.output.value({"batch": batch.id, "selections": batch.selections, "unknown": unknown})
        return
    here.output.say(f"{batch.id}: {batch.selections:,} loaded; members nobody here is: {unknown:,}")


def selections(
    command: typer.Context,
    contract: Annotated[str | None, typer.Option(help="Id of a contract; default: all.")] = None,
) -> None:
    """Show which selections were loaded, by whom and when."""
    here = context(command)
    rows: list[dict[str, Any]] = [
        {"batch": one.id, "kind": one.kind, "contract": one.contract, "file": one.name, "selections": one.selections,
         "loaded": one.loaded_at, "by": one.loaded_by, "withdrawn": one.withdrawn_at}
        for one in here.gateway.selections.batches(contract)
    ]  # fmt: skip
    columns = ("batch", "kind", "contract", "file", "selections", "loaded", "by", "withdrawn")
    here.output.table("Selections", columns, rows)


def deselect(command: typer.Context, batch: Annotated[str, typer.Argument(help="Id of loaded selections.")]) -> None:
    """Withdraw loaded selections; the next attribution is without them."""
    here = context(command)
    here.gateway.selections.withdraw(batch, f"prompt:{getpass.getuser()}", datetime.now(UTC))
    here.output.say("withdrawn")


def explain(
    command: typer.Context,
    contract: _Contract,
    member: Annotated[str, typer.Argument(help="Id of the person (Patient).")],
    evidence: Annotated[str | None, typer.Option(help="A kept run; default: the newest.")] = None,
) -> None:
    """Say why a member is whose patient: who competed, and what became of each claim line."""
    from fhir_gateway.jobs import roster_evidence

    here = context(command)
    found = roster_evidence.explain(here.gateway, contract, member, evidence)
    if here.output.json:
        here.output.value({"member": found.member, "candidates": found.candidates, "lines": found.lines})
        return
    here.output.table(
        "Outcome", ("what", "value"), [{"what": k, "value": v} for k, v in found.member.items() if v is not None]
    )
    here.output.table(
        "Competitors", ("rank", "competitor", "step", "amount", "visits", "last_service"), found.candidates
    )
    columns = ("day", "competitor", "procedure", "specialty", "place_of_service", "allowed", "reason")
    here.output.table("Claim lines (no reason: counted)", columns, found.lines)


def near(
    command: typer.Context,
    contract: _Contract,
    within: Annotated[str, typer.Option(help="Share of the winner's amount.")] = "0.10",
    amount: Annotated[str, typer.Option(help="Amount, in the measure of the terms.")] = "50",
) -> None:
    """Show members whom the contract lost by little."""
    from fhir_gateway.jobs import roster_evidence

    here = context(command)
    found = roster_evidence.lost_by_a_hair(here.gateway, contract, _decimal(within), _decimal(amount))
    _show(command, "Lost by a hair", found)


def churn(
    command: typer.Context,
    contract: _Contract,
    before: Annotated[
        str | None, typer.Option(help="A kept run, or another contract's id; default: the run before.")
    ] = None,
) -> None:
    """Show who came and left between two runs, and how many of each step stayed."""
    from fhir_gateway.jobs import roster_evidence

    here = context(command)
    found = roster_evidence.changed(here.gateway, contract, before)
    if here.output.json:
        here.output.value(
            {"before": found.before, "now": found.now, "stayed": found.stayed, "churn": found.churn,
             "retention": found.retention.to_pylist(), "changes": found.changes.to_pylist()}
        )  # fmt: skip
        return
    here.output.table("Retention", tuple(found.retention.column_names), found.retention.to_pylist())
    here.output.table("Changes", tuple(found.changes.column_names), found.changes.to_pylist()[:_SHOWN])
    share = "no churn: nobody was there before" if found.churn is None else f"churn {found.churn:.2%}"
    here.output.say(f"{found.before:,} before, {found.now:,} now, {found.stayed:,} stayed; {share}")


def leakage(command: typer.Context, contract: _Contract) -> None:
    """Show how much primary care of the contract's members is outside of it, and where."""
    from fhir_gateway.jobs import roster_evidence

    here = context(command)
    found = roster_evidence.leaked(here.gateway, contract)
    if here.output.json:
        here.output.value(
            {"inside": found.inside, "outside": found.outside, "share": found.share,
             "providers": found.providers.to_pylist(), "members": found.members.to_pylist()}
        )  # fmt: skip
        return
    here.output.table("Outside", tuple(found.providers.column_names), found.providers.to_pylist()[:_SHOWN])
    share = "none" if found.share is None else f"{found.share:.2%} outside"
    here.output.say(f"primary care allowed: {found.inside:,} inside, {found.outside:,} outside ({share})")


def overlap(
    command: typer.Context,
    contracts: Annotated[list[str] | None, typer.Argument(help="Contracts; default: all that were attributed.")] = None,
) -> None:
    """Show members whom several contracts would have claimed, and which has them."""
    from fhir_gateway.jobs import roster_evidence

    here = context(command)
    _show(command, "Claimed by several", roster_evidence.overlapping(here.gateway, contracts or [], several=True))


def months(
    command: typer.Context,
    contract: _Contract,
    cycle: Annotated[str, typer.Option(help="First day of the month that is posted.")],
    window: Annotated[int, typer.Option(min=0, help="Months back that are still adjusted.")] = 6,
) -> None:
    """Post the member months of a cycle to the contract's ledger: what is new, and what changed in months before."""
    from fhir_gateway.jobs import roster_evidence

    try:
        day = date.fromisoformat(cycle)
    except ValueError:
        raise ConfigurationError("--cycle is a day such as 2025-03-01") from None
    here = context(command)
    found = roster_evidence.post_months(here.gateway, contract, day, window)
    sums = found.group_by("kind").aggregate([([], "count_all"), ("months", "sum"), ("outside", "sum")])
    kinds = sums.rename_columns(["kind", "rows", "months", "outside"]).sort_by("kind")
    here.output.table(f"Posted in {cycle}", tuple(kinds.column_names), kinds.to_pylist())


def _show(command: typer.Context, title: str, table: pa.Table) -> None:
    here = context(command)
    if here.output.json:
        here.output.value(table.to_pylist())
        return
    here.output.table(f"{title}: {table.num_rows:,}", tuple(table.column_names), table.slice(0, _SHOWN).to_pylist())


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ConfigurationError("a number such as 0.10") from None
