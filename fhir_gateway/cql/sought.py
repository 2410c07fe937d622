"""Which resources of a type a library can retrieve at all: those that have one of the codes of its retrieves.

A table needs no other rows, and of most types these are few. Rows are told by the codes alone; systems, profiles and
dates are for the retrieves themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from fhir_gateway.cql.elm import nodes_of
from fhir_gateway.cql.operators.terminology import Pairs, codes_of
from fhir_gateway.cql.referenced import is_owned
from fhir_gateway.cql.values import ValueSetVec, Vec
from fhir_gateway.r4 import spec

if TYPE_CHECKING:
    from fhir_gateway.cql.compile import CompiledLibrary, Node

#: Paths to codes in resources of a type (``code.coding.code``), and the codes that are looked for there.
Coded = Mapping[str, frozenset[str]]

#: Where the code is in an element of a type.
_BELOW = {"CodeableConcept": ".coding.code", "Coding": ".code"}
#: What makes codes depend on the run.
_OF_THE_RUN = ("ParameterRef", "ExpressionRef", "FunctionRef", "Now", "Today", "TimeOfDay")


def sought(libraries: Iterable[CompiledLibrary], resource_type: str) -> Coded | None:
    """The codes of all retrieves of ``resource_type`` that are compiled so far; None when any resource will do."""
    if resource_type == "Patient" or not is_owned(resource_type):
        return None  # others are in a record because something refers to them
    found: dict[str, frozenset[str]] = {}
    for library in libraries:
        for retrieve in library.compiler.retrieves.get(resource_type, {}).values():
            if retrieve is None:
                return None
            element, codes = retrieve
            paths = _paths(resource_type, element)
            pairs = _pairs(library, codes) if paths else None
            if paths is None or pairs is None:
                return None
            wanted = frozenset(code for _, code in pairs)
            found.update({path: found.get(path, frozenset()) | wanted for path in paths})
    return found


def pairs_of(library: CompiledLibrary, codes: Vec) -> Pairs:
    """The codes that the operand of a retrieve stands for."""
    if isinstance(codes, ValueSetVec):
        pairs: Pairs = library.compiler.value_sets.resolve(codes.url, codes.version).codes
        return pairs
    return codes_of(codes)


def _pairs(library: CompiledLibrary, codes: Node) -> Pairs | None:
    """The codes of a constant node; None when they depend on the run."""
    known = library.compiler.codes_of_retrieves
    if id(codes) not in known:
        of_the_run = any(True for kind in _OF_THE_RUN for _ in nodes_of(codes.elm, kind))
        known[id(codes)] = None if of_the_run else pairs_of(library, _constant(library, codes))
    return known[id(codes)]


def _constant(library: CompiledLibrary, node: Node) -> Vec:
    """The value of a constant that is the same in every run."""
    from fhir_gateway.cql.batch import Batch  # local: a batch is read by what is sought

    nobody = Batch(pa.array([], pa.string()), lambda resource_type, columns: pa.table({}))
    return library.evaluate(nobody, {}, datetime(1970, 1, 1, tzinfo=UTC)).constant(node)


def _paths(resource_type: str, name: str) -> list[str] | None:
    """Paths to the codes of an element in the columns; None where codes are not in columns alone."""
    structure = spec.column_structure(resource_type)
    definition = spec.type_definition(resource_type)
    found: list[str] = []
    for element in definition.choices.get(name, ()) or filter(None, [definition.elements.get(name)]):
        below = _BELOW.get(element.type, "" if spec.PRIMITIVE_COLUMNS.get(element.type) == "VARCHAR" else None)
        if below is None:
            continue  # a Reference, for example: the code is in another resource
        if element.name not in structure:
            return None
        found.append(element.name + below)
    return found or None
