"""Bring a control plane database to the present schema."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from fhir_gateway.db.tables import metadata


def upgrade(engine: Engine) -> None:
    """Create or upgrade all tables; safe to call at every start and from several processes at once."""
    metadata().create_all(engine)
