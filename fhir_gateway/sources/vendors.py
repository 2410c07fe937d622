"""What we know of each vendor's endpoints, read from ``vendors.toml``: limits, modes and retry caps with their sources.

Adding a vendor is adding an entry there, a line in ``docs/operate/endpoints.md`` and a test. Code never asks for a
vendor's name, only for these values.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fhir_gateway.errors import ConfigurationError, Location

Mode = Literal["bulk", "search"]
Level = Literal["system", "patient", "group"]
AuthKind = Literal["smart-backend", "client-secret", "none"]

FILE = Path(__file__).with_name("vendors.toml")


@dataclass(frozen=True, slots=True)
class VendorProfile:
    """Limits and habits of one kind of endpoint. Times in seconds, sizes in bytes."""

    name: str
    summary: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Reason, source and month for each value that differs from the default."""
    modes: tuple[Mode, ...] = ("bulk", "search")
    """Ways to pull, best first; the second is the fall-back where the endpoint does not offer the first."""
    auth: AuthKind = "smart-backend"
    """How we prove who we are when the operator says nothing else."""
    levels: tuple[Level, ...] = ("system", "patient", "group")
    """Export levels in order of preference when the caller names no Group."""
    default_group: str | None = None
    """Group to export when the caller names none."""
    types: tuple[str, ...] = ()
    """All types there are, for endpoints whose CapabilityStatement does not say; empty: ask it."""
    scope: str | None = None
    """Scope to ask for instead of what discovery suggests; ``none`` for a request without scope."""
    search_by: Literal["type", "patient"] = "type"
    """Whether a search may ask for all patients at once."""
    split_types: bool = False
    """One export job per type: a type that fails costs that type only."""
    group_limit: int | None = None
    """Most patients an export may cover; larger Groups are exported in parts by lists of patients."""
    since_trusted: bool = True
    """Whether ``_since`` and ``_lastUpdated`` show every change; else incremental pulls need full ones in between."""
    assertion_life: int = 240
    """Life of a signed assertion; the limit of the specification is 300, and some clocks differ."""
    max_concurrency: int = 8
    """Most requests under way at once per host; the limit in force adapts below it."""
    max_wait: float = 300.0
    """Longest wait we obey before asking again, whatever Retry-After says."""
    poll_interval: float = 10.0
    """Wait between two status polls when the server names none."""
    max_attempts: int = 6
    """Attempts per request or file before it counts as lost."""
    read_timeout: float = 60.0
    """Silence after which a response counts as stalled."""
    export_deadline: float = 24 * 3600.0
    """Age at which an unfinished export is cancelled."""
    file_deadline: float = 6 * 3600.0
    """Time after which a file that still drips in counts as stalled."""
    max_file: int = 64 * 2**30
    """Largest file, after decompression."""
    max_body: int = 256 * 2**20
    """Largest answer that is read as a whole (manifests, search pages), after decompression."""
    page_size: int = 200
    """``_count`` of a search."""
    hydrate_batch: int = 50
    """Ids in one ``_id`` search for referenced resources."""
    hydrate_limit: int = 20_000
    """Most referenced resources fetched in one pull."""
    counts_exact: bool = True
    """Whether ``count`` in a manifest can be held against the file."""


def _load(document: Mapping[str, Any]) -> Mapping[str, VendorProfile]:
    """Profiles of the file; ConfigurationError names an entry that is not understood or has no fact."""
    known = {one.name for one in fields(VendorProfile)}
    described = {"summary", "facts"}
    profiles = {}
    for name, values in document.items():
        if not isinstance(values, dict):
            continue
        unknown = set(values) - known | ({"name"} & set(values))
        unsourced = set(values) - described - set(values.get("facts", {}))
        if unknown or unsourced:
            wrong = ", ".join(sorted(unknown | unsourced))
            raise ConfigurationError(
                f"vendor {name}: {wrong}: not a value, or without its source", location=Location(file=FILE.name)
            )
        frozen: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        profiles[name] = VendorProfile(name, **frozen)
    return MappingProxyType(profiles)


with FILE.open("rb") as _file:
    _DOCUMENT = tomllib.load(_file)

VERSION: str = _DOCUMENT["version"]
PROFILES: Mapping[str, VendorProfile] = _load(_DOCUMENT)


def vendor_profile(name: str) -> VendorProfile:
    """The profile of that name; `ConfigurationError` lists the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise ConfigurationError(f"unknown vendor profile {name!r}; known: {known}") from None
