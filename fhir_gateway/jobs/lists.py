"""Attribution lists reconciled with those who get them (ATR 2.1.0): add, remove, confirm, ask how a member stands.

Every change is a decision of its own (:mod:`fhir_gateway.attribution.decisions`) with a Provenance, written in one
transaction with all lists of the contract that it concerns: the contract's own and the practice's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fhir_gateway.attribution import entries
from fhir_gateway.attribution.decisions import Act, Decision
from fhir_gateway.attribution.entries import Entry, Key
from fhir_gateway.attribution.provenance import provenance, withdrawal
from fhir_gateway.contracts.documents import SUFFIXES, read_document
from fhir_gateway.db.audience import SYSTEM, Audience, labelled
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.errors import ConflictError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.list_parties import (
    Named,
    Provider,
    Refused,
    coverage_of,
    matches,
    may_add,
    numbers_of_list,
)
from fhir_gateway.jobs.publish import collector_off


class FinalList(ConflictError):
    """The list is final: nothing is added to it or removed from it."""

    code, issue_type = "final-list", "business-rule"


class StaleList(ConflictError):
    """The list is not the version that the request was made for (``If-Match``)."""

    code, status = "stale-list", 412


@dataclass(frozen=True, slots=True)
class Caller:
    """Who decides, what they may see, and what they say of it.

    ``version`` is the list's that they looked at, ``reads`` the types that they may read along.
    """

    name: str
    audience: Audience
    why: str | None = None
    said: Mapping[str, Any] | None = None
    version: int | None = None
    reads: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class Changed:
    """The list as it is now, whether anything changed, and whom it was about."""

    stored: StoredResource
    changed: bool
    person: str | None = None


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of a contract by id: ``practices`` with their TIN, beside the contract's own."""

    contract: str
    asked: str
    groups: Mapping[str, Mapping[str, Any]]
    practices: Mapping[str, str]

    @property
    def whole(self) -> Mapping[str, Any]:
        """The contract's own list."""
        return self.groups[self.contract]

    @property
    def tin(self) -> str | None:
        """The practice of the list that was asked; None for the contract's own."""
        return self.practices.get(self.asked)

    def touched(self, tin: str | None) -> list[str]:
        """Ids of the lists that have entries of a practice."""
        return [self.contract, *(name for name, one in self.practices.items() if one == tin)]


def add(gateway: Gateway, list_id: str, named: Named, caller: Caller) -> Changed:
    """Put a member on a list under a provider; an entry that is there already gets the period.

    Raises NotFoundError for a list that the caller does not see, Refused with the reason, FinalList, StaleList.
    """
    lists = _lists(gateway, list_id, caller)
    person, given = named.person(gateway), named.party(gateway, lists.contract)
    own = {lists.tin} if lists.tin else numbers_of_list(lists.whole)[0]
    if person is None or not may_add(gateway, caller.audience, person, lists.contract, own):
        raise Refused("no such member is known here to the providers of this list")
    if given is None:
        raise Refused("no such provider is known here")
    tin = _practice(lists, given)
    coverage = coverage_of(gateway.resources, person)
    period = named.period or entries.extension(lists.whole, entries.TERM).get("valuePeriod")
    if not period:
        raise Refused("attributionPeriod: needed, the list has no contract period")
    patient = f"Patient/{person}"
    made = entries.entry(patient, given.reference, coverage, period)

    def change(groups: dict[str, dict[str, Any]]) -> Decision | None:
        present = entries.active(groups[lists.contract])
        same = next((present[key] for key in _keys(present, patient, given.names)), None)
        entry = made
        if same is not None:
            if named.period is None or dict(named.period) == same.get("period"):
                return None
            entry = {**same, "period": dict(named.period)}
        npi = next(iter(sorted(given.npis)), None)
        decision = _decision(
            lists,
            "member-add",
            caller,
            patient=person,
            provider=entries.extension(entry, entries.PROVIDER)["valueReference"],
            tin=tin,
            npi=npi,
            coverage=entries.extension(entry, entries.COVERAGE).get("valueReference", {}).get("reference"),
            period=entry["period"],
        )
        entry = entries.decided(entry, decision.provenance)
        for name, group in groups.items():
            groups[name] = _next(group, entries.active(group) | {entries.key(entry): entry})
        return decision

    return _change(gateway, lists, lists.touched(tin), caller, change)


def remove(gateway: Gateway, list_id: str, named: Named, caller: Caller) -> Changed:
    """Take a member off a list: every entry of his, or those of a provider, or those by a coverage.

    Raises as :func:`add` does; Refused when there is no such entry.
    """
    lists = _lists(gateway, list_id, caller)
    person, given = named.person(gateway), named.party(gateway, lists.contract)
    asked = entries.active(lists.groups[list_id])
    found = matches(asked, person, given, named) if given or not named.names_provider else []
    if person is None or not found:
        raise Refused("there is no such active entry on this list")
    practices = {
        name: tin for name, tin in lists.practices.items() if entries.active(lists.groups[name]).keys() & set(found)
    }
    everything = lists.tin is None and not named.names_provider and named.coverage is None

    def change(groups: dict[str, dict[str, Any]]) -> Decision | None:
        keys = matches(entries.active(groups[list_id]), person, given, named)
        if not keys:
            raise Refused("there is no such active entry on this list")
        tins = set(practices.values())
        decision = _decision(
            lists,
            "member-remove",
            caller,
            patient=person,
            providers=() if everything else tuple(sorted(key[1] for key in keys)),
            tin=lists.tin or (tins.pop() if len(tins) == 1 else None),
            coverage=named.coverage,
        )
        for name, group in groups.items():
            left = {key: one for key, one in entries.active(group).items() if key not in keys}
            removed = dict.fromkeys(keys, decision.provenance)
            groups[name] = _next(group, left, removed)
        return decision

    return _change(gateway, lists, [lists.contract, *practices], caller, change)


def confirm(gateway: Gateway, list_id: str, caller: Caller) -> Changed:
    """Make a list final, without its inactive entries; the contract's own list takes its practices' along."""
    lists = _lists(gateway, list_id, caller)
    touched = [list_id] if lists.tin else [lists.contract, *lists.practices]

    def change(groups: dict[str, dict[str, Any]]) -> Decision | None:
        if entries.status_of(groups[list_id]) == "final":
            return None
        for name, group in groups.items():
            others = [one for one in group.get("extension", ()) if one["url"] != entries.STATUS]
            final = {**group, "extension": [*others, {"url": entries.STATUS, "valueCode": "final"}]}
            active = entries.active(group)
            groups[name] = _next({**final, "member": list(active.values())}, active)
        return _decision(lists, "confirm", caller, tin=lists.tin)

    return _change(gateway, lists, touched, caller, change, closing=True)


def withdraw(gateway: Gateway, decision_id: str, by: str, why: str | None = None) -> Decision:
    """Undo a decision, and attribute its contract anew without it.

    Raises NotFoundError; ConflictError when it was withdrawn before, or is about a list that no contract makes.
    """
    decision = gateway.decisions.get(decision_id)
    contract = _contract_file(gateway, decision.contract)
    if contract is None:
        raise ConflictError("no contract in the contracts folder makes this list: undo the change by its opposite")
    taken = gateway.decisions.withdraw(decision_id, by, _now(), why)
    stored = gateway.resources.read("Provenance", decision_id).json()
    gateway.resources.put(withdrawal(taken, stored))
    attribute(gateway, str(contract))
    return taken


def status(gateway: Gateway, list_id: str, named: Named, caller: Caller) -> dict[str, Any]:
    """A collection of what a list says of one member: the list with his entries only, and what they refer to."""
    seen = gateway.resources.seen_by(caller.audience)
    group = seen.read("Group", list_id).json()
    person = named.person(gateway)
    mine = [one for one in group.get("member", ()) if one["entity"].get("reference") == f"Patient/{person}"]
    if person is None or not mine:
        raise Refused("the member is not on this list")
    wanted = {("Patient", person)}
    for one in mine:
        for url in (entries.COVERAGE, entries.PROVIDER, entries.DECISION):
            kind, _, resource_id = (
                entries.extension(one, url).get("valueReference", {}).get("reference", "").partition("/")
            )
            if resource_id and caller.reads(kind):
                wanted.add((kind, resource_id))
    meta = group["meta"] | {"tag": [*group["meta"].get("tag", ()), _SUBSETTED]}
    parts = sorted(seen.read_many(sorted(wanted)), key=lambda one: (one.type != "Patient", one.type, one.id))
    resources = [{**group, "meta": meta, "member": mine}, *(one.json() for one in parts)]
    base = f"{gateway.settings.public_url.rstrip('/')}/fhir"
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": _now().isoformat(timespec="seconds"),
        "entry": [{"fullUrl": f"{base}/{one['resourceType']}/{one['id']}", "resource": one} for one in resources],
    }


_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def _now() -> datetime:
    return datetime.now(UTC)


def _lists(gateway: Gateway, list_id: str, caller: Caller) -> _Lists:
    group = gateway.resources.seen_by(caller.audience).read("Group", list_id).json()
    contract = _contract(group)
    ids = gateway.resources.ids("Group", [("_security", f"{SYSTEM}|contract:{contract}")]) if contract else []
    with collector_off():
        found = {name: gateway.resources.read("Group", name).json() for name in ids}
    if contract is None or contract not in found:  # a list that somebody made for himself
        return _Lists(list_id, list_id, {list_id: group}, {})
    practices = {name: next(iter(numbers_of_list(one)[0]), "") for name, one in found.items() if name != contract}
    return _Lists(contract, list_id, found, practices)


def _contract(group: Mapping[str, Any]) -> str | None:
    """The contract that a list carries as its label."""
    codes = [one["code"] for one in _labels(group)]
    return next((code.removeprefix("contract:") for code in codes if code.startswith("contract:")), None)


def contract_of(gateway: Gateway, group: Mapping[str, Any]) -> Path | None:
    """The terms of the contract that makes a list; None when no contract in the contracts folder does."""
    contract = _contract(group)
    return None if contract is None else _contract_file(gateway, contract)


def _contract_file(gateway: Gateway, contract_id: str) -> Path | None:
    """The terms of a contract in the contracts folder."""
    for path in sorted(gateway.contracts_folder.glob("*")):
        if path.suffix in SUFFIXES and read_document(path).get("id") == contract_id:
            return path
    return None


def _labels(group: Mapping[str, Any]) -> list[dict[str, str]]:
    return [one for one in group.get("meta", {}).get("security", ()) if one.get("system") == SYSTEM]


def _practice(lists: _Lists, given: Provider) -> str | None:
    """The practice of the contract that a provider belongs to; None where the list is not about practices."""
    tins, npis = numbers_of_list(lists.whole)
    ours = given.tins & (frozenset({lists.tin}) if lists.tin else tins)
    if len(ours) > 1:
        raise Refused("the provider works for several practices of this list: name the practice's Organization")
    if ours:
        return next(iter(ours))
    if given.npis & npis and lists.tin is None:
        return None
    if tins or npis:
        raise Refused("the provider does not belong to this list")
    return None


def _keys(present: Mapping[Key, Entry], patient: str, names: frozenset[str]) -> list[Key]:
    return [key for key in present if key[0] == patient and key[1] in names]


def _next(
    group: Mapping[str, Any], active: Mapping[Key, Entry], removed: Mapping[Key, str] | None = None
) -> dict[str, Any]:
    """The next version of a list with these active entries."""
    members = entries.next_version(
        active, group.get("member", ()), entries.status_of(group), removed=removed, erased=removed or ()
    )
    rest = {name: value for name, value in group.items() if name != "member"}
    return {**rest, "quantity": len(active)} | ({"member": members} if members else {})


def _decision(lists: _Lists, act: Act, caller: Caller, **about: Any) -> Decision:
    return Decision(
        id=f"decision-{secrets.token_hex(8)}",
        contract=lists.contract,
        list_id=lists.asked,
        act=act,
        by=caller.name,
        at=_now(),
        why=caller.why,
        **about,
    )


def _change(
    gateway: Gateway,
    lists: _Lists,
    touched: list[str],
    caller: Caller,
    change: Callable[[dict[str, dict[str, Any]]], Decision | None],
    *,
    closing: bool = False,
) -> Changed:
    """Let ``change`` make the next version of the lists, and write them with its decision, or nothing."""
    with collector_off(), gateway.resources.writing() as writing:
        stored = {name: writing.current("Group", name) for name in touched}
        asked = stored.get(lists.asked) or writing.current("Group", lists.asked)
        if asked is None or asked.deleted or any(one is None or one.deleted for one in stored.values()):
            raise NotFoundError("there is no such Group")
        if caller.version is not None and caller.version != asked.version:
            raise StaleList("the list has changed: read it again")
        groups = {name: one.json() for name, one in stored.items() if one is not None}
        if not closing and any(entries.status_of(group) == "final" for group in groups.values()):
            raise FinalList("the list is final")
        decision = change(groups)
        if decision is None:
            return Changed(asked, changed=False)
        labels = {one["code"]: one for group in groups.values() for one in _labels(group)}
        proof = labelled(provenance(decision, touched, caller.said), *labels.values())
        writing.put_many([*groups.values(), proof])
        gateway.decisions.add(writing.connection, decision)
        now = writing.current("Group", lists.asked)
    return Changed(now or asked, changed=True, person=decision.patient)
