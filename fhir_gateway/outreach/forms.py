"""Lists of outreach as CSV for people and as FHIR for machines."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from fhir_gateway.outreach.models import SYSTEM

_COLUMNS = ("member", "priority", "rank", "family", "given", "birth_date", "phone", "sms", "email", "language")
_STATUS = {"open": "requested", "contacted": "in-progress", "declined": "rejected", "done": "completed",
           "expired": "failed", "withdrawn": "cancelled"}  # fmt: skip


def as_csv(people: Iterable[Mapping[str, Any]]) -> str:
    """One line per person; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_COLUMNS, "reasons", "until", "items"])
    for one in people:
        reasons: Sequence[Mapping[str, Any]] = one["reasons"]
        until = min((reason["until"] for reason in reasons if reason["until"] is not None), default=None)
        cells = [one[name] for name in _COLUMNS]
        cells += [
            "; ".join(reason["text"] for reason in reasons),
            until,
            " ".join(reason["item"] for reason in reasons),
        ]
        writer.writerow(["" if cell is None else safe_cell(str(cell)) for cell in cells])
    return out.getvalue()


def safe_cell(text: str) -> str:
    """Text that no spreadsheet carries out (OWASP: CSV injection); telephone numbers keep their plus."""
    if text[:1] in ("=", "@", "\t", "\r", "\n") or (text[:1] in "+-" and not text[1:].replace(" ", "").isdigit()):
        return f"'{text}"
    return text


def request_id(member: str) -> str:
    """Id of the CommunicationRequest of a person."""
    return f"outreach-{hashlib.sha256(member.encode()).hexdigest()[:32]}"


def communication_request(one: Mapping[str, Any], authored: datetime, status: str = "active") -> dict[str, Any]:
    """The CommunicationRequest of a person of a list."""
    reasons: Sequence[Mapping[str, Any]] = one["reasons"]
    codes = list(dict.fromkeys(reason["reason"] for reason in reasons))
    subject = {"reference": f"Patient/{one['member']}"}
    return {
        "resourceType": "CommunicationRequest",
        "id": request_id(one["member"]),
        "status": status,
        "category": [_concept("outreach")],
        "priority": one["priority"],
        "subject": subject,
        "recipient": [subject],
        "reasonCode": [_concept(code) for code in codes],
        "payload": [{"contentString": reason["text"]} for reason in reasons],
        "authoredOn": authored.isoformat(timespec="seconds"),
    }


def tasks(one: Mapping[str, Any], authored: datetime) -> Iterator[dict[str, Any]]:
    """A Task for each reason of a person, in focus of the CommunicationRequest."""
    for reason in one["reasons"]:
        until = reason["until"]
        restriction = {"restriction": {"period": {"end": until.isoformat()}}} if until is not None else {}
        yield {
            "resourceType": "Task",
            "id": reason["item"],
            "status": _STATUS[reason["state"]],
            "intent": "order",
            "priority": one["priority"],
            "code": _concept(reason["reason"]),
            "description": reason["text"],
            "focus": {"reference": f"CommunicationRequest/{request_id(one['member'])}"},
            "for": {"reference": f"Patient/{one['member']}"},
            "authoredOn": authored.isoformat(timespec="seconds"),
            **restriction,
        }


def _concept(code: str) -> dict[str, Any]:
    return {"coding": [{"system": SYSTEM, "code": code}]}
