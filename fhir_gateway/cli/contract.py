"""``contract``: check terms, follow settlements through notice, disputes and amendments, statements, what-if."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import date
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import orjson
import typer

from fhir_gateway.cli.context import context
from fhir_gateway.cli.value import parse_instant
from fhir_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from fhir_gateway.contracts.disputes import Reason, State

app = typer.Typer(help="Contracts: terms, settlements, notices, disputes, statements, what-if.", no_args_is_help=True)

_Contract = Annotated[str, typer.Argument(help="A contract (path or name).")]
_Run = Annotated[str, typer.Argument(help="Id of a settlement (its MeasureReport).")]
_Now = Annotated[str | None, typer.Option(help="Instant with offset; default: the present.")]


class Form(StrEnum):
    """What a statement is written as."""

    json = "json"
    csv = "csv"
    pdf = "pdf"
    html = "html"


@app.command("check")
def check(command: typer.Context, contract: _Contract) -> None:
    """Load a contract with its attribution terms and tables; contradictions are named, all of them."""
    from fhir_gateway.contracts import Contract

    here = context(command)
    loaded = Contract.load(here.gateway.contract(contract))
    rows = [
        {"arrangement": one.id, "kind": one.kind, "pool": one.pool, "stream": one.stream()}
        for one in loaded.arrangements
    ]
    here.output.table(f"{loaded.title}, version {loaded.version}", ("arrangement", "kind", "pool", "stream"), rows)
    here.output.say(f"terms are in order; digest {loaded.digest}")


@app.command("schema")
def schema(command: typer.Context) -> None:
    """Print the JSON Schema of contract documents."""
    from fhir_gateway.contracts.schema import contract_schema

    context(command).output.value(contract_schema())


@app.command("settlements")
def settlements(command: typer.Context, contract: Annotated[str | None, typer.Argument(help="Its id.")] = None) -> None:
    """List settlements with what they posted; the sum of what was posted is what is owed."""
    here = context(command)
    rows = [
        {
            "settlement": run.id,
            "contract": run.contract,
            "version": run.version,
            "kind": run.kind,
            "state": run.state,
            "through": run.through.isoformat(),
            "total": f"{run.total:,}",
            "posted": f"{run.posted:,}",
            "notice": run.notice.isoformat() if run.notice else None,
            "by": run.by,
            "reason": run.reason,
        }
        for run in here.gateway.settlements.runs(contract)
    ]
    columns = ("settlement", "contract", "version", "kind", "state", "through", "total", "posted", "notice")
    here.output.table("Settlements", columns, rows)


@app.command("notify")
def notify(command: typer.Context, run: _Run, now: _Now = None) -> None:
    """Give notice of a settlement: review and dispute windows begin."""
    from fhir_gateway.jobs import settlement_runs

    here = context(command)
    settlement_runs.notify(here.gateway, run, parse_instant(now))
    due = settlement_runs.calendar_of(here.gateway, run)
    if here.output.json:
        here.output.value({"settlement": run, **(asdict(due) if due else {})})
    elif due:
        here.output.say(f"review until {due.review}, disputes until {due.dispute}, payment until {due.payment}")


@app.command("finalise")
def finalise(
    command: typer.Context,
    run: _Run,
    agreed: Annotated[bool, typer.Option(help="Both sides agreed before the review ends.")] = False,
    now: _Now = None,
) -> None:
    """Make a settlement final; never with a dispute open."""
    from fhir_gateway.jobs import settlement_runs

    here = context(command)
    done = settlement_runs.finalise(here.gateway, run, parse_instant(now), agreed=agreed)
    here.output.say(f"{done.id} is {done.state}")


@app.command("recompute")
def recompute(command: typer.Context, run: _Run) -> None:
    """Make a settlement again as of then, and compare it byte by byte."""
    from fhir_gateway.jobs import settlement_runs

    here = context(command)
    made = settlement_runs.recompute(here.gateway, run)
    if here.output.json:
        here.output.value({"settlement": run, "same": made.same, "differing": list(made.differing)})
    else:
        here.output.say("the same, byte by byte" if made.same else f"differs in: {', '.join(made.differing)}")
    if not made.same:
        raise typer.Exit(1)


@app.command("statement")
def statement(
    command: typer.Context,
    run: _Run,
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[Form | None, typer.Option(help="Default: by the file's suffix.")] = None,
) -> None:
    """Write the statement of a settlement as JSON, CSV, PDF or HTML."""
    from fhir_gateway.contracts.statement_forms import statement_csv
    from fhir_gateway.jobs.settle import statement as stated
    from fhir_gateway.jobs.settlement_runs import settled
    from fhir_gateway.reports.forms import FORMS, write
    from fhir_gateway.reports.statement import statement as document

    here = context(command)
    wanted = form.value if form else out.suffix.lstrip(".")
    found, contract, settlement = settled(here.gateway, run)
    if wanted in FORMS:
        content = write(document(settlement, contract, found.id, found.state), wanted)
    elif wanted == Form.csv:
        content = statement_csv(settlement)
    elif wanted == Form.json:
        content = stated(settlement)
    else:
        raise ConfigurationError("a statement is written as json, csv, pdf or html: give --form")
    out.write_bytes(content)
    here.output.say(f"{out}: {len(content):,} bytes")


@app.command("audit")
def audit(
    command: typer.Context,
    run: _Run,
    arrangement: Annotated[
        str | None, typer.Option(help="Id of an arrangement; needed where several have rows.")
    ] = None,
    member: Annotated[str | None, typer.Option(help="Only the rows of this person.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows: .csv, else a JSON object per line.")] = None,
    posted: Annotated[
        bool, typer.Option(help="Write all rows posted by now: a capitation's table for its next cycle.")
    ] = False,
) -> None:
    """Show the rows that payments by member month are the sums of, as of a settlement: by rule and status, or all."""
    from fhir_gateway.jobs import payment_rows as job

    here = context(command)
    if posted:
        if out is None or out.suffix != ".csv" or member is not None:
            raise ConfigurationError("--posted writes a whole table: give --out FILE.csv, and no member")
        rows = job.posted_rows(here.gateway, run, arrangement)
        out.write_bytes(job.as_csv(rows))
        here.output.say(f"{out}: {rows.num_rows:,} rows")
        return
    found = job.payment_rows(here.gateway, run, arrangement)
    table = found.of(member)
    if out is not None:
        out.write_bytes(job.as_csv(table) if out.suffix == ".csv" else job.as_ndjson(table))
        here.output.say(f"{out}: {table.num_rows:,} rows")
        return
    columns = ("rule", "status", "rows", "quantity", "amount")
    here.output.table(f"{found.arrangement} in {found.settlement}", columns, job.summary(table))


@app.command("dispute")
def dispute(
    command: typer.Context,
    run: _Run,
    line: Annotated[str, typer.Argument(help="Id of the line, as in `settle --explain` or the report's groups.")],
    reason: Annotated[str, typer.Option(help="attribution, eligibility, claims, pricing, risk, quality, rate ...")],
    amount: Annotated[str, typer.Option(help="What is disputed, a positive amount.")],
    text: Annotated[str, typer.Option(help="What is wrong.")],
    by: Annotated[str | None, typer.Option(help="Who files it; default: the user at the prompt.")] = None,
    now: _Now = None,
) -> None:
    """Open a dispute about a line; what it rests on is frozen with it."""
    from fhir_gateway.jobs import settlement_runs

    here = context(command)
    try:
        disputed = Decimal(amount)
    except InvalidOperation:
        raise ConfigurationError("--amount is a decimal number") from None
    filed = settlement_runs.open_dispute(
        here.gateway, run, line, cast("Reason", reason), disputed, text, _by(by), parse_instant(now)
    )
    if here.output.json:
        here.output.value(asdict(filed))
    else:
        here.output.say(f"dispute {filed.id}: to be answered until {filed.answer_by}")


@app.command("answer")
def answer(
    command: typer.Context,
    dispute_id: Annotated[str, typer.Argument(help="Id of the dispute.")],
    text: Annotated[str, typer.Option(help="What the other side says.")],
    by: Annotated[str | None, typer.Option(help="Who answers; default: the user at the prompt.")] = None,
    now: _Now = None,
) -> None:
    """Answer a dispute: it stays open until it is decided."""
    from fhir_gateway.jobs import settlement_runs

    here = context(command)
    said = settlement_runs.answer_dispute(here.gateway, dispute_id, text, _by(by), parse_instant(now))
    if here.output.json:
        here.output.value(asdict(said))
    else:
        here.output.say(f"answered; {here.gateway.settlements.dispute(dispute_id).answer_by} is the last day for it")


@app.command("decide")
def decide(
    command: typer.Context,
    dispute_id: Annotated[str, typer.Argument(help="Id of the dispute.")],
    state: Annotated[str, typer.Argument(help="upheld, partly-upheld, rejected or withdrawn.")],
    text: Annotated[str, typer.Option(help="Why.")],
    corrected: Annotated[str | None, typer.Option(help="Settle this contract anew; the difference is posted.")] = None,
    by: Annotated[str | None, typer.Option(help="Who decides; default: the user at the prompt.")] = None,
    now: _Now = None,
) -> None:
    """Decide a dispute; a correction is an amendment, never an edit."""
    from fhir_gateway.jobs import settlement_runs

    here = context(command)
    decided = settlement_runs.decide_dispute(
        here.gateway, dispute_id, cast("State", state), text, _by(by), parse_instant(now), corrected=corrected
    )
    if here.output.json:
        here.output.value(asdict(decided))
    elif decided.amendment:
        here.output.say(f"{decided.state}; {decided.amendment} posts {decided.delta:,}")
    else:
        here.output.say(decided.state)


@app.command("disputes")
def disputes(command: typer.Context, contract: Annotated[str | None, typer.Argument(help="Its id.")] = None) -> None:
    """List disputes, the largest open amounts first."""
    here = context(command)
    found = here.gateway.settlements.disputes(contract)
    found.sort(key=lambda one: (one.state != "open", -one.amount, one.id))
    rows = [
        {
            "dispute": one.id,
            "settlement": one.run,
            "line": one.line,
            "reason": one.reason,
            "amount": f"{one.amount:,}",
            "state": one.state,
            "answer_by": one.answer_by.isoformat(),
            "filed_by": one.filed_by,
            "delta": None if one.delta is None else f"{one.delta:,}",
        }
        for one in found
    ]
    here.output.table("Disputes", ("dispute", "line", "reason", "amount", "state", "answer_by", "delta"), rows)


@app.command("what-if")
def what_if(
    command: typer.Context,
    contract: _Contract,
    scenario: Annotated[
        list[str] | None, typer.Option("--set", help="NAME:term.path=value[,term.path=value]; may be repeated.")
    ] = None,
    beside: Annotated[list[str] | None, typer.Option(help="Another contract over the same population.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Write the totals as an SVG chart.")] = None,
    now: _Now = None,
) -> None:
    """Settle the same population under changed terms; nothing is kept or served."""
    from fhir_gateway.jobs import what_if as job

    here = context(command)
    scenarios = dict(_scenario(text) for text in scenario or ())
    found = job.what_if(here.gateway, contract, scenarios, beside or (), parse_instant(now))
    base = found[0].settlement.total
    rows = [
        {
            "scenario": one.name,
            "total": f"{one.settlement.total:,}",
            "difference": f"{one.settlement.total - base:,}",
            "changes": ", ".join(f"{path}={value}" for path, value in one.changes.items()),
        }
        for one in found
    ]
    if chart is not None:
        from fhir_gateway.reports.charts import svg
        from fhir_gateway.reports.document import Bar, Chart, money

        totals = [(one.name, one.settlement.total) for one in found]
        bars = tuple(Bar(name, total, money(total, found[0].contract.currency)) for name, total in totals)
        chart.write_text(svg(Chart(f"What if: {found[0].contract.title}", "Totals by scenario.", bars)), "utf-8")
    here.output.table(f"What if: {found[0].contract.title}", ("scenario", "total", "difference", "changes"), rows)


@app.command("project")
def project(
    command: typer.Context,
    contract: _Contract,
    as_of: Annotated[str, typer.Option(help="Last day of a month of the period: claims are known so far.")],
    now: _Now = None,
) -> None:
    """Where a contract will end: cost completed for IBNR and carried on, with a band."""
    from fhir_gateway.jobs import what_if as job

    here = context(command)
    try:
        day = date.fromisoformat(as_of)
    except ValueError:
        raise ConfigurationError("--as-of is a day such as 2025-06-30") from None
    found = job.project(here.gateway, contract, day, parse_instant(now))
    if here.output.json:
        here.output.value(orjson.loads(orjson.dumps(asdict(found), default=str)))
        return
    rows: list[dict[str, Any]] = [
        {"what": "cost so far", "amount": f"{found.paid:,.2f}"},
        {"what": "incurred, not yet paid", "amount": f"{found.ibnr:,.2f}"},
        {"what": f"{found.months_left} months to come", "amount": f"{found.to_come:,.2f}"},
        {"what": "cost at the end", "amount": f"{found.cost:,.2f}"},
        {"what": f"band of {found.level:.0%}", "amount": f"{found.cost_low:,.2f} to {found.cost_high:,.2f}"},
        {"what": "settlement", "amount": f"{found.total:,}"},
        {"what": "at both ends", "amount": f"{found.total_at_low_cost:,} to {found.total_at_high_cost:,}"},
    ]
    if len(found.payments) > 1 or any(one.carried != "cost" for one in found.payments):
        rows += [{"what": f"{one.arrangement}, by {one.carried}", "amount": f"{one.total:,}"} for one in found.payments]
    here.output.table(f"Projection as of {as_of}", ("what", "amount"), rows)


def _scenario(text: str) -> tuple[str, dict[str, Any]]:
    from fhir_gateway.contracts.changes import read_value

    name, colon, changes = text.partition(":")
    pairs = [change.partition("=") for change in changes.split(",") if change]
    if not colon or not pairs or not all(path and equals for path, equals, _ in pairs):
        raise ConfigurationError("--set is NAME:term.path=value, such as generous:arrangements.savings.rate=0.6")
    return name, {path.strip(): read_value(value.strip()) for path, _, value in pairs}


def _by(name: str | None) -> str:
    return name if name is not None else f"prompt:{getpass.getuser()}"
