"""Remarks on the gateway's own reports, by PATCH or PUT (Da Vinci RA 2.1.0 ``ra-ccRemark``, DEQM care gap remarks).

A client may add remarks to the groups of an individual report that it sees, and change nothing else of it: what a
patch makes of the report is compared with the report, and whatever else differs is refused by its path. A remark never
changes a gap's status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.audience import CLIENT, SYSTEM
from fhir_gateway.db.remarks import Remarks
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.dates import instant
from fhir_gateway.db.writing import Writing
from fhir_gateway.errors import DeletedError, Location, NotFoundError
from fhir_gateway.server.problems import InvalidResource, PreconditionFailed, issue
from fhir_gateway.server.reports import ReportCatalog
from fhir_gateway.server.writing import Change, Writes, Written, not_theirs, same_version

Json = Mapping[str, Any]
TYPE = "MeasureReport"
_RA = "http://hl7.org/fhir/us/davinci-ra/StructureDefinition/"
CODING_GAP_REMARK = f"{_RA}ra-ccRemark"
CARE_GAP_REMARKS = (
    "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-careGapRemark",
    "http://hl7.org/fhir/uv/deqm/StructureDefinition/deqm-careGapRemark",
)
#: RA 3.0.0-ballot: diagnoses that qualify, beside the remark (in 2.1.0 they stand in it).
_QUALIFYING = f"{_RA}ra-qualifyingDxCode"
_CATEGORY = "http://hl7.org/fhir/StructureDefinition/measurereport-category"
_AUTHORS = ("author", "authorOrganization", "authorSoftware")
_MOST_PARTS = 50
#: What a remark may hold: values of each part, and whether it may be there more than once.
_PARTS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "author": (("valueIdentifier", "valueString", "valueReference"), False),
    "authorOrganization": (("valueIdentifier", "valueString", "valueReference"), False),
    "authorSoftware": (("valueIdentifier", "valueString"), False),
    "authorDatetime": (("valueDateTime",), False),
    "text": (("valueString",), True),
    "code": (("valueCodeableConcept",), False),
    "relatedData": (("valueIdentifier", "valueReference"), True),
}
_OF_CODING_GAPS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    **_PARTS,
    "reasonCode": (("valueCodeableConcept",), True),
    "remarkType": (("valueCodeableConcept",), False),
    "qualifyingDxCode": (("valueCodeableConcept",), True),
    "qualifyingDxList": (("valueString",), True),
}
_RULE = "a remark is added to a group, and nothing else of the report is changed"


@dataclass(frozen=True, slots=True)
class Remarked:
    """Remarks to be written: path, group and extension of each. ``rendered``: the report, when no store holds it."""

    change: Change
    current: StoredResource
    new: tuple[tuple[str, str, Json], ...]
    rendered: StoredResource | None


class Remarking:
    """Adds remarks to reports that no client wrote."""

    def __init__(self, writes: Writes, catalog: ReportCatalog, remarks: Remarks) -> None:
        self._writes = writes
        self._catalog = catalog
        self._remarks = remarks

    def concerns(self, current: StoredResource) -> bool:
        """True for a report that is the gateway's own."""
        return current.type == TYPE and not _written_by_clients(current.json())

    def put(self, change: Change, token: AccessToken) -> Written | None:
        """A PUT of a whole report that has more remarks (RA); None when it is about no report of the gateway's."""
        made = self.of(change, token)
        return None if made is None else self._keep(made, token)

    def add(self, change: Change, current: StoredResource, token: AccessToken) -> Written:
        """Keep the remarks that ``change.resource`` has more than the current report, and nothing else.

        Raises InvalidResource naming path and rule, AuthorizationError for reports that take no remarks, and
        PreconditionFailed for another version than that of ``If-Match``.
        """
        return self._keep(self.prepare(change, current, token), token)

    def _keep(self, made: Remarked, token: AccessToken) -> Written:
        if made.new:
            with self._writes.rest.store.writing() as changes:
                self.write(changes, made, token)
        return self.written(made, token)

    def of(self, change: Change, token: AccessToken) -> Remarked | None:
        """An update of a whole report of the gateway's own, as remarks; None when it is about none of those."""
        if change.type != TYPE or change.interaction != "update" or change.criteria is not None or change.id is None:
            return None
        try:
            current = self._catalog.seen_by(token.audience.to("r")).read(TYPE, change.id)
        except NotFoundError:
            return None
        return self.prepare(change, current, token) if self.concerns(current) else None

    def prepare(self, change: Change, current: StoredResource, token: AccessToken) -> Remarked:
        """What :meth:`add` would write, checked; nothing is written."""
        before, after = current.json(), dict(change.resource or {})
        if before.get("type") != "individual":
            raise not_theirs()
        new = tuple(_new_remarks(before, after))
        _same(change, current.version)
        if new:
            coding = _is_coding_gap(before)
            for path, _, extension in new:
                _check(extension, coding, path)
            self._writes.judge(change, after)
            self._writes.refuse_unseen(change, after, token)
        return Remarked(change, current, new, self._rendered(current.id) if new else None)

    def write(self, changes: Writing, made: Remarked, token: AccessToken) -> None:
        """Keep prepared remarks, in the middle of these changes."""
        report_id = made.current.id
        kept = self._authored(made.new, token, changes.now)
        if made.rendered is not None:
            _same(made.change, made.rendered.version + self._remarks.acts(changes.connection, report_id))
            run = report_id.rpartition("-")[0]
        else:
            stored = changes.current(TYPE, report_id)
            if stored is None or stored.deleted:
                raise DeletedError("the report was deleted meanwhile")
            _same(made.change, stored.version)
            run = ""
            changes.put(_with(stored.json(), kept))
        self._remarks.add(changes.connection, report_id, run, kept, token.client_id, changes.now)

    def written(self, made: Remarked, token: AccessToken) -> Written:
        """The report as it is after the remarks were written."""
        if not made.new:
            return Written(200, made.current)
        return Written(200, self._catalog.seen_by(token.audience.to("r")).read(TYPE, made.current.id))

    def _rendered(self, resource_id: str) -> StoredResource | None:
        """The report as the columns of its run have it; None for a stored one."""
        try:
            self._writes.rest.store.read(TYPE, resource_id)
        except DeletedError:
            return None
        except NotFoundError:
            return self._catalog.rendered(TYPE, resource_id)
        return None

    def _authored(
        self, new: Sequence[tuple[str, str, Mapping[str, Any]]], token: AccessToken, now: int
    ) -> list[tuple[str, dict[str, Any]]]:
        """Remarks with who made them (ra-2, cgr-1) and when, where the client left that out."""
        found = []
        for _, group, extension in new:
            inside = list(extension.get("extension", ()))
            named = {one["url"] for one in inside}
            if extension["url"] != _QUALIFYING:
                if not named.intersection(_AUTHORS):
                    inside.append({"url": "authorSoftware", "valueString": token.client_id})
                if "authorDatetime" not in named:
                    inside.append({"url": "authorDatetime", "valueDateTime": instant(now)})
                extension = {**extension, "extension": inside}
            found.append((group, dict(extension)))
        return found


def not_a_report() -> InvalidResource:
    """The error for a report with remarks that is none of the gateway's, or not to be seen."""
    return _refused(TYPE, "remarks are made on reports that the gateway gave you, under their ids")


def _same(change: Change, version: int) -> None:
    if change.if_match is not None and not same_version(change, version):
        raise PreconditionFailed("the report has another version", location=Location(path=TYPE, rule="If-Match"))


def _written_by_clients(report: Json) -> bool:
    security = report.get("meta", {}).get("security", ())
    return any(one.get("system") == SYSTEM and str(one.get("code")).startswith(f"{CLIENT}:") for one in security)


def _is_coding_gap(report: Json) -> bool:
    codings = (
        coding
        for one in report.get("extension", ())
        if one.get("url") == _CATEGORY
        for coding in one.get("valueCodeableConcept", {}).get("coding", ())
    )
    return any(coding.get("code") == "ra" for coding in codings)


def _with(report: Json, kept: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    groups = [dict(one) for one in report["group"]]
    for name, extension in kept:
        group = next(one for one in groups if one.get("id") == name)
        group["extension"] = [*group.get("extension", ()), dict(extension)]
    return {**report, "group": groups}


def _new_remarks(before: Json, after: Json) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Path, group and extension of each that was added to a group; raises InvalidResource for any other difference."""
    groups, given = before.get("group", []), after.get("group", [])
    _refuse_difference(_unstamped(before) | {"group": None}, _unstamped(after) | {"group": None}, TYPE)
    if not isinstance(given, list) or len(given) != len(groups):
        raise _refused(f"{TYPE}.group", _RULE)
    for number, (group, other) in enumerate(zip(groups, given, strict=True)):
        path = f"{TYPE}.group[{number}]"
        if not isinstance(other, dict):
            raise _refused(path, _RULE)
        _refuse_difference({**group, "extension": None}, {**other, "extension": None}, path)
        left = list(group.get("extension", ()))
        extensions = other.get("extension", [])
        if not isinstance(extensions, list):
            raise _refused(f"{path}.extension", _RULE)
        for place, extension in enumerate(extensions):
            where = f"{path}.extension[{place}]"
            if left and extension == left[0]:
                left.pop(0)
            elif not isinstance(extension, dict) or not isinstance(group.get("id"), str):
                raise _refused(where, _RULE)
            else:
                yield where, group["id"], extension
        if left:
            raise _refused(f"{path}.extension", _RULE)


def _unstamped(report: Json) -> dict[str, Any]:
    meta = report.get("meta")
    if isinstance(meta, dict):
        meta = {name: value for name, value in meta.items() if name not in ("versionId", "lastUpdated")}
    return {**report, "meta": meta}


def _refuse_difference(before: Json, after: Json, path: str) -> None:
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) != after.get(name):
            raise _refused(f"{path}.{name}", _RULE)


def _check(extension: Json, coding: bool, path: str) -> None:
    """Raise InvalidResource unless an extension is a remark of the kind that the report takes."""
    url = extension.get("url")
    if coding and url == _QUALIFYING:
        return  # what is in it is a CodeableConcept, by the rules of R4
    wanted = (CODING_GAP_REMARK,) if coding else CARE_GAP_REMARKS
    if url not in wanted:
        raise _refused(path, f"the extension that may be added here is {' or '.join(wanted)}")
    inside = extension.get("extension")
    if not isinstance(inside, list) or not inside or set(extension) - {"url", "extension", "id"}:
        raise _refused(path, "a remark has extensions, and no value")
    if len(inside) > _MOST_PARTS:
        raise _refused(path, f"a remark has at most {_MOST_PARTS} parts")
    parts, seen = _OF_CODING_GAPS if coding else _PARTS, set()
    for number, one in enumerate(inside):
        where = f"{path}.extension[{number}]"
        name = str(one.get("url")) if isinstance(one, dict) else ""
        if name not in parts:
            raise _refused(where, f"the parts of a remark are {', '.join(parts)}")
        values, repeats = parts[name]
        if [key for key in one if key.startswith("value")] not in [[value] for value in values]:
            raise _refused(where, f"{name} has {' or '.join(values)}")
        if name in seen and not repeats:
            raise _refused(where, f"{name} is there once")
        seen.add(name)


def _refused(path: str, rule: str) -> InvalidResource:
    return InvalidResource(rule, [issue("error", "business-rule", rule, path)], 422)
