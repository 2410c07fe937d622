"""What measures of one run share over a batch: tables are read once, and with them what was made of their columns.

A :class:`~fhir_gateway.cql.batch.ResourceTable` keeps what it converted (interned codes, parsed dates) and found by
retrieves, which are told apart by the codes themselves: value sets of the same name in other packages stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhir_gateway.cql import Batch, CompiledLibrary
from fhir_gateway.cql.batch import ResourceTable
from fhir_gateway.cql.referenced import Route, is_owned, routes


class SharedBatch(Batch):
    """A batch for several libraries, which get the same table of a type, with the columns that any of them may use."""

    def __init__(self, batch: Batch, libraries: Sequence[CompiledLibrary]) -> None:
        """The members and tables of ``batch``."""
        self._tables: dict[tuple[str, tuple[Route, ...], int], ResourceTable] = {}
        self._rows: dict[tuple[str, tuple[str, ...]], Any] = {}
        self.batch = batch
        self._compilers = [library.compiler for library in libraries]
        super().__init__(batch.members, self._read_once)

    def table(self, resource_type: str, names: frozenset[str], offset_ms: int) -> ResourceTable:
        """The resources of one type; read when the first library asks for them."""
        of_members = is_owned(resource_type)
        # whose record a resource without a patient is in depends on the references that a library names
        through = () if of_members else routes(resource_type, names)
        key = (resource_type, through, offset_ms)
        if key not in self._tables:
            every = self._names(resource_type) | names if of_members else names
            made = self._tables[key] = super().table(resource_type, every, offset_ms)
            made.source.zones = any(compiler.zones for compiler in self._compilers)
        return self._tables[key]

    def _names(self, resource_type: str) -> frozenset[str]:
        named = (c.property_names | c.elements_of.get(resource_type, set()) for c in self._compilers)
        return frozenset().union(*named)

    def _read_once(self, resource_type: str, columns: Sequence[str]) -> Any:
        key = (resource_type, tuple(columns))
        if key not in self._rows:
            self._rows[key] = self.batch.read(resource_type, columns)
        return self._rows[key]
