"""Measure observations: the values that ratio and continuous-variable measures aggregate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.cql.values import DecVec, ElementVec, IntVec, LongVec, NullVec, QuantityVec, UncertainVec, Vec
from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.cases import CaseSpace, CriteriaEvaluation, Members
from fhir_gateway.measures.definition import GroupDefinition, PopulationDefinition
from fhir_gateway.measures.model import Mask, Observations
from fhir_gateway.measures.observed_units import VALUE_TYPE, converts, decimal_array, in_unit, score_unit


def observe(
    group: GroupDefinition,
    population: PopulationDefinition,
    evaluation: CriteriaEvaluation,
    space: CaseSpace,
    effective: Mapping[str, Mask],
) -> Observations:
    """Observe the cases of the population that ``population`` refers to, net of that population's exclusions.

    Null observations are left out; so are durations of which only a range is known. Values that do not convert to the
    unit the measure wants its score in fail their members. Raises MeasureError when the function gives no numbers.
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
    if isinstance(vector, UncertainVec):
        vector = vector.certain()
    known = np.flatnonzero(vector.valid)
    value, units = _numbers(vector.take(known), population)
    member, case = member[known], np.flatnonzero(mask)[known]
    target = score_unit(group)
    if units is not None and target is not None:
        fits = _fitting(population, target, units, member, evaluation)
        value, units = value.filter(pa.array(fits)), units.filter(pa.array(fits))
        member, case = member[fits], case[fits]
        value, units = in_unit(value, units, target), pa.repeat(pa.scalar(target), len(value))
    names = [] if units is None else units.unique().to_pylist()
    return Observations(
        aggregate_method=population.aggregate_method or "",
        criteria_reference=observed.id,
        member=member,
        case=case,
        value=value,
        unit=names[0] if len(names) == 1 else None,
        units=units if len(names) > 1 else None,
    )


def _fitting(
    population: PopulationDefinition,
    target: str,
    units: pa.Array,
    member: Members,
    evaluation: CriteriaEvaluation,
) -> Mask:
    """Which values convert to ``target``; the members of the others are failed."""
    fitting = [unit for unit in units.unique().to_pylist() if converts(unit, target)]
    fits: Mask = pc.is_in(units, pa.array(fitting, pa.string())).to_numpy(zero_copy_only=False)
    failure = Failure(population.expression, population.id, f"an observation does not convert to {target!r}")
    for index in np.unique(member[~fits]).tolist():  # failures are few
        evaluation.failures.setdefault(index, failure)
    return fits


def _numbers(vector: Vec, population: PopulationDefinition) -> tuple[pa.Array, pa.Array | None]:
    """Integers, decimals or quantities as decimals, and the units of quantities; there are no nulls left."""
    if isinstance(vector, ElementVec):
        vector = vector.primitive()
    if isinstance(vector, NullVec):
        return pa.array([], VALUE_TYPE), None
    if isinstance(vector, IntVec | LongVec):
        return pa.array(vector.values, pa.int64()).cast(VALUE_TYPE), None
    if isinstance(vector, DecVec):
        return decimal_array(vector), None
    if isinstance(vector, QuantityVec):
        return decimal_array(vector.value), vector.unit.arrow().cast(pa.string())
    raise MeasureError(f"observation {population.id} gave a {vector.kind}, not an Integer, Decimal or Quantity")
