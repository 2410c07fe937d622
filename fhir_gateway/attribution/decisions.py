"""What people decided about a list, over what attribution found: additions, removals, confirmations.

A decision is kept for itself, with who made it, when and why, and is applied whenever the list is computed anew: so it
outlives the claims it was made against, and can be withdrawn. Of several decisions about one entry the last one counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution import entries
from fhir_gateway.attribution.entries import Entry, Key
from fhir_gateway.attribution.models import ATTRIBUTION_SCHEMA, Attribution
from fhir_gateway.attribution.roster import Roster

Act = Literal["member-add", "member-remove", "confirm"]
#: ``method`` of a member whom somebody put on the list, ``reason`` of one whom somebody took off.
ADDED, REMOVED = "decision", "removed-by-decision"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. ``contract`` is the id of the contract's list, ``list_id`` the list it was made on.

    Of an addition ``provider`` is the Reference for the entry, ``tin`` the practice it belongs to. Of a removal
    ``providers`` are the names of the entries that were removed (:func:`entries.provider_name`); none means all.
    """

    id: str
    contract: str
    list_id: str
    act: Act
    by: str
    at: datetime  # aware
    why: str | None = None
    patient: str | None = None  # person
    provider: Mapping[str, Any] | None = None
    providers: tuple[str, ...] = ()
    tin: str | None = None
    npi: str | None = None
    coverage: str | None = None
    period: Mapping[str, str] | None = None
    withdrawn_by: str | None = None
    withdrawn_at: datetime | None = None
    withdrawn_why: str | None = None

    @property
    def provenance(self) -> str:
        """Reference of the Provenance that is served for it."""
        return f"Provenance/{self.id}"


@dataclass(frozen=True, slots=True)
class Listed:
    """An active entry of a contract's list, and the practice it belongs to."""

    entry: Entry
    tin: str | None = None
    npi: str | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """The entries of a contract after decisions, and the Provenance of those that a decision removed."""

    listed: Mapping[Key, Listed]
    removed: Mapping[Key, str] = field(default_factory=dict)

    def of(self, tin: str | None) -> dict[Key, Entry]:
        """Entries of one practice; of all without a TIN."""
        return {name: one.entry for name, one in self.listed.items() if tin is None or one.tin == tin}


def digest(decisions: Sequence[Decision]) -> str:
    """Of the decisions that stand: empty when there are none."""
    if not decisions:
        return ""
    return hashlib.sha256("\n".join(one.id for one in decisions).encode()).hexdigest()[:16]


def listed(attribution: Attribution, entity: str, roster: Roster) -> dict[Key, Listed]:
    """The entries that attribution alone gives."""
    table = attribution.table.filter(pc.equal(attribution.table["entity"], entity))
    period = {"start": attribution.period[0].isoformat(), "end": attribution.period[1].isoformat()}
    found = {}
    for member, tin, npi, coverage in zip(
        *(table[name].to_pylist() for name in ("member", "tin", "npi", "coverage")), strict=True
    ):
        provider = roster.provider(entity, tin, npi)
        one = entries.entry(f"Patient/{member}", provider, roster.coverage(coverage), period)
        found[entries.key(one)] = Listed(one, tin, npi)
    return found


def confirmed(
    decisions: Sequence[Decision],
    found: Mapping[Key, Listed],
    lists: Mapping[str, tuple[str | None, Mapping[str, Any]]],
) -> tuple[dict[Key, Listed], set[str]]:
    """The entries, and the ids of the lists that were confirmed: those have the entries they were confirmed with.

    ``lists`` gives by id the practice of a list (None: the contract's own) and the list as it is served.
    """
    ids = {one.list_id for one in decisions if one.act == "confirm"}
    practices = {key: tin for tin, group in lists.values() if tin for key in entries.active(group)}
    for list_id in sorted(ids & set(lists)):
        tin, group = lists[list_id]
        kept = {key: Listed(one, practices.get(key)) for key, one in entries.active(group).items()}
        if tin is None:
            return kept, set(lists)
        found = {key: one for key, one in found.items() if one.tin != tin} | kept
    return dict(found), ids


def apply(
    found: Mapping[Key, Listed],
    decisions: Sequence[Decision],
    period: Mapping[str, str],
    *,
    surviving: Callable[[str], str] = lambda person: person,
    final: Collection[str | None] = (),
) -> Decided:
    """Apply additions and removals in the order they were made.

    ``surviving`` leads to who a person is by now; practices in ``final`` were confirmed and stay as they are.
    """
    result = dict(found)
    removed: dict[Key, str] = {}
    for one in decisions:
        if one.act == "confirm" or one.patient is None or (final and one.tin in final):
            continue
        patient = f"Patient/{surviving(one.patient)}"
        if one.act == "member-add":
            made = entries.entry(patient, one.provider or {}, one.coverage, one.period or period)
            name = entries.key(made)
            result[name] = Listed(entries.decided(made, one.provenance), one.tin, one.npi)
            removed.pop(name, None)
            continue
        for name in [name for name in result if name[0] == patient and (not one.providers or name[1] in one.providers)]:
            del result[name]
            removed[name] = one.provenance
    return Decided(result, removed)


def aligned(attribution: Attribution, entity: str, decided: Decided) -> Attribution:
    """The attribution with the members of the decided list: what is settled and reported is about whom it names."""
    table = attribution.table
    on_list = {name[0].removeprefix("Patient/"): one for name, one in decided.listed.items()}
    members = pa.array(sorted(on_list), pa.string())
    is_ours = pc.fill_null(pc.equal(table["entity"], entity), False)
    is_listed = pc.is_in(table["member"], value_set=members)
    differs = pc.xor(is_ours, is_listed)
    known = set(pc.unique(table["member"]).to_pylist()) if len(members) else set()
    rows = [_row(row, entity, on_list.get(row["member"])) for row in table.filter(differs).to_pylist()]
    rows += [_row({"member": one}, entity, on_list[one]) for one in on_list if one not in known]
    if not rows:
        return attribution
    changed = pa.Table.from_pylist(rows, schema=ATTRIBUTION_SCHEMA)
    kept = table.filter(pc.invert(differs))
    return replace(attribution, table=pa.concat_tables([kept, changed]).sort_by("member").combine_chunks())


def _row(row: Mapping[str, Any], entity: str, on_list: Listed | None) -> dict[str, Any]:
    """A member's row after the decision; evidence stays beside it."""
    if on_list is None:
        return {**row, "entity": None, "participant": False, "reason": REMOVED}
    made = {"entity": entity, "participant": True, "method": ADDED, "step": "member-add", "reason": None}
    return {**row, **made, "tin": on_list.tin, "npi": on_list.npi}
