"""Who may see which served resource: security labels on lists and contracts, and membership for everything of a person.

A list (Group), a contract (Measure) and what is reported under it carry ``meta.security`` labels of
:data:`SYSTEM`: ``contract:ID`` or ``organization:TIN``. An audience is a set of such labels. It sees

* what carries one of its labels;
* persons on the active entries of the lists that carry one, their coverage and their individual reports;
* directory and definitions (Organization, Practitioner, PractitionerRole, Library, Measure without a label): no PHI.

Everything else does not exist for it. :data:`EVERYONE` is the audience without limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fhir_gateway.errors import InputError

#: Code system of the labels; defined in ``profiles/``.
SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/audience"
KINDS = ("contract", "organization")
#: Index parameter of the persons whose entry on a list is active; not a search parameter.
ACTIVE_MEMBER = "Group.-active-member"

_DIRECTORY = frozenset({"Library", "Organization", "Practitioner", "PractitionerRole"})
#: Where a resource names the person it is about.
_PERSON = {"Coverage": "Coverage.beneficiary", "MeasureReport": "MeasureReport.subject"}


def label(kind: str, value: str) -> dict[str, str]:
    """The Coding that puts a resource before an audience."""
    return {"system": SYSTEM, "code": f"{kind}:{value}"}


def labelled(resource: Mapping[str, Any], *labels: Mapping[str, str]) -> dict[str, Any]:
    """The resource with these labels beside its other security labels."""
    meta = resource.get("meta", {})
    others = [one for one in meta.get("security", ()) if one.get("system") != SYSTEM]
    return {**resource, "meta": {**meta, "security": [*others, *map(dict, labels)]}}


@dataclass(frozen=True, slots=True)
class Audience:
    """The labels somebody may see; None is no limit."""

    labels: frozenset[str] | None = None

    @classmethod
    def of(cls, labels: Iterable[str]) -> Audience:
        """An audience of these labels (``contract:ID``, ``organization:TIN``); InputError for anything else."""
        found = frozenset(labels)
        for one in sorted(found):
            kind, _, value = one.partition(":")
            if kind not in KINDS or not value or len(one) > 200 or not one.isprintable():
                raise InputError(f"a grant is {' or '.join(f'{name}:VALUE' for name in KINDS)}")
        return cls(found)

    @property
    def unlimited(self) -> bool:
        """True when nothing is hidden."""
        return self.labels is None

    def condition(self, resource_type: str, resource: sa.Table, index: sa.Table) -> sa.ColumnElement[bool] | None:
        """SQL condition that holds for the rows of a type that the audience sees; None when it sees all of them."""
        if self.labels is None or resource_type in _DIRECTORY:
            return None
        if resource_type == "Patient":
            return self._on_a_list(index, resource.c.id)
        rows = index.alias("labels")
        security = (rows.c.key == resource.c.key, rows.c.parameter == f"{resource_type}._security")
        own = sa.exists().where(*security, rows.c.system == SYSTEM, rows.c.value.in_(sorted(self.labels)))
        if resource_type == "Measure":
            return sa.or_(own, sa.not_(sa.exists().where(*security, rows.c.system == SYSTEM)))
        named = _PERSON.get(resource_type)
        if named is None:
            return own
        about = index.alias("about")
        person = (about.c.key == resource.c.key, about.c.parameter == named, about.c.system == "Patient")
        return sa.or_(own, sa.exists().where(*person, self._on_a_list(index, about.c.value)))

    def members(self, index: sa.Table) -> sa.Select[Any]:
        """Ids of the persons on the lists that a limited audience sees."""
        entry = index.alias("entry")
        return sa.select(entry.c.value).where(*self._listed(index, entry)).distinct()

    def _on_a_list(self, index: sa.Table, person: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        entry = index.alias("entry")
        return sa.exists().where(entry.c.value == person, *self._listed(index, entry))

    def _listed(self, index: sa.Table, entry: sa.FromClause) -> tuple[sa.ColumnElement[bool], ...]:
        """Conditions on active entries of the lists that carry one of the labels."""
        lists = index.alias("lists")
        keys = sa.select(lists.c.key).where(
            lists.c.parameter == "Group._security",
            lists.c.system == SYSTEM,
            lists.c.value.in_(sorted(self.labels or ())),
        )
        return entry.c.parameter == ACTIVE_MEMBER, entry.c.system == "Patient", entry.c.key.in_(keys)


#: Sees everything.
EVERYONE = Audience()
