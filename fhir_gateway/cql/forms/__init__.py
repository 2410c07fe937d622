"""Compilers of ELM nodes that bind names, open frames or read data; importing the package registers them."""

from fhir_gateway.cql.forms import (
    conditional,
    constructors,
    functions,
    instances,
    iteration,
    parts,
    properties,
    queries,
    references,
    retrieve,
    types,
)

__all__ = [
    "conditional",
    "constructors",
    "functions",
    "instances",
    "iteration",
    "parts",
    "properties",
    "queries",
    "references",
    "retrieve",
    "types",
]
