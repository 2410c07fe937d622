"""What measures of one run share over a batch: tables are read once, and with them what was made of their columns.

A :class:`~fhir_gateway.cql.batch.ResourceTable` keeps what it converted (interned codes, parsed dates) and found by
retrieves, which are told apart by the codes themselves: value sets of the same name in other packages stay apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from fhir_gateway.cql import Batch, CompiledLibrary
from fhir_gateway.cql.batch import ResourceTable
from fhir_gateway.cql.referenced import is_owned, routes
from fhir_gateway.cql.sought import Coded, sought


class SharedBatch(Batch):
    """A batch for several libraries, which get the same table of a type, with the columns that any of them may use."""

    def __init__(self, batch: Batch, libraries: Sequence[CompiledLibrary]) -> None:
        """The members and tables of ``batch``."""
        self._tables: dict[Hashable, ResourceTable] = {}
        self._rows: dict[Hashable, Any] = {}
        self.batch = batch
        self._libraries = libraries
        self._compilers = [library.compiler for library in libraries]
        super().__init__(batch.members, self._read_once, narrows=batch.narrows)

    def table(
        self,
        resource_type: str,
        names: frozenset[str],
        offset_ms: int,
        coded: Coded | None = None,
        whole: set[str] | None = None,
    ) -> ResourceTable:
        """The resources of one type that any library looks for; read when the first one asks for them."""
        coded = sought(self._libraries, resource_type) if coded is not None and self.narrows else None
        of_members = is_owned(resource_type)
        # whose record a resource without a patient is in depends on the references that a library names
        through = () if of_members else routes(resource_type, names)
        key = (resource_type, through, offset_ms, _hashable(coded))
        if key not in self._tables:
            every = self._names(resource_type) | names if of_members else names
            made = self._tables[key] = super().table(resource_type, every, offset_ms, coded, whole)
            made.source.zones = any(compiler.zones for compiler in self._compilers)
        return self._tables[key]

    def _names(self, resource_type: str) -> frozenset[str]:
        named = (c.property_names | c.elements_of.get(resource_type, set()) for c in self._compilers)
        return frozenset().union(*named)

    def _read_once(self, resource_type: str, columns: Sequence[str], coded: Coded | None = None) -> Any:
        key = (resource_type, tuple(columns), _hashable(coded))
        if key not in self._rows:
            self._rows[key] = self.batch.read(resource_type, columns, coded)
        return self._rows[key]


def _hashable(coded: Coded | None) -> Hashable:
    return None if coded is None else frozenset(coded.items())
