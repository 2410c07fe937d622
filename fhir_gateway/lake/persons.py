"""What the lake needs to know about persons: a protocol that ``identity`` fulfils."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import pyarrow as pa


class PersonAssigner(Protocol):
    """Says which person a source's patient is. Person ids are ``"p"`` + 16 hex digits."""

    def assign(self, source: str, patients: pa.Table) -> pa.Array:
        """Persons of these Patient rows, one string per row, never null.

        Columns: ``id`` string and the Patient elements ``identifier``, ``name``, ``birthDate``, ``gender`` in the
        layout of :func:`fhir_gateway.r4.spec.column_structure`. Called with the new and changed patients of a pull,
        some ten thousand at a time, before anything else of that pull is placed; must give the same answer when asked
        again.
        """
        ...

    def lookup(self, source: str, patient_ids: pa.Array) -> pa.Array:
        """Persons of these patient ids of a source, one string per row, never null.

        A patient id that was never assigned gets a provisional person, deterministic from source and id. The lake
        asks again for the ids it already stored: whoever now belongs to another person is moved in the same commit.
        """
        ...


@runtime_checkable
class PersonHistory(Protocol):
    """An assigner that remembers whom it placed, so that the lake need not ask for everybody again."""

    def placed_since(self, mark: str | None) -> tuple[str, pa.Table | None]:
        """The mark of now, and all patients (``_source``, ``_patient``, ``_member``) who were placed since ``mark``.

        Others may be among them. None in the place of the patients when that cannot be told from this mark: everybody
        has to be asked for.
        """
        ...
