"""Imported terminology in the control plane: ValueSets, CodeSystems and ConceptMaps, every version and revision kept.

One row is one content of one ``url|version``. The same content imported again changes nothing; other content under
the same ``url|version`` is refused unless it is said to replace, and then the old row stays, marked (ADR 0128).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from fhir_gateway.db.engine import table_of


class TerminologyRow(SQLModel, table=True):
    """A terminology resource: ``body`` is its canonical JSON, deflated; ``version`` is empty when it has none.

    ``effective_from`` and ``effective_to`` are days, both in it; None is open. ``replaced_at``: another content of the
    same ``url|version`` counts since then.
    """

    __tablename__ = "terminology_resource"
    __table_args__ = (sa.UniqueConstraint("resource_type", "url", "version", "digest", name="uq_terminology_resource"),)

    id: int | None = Field(default=None, primary_key=True)
    resource_type: str
    url: str
    version: str
    digest: str
    origin: str
    imported_at: str
    effective_from: str | None = None
    effective_to: str | None = None
    replaced_at: str | None = None
    codes: int
    body: bytes


RESOURCE = table_of(TerminologyRow)
