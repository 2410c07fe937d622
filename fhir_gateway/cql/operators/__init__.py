"""Kernels, one module for each chapter of CQL 1.5 appendix B; importing the package registers them."""

from fhir_gateway.cql.operators import (
    aggregate,
    arithmetic,
    clinical,
    comparison,
    conversion,
    interval_sets,
    intervals,
    lists,
    logical,
    messages,
    nullological,
    precision,
    statistics,
    strings,
    temporal,
    terminology,
)

__all__ = [
    "aggregate",
    "arithmetic",
    "clinical",
    "comparison",
    "conversion",
    "interval_sets",
    "intervals",
    "lists",
    "logical",
    "messages",
    "nullological",
    "precision",
    "statistics",
    "strings",
    "temporal",
    "terminology",
]
