"""The pages, a module per part of the console; each has ``router(frame)``."""

from __future__ import annotations

from fhir_gateway.console.pages import (
    clients,
    contracts,
    disputes,
    endpoints,
    keys,
    operations,
    overview,
    population,
    pulls,
    quality,
    reports,
    settlements,
    trials,
)

PAGES = (
    *(overview, endpoints, pulls, population, quality, reports),
    *(contracts, trials, settlements, disputes),
    *(operations, clients, keys),
)
