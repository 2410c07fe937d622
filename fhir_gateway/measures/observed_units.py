"""Units of observations: values in units that convert into one another are aggregated in one of them.

Which one must not depend on how the population is cut into batches. It is the unit of the score where a
continuous-variable measure states one in UCUM; else the first by name that all others convert to, which is known only
when all batches are there: until then each value keeps the unit it came with, and is converted once. Where values do
not all convert to one unit, the members whose values are the odd ones fail; the others are evaluated (ADR 0137).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.cql.units import common_scale, conversion, converted
from fhir_gateway.cql.values import DecVec, StrVec
from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.definition import GroupDefinition

#: A CQL Decimal: 28 digits, 8 of them decimals.
VALUE_TYPE = pa.decimal128(28, 8)
_UCUM = "http://unitsofmeasure.org"


def score_unit(group: GroupDefinition) -> str | None:
    """The UCUM unit that a continuous-variable measure wants its score in; None when it does not say."""
    if group.scoring != "continuous-variable" or group.scoring_unit is None:
        return None
    return next((c.get("code") for c in group.scoring_unit.get("coding", ()) if c.get("system") == _UCUM), None)


def common_unit(name: str, units: Collection[str | None]) -> str | None:
    """The first of ``units`` by name that all others convert to; MeasureError when there is none."""
    ordered = sorted(units, key=lambda unit: unit or "")
    for target in ordered:
        if all(converts(unit, target) for unit in ordered):
            return target
    if ordered:
        raise MeasureError(f"observation {name} gave quantities in {len(ordered)} units that do not convert to one")
    return None


def odd_units(values: Mapping[str | None, int]) -> frozenset[str | None]:
    """Units that do not convert to the one in which most values can be told; ``values`` counts those of each unit."""
    ordered = sorted(values, key=lambda unit: unit or "")
    told = {target: sum(values[unit] for unit in ordered if converts(unit, target)) for target in ordered}
    target = max(ordered, key=told.__getitem__, default=None)  # of equals the first by name
    return frozenset(unit for unit in ordered if not converts(unit, target))


def odd_members(
    name: str, units: Iterable[tuple[pa.Array, pa.Array]], odd: frozenset[str | None]
) -> dict[str, Failure]:
    """Members with values of an observation in ``odd`` units; ``units`` are pairs of member ids and units of values."""
    failure = Failure("measure-observation", name, "its unit does not convert to that of the other members' values")
    found: dict[str, Failure] = {}
    for members, unit in units:
        rows = pc.is_in(unit, pa.array(sorted(odd, key=str), pa.string()))
        found |= dict.fromkeys(members.filter(rows).to_pylist(), failure)
    return found


def converts(unit: str | None, target: str | None) -> bool:
    """Whether values of a unit can be told in another."""
    return unit == target or conversion(unit, target) is not None


def in_unit(value: pa.Array, units: pa.Array, target: str | None) -> pa.Array:
    """Decimals, each in a unit of its own that converts, told in ``target``: exactly, then rounded half up."""
    scale = common_scale(StrVec.of_arrow(units), StrVec.constant(target, len(units)))
    if not scale.comparable.all():
        raise MeasureError(f"an observation is in a unit that does not convert to {target or '1'!r}")
    known = DecVec.of_arrow(value)
    return decimal_array(DecVec(converted(known.values, scale), known.valid))


def decimal_array(vector: DecVec) -> pa.Array:
    """Exact Arrow decimals of a vector without nulls; MeasureError beyond the largest Decimal of CQL."""
    if vector.values.dtype == object:
        try:
            return pa.array([Decimal(value).scaleb(-8) for value in vector.values.tolist()], VALUE_TYPE)
        except pa.ArrowInvalid:
            raise MeasureError("an observation is beyond the largest Decimal") from None
    words = np.empty((len(vector), 2), np.int64)  # little-endian halves of a 128-bit integer
    words[:, 0] = vector.values
    words[:, 1] = vector.values >> 63
    return pa.Array.from_buffers(VALUE_TYPE, len(vector), [None, pa.py_buffer(words.tobytes())])
