"""Who may see which served resource: security labels on lists and contracts, and membership for everything of a person.

A list (Group), a contract (Measure) and what is reported under it carry ``meta.security`` labels of
:data:`SYSTEM`: ``contract:ID``, ``organization:TIN`` or, of one list alone, ``group:ID``. An audience is a set of such
labels. It sees

* what carries one of its labels;
* persons on the active entries of the lists that carry one, their coverage and their individual reports;
* directory and definitions (Organization, Practitioner, PractitionerRole, Library, Measure without a label): no PHI;
* what it wrote itself (label ``client:ID``). A list that a client wrote opens nothing: only its members would say so.

Everything else does not exist for it. :data:`EVERYONE` is the audience without limits.

Beside whose data somebody sees stands which resources: :class:`Grant` is what a scope says, with the search restriction
that a resource must meet. The store applies both to every statement that reads, so that no door can forget either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.values import reference_parts
from fhir_gateway.errors import InputError
from fhir_gateway.r4.spec import patient_element

#: What a resource must meet: of each member, one alternative with all its criteria. Empty is no restriction.
Restriction = tuple[tuple[tuple[Criterion, ...], ...], ...]
#: What FHIR has no type for and scopes name like one: the clients that are registered here.
CLIENTS = "Client"
#: Types of the operator's own business: a wildcard never means them, a scope must name them.
BY_NAME = frozenset({"AuditEvent", "Endpoint", CLIENTS})
#: Code system of the labels; defined in ``profiles/``.
SYSTEM = "https://fhir-gateway.example/fhir/CodeSystem/audience"
KINDS = ("contract", "organization", "group")
#: Label of what a client wrote; never granted.
CLIENT = "client"
#: Index parameter of the persons whose entry on a list is active; not a search parameter.
ACTIVE_MEMBER = "Group.-active-member"

_DIRECTORY = frozenset(
    "CapabilityStatement CodeSystem Library Location OperationDefinition Organization Practitioner PractitionerRole "
    "SearchParameter StructureDefinition ValueSet".split()
)
#: Where a resource names the person it is about.
ABOUT = {"MeasureReport": "MeasureReport.subject"} | {
    name: f"{name}.{patient_element(name)}"
    for name in sorted(CLINICAL | {"CommunicationRequest", "Coverage", "RelatedPerson", "RiskAssessment"})
}


def label(kind: str, value: str) -> dict[str, str]:
    """The Coding that puts a resource before an audience."""
    return {"system": SYSTEM, "code": f"{kind}:{value}"}


def grants_of(
    contract: Iterable[str] | None = None, organization: Iterable[str] | None = None, group: Iterable[str] | None = None
) -> list[str] | None:
    """Labels by what they name, as people say them; None, which is everybody's data, when nothing is named."""
    named = {"contract": contract, "organization": organization, "group": group}
    return [f"{kind}:{one}" for kind, values in named.items() for one in values or ()] or None


def labelled(resource: Mapping[str, Any], *labels: Mapping[str, str]) -> dict[str, Any]:
    """The resource with these labels beside its other security labels."""
    meta = resource.get("meta", {})
    others = [one for one in meta.get("security", ()) if one.get("system") != SYSTEM]
    return {**resource, "meta": {**meta, "security": [*others, *map(dict, labels)]}}


@dataclass(frozen=True, slots=True)
class Grant:
    """One granted scope: a type (or ``*``), interactions of ``cruds``, and the criteria that its resources meet."""

    resource_type: str
    interactions: str
    criteria: tuple[Criterion, ...] = ()

    def reaches(self, resource_type: str, interaction: str) -> bool:
        """True when it is about ``interaction`` on resources of the type, or on some of them."""
        named = self.resource_type == resource_type or (self.resource_type == "*" and resource_type not in BY_NAME)
        return named and interaction in self.interactions


@dataclass(frozen=True, slots=True)
class Audience:
    """Whose data somebody may see (``labels``; None is no limit), and which of it (``grants``; none is all).

    ``reading`` are the interactions that a view is for: of ``r`` and ``s`` together, the stricter. ``viewer`` is who
    looks, where that matters (somebody's own accesses in the audit trail, and what they wrote).
    """

    labels: frozenset[str] | None = None
    grants: tuple[Grant, ...] = ()
    reading: str = "rs"
    viewer: str | None = None

    @classmethod
    def of(cls, labels: Iterable[str]) -> Audience:
        """An audience of labels (``contract:ID``, ``organization:TIN``, ``group:ID``); InputError for anything else."""
        found = frozenset(labels)
        for one in sorted(found):
            kind, _, value = one.partition(":")
            if kind not in KINDS or not value or len(one) > 200 or not one.isprintable():
                raise InputError(f"a grant is {' or '.join(f'{name}:VALUE' for name in KINDS)}")
        return cls(found)

    @property
    def unlimited(self) -> bool:
        """True when nothing is hidden."""
        return self.labels is None and not self.grants

    @property
    def everybody(self) -> bool:
        """True when nobody's data is hidden as such, whatever the grants say."""
        return self.labels is None

    def to(self, reading: str) -> Audience:
        """The same for one interaction, ``r`` or ``s``, whose grants may differ."""
        return replace(self, reading=reading) if self.grants else self

    def restriction(self, resource_type: str) -> Restriction:
        """What the grants say of resources of a type.

        Grants on one type are alternatives; one without criteria lifts the restriction. An interaction that no grant
        is about says nothing: whether it is allowed at all is the door's to ask.
        """
        found: dict[tuple[tuple[Criterion, ...], ...], None] = {}
        for letter in self.reading if self.grants else "":
            here = tuple(grant.criteria for grant in self.grants if grant.reaches(resource_type, letter))
            if here and all(here):
                found[here] = None
        return tuple(found)

    @property
    def _own_labels(self) -> list[str]:
        own = [] if self.viewer is None else [f"{CLIENT}:{self.viewer}"]
        return sorted(self.labels or ()) + own

    def condition(self, resource_type: str, resource: sa.FromClause, index: sa.Table) -> sa.ColumnElement[bool] | None:
        """SQL condition that holds for the rows of a type that the audience sees; None when it sees all of them."""
        if self.labels is None or resource_type in _DIRECTORY:
            return None
        if resource_type == "Patient":
            return self._on_a_list(index, resource.c.id)
        rows = index.alias("labels")
        security = (rows.c.key == resource.c.key, rows.c.parameter == f"{resource_type}._security")
        own = sa.exists().where(*security, rows.c.system == SYSTEM, rows.c.value.in_(self._own_labels))
        if resource_type == "Measure":
            return sa.or_(own, sa.not_(sa.exists().where(*security, rows.c.system == SYSTEM)))
        named = ABOUT.get(resource_type)
        if named is None:
            return own
        about = index.alias("about")
        person = (about.c.key == resource.c.key, about.c.parameter == named, about.c.system == "Patient")
        return sa.or_(own, sa.exists().where(*person, self._on_a_list(index, about.c.value)))

    def members(self, index: sa.Table, among: Collection[str] | None = None) -> sa.Select[Any]:
        """Ids of the persons on the lists that a limited audience sees; of those ``among`` some, when given."""
        entry = index.alias("entry")
        chosen = sa.select(entry.c.value).where(*self._listed(index, entry)).distinct()
        return chosen if among is None else chosen.where(entry.c.value.in_(among))

    def person(self, resource: Mapping[str, Any], base_url: str | None) -> str | None:
        """Id of the person whose place on a list decides who sees a resource; None for a resource of nobody."""
        if resource["resourceType"] == "Patient":
            return str(resource["id"])
        named = ABOUT.get(resource["resourceType"])
        if named is None:
            return None
        target, value = reference_parts(str(resource.get(named.partition(".")[2], {}).get("reference", "")), base_url)
        return value if target == "Patient" else None

    def shows(self, resource: Mapping[str, Any], listed: bool) -> bool:
        """What :meth:`condition` says, of a resource in memory; ``listed``: its person is on a list that this sees."""
        kind = resource["resourceType"]
        if self.labels is None or kind in _DIRECTORY:
            return True
        security = [one for one in resource.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]
        own = kind != "Patient" and any(one.get("code") in self._own_labels for one in security)
        return own or (kind == "Measure" and not security) or (listed and (kind == "Patient" or kind in ABOUT))

    def lists(self, group: Mapping[str, Any]) -> bool:
        """True of a list that shows this audience its members: one with a label of the registration."""
        security = [one for one in group.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]
        return self.labels is None or any(one.get("code") in self.labels for one in security)

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


def deciding(resource_type: str) -> list[str]:
    """Index parameters that decide who sees a resource; kept of a deleted one, whose history is still somebody's."""
    return [f"{resource_type}._security", *([ABOUT[resource_type]] if resource_type in ABOUT else [])]


#: Sees everything.
EVERYONE = Audience()
