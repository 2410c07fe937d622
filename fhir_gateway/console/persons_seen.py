"""Persons as pages name them: by name, birth date and sex, out of what is served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_gateway.console.sessions import Session
from fhir_gateway.factory import Gateway


@dataclass(frozen=True, slots=True)
class Person:
    """A served Patient, as far as a page shows it."""

    id: str
    name: str
    born: str
    sex: str


def rows_seen(gateway: Gateway, session: Session) -> dict[str, Sequence[str]]:
    """The filter of tables of members that leaves a reader their own; nothing for who sees everybody."""
    members = gateway.resources.seen_by(session.audience).members()
    return {} if members is None else {"member": members}


def names_of(gateway: Gateway, members: Iterable[str]) -> dict[str, Person]:
    """Persons by id; the caller sees to it that they may be seen. Who is not served is not there."""
    found = gateway.resources.read_many(("Patient", one) for one in members)
    return {one.id: person(one.json()) for one in found}


def person(patient: Mapping[str, Any]) -> Person:
    """What a page says of a Patient."""
    return Person(patient["id"], _name(patient), patient.get("birthDate", ""), patient.get("gender", ""))


def _name(patient: Mapping[str, Any]) -> str:
    names = patient.get("name") or [{}]
    one = next((name for name in names if name.get("use") == "official"), names[0])
    parts = [*one.get("given", ()), one.get("family", "")]
    return str(one.get("text") or " ".join(part for part in parts if part) or "–")
