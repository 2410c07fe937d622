"""Writes of persons, providers, clinical and claims resources: they go the way of what a sender pushes.

The lake is where such resources rest, and each client is a source of its own in it (``push-...``, as of ``$import``).
So a client changes and deletes what it wrote itself, and never what another source said; a Patient that it writes
becomes part of the person, whose id is the answer. All changes of a transaction are one commit. A write takes as long
as a commit does: for many resources there are transactions and ``$import``.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.audience import labelled
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.db.search.values import reference_parts
from fhir_gateway.errors import GatewayError, InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clinical import ClinicalRows
from fhir_gateway.jobs.publish import PUBLISHED, published_id
from fhir_gateway.jobs.push import push
from fhir_gateway.r4 import exact
from fhir_gateway.server.imports import draft, source_name
from fhir_gateway.server.problems import InvalidResource, MultipleMatches, PreconditionFailed, issue
from fhir_gateway.server.search import Query
from fhir_gateway.server.writing import Change, Writes, Written, no_such_id, not_theirs, same_version
from fhir_gateway.sources.models import StagedFile, StagedPull

#: Types that rest in the lake.
PUSHED = CLINICAL | {"Patient", *PUBLISHED}
_NAME = "write.ndjson"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A change, the id that its resource has at its source, and what is served of it now."""

    change: Change
    token: AccessToken
    local: str
    existing: StoredResource | None

    @property
    def key(self) -> tuple[str, str]:
        return self.change.type, self.local


class PushedWrites:
    """Carries out changes of one client together."""

    def __init__(self, gateway: Gateway, writes: Writes) -> None:
        self._gateway = gateway
        self._writes = writes
        self._rest = writes.rest
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def carry_out(
        self,
        changes: Mapping[int, Change],
        tokens: Mapping[int, AccessToken],
        full_urls: Mapping[int, str] | None = None,
    ) -> dict[int, Written]:
        """What became of each change; all of them or none. ``full_urls`` name resources of the same transaction.

        Raises InvalidResource, AuthorizationError for what is not the client's, PreconditionFailed for another version,
        MultipleMatches, and ConflictError while something else of the client is taken in by another process.
        """
        source = source_name(next(iter(tokens.values())).client_id)
        for number, change in changes.items():
            self._check(change, tokens[number])
        with self._turns[source]:  # requests of one client wait for each other here
            resolved = {number: self._resolve(change, tokens[number], source) for number, change in changes.items()}
            if len({one.key for one in resolved.values()}) != len(resolved):
                raise InputError("two entries are about the same resource", location=Location(path="Bundle.entry"))
            names = {
                url: f"{resolved[number].change.type}/{resolved[number].local}"
                for number, url in (full_urls or {}).items()
            }
            self._push(source, resolved, names)
        return {number: self._written(one, source) for number, one in resolved.items()}

    def _check(self, change: Change, token: AccessToken) -> None:
        """What can be said of a change by itself."""
        if change.resource is None:
            return
        if change.interaction == "update" and change.criteria is None and change.resource.get("id") != change.id:
            raise InputError("the body has not the id of the URL", location=Location(path="id", rule="id"))
        resource = {**change.resource, "id": change.resource.get("id") or "new"}
        self._writes.judge(change, resource)
        self._writes.refuse_unseen(change, resource, token)
        if change.type not in CLINICAL and not token.audience.everybody:
            text = "a client that sees the members of some lists adds neither persons nor providers"
            raise InvalidResource(text, [issue("error", "forbidden", text, change.place or "Patient")], 422)

    def _resolve(self, change: Change, token: AccessToken, source: str) -> _Resolved:
        new = uuid.uuid4().hex
        existing = self._existing(change, token)
        if existing is None:
            if change.interaction == "update" and change.id is not None:
                raise no_such_id()
            if change.if_match is not None:
                raise PreconditionFailed("there is no such version", location=Location(path=change.place or None))
            return _Resolved(change, token, new, None)
        if change.interaction == "create":
            return _Resolved(change, token, new, existing)
        if change.if_match is not None and not same_version(change, existing.version):
            raise PreconditionFailed("the resource has another version", location=Location(path=change.place or None))
        local = self._own(existing.type, existing.id, source)
        if local is None:
            raise not_theirs()
        return _Resolved(change, token, local, existing)

    def _existing(self, change: Change, token: AccessToken) -> StoredResource | None:
        """What a change is about, as it is served to the client."""
        if change.criteria is None:
            if change.interaction == "create" or change.id is None:
                return None
            criteria: tuple[tuple[str, str], ...] = (("_id", change.id),)
        else:
            criteria = change.criteria
        catalog = self._rest.catalog(change.type, token, "r" if change.criteria is None else "s")
        found = catalog.search(Query(change.type, criteria, count=2, count_total=False)).resources
        if len(found) > 1:
            raise MultipleMatches("more than one resource meets the criteria", location=Location(rule="criteria"))
        return found[0] if found else None

    def _own(self, resource_type: str, served: str, source: str) -> str | None:
        """The id at the client's source of what we serve under an id; None when another source said it."""
        if resource_type == "Patient":
            mine = [local for origin, local in self._gateway.persons.patients(served) if origin == source]
            return mine[0] if len(mine) == 1 else None
        key = ClinicalRows(self._gateway).key_of(resource_type, served)
        return key[1] if key is not None and key[0] == source else None

    def _push(self, source: str, resolved: Mapping[int, _Resolved], names: Mapping[str, str]) -> None:
        lines: list[bytes] = []
        deletions: dict[str, list[str]] = defaultdict(list)
        for one in resolved.values():
            if one.change.resource is None:
                if one.existing is not None:
                    deletions[one.change.type].append(one.local)
            elif one.change.interaction == "update" or one.existing is None:
                lines.append(exact.dumps(self._localized(one, source, names)))
        if not lines and not deletions:
            return
        with ExitStack() as held:
            folder = draft(self._gateway, held)
            (folder / _NAME).write_bytes(b"".join(line + b"\n" for line in lines))
            unique = hashlib.sha256(b"\n".join([source.encode(), uuid.uuid4().bytes])).hexdigest()[:24]
            staged = StagedPull(f"files-{unique}", source, "files", None, (StagedFile(folder / _NAME, _NAME),))
            report = push(self._gateway, staged, folder, {kind: tuple(ids) for kind, ids in deletions.items()})
        refused = self._gateway.lake.quarantined(report.pull_id)
        if refused:  # they were judged before: a rule that only the lake has
            raise GatewayError(f"{len(refused)} resources were not stored: {refused[0].rule}")

    def _localized(self, one: _Resolved, source: str, names: Mapping[str, str]) -> Json:
        """The resource as the client's source says it: its own id, and references as that source would write them."""
        resource = labelled({**(one.change.resource or {}), "id": one.local})
        meta = {name: value for name, value in resource["meta"].items() if name not in _STAMPS and value}
        body = {name: value for name, value in resource.items() if name != "meta"} | ({"meta": meta} if meta else {})
        found: Json = self._led(body, one.change.place, source, names)
        return found

    def _led(self, node: Any, place: str, source: str, names: Mapping[str, str]) -> Any:
        if isinstance(node, list):
            return [self._led(child, place, source, names) for child in node]
        if not isinstance(node, dict):
            return names[node] if isinstance(node, str) and node.startswith("urn:") and node in names else node
        found = {key: self._led(child, place, source, names) for key, child in node.items()}
        reference = node.get("reference")
        if isinstance(reference, str) and reference not in names:
            found["reference"] = self._reference(reference, place, source)
        elif isinstance(reference, str):
            found["reference"] = names[reference]
        return found

    def _reference(self, reference: str, place: str, source: str) -> str:
        """A reference to what is served as the client's source would write it, or by the whole address."""
        kind, identity = reference_parts(reference, self._rest.base_url)
        if kind is None or "/" in identity:
            return reference
        local = self._own(kind, identity, source) if kind in PUSHED else None
        if local is not None:
            return f"{kind}/{local}"
        if kind == "Patient":
            text = "the client has not sent this person's Patient itself: its resources would be nobody's"
            raise InvalidResource(text, [issue("error", "business-rule", text, place or None)], 422)
        return f"{self._rest.base_url}/{kind}/{identity}"

    def _written(self, one: _Resolved, source: str) -> Written:
        change = one.change
        if change.interaction == "create" and one.existing is not None:
            return Written(200, one.existing)
        if change.resource is None:
            return Written(204, None)
        if change.type == "Patient":
            person = self._gateway.persons.lookup(source, pa.array([one.local]))[0].as_py()
            stored: StoredResource | None = self._gateway.resources.read("Patient", person)
        elif change.type in CLINICAL:
            stored = ClinicalRows(self._gateway).of_id(change.type, published_id(source, one.local))
        else:
            stored = self._gateway.resources.read(change.type, published_id(source, one.local))
        return Written(201 if one.existing is None else 200, stored)


_STAMPS = frozenset({"versionId", "lastUpdated"})
