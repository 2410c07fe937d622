"""Says which person a source's patient is: the lake's ``PersonAssigner``, kept in the control plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import snapshot, transaction
from fhir_gateway.identity import store, tables
from fhir_gateway.identity.identifiers import read_identifiers
from fhir_gateway.identity.models import IdentityRules, PersonChange, Review, ReviewStatus
from fhir_gateway.identity.placing import PERSON, arriving, place

LOCK = "identity"
"""One change to persons at a time."""


class Crosswalk:
    """Patients to persons, identifiers first; implements ``lake.persons.PersonAssigner`` and ``PersonHistory``.

    Matching is deterministic and explained in :mod:`fhir_gateway.identity.partition`. A person keeps its id when more
    sources arrive; when two persons turn out to be one, the one assigned first survives and the merge is recorded.
    Only new and changed patients, and those linked to them, are looked at. One assignment runs at a time.
    """

    def __init__(
        self,
        engine: Engine,
        rules: IdentityRules | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._rules = rules or IdentityRules()
        self._clock = clock

    def assign(self, source: str, patients: pa.Table) -> pa.Array:
        """Return the persons of these Patient rows (``id, identifier, birthDate, gender``), one string per row."""
        ids = patients["id"].combine_chunks().cast(pa.string())
        with duckdb.connect() as work, transaction(self._engine, lock=LOCK) as connection:
            read_identifiers(work, patients, self._rules)
            work.register("stored", store.patients_of(connection, source, pc.unique(ids)))
            if arriving(work, connection):
                now = self._clock().isoformat()
                place(work, connection, now=now, max_per_source=self._rules.max_per_source, source=source)
        return self.lookup(source, ids)

    def lookup(self, source: str, patient_ids: pa.Array) -> pa.Array:
        """Return the persons of patient ids of a source, one string per row.

        An id that was never assigned gets the person it will have if it arrives alone; nothing is stored.
        """
        ids = patient_ids.combine_chunks() if isinstance(patient_ids, pa.ChunkedArray) else patient_ids
        with snapshot(self._engine) as connection:
            stored = store.assigned(connection, source, pc.unique(ids))
        found = stored["person"].combine_chunks().take(pc.index_in(ids, value_set=stored["id"].combine_chunks()))
        return pc.coalesce(found, _provisional(source, ids)) if found.null_count else found

    def placed_since(self, mark: str | None) -> tuple[str, pa.Table | None]:
        """The mark of now, and the patients placed since ``mark``: new ones, and all of persons that changed."""
        with snapshot(self._engine) as connection:
            return store.mark(connection), store.placed_since(connection, mark)

    def patients(self, person: str) -> list[tuple[str, str]]:
        """Return the (source, patient id) pairs behind a person, sorted; empty for a person that is not in use."""
        columns = (tables.PATIENT.c.source, tables.PATIENT.c.patient_id)
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(*columns).where(tables.PATIENT.c.person == person).order_by(*columns))
            return [(row.source, row.patient_id) for row in rows]

    def surviving(self, person: str) -> str:
        """Return the person that ``person`` was merged into, or itself."""
        with snapshot(self._engine) as connection:
            while True:
                statement = sa.select(tables.PERSON.c.merged_into).where(tables.PERSON.c.person == person)
                merged_into = connection.scalar(statement)
                if merged_into is None:
                    return person
                person = merged_into

    def changes(self) -> list[PersonChange]:
        """Return all merges and splits of persons, oldest first."""
        table = tables.CHANGE
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.id))
            return [
                PersonChange(row.kind, row.person, row.other, row.reason, row.changed_at, row.by, row.evidence)
                for row in rows
            ]

    def reviews(self, status: ReviewStatus = "open") -> list[Review]:
        """Return the links that were not made, for somebody to decide, or those that were decided so."""
        names = [field.name for field in fields(Review)]
        table = tables.REVIEW
        with snapshot(self._engine) as connection:
            rows = connection.execute(
                sa.select(table).where(table.c.status == status).order_by(table.c.noticed_at, table.c.digest)
            )
            return [Review(**{name: getattr(row, name) for name in names}) for row in rows]


def _provisional(source: str, ids: pa.Array) -> pa.Array:
    person = PERSON.format(source="$source", id="id")
    with duckdb.connect() as work:
        work.register("asked", pa.table({"id": ids, "row": np.arange(len(ids))}))
        query = f"SELECT {person} AS person FROM asked ORDER BY row"  # noqa: S608  # made of the constant above
        return work.sql(query, params={"source": source}).to_arrow_table()["person"].combine_chunks()
