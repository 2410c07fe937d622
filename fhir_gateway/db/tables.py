"""Every module that defines tables of the control plane.

A domain keeps its tables beside its rules (``sources/store.py``); this list is how migrations and tests get to know
them. Names are imported lazily and from below, so that ``db`` depends on no domain.
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from sqlmodel import SQLModel

#: To add a table: define the SQLModel class in the domain's ``store.py``, name that module here, add a migration.
TABLE_MODULES: tuple[str, ...] = (
    "fhir_gateway.db.resource_tables",
    "fhir_gateway.db.remarks",
    "fhir_gateway.identity.tables",
    "fhir_gateway.sources.tables",
    "fhir_gateway.auth.store",
    "fhir_gateway.server.audit",
    "fhir_gateway.terminology.store",
    "fhir_gateway.jobs.tables",
    "fhir_gateway.attribution.store",
    "fhir_gateway.attribution.selection_store",
    "fhir_gateway.contracts.store",
    "fhir_gateway.subscriptions.tables",
    "fhir_gateway.outreach.tables",
    "fhir_gateway.alerts.tables",
    "fhir_gateway.console.tables",
)


def metadata() -> sa.MetaData:
    """Import all table modules and return the metadata that holds every table."""
    for name in TABLE_MODULES:
        import_module(name)
    return SQLModel.metadata
