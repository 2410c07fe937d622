"""What we know of each vendor's endpoints, as data: limits, modes and retry caps, each with reason, source and date.

Adding a vendor is adding an entry here, a line in ``docs/operate/endpoints.md`` and a test. Code never asks for a
vendor's name, only for these values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fhir_gateway.errors import ConfigurationError

Mode = Literal["bulk", "search"]
Level = Literal["system", "patient", "group"]


@dataclass(frozen=True, slots=True)
class VendorProfile:
    """Limits and habits of one kind of endpoint. Times in seconds."""

    name: str
    modes: tuple[Mode, ...] = ("bulk", "search")
    """Ways to pull, best first; the second is the fall-back where the endpoint does not offer the first."""
    levels: tuple[Level, ...] = ("system", "patient", "group")
    """Export levels in order of preference when the caller names no Group."""
    search_by: Literal["type", "patient"] = "type"
    """Whether a search may ask for all patients at once."""
    max_concurrency: int = 8
    """Most requests under way at once; the limit in force adapts below it."""
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
    page_size: int = 200
    """``_count`` of a search."""
    counts_exact: bool = True
    """Whether ``count`` in a manifest can be held against the file."""
    group_limit: int | None = None
    """Most patients a Group may hold for an export; for the operator, who splits Groups."""


PROFILES: dict[str, VendorProfile] = {
    # The specification, with the caution that real servers taught: a Retry-After in epoch milliseconds was seen on the
    # SMART reference server (bulk-data-server 2.1.1, run 2026-11), five hours on another
    # (smart-on-fhir/bulk-data-client#14).
    "generic": VendorProfile("generic"),
    "hapi": VendorProfile(
        "hapi",
        # Jobs stick at the last step and never finish (hapifhir/hapi-fhir#4511, #4956; read 2026-11): cancel sooner.
        export_deadline=6 * 3600.0,
        # The default page size limit of a HAPI server is 200 (jpaserver-starter application.yaml, read 2026-11).
        page_size=200,
    ),
    "epic": VendorProfile(
        "epic",
        # Only Group level is offered (fhir.epic.com, fhir_bulk_data, read 2026-11).
        levels=("group",),
        # Population searches are refused: a search must name a patient (smart-on-fhir/smart-fetch, docs, read 2026-11).
        search_by="patient",
        # 1,555 to 2,500 resources a minute were measured (medrxiv 2023.10.05.23296560): days for a hospital.
        export_deadline=14 * 24 * 3600.0,
        # Tens of thousands of small files, stray 502s and 429s (smart-on-fhir/bulk-data-client#18, #23).
        max_attempts=10,
        poll_interval=60.0,
        max_wait=600.0,
    ),
    "oracle-health": VendorProfile(
        "oracle-health",
        # Group level only, and at most 20,000 patients in a Group (Oracle Millennium bulk export page, read 2026-11;
        # about 1,000 in the draft of 2022, cerner/fhir.cerner.com#899).
        levels=("group",),
        group_limit=20_000,
        search_by="patient",
        # Over 8,000 resources a minute were measured (medrxiv 2023.10.05.23296560).
        export_deadline=3 * 24 * 3600.0,
        poll_interval=30.0,
    ),
    "bcda": VendorProfile(
        "bcda",
        # Groups `all` and `runout` only, and no search of claims (BCDA source, CMSgov/bcda-app, read 2026-11).
        modes=("bulk",),
        levels=("group", "patient"),
        # The token endpoint itself answers 429 with Retry-After (same source).
        max_wait=600.0,
        max_concurrency=4,
        poll_interval=30.0,
        export_deadline=2 * 24 * 3600.0,
    ),
}


def vendor_profile(name: str) -> VendorProfile:
    """The profile of that name; `ConfigurationError` lists the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise ConfigurationError(f"unknown vendor profile {name!r}; known: {known}") from None
