"""Typed columns of a few resources, by Python: a query engine takes longer to start than they take to read.

What it gives is what DuckDB's ``json_transform`` gives; where JSON is not of the type that its column has, or a number
has more digits than both read alike, it gives nothing and the caller asks DuckDB.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from fhir_gateway.r4 import spec

#: Resources that are read faster here.
FEW = 400
_DIGITS = 15  # that a floating point number holds
_SCALE = 8
_LONG = 1 << 63


class _OddError(Exception):
    """A value that is not of its column's type."""


def typed(texts: Sequence[str], structure: dict[str, spec.Structure]) -> pa.StructArray | None:
    """The columns of ``structure`` of resources in JSON; None where they have to be read another way."""
    try:
        rows = [_struct(orjson.loads(text), structure) for text in texts]
    except _OddError:
        return None
    return pa.array(rows, spec.arrow_type(structure))


def _value(value: Any, structure: spec.Structure) -> Any:
    if value is None:
        return None
    if isinstance(structure, dict):
        return _struct(value, structure)
    if isinstance(structure, list):
        if not isinstance(value, list):
            raise _OddError
        return [_value(item, structure[0]) for item in value]
    if structure == "VARCHAR":
        if not isinstance(value, str) or "\0" in value:
            raise _OddError
        return value
    if structure == "BOOLEAN":
        if not isinstance(value, bool):
            raise _OddError
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _OddError
    return _decimal(value) if structure.startswith("DECIMAL") else _integer(value)


def _struct(value: Any, structure: dict[str, spec.Structure]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _OddError
    return {name: _value(value[name], inner) for name, inner in structure.items() if name in value}


def _integer(value: float) -> int:
    if not isinstance(value, int) or not -_LONG <= value < _LONG:
        raise _OddError
    return value


def _decimal(value: float) -> Decimal:
    number = Decimal(repr(value))
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or exponent < -_SCALE or len(digits) + max(exponent, 0) > _DIGITS:
        raise _OddError
    return number
