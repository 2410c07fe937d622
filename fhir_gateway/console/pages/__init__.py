"""The pages, a module per part of the console; each has ``router(frame)``."""

from __future__ import annotations

from fhir_gateway.console.pages import (
    alerts,
    claims,
    clients,
    contracts,
    disputes,
    endpoints,
    gaps,
    keys,
    members,
    operations,
    outreach,
    overview,
    population,
    predictions,
    pulls,
    quality,
    reports,
    risk,
    settlements,
    storage,
    strata,
    trials,
    utilization,
)

PAGES = (
    *(overview, endpoints, pulls, population, members, quality, gaps, strata, reports),
    *(risk, utilization, claims, predictions, outreach, alerts),
    *(contracts, trials, settlements, disputes),
    *(operations, clients, keys, storage),
)
