"""Measure observations: the values that ratio and continuous-variable measures aggregate."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values import DecVec, ElementVec, IntVec, LongVec, NullVec, QuantityVec, Vec
from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.cases import CaseSpace, CriteriaEvaluation
from fhir_gateway.measures.definition import GroupDefinition, PopulationDefinition
from fhir_gateway.measures.model import Mask, Observations

VALUE_TYPE = pa.decimal128(28, 8)


def observe(
    group: GroupDefinition,
    population: PopulationDefinition,
    evaluation: CriteriaEvaluation,
    space: CaseSpace,
    effective: Mapping[str, Mask],
) -> Observations:
    """Observe the cases of the population that ``population`` refers to, net of that population's exclusions.

    Null observations are left out. Raises MeasureError when the function gives no numbers or mixes units.
    """
    observed = group.named(population.criteria_reference or "measure-population")
    if observed is None or observed.code not in ("measure-population", "numerator", "denominator"):
        raise MeasureError(f"group {group.id}: observation {population.id} does not observe a population")
    mask = effective[observed.id]
    for exclusion in group.of(f"{observed.code}-exclusion"):
        mask = mask & ~effective[exclusion.id]
    vector = evaluation.function_values(population.expression, space.select(mask))
    if space.episodes is None:
        vector = vector.take(np.flatnonzero(mask))
    member = space.member[mask]
    if len(vector) != len(member):
        raise MeasureError(f"observation {population.id} gave {len(vector)} values for {len(member)} cases")
    known = np.flatnonzero(vector.valid)
    value, unit = _numbers(vector.take(known), population)
    return Observations(
        population.aggregate_method or "", observed.id, member[known], np.flatnonzero(mask)[known], value, unit
    )


def _numbers(vector: Vec, population: PopulationDefinition) -> tuple[pa.Array, str | None]:
    """Integers, decimals or quantities of one unit as decimals, and the unit; there are no nulls left."""
    if isinstance(vector, ElementVec):
        vector = vector.primitive()
    if isinstance(vector, NullVec):
        return pa.array([], VALUE_TYPE), None
    if isinstance(vector, IntVec | LongVec):
        return pa.array(vector.values, pa.int64()).cast(VALUE_TYPE), None
    if isinstance(vector, DecVec):
        return decimal_array(vector), None
    if isinstance(vector, QuantityVec):
        units = vector.unit.arrow().unique().to_pylist() if len(vector) else []
        if len(units) > 1:
            raise MeasureError(f"observation {population.id} gave quantities in {len(units)} different units")
        return decimal_array(vector.value), next(iter(units), None)
    raise MeasureError(f"observation {population.id} gave a {vector.kind}, not an Integer, Decimal or Quantity")


def decimal_array(vector: DecVec) -> pa.Array:
    """Exact Arrow decimals of a vector without nulls."""
    if vector.values.dtype == object:
        return pa.array([Decimal(value).scaleb(-8) for value in vector.values.tolist()], VALUE_TYPE)
    words = np.empty((len(vector), 2), np.int64)  # little-endian halves of a 128-bit integer
    words[:, 0] = vector.values
    words[:, 1] = vector.values >> 63
    return pa.Array.from_buffers(VALUE_TYPE, len(vector), [None, pa.py_buffer(words.tobytes())])
