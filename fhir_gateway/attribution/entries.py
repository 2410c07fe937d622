"""Member entries of attribution lists, and what becomes of them from one version of a list to the next.

An entry is identified by patient and attributed provider. ``changeType`` compares it with the previous version of the
list: ``new``, ``changed`` (coverage, period or activity differ), ``nochange``, ``dropped`` (kept, ``inactive`` true).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
CHANGE_TYPE = f"{ATR}ext-changeType"
COVERAGE = f"{ATR}ext-coverageReference"
PROVIDER = f"{ATR}ext-attributedProvider"
STATUS = f"{ATR}ext-attributionListStatus"
TERM = f"{ATR}ext-contractValidityPeriod"
#: On an entry that somebody decided about: the Provenance that says who, when and why; defined in ``profiles/``.
DECISION = "https://fhir-gateway.example/fhir/StructureDefinition/attribution-decision"

Entry = Mapping[str, Any]
Key = tuple[str, str]


def entry(patient: str, provider: Mapping[str, Any], coverage: str | None, period: Mapping[str, str]) -> dict[str, Any]:
    """An active entry; ``patient`` and ``coverage`` are references."""
    extension: list[dict[str, Any]] = [{"url": PROVIDER, "valueReference": dict(provider)}]
    if coverage:
        extension.insert(0, {"url": COVERAGE, "valueReference": {"reference": coverage}})
    return {"extension": extension, "entity": {"reference": patient}, "period": dict(period), "inactive": False}


def key(one: Entry) -> Key:
    """Patient and attributed provider: a reference, a number, or a name."""
    return one["entity"]["reference"], provider_name(extension(one, PROVIDER).get("valueReference", {}))


def provider_name(reference: Mapping[str, Any]) -> str:
    """How a provider is told apart from others."""
    return str(
        reference.get("reference") or reference.get("identifier", {}).get("value") or reference.get("display", "")
    )


def extension(one: Entry, url: str) -> dict[str, Any]:
    """The extension of that url, empty when there is none."""
    return next((dict(found) for found in one.get("extension", ()) if found["url"] == url), {})


def active(group: Mapping[str, Any]) -> dict[Key, Entry]:
    """The entries of a list that are active."""
    return {key(one): one for one in group.get("member", ()) if not one.get("inactive")}


def status_of(group: Mapping[str, Any]) -> str:
    """``draft``, ``open`` or ``final``; a list that does not say is ``open``."""
    return str(extension(group, STATUS).get("valueCode", "open"))


def decided(one: Entry, provenance: str) -> dict[str, Any]:
    """The entry with a reference to the Provenance of the decision about it."""
    others = [found for found in one.get("extension", ()) if found["url"] != DECISION]
    return {**one, "extension": [*others, {"url": DECISION, "valueReference": {"reference": provenance}}]}


def next_version(
    entries: Mapping[Key, Entry],
    previous: Iterable[Entry],
    status: str,
    removed: Mapping[Key, str] | None = None,
    erased: Collection[Key] = (),
) -> list[dict[str, Any]]:
    """Members of the next version of a list that now has these active ``entries``.

    Who is no longer among them stays once as ``dropped``, and in a draft for good. ``removed`` names the Provenance of
    entries that somebody removed; what is in ``erased`` leaves at once unless the list is a draft.
    """
    before = {key(one): one for one in previous}
    members = [_changed(one, before.get(name)) for name, one in entries.items()]
    for name, one in before.items():
        if name in entries:
            continue
        gone = bool(one.get("inactive"))
        if status == "draft" or not (gone or name in erased):
            if removed and name in removed:
                one = decided(one, removed[name])
            members.append(_marked(one, "nochange" if gone else "dropped", inactive=True))
    return sorted(members, key=key)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True when two versions of a list differ at most in ``meta`` and in change types."""
    members, others = one.get("member", ()), other.get("member", ())
    return (
        len(members) == len(others)
        and _about(one) == _about(other)
        and all(
            mine == theirs or _unmarked(mine) == _unmarked(theirs) for mine, theirs in zip(members, others, strict=True)
        )
    )


def _about(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a list says beside its entries; of ``meta`` only whose it is."""
    security = group.get("meta", {}).get("security")
    return {name: value for name, value in group.items() if name not in ("meta", "member")} | {"meta": security}


def _unmarked(one: Entry) -> dict[str, Any]:
    return {**one, "extension": _without_change(one)}


def _without_change(one: Entry) -> list[dict[str, Any]]:
    return [found for found in one.get("extension", ()) if found["url"] != CHANGE_TYPE]


def _changed(one: Entry, before: Entry | None) -> dict[str, Any]:
    if before is None:
        return _marked(one, "new", inactive=False)
    unchanged = (
        not before.get("inactive")
        and before.get("period") == one.get("period")
        and extension(before, COVERAGE) == extension(one, COVERAGE)
    )
    return _marked(one, "nochange" if unchanged else "changed", inactive=False)


def _marked(one: Entry, change: str, *, inactive: bool) -> dict[str, Any]:
    marked = [{"url": CHANGE_TYPE, "valueCode": change}, *_without_change(one)]
    return {**one, "extension": marked, "inactive": inactive}
