"""``persons``: link patients of several sources, decide about reviews, merge, part, and see what was done."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fhir_gateway.cli.context import Context, context
from fhir_gateway.errors import ConfigurationError, Location

if TYPE_CHECKING:
    from fhir_gateway.identity.models import Decision, Review, ReviewStatus
    from fhir_gateway.identity.stewardship import Patient, Stewardship

app = typer.Typer(help="Who is who: one person behind many patients.", no_args_is_help=True)

By = Annotated[str | None, typer.Option(help="Who decides; default: the user of this machine.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Later = Annotated[bool, typer.Option("--later", help="Do not move rows of the lake yet (see `persons apply`).")]
ReviewId = Annotated[str, typer.Argument(help="Id of a review, or how it begins.")]


@app.command("link")
def link_persons(
    command: typer.Context,
    model: Annotated[Path | None, typer.Option(help="Linkage model to use instead of the gateway's.")] = None,
    later: Later = False,
) -> None:
    """Link patients that are alike enough, and list for review those that may be."""
    from fhir_gateway.jobs import persons as job

    here = context(command)
    report = job.link(here.gateway, model)
    moved = None if later else job.follow(here.gateway).patients
    told = {
        "model": report.model,
        "records": report.records,
        "linked": report.linked,
        "for_review": report.proposed,
        "merges": report.merges,
        "splits": report.splits,
        "patients_moved": moved,
    }
    if here.output.json:
        here.output.value(told)
        return
    here.output.say(
        f"{report.model}: {report.records:,} patients; {report.linked:,} pairs linked, {report.proposed:,} for review; "
        f"{report.merges:,} persons merged, {report.splits:,} parted"
    )
    _say_followed(here, moved)


@app.command()
def estimate(
    command: typer.Context,
    to: Annotated[Path, typer.Argument(help="File to write the model to.")],
    version: Annotated[str, typer.Option(help="Version the model is to have.")],
) -> None:
    """Write a linkage model with weights estimated from the patients in the lake."""
    from fhir_gateway.jobs import persons as job

    here = context(command)
    text = job.estimate(here.gateway, version).to_toml()
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"the model cannot be written ({reason})", location=Location(file=str(to))) from None
    here.output.say(f"written to {to}; try it with: fhir-gateway persons link --model {to}")


@app.command()
def reviews(
    command: typer.Context,
    review: Annotated[str | None, typer.Argument(help="Show the two patients of this review, side by side.")] = None,
    status: Annotated[str, typer.Option(help="open, accepted, rejected or closed.")] = "open",
    limit: Annotated[int, typer.Option(help="Most reviews to show.", min=1)] = 50,
) -> None:
    """List links that were not made, for somebody to decide; with an id, show both patients (names and all)."""
    from fhir_gateway.jobs import persons as job

    here = context(command)
    if review is not None:
        one = job.stewardship(here.gateway).review(review)
        rows = list(job.side_by_side(here.gateway, one))
        if here.output.json:
            here.output.value(_told(one) | {"patients": rows})
            return
        here.output.say(f"{one.rule} ({one.system}), {one.status}; {one.evidence or ''}")
        titles = {"first": f"{one.source}/{one.patient_id}", "second": f"{one.other_source}/{one.other_patient_id}"}
        shown = [{"element": row["element"], **{titles[name]: row[name] for name in titles}} for row in rows]
        here.output.table(f"Review {one.digest[:10]}", ("element", *titles.values()), shown)
        return
    if status not in ("open", "accepted", "rejected", "closed"):
        raise ConfigurationError("status is open, accepted, rejected or closed")
    found = here.gateway.persons.reviews(cast("ReviewStatus", status))
    found.sort(key=lambda one: (-(one.weight or 0), one.digest))
    columns = ("review", "rule", "system", "first", "second", "weight", "noticed")
    here.output.table("Reviews", columns, [_told(one) for one in found[:limit]])
    if len(found) > limit:
        here.output.say(f"{len(found) - limit:,} more")


@app.command()
def accept(command: typer.Context, review: ReviewId, reason: Reason, by: By = None, later: Later = False) -> None:
    """The two patients of a review are one person: merge them."""
    here = context(command)
    _decisions(here).accept(review, _who(by), reason)
    _follow(here, later)


@app.command()
def reject(command: typer.Context, review: ReviewId, reason: Reason, by: By = None, later: Later = False) -> None:
    """The two patients of a review are different persons: never propose them again."""
    here = context(command)
    _decisions(here).reject(review, _who(by), reason)
    _follow(here, later)


@app.command()
def merge(
    command: typer.Context,
    person: Annotated[str, typer.Argument(help="A person.")],
    other: Annotated[str, typer.Argument(help="The person it is, too.")],
    reason: Reason,
    by: By = None,
    later: Later = False,
) -> None:
    """Merge two persons; the one that was there first keeps its id."""
    here = context(command)
    _decisions(here).merge(person, other, _who(by), reason)
    here.output.say(f"one person now: {here.gateway.persons.surviving(person)}")
    _follow(here, later)


@app.command()
def unmerge(
    command: typer.Context,
    person: Annotated[str, typer.Argument(help="A person that was merged into another; or, with --patient, any.")],
    reason: Reason,
    patient: Annotated[
        list[str] | None, typer.Option(help="SOURCE/ID of a patient that is somebody else; may be repeated.")
    ] = None,
    by: By = None,
    later: Later = False,
) -> None:
    """Part a person that was merged from the rest again, under its own id; or the patients named."""
    here = context(command)
    before = len(here.gateway.persons.changes())
    _decisions(here).unmerge(person, _who(by), reason, [_patient(one) for one in patient or ()])
    for change in here.gateway.persons.changes()[before:]:
        count = len(here.gateway.persons.patients(change.other))
        here.output.say(f"{change.other} is a person of its own now, with {count} patients; {change.person} stays")
    _follow(here, later)


@app.command()
def revoke(
    command: typer.Context,
    decision: Annotated[int, typer.Argument(help="Number of a decision (see `persons history`).")],
    reason: Reason,
    by: By = None,
    later: Later = False,
) -> None:
    """Take a decision back: persons are as if it had not been made."""
    here = context(command)
    _decisions(here).revoke(decision, _who(by), reason)
    _follow(here, later)


@app.command()
def history(
    command: typer.Context, person: Annotated[str | None, typer.Argument(help="Of this person only.")] = None
) -> None:
    """Show merges and splits of persons, and the decisions about them, with who, when and why."""
    here = context(command)
    persons = here.gateway.persons
    changes = [
        {
            "at": one.changed_at[:19],
            "change": one.kind,
            "person": one.person,
            "other": one.other,
            "by": one.by,
            "reason": one.reason,
            "evidence": one.evidence,
        }
        for one in persons.changes()
        if person in (None, one.person, one.other)
    ]
    decisions = [_told_decision(one) for one in _decisions(here).decisions(person)]
    patients = [f"{source}/{patient}" for source, patient in persons.patients(person)] if person else []
    if here.output.json:
        here.output.value({"patients": patients, "changes": changes, "decisions": decisions})
        return
    if person:
        here.output.say(f"{person}: {', '.join(patients) or f'merged into {persons.surviving(person)}'}")
    here.output.table("Changes", ("at", "change", "person", "other", "by", "reason"), changes)
    columns = ("decision", "at", "verdict", "first", "second", "by", "reason", "revoked")
    here.output.table("Decisions", columns, decisions)


@app.command()
def apply(command: typer.Context) -> None:
    """Move the lake's rows of patients who became another person, and serve them so."""
    _follow(context(command), later=False)


def _decisions(here: Context) -> Stewardship:
    from fhir_gateway.jobs import persons as job

    return job.stewardship(here.gateway)


def _who(by: str | None) -> str:
    return by if by is not None else getpass.getuser()


def _patient(text: str) -> Patient:
    source, slash, patient = text.partition("/")
    if not (source and slash and patient):
        raise ConfigurationError("--patient is SOURCE/ID")
    return source, patient


def _follow(here: Context, later: bool) -> None:
    from fhir_gateway.jobs import persons as job

    _say_followed(here, None if later else job.follow(here.gateway).patients)


def _say_followed(here: Context, patients: int | None) -> None:
    if patients is None:
        here.output.say("the lake follows with the next pull, or: fhir-gateway persons apply")
    else:
        here.output.say(f"{patients:,} patients moved; lake version {here.gateway.lake.version}")


def _told(one: Review) -> dict[str, Any]:
    many = one.other_patient_id is None
    return {
        "review": one.digest[:10],
        "rule": one.rule,
        "system": one.system,
        "first": one.source if many else f"{one.source}/{one.patient_id}",
        "second": f"{one.patients} patients" if many else f"{one.other_source}/{one.other_patient_id}",
        "weight": one.weight,
        "noticed": one.noticed_at[:19],
        "status": one.status,
        "evidence": one.evidence,
        "decided_by": one.decided_by,
    }


def _told_decision(one: Decision) -> dict[str, Any]:
    return {
        "decision": one.act,
        "at": one.decided_at[:19],
        "verdict": one.verdict,
        "first": "/".join(one.first),
        "second": "/".join(one.second),
        "by": one.decided_by,
        "reason": one.reason,
        "revoked": f"{one.revoked_at[:19]} by {one.revoked_by}: {one.revoked_reason}" if one.revoked_at else None,
    }
