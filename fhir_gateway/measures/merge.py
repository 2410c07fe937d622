"""Putting the results of batches together: members of one batch follow those of the batch before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.measures.copies import left_out
from fhir_gateway.measures.distinct import Numbers, Value, value_key
from fhir_gateway.measures.model import (
    Cases,
    GroupResult,
    MeasureResult,
    Observations,
    PartResult,
    PopulationResult,
    RunHeader,
    StratifierResult,
    SupplementalResult,
    narrow,
)
from fhir_gateway.measures.observed_units import common_unit, in_unit, odd_members, odd_units
from fhir_gateway.measures.strata import CRITERIA, places, stratum_order
from fhir_gateway.measures.supplemental import unsupplied_notes

Strata = tuple[tuple[Value, ...], ...]


def merge_parts(header: RunHeader, parts: Sequence[PartResult]) -> MeasureResult:
    """One result of all parts, which are at least one."""
    sizes = [len(part.members) for part in parts]
    return MeasureResult(
        **{field.name: getattr(header, field.name) for field in fields(RunHeader)},
        members=pa.concat_arrays([part.members for part in parts]),
        groups=merge_groups([part.groups for part in parts], sizes),
        supplemental=merge_supplemental([part.supplemental for part in parts], sizes),
        failed=dict(sorted(item for part in parts for item in part.failed.items())),
        notes=(
            *dict.fromkeys(note for part in parts for note in part.notes),
            *left_out(sum(part.copies for part in parts)),
            *unsupplied_notes(part.unsupplied for part in parts),
        ),
        seconds=sum(part.seconds for part in parts),
    )


def odd_ones(parts: Sequence[PartResult]) -> dict[str, Failure]:
    """Members whose observations are in units that do not convert to that of most; see :func:`odd_units`."""
    found: dict[str, Failure] = {}
    for populations in zip(*(_observing(part) for part in parts), strict=True):
        values: Counter[str | None] = Counter()
        for _, _, observations in populations:
            values.update(observations.counted_units)
        odd = odd_units(values)
        if odd:
            units = ((members.take(pa.array(seen.member)), seen.unit_of_each) for _, members, seen in populations)
            found |= odd_members(populations[0][0], units, odd)
    return found


def _observing(part: PartResult) -> Iterator[tuple[str, pa.Array, Observations]]:
    for group in part.groups:
        for population in group.populations:
            if population.observations is not None:
                yield population.id, part.members, population.observations


def merge_groups(parts: Sequence[Sequence[GroupResult]], sizes: Sequence[int]) -> tuple[GroupResult, ...]:
    """Merge the groups of each batch; ``sizes`` are the members of each batch.

    Member indices of observations and cases are shifted by the members that come before.
    """
    starts = [0, *accumulate(sizes)][:-1]
    return tuple(_group(groups, starts) for groups in zip(*parts, strict=True))


def merge_supplemental(
    parts: Sequence[Sequence[SupplementalResult]], sizes: Sequence[int]
) -> tuple[SupplementalResult, ...]:
    """Merge the supplemental data of each batch; an element that no batch could compute is not there."""
    starts = [0, *accumulate(sizes)][:-1]
    by_id: dict[str, list[tuple[SupplementalResult, int]]] = {}
    for part, start in zip(parts, starts, strict=True):
        for found in part:
            by_id.setdefault(found.id, []).append((found, start))
    return tuple(
        replace(
            found[0][0],
            member=np.concatenate([one.member + np.int32(start) for one, start in found]),
            value=pa.concat_arrays([one.value for one, _ in found]),
        )
        for found in by_id.values()
    )


def _group(groups: Sequence[GroupResult], starts: Sequence[int]) -> GroupResult:
    populations = []
    for found in zip(*(g.populations for g in groups), strict=True):
        basis = found[0].basis or groups[0].basis
        sizes = [_size(group, basis) for group in groups]
        populations.append(_population(found, starts, [0, *accumulate(sizes)][:-1]))
    cases = tuple(_cases(found, starts) for found in zip(*(g.cases for g in groups), strict=True))
    stratifiers = tuple(_stratifier(found) for found in zip(*(g.stratifiers for g in groups), strict=True))
    return replace(groups[0], populations=tuple(populations), cases=cases, stratifiers=stratifiers)


def _stratifier(found: Sequence[StratifierResult]) -> StratifierResult:
    criteria, order, numbers = merge_strata([(part.criteria, part.values) for part in found])
    strata = {
        basis: np.concatenate([new[part.strata[basis]] for part, new in zip(found, numbers, strict=True)])
        for basis in found[0].strata
    }
    return replace(found[0], criteria=criteria, values=order, strata=strata)


def merge_strata(found: Sequence[tuple[bool, Strata]]) -> tuple[bool, Strata, list[Numbers]]:
    """Strata of all batches from ``criteria`` and ``values`` of each, which knows only the values it met.

    Also, for each batch, the new number of each of its strata; the extra last one serves cases in no stratum (-1).
    """
    criteria = any(criterion for criterion, _ in found)
    if criteria:  # a batch that has nothing but nulls cannot tell a criterion from a value
        met = [values if criterion else (CRITERIA[1],) * len(values) for criterion, values in found]
        return True, CRITERIA, [places(values, CRITERIA) for values in met]
    distinct = {tuple(map(value_key, combination)): combination for _, values in found for combination in values}
    order = tuple(sorted(distinct.values(), key=stratum_order))
    return False, order, [places(values, order) for _, values in found]


def _size(group: GroupResult, basis: str) -> int:
    """Number of cases of a basis."""
    return next((len(cases.member) for cases in group.cases if cases.basis == basis), len(group.populations[0].counts))


def _population(
    found: Sequence[PopulationResult], starts: Sequence[int], case_starts: Sequence[int]
) -> PopulationResult:
    first = found[0]
    observations = None
    if first.observations is not None:
        parts = [population.observations for population in found if population.observations is not None]
        observations = _observations(first.id, parts, starts, case_starts)
    return PopulationResult(
        first.id,
        first.code,
        narrow(np.concatenate([population.counts for population in found])),
        narrow(np.concatenate([population.raw for population in found])),
        observations,
        first.basis,
    )


def _observations(
    name: str, found: Sequence[Observations], starts: Sequence[int], case_starts: Sequence[int]
) -> Observations:
    units = set[str | None]().union(*(observations.found_units for observations in found))
    unit = common_unit(name, units)
    value = pa.concat_arrays([observations.value for observations in found])
    if len(units) > 1:
        value = in_unit(value, pa.concat_arrays([observations.unit_of_each for observations in found]), unit)
    return replace(
        found[0],
        member=_shifted([observations.member for observations in found], starts),
        case=np.concatenate([o.case + start for o, start in zip(found, case_starts, strict=True)]),
        value=value,
        unit=unit,
        units=None,
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
