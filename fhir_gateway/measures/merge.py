"""Putting the results of batches together: members of one batch follow those of the batch before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.model import Cases, GroupResult, Observations, PopulationResult


def merge_groups(parts: Sequence[Sequence[GroupResult]], sizes: Sequence[int]) -> tuple[GroupResult, ...]:
    """Merge the groups of each batch; ``sizes`` are the members of each batch.

    Member indices of observations and cases are shifted by the members that come before.
    """
    starts = [0, *accumulate(sizes)][:-1]
    return tuple(_group(groups, starts) for groups in zip(*parts, strict=True))


def _group(groups: Sequence[GroupResult], starts: Sequence[int]) -> GroupResult:
    populations = tuple(_population(found, starts) for found in zip(*(g.populations for g in groups), strict=True))
    cases = tuple(_cases(found, starts) for found in zip(*(g.cases for g in groups), strict=True))
    return replace(groups[0], populations=populations, cases=cases)


def _population(found: Sequence[PopulationResult], starts: Sequence[int]) -> PopulationResult:
    first = found[0]
    observations = None
    if first.observations is not None:
        observations = _observations(first.id, [p.observations for p in found if p.observations is not None], starts)
    return PopulationResult(
        first.id,
        first.code,
        np.concatenate([population.counts for population in found]),
        np.concatenate([population.raw for population in found]),
        observations,
    )


def _observations(name: str, found: Sequence[Observations], starts: Sequence[int]) -> Observations:
    units = {observations.unit for observations in found if len(observations.value)}
    if len(units) > 1:
        raise MeasureError(f"observation {name} gave quantities in {len(units)} different units")
    return replace(
        found[0],
        member=_shifted([observations.member for observations in found], starts),
        value=pa.concat_arrays([observations.value for observations in found]),
        unit=next(iter(units), None),
    )


def _cases(found: Sequence[Cases], starts: Sequence[int]) -> Cases:
    first = found[0]
    return Cases(
        first.basis,
        _shifted([cases.member for cases in found], starts),
        pa.concat_arrays([cases.reference for cases in found]),
        {name: np.concatenate([cases.populations[name] for cases in found]) for name in first.populations},
    )


def _shifted(members: Sequence[npt.NDArray[np.int32]], starts: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.concatenate([member + np.int32(start) for member, start in zip(members, starts, strict=True)])
