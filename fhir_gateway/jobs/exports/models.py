"""What an export is asked for, and what a source of rows gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from fhir_gateway.db.audience import ABOUT, Audience
from fhir_gateway.db.freezing import Frozen
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.factory import Gateway
from fhir_gateway.r4.spec import patient_element, type_definition

Level = Literal["system", "patient", "group"]
Json = dict[str, Any]
Alternatives = tuple[tuple[Criterion, ...], ...]

#: Rows that are read and rendered together; memory does not depend on how many there are.
ROWS = 2000


def person_element(resource_type: str) -> str | None:
    """The element that says whom a resource is about; None when there is none, as of a Patient."""
    if resource_type in ABOUT:
        return ABOUT[resource_type].partition(".")[2]
    return None if resource_type == "Patient" else patient_element(resource_type)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An export as asked for.

    ``since`` and ``until`` are microseconds; ``filters`` are alternatives by type; ``elements`` are as written
    (``Type.element`` or ``element``); ``patients`` are ids, None is everybody. ``roster``: an ATR export, which always
    has its list. ``organized``: by patient. ``notes`` (severity, code, text) go into the error file.
    """

    level: Level
    types: tuple[str, ...]
    group: str | None = None
    since: int | None = None
    until: int | None = None
    filters: Mapping[str, Alternatives] | None = None
    elements: tuple[str, ...] = ()
    patients: tuple[str, ...] | None = None
    roster: bool = False
    organized: bool = False
    notes: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """What was written as JSON."""
        filters = {
            kind: tuple(tuple((name, value) for name, value in one) for one in alternatives)
            for kind, alternatives in (payload["filters"] or {}).items()
        }
        lists = {name: tuple(payload[name]) for name in ("types", "elements")}
        patients = None if payload["patients"] is None else tuple(payload["patients"])
        notes = tuple((severity, code, text) for severity, code, text in payload["notes"])
        return cls(**{**payload, **lists, "filters": filters, "patients": patients, "notes": notes})

    def payload(self) -> Json:
        """As JSON."""
        return asdict(self)

    def covers(self, updated: int) -> bool:
        """True when a change at that time (microseconds) is asked for."""
        return (self.since is None or updated > self.since) and (self.until is None or updated < self.until)

    def alternatives(self, resource_type: str) -> Alternatives:
        """Criteria of a type; a resource meets one of them. Empty is no restriction."""
        return (self.filters or {}).get(resource_type, ())

    def elements_of(self, resource_type: str) -> frozenset[str] | None:
        """Root elements of a type that are wanted, with those that it must have; None is all of them."""
        named = set()
        for element in self.elements:
            kind, dot, name = element.rpartition(".")
            if not dot or kind == resource_type:
                named.add(name)
        if not named:
            return None
        if self.organized and (about := person_element(resource_type)):
            named.add(about)
        definition = type_definition(resource_type)
        required = {name for name, element in definition.elements.items() if element.required}
        return frozenset(named | required | {"resourceType", "id", "meta", "implicitRules"})


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of NDJSON, each with its line feed, and how many."""

    lines: bytes | memoryview
    count: int


@dataclass
class Export:
    """An export under way: what is wanted, and whose eyes it is read with.

    ``seen`` is what the client sees; ``everything`` is what individual reports are derived from, which the client need
    not see. ``folder`` is where plans may keep what is too long for them.
    """

    gateway: Gateway
    wanted: Wanted
    audience: Audience
    seen: ResourceStore
    everything: ResourceStore
    folder: Path
    #: Rows at a time: never more than a file may have.
    rows: int = ROWS
    #: Ids by type that the list of the export leads to, once they are known.
    linked: Mapping[str, set[str]] | None = None
    #: Whose individual reports are wanted, sorted, once they were read from the folder.
    persons: Any = None
    #: Whose resources it had in the moment it asks from (None: everybody's), once that was looked at.
    before: tuple[frozenset[str] | None] | None = None
    #: The lake version of the moment, once it was looked at.
    lake_version: int | None = None

    @classmethod
    def of(cls, gateway: Gateway, wanted: Wanted, audience: Audience, folder: Path) -> Self:
        """An export for a client."""
        store = gateway.resources
        rows = min(ROWS, gateway.settings.export_file_resources)
        return cls(gateway, wanted, audience, store.seen_by(audience), store, folder, rows)


@dataclass(frozen=True)
class Source:
    """Where rows of a type come from: those that are read in the moment itself, those read later, or both.

    ``now`` gives rows of the moment. ``plan`` writes down, in the moment, what ``later`` needs to give the same rows
    whenever it is called, also by another process: one plan (JSON) for each part that may be done by itself.
    """

    type: str
    levels: frozenset[Level]
    now: Callable[[Export, Frozen], Iterator[Block]] | None = None
    plan: Callable[[Export, Frozen], list[Json]] | None = None
    later: Callable[[Export, Json], Iterator[Block]] | None = None
