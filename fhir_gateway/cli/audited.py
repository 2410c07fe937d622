"""Which commands show whose data or money, and their entries in the audit trail.

A command that is listed here is in the trail before it has read anything, as a request is before its answer leaves
(docs/adr/0259); one that fails then has a second entry of the same request that says how. Whoever adds a command says
here what it shows, or in its test that it shows nothing.
"""

from __future__ import annotations

import getpass
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from fhir_gateway.errors import GatewayError
from fhir_gateway.factory import Gateway

#: Widths of columns of the trail.
_MOST_WHAT, _MOST_WHO = 64, 255


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command shows: rows of people, or sums of them only.

    ``person`` names the argument that says who it is about, ``of`` the one that says which run, list or contract.
    """

    people: bool = False
    person: str | None = None
    of: str | None = None


_SUMS, _PEOPLE = Shown(), Shown(people=True)

SHOWN: Mapping[str, Shown] = {
    "alerts find": _PEOPLE,
    "alerts list": _PEOPLE,
    "attribute": Shown(of="contract"),
    "audit": Shown(people=True, person="patient"),
    "backup": _PEOPLE,
    "claims check": _PEOPLE,
    "claims denials": _SUMS,
    "contract answer": Shown(of="dispute_id"),
    "contract audit": Shown(people=True, person="member", of="run"),
    "contract decide": Shown(of="dispute_id"),
    "contract dispute": Shown(of="run"),
    "contract disputes": Shown(of="contract"),
    "contract notify": Shown(of="run"),
    "contract project": Shown(of="contract"),
    "contract recompute": Shown(of="run"),
    "contract settlements": Shown(of="contract"),
    "contract statement": Shown(of="run"),
    "contract what-if": Shown(of="contract"),
    "equity disparities": _SUMS,
    "equity population": _SUMS,
    "equity strata": _SUMS,
    "evaluate": _SUMS,
    "experience points": _SUMS,
    "experience score": _SUMS,
    "explain": Shown(people=True, person="person", of="package"),
    "outreach export": Shown(people=True, of="contract"),
    "outreach history": Shown(people=True, of="item"),
    "outreach list": Shown(people=True, of="contract"),
    "persons history": Shown(people=True, person="person"),
    "persons merge": _PEOPLE,
    "persons reviews": Shown(people=True, of="review"),
    "persons unmerge": Shown(people=True, person="person"),
    "predict card": Shown(of="model"),
    "predict check": _SUMS,
    "predict learn": _SUMS,
    "predict readmissions": _PEOPLE,
    "predict work-list": _PEOPLE,
    "quarantine list": Shown(people=True, of="pull_id"),
    "quarantine show": Shown(people=True, of="pull_id"),
    "report board": _SUMS,
    "report loss-ratio": _SUMS,
    "report quality": _SUMS,
    "risk explain": Shown(people=True, person="member"),
    "risk gaps": _PEOPLE,
    "risk score": _PEOPLE,
    "roster add": Shown(people=True, of="list_id"),
    "roster churn": Shown(people=True, of="contract"),
    "roster decisions": Shown(people=True, of="contract"),
    "roster explain": Shown(people=True, person="member", of="contract"),
    "roster leakage": Shown(people=True, of="contract"),
    "roster months": Shown(of="contract"),
    "roster near": Shown(people=True, of="contract"),
    "roster overlap": _PEOPLE,
    "roster reconcile": Shown(people=True, of="list_id"),
    "roster remove": Shown(people=True, of="list_id"),
    "roster selections": Shown(people=True, of="contract"),
    "settle": Shown(of="contract"),
    "utilization report": Shown(of="contract"),
}
"""By the words of the command."""


def note(gateway: Gateway, command: typer.Context) -> None:
    """Write the entry of the command that runs; nothing for one that shows nobody's data and no money."""
    words = words_of(command)
    shown = SHOWN.get(words)
    if shown is None:
        return
    from fhir_gateway.server.audit import Access, AuditTrail

    def entry(status: int, reason: str | None = None) -> Access:
        made = Access(request, client_id=who, interaction="command", resource_id=what[:_MOST_WHAT], status=status)
        made.reason = reason
        given = [name for name, value in command.params.items() if value not in (None, False, (), [])]
        made.named(given)
        return made

    request, who = str(uuid.uuid4()), f"prompt/{getpass.getuser()}"[:_MOST_WHO]
    of = command.params.get(shown.of) if shown.of else None
    what = words if of is None else f"{words} {str(of).rpartition('/')[2]}"
    trail = AuditTrail(gateway.engine, gateway.settings.audit_keep_years)
    asked = entry(200)
    person = command.params.get(shown.person) if shown.person else None
    if shown.people and isinstance(person, str):
        asked.disclose([person])
    elif shown.people:
        asked.disclose_everyone()
    trail.write(asked)

    def ended() -> None:
        error = sys.exc_info()[1]
        if isinstance(error, GatewayError):
            trail.write(entry(error.status, error.code))
        elif isinstance(error, Exception) and not isinstance(error, typer.Exit | typer.Abort):
            trail.write(entry(500, "unexpected"))

    command.call_on_close(ended)


def words_of(command: typer.Context) -> str:
    """``roster explain`` of ``fhir-gateway --json roster explain ...``."""
    words: list[str] = []
    place: Any = command
    while place.parent is not None:
        words.insert(0, place.info_name or "")
        place = place.parent
    return " ".join(words)
