"""Results of a measure, made up, as a run would keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.measures.model import GroupResult, MeasureResult, PopulationResult

YEAR = (date(2025, 1, 1), date(2025, 12, 31))


def cohort(members: Sequence[str], counts: Sequence[int] | None = None, **stated: Any) -> MeasureResult:
    """A cohort that all are in, or as often as ``counts``; ``stated`` goes over the header's made-up values."""
    inside = np.array([1] * len(members) if counts is None else counts, np.int64)
    population = PopulationResult("ip", "initial-population", inside, inside)
    return _made(members, GroupResult("g", None, "cohort", None, "boolean", (population,)), stated)


def proportion(
    members: Sequence[str],
    numerator: Sequence[int],
    *,
    initial: Sequence[int] | None = None,
    improvement: str = "increase",
    **stated: Any,
) -> MeasureResult:
    """A proportion whose denominator is the initial population, by default all."""
    inside = np.array([1] * len(members) if initial is None else initial, np.int16)
    counts = {"initial-population": inside, "denominator": inside, "numerator": np.array(numerator, np.int16)}
    populations = tuple(PopulationResult(code, code, of, of) for code, of in counts.items())
    return _made(members, GroupResult("g", None, "proportion", improvement, "boolean", populations), stated)


def _made(members: Sequence[str], group: GroupResult, stated: Mapping[str, Any]) -> MeasureResult:
    header = {
        "url": "http://measures.example/Measure/One",
        "version": "1.0.0",
        "name": "One",
        "title": "One",
        "period": YEAR,
        "evaluated_at": datetime(2026, 1, 15, tzinfo=UTC),
        "engine_version": "0",
        "package_hash": "p",
        "terminology_hash": "t",
        "lake_version": 1,
    }
    return MeasureResult(**(header | stated), members=pa.array(members, pa.string()), groups=(group,))
