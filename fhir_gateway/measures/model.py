"""Results of an evaluated measure: counts per member, observations, cases, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fhir_gateway.measures import scoring

#: Integers of 16 bits or more, whatever holds the numbers of a column.
Counts = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Observations:
    """Values a ``measure-observation`` gave for the members (or episodes) it observes.

    ``member`` is the index of the member each value belongs to, ascending; ``case`` the index of its case among those
    of its basis (the member itself for ``boolean``); ``value`` is decimal128(28,8) without nulls: a null observation
    is not aggregated. ``unit`` is set when the function returns quantities; ``units``, the unit of each value, only in
    a part of a run whose values are in several.
    """

    aggregate_method: str
    criteria_reference: str | None
    member: npt.NDArray[np.int32]
    case: npt.NDArray[np.int64]
    value: pa.Array
    unit: str | None = None
    units: pa.Array | None = None

    @property
    def found_units(self) -> set[str | None]:
        """Units of the values; nothing when there are none."""
        return set(self.counted_units)

    @property
    def counted_units(self) -> dict[str | None, int]:
        """How many values are in each unit."""
        if self.units is not None:
            return {one["values"]: one["counts"] for one in self.units.value_counts().to_pylist()}
        return {self.unit: len(self.value)} if len(self.value) else {}

    @property
    def unit_of_each(self) -> pa.Array:
        """The unit of each value, a string or null."""
        return pa.repeat(pa.scalar(self.unit, pa.string()), len(self.value)) if self.units is None else self.units


@dataclass(frozen=True, slots=True)
class PopulationResult:
    """One population: ``counts`` after gating by its parents, ``raw`` as its criteria alone said; one per member.

    ``basis`` is set where it differs from the group's.
    """

    id: str
    code: str
    counts: Counts
    raw: Counts
    observations: Observations | None = None
    basis: str | None = None


@dataclass(frozen=True, slots=True)
class StratifierResult:
    """Strata of one stratifier.

    ``components`` (id and CodeableConcept) is empty for a stratifier with an expression of its own, named by ``code``.
    ``values`` has one entry per stratum: a FHIR ``value[x]`` for the expression, or for each component. ``strata``
    numbers the stratum of each case, by basis; -1 is none. ``criteria`` is true for the strata true and false,
    ``stated`` where the Measure says which values there are.
    """

    id: str
    code: Mapping[str, Any]
    components: tuple[tuple[str, Mapping[str, Any]], ...]
    applies_to: tuple[str, ...]
    criteria: bool
    values: tuple[tuple[Mapping[str, Any], ...], ...]
    strata: Mapping[str, npt.NDArray[np.int32]]
    stated: bool = False


@dataclass(frozen=True, slots=True)
class SupplementalResult:
    """Values of one supplemental data element or risk adjustment variable.

    ``member`` is ascending; ``value`` is the JSON of a FHIR ``value[x]``, distinct for each member. ``usage`` is
    ``supplemental-data`` or ``risk-adjustment-factor``; ``report_types`` is empty when every report has it.
    """

    id: str
    usage: str
    code: Mapping[str, Any]
    report_types: tuple[str, ...]
    member: npt.NDArray[np.int32]
    value: pa.Array


@dataclass(frozen=True, slots=True)
class Cases:
    """Episodes of one basis: whose they are, their references (``Type/id``), effective membership per population."""

    basis: str
    member: npt.NDArray[np.int32]
    reference: pa.Array
    populations: Mapping[str, Mask]


@dataclass(frozen=True, slots=True)
class GroupResult:
    """One rate of a measure.

    ``scoring_unit`` is the CodeableConcept of the Measure, ``scoring_precision`` the decimals to round to at output;
    ``cases`` lists the episodes of an episode-based group, one entry per basis, and is empty for subject-based ones.
    """

    id: str
    code: Mapping[str, Any] | None
    scoring: str
    improvement_notation: str | None
    basis: str
    populations: tuple[PopulationResult, ...]
    scoring_unit: Mapping[str, Any] | None = None
    scoring_precision: int | None = None
    cases: tuple[Cases, ...] = ()
    stratifiers: tuple[StratifierResult, ...] = ()
    composite: Composite | None = None

    def population(self, code: str) -> PopulationResult | None:
        """The first population of that code."""
        return next((population for population in self.populations if population.code == code), None)

    def count(self, code: str, mask: Mask | None = None) -> int:
        """Labelled count of a population over the members in ``mask`` (default: all); 0 when it is not defined."""
        population = self.population(code)
        return 0 if population is None else scoring.count(population, mask)

    def score(self, mask: Mask | None = None) -> Decimal | None:
        """Exact score over the members in ``mask`` (default: all); None when it is undefined."""
        return scoring.score(self, mask)

    def member_score(self, index: int) -> Decimal | None:
        """Score of one member alone."""
        return scoring.member_score(self, index)


@dataclass(frozen=True, slots=True)
class Component:
    """A component of a composite: its group, its weight, and whether it improves in the other direction."""

    canonical: str
    group: GroupResult
    weight: Decimal
    flipped: bool


@dataclass(frozen=True, slots=True)
class Composite:
    """How a composite group is scored; ``components`` are kept only where the score needs them (``weighted``)."""

    method: str
    components: tuple[Component, ...] = ()


@dataclass(frozen=True)
class RunHeader:
    """Which measure was evaluated, over what, when and by which content: what a run's id is made of but members.

    ``copies`` says whether copies of one visit counted ``once`` or all of them (``all``).
    """

    url: str
    version: str
    name: str
    title: str
    period: tuple[date, date]
    evaluated_at: datetime
    engine_version: str
    package_hash: str
    terminology_hash: str
    lake_version: int | None
    copies: str = field(default="all", kw_only=True)

    @property
    def canonical(self) -> str:
        """``url|version`` of the Measure."""
        return f"{self.url}|{self.version}"


@dataclass(frozen=True)
class MeasureResult(RunHeader):
    """A measure evaluated over a population, with everything needed to make the numbers again.

    ``failed`` maps members whose data an expression could not digest to the reason; they count in no population.
    ``notes`` says what the Measure asks for that was not computed. ``seconds`` is how long the evaluation took; it is
    no part of any report, since the same inputs give the same bytes.
    """

    members: pa.Array
    groups: tuple[GroupResult, ...]
    supplemental: tuple[SupplementalResult, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @cached_property
    def run(self) -> str:
        """Id of the run; hashed once, since every individual report asks for it."""
        return _run_id(self, self.members)

    def group(self, group_id: str) -> GroupResult:
        """The group with that id; KeyError when there is none."""
        for group in self.groups:
            if group.id == group_id:
                return group
        raise KeyError(group_id)


@dataclass(frozen=True, slots=True)
class PartResult:
    """A measure evaluated over one batch: ``members`` and what a :class:`MeasureResult` says of them.

    ``seconds`` leaves out what was computed for another measure of the same batch before. ``copies`` is the number of
    Encounters that were set aside as copies; ``unsupplied`` counts, by supplemental data element, the members whose
    data makes it fail.
    """

    members: pa.Array
    groups: tuple[GroupResult, ...]
    failed: Mapping[str, str]
    supplemental: tuple[SupplementalResult, ...]
    notes: tuple[str, ...]
    seconds: float
    copies: int = 0
    unsupplied: Mapping[str, int] = field(default_factory=dict)


class RunDigest:
    """Id of a run, derived from all its inputs: the same inputs give the same id. At most 25 characters."""

    #: Members that are Python objects at the same time.
    _STEP = 1 << 16

    def __init__(self, header: RunHeader) -> None:
        """Begin with everything but the members."""
        inputs = (
            header.canonical,
            header.period[0].isoformat(),
            header.period[1].isoformat(),
            header.evaluated_at.isoformat(),
            header.engine_version,
            header.package_hash,
            header.terminology_hash,
            str(header.lake_version),
            *(() if header.copies == "all" else (f"copies {header.copies}",)),
        )
        self._hash = hashlib.sha256("\n".join(inputs).encode())

    def add(self, members: pa.Array) -> None:
        """Go on with further members."""
        for start in range(0, len(members), self._STEP):
            names = members.slice(start, self._STEP).to_pylist()
            self._hash.update(("\n" + "\n".join(names)).encode())

    @property
    def run(self) -> str:
        """The id."""
        return "m" + self._hash.hexdigest()[:24]


def run_id(result: MeasureResult, mask: Mask | None = None) -> str:
    """Id of a run; with ``mask`` that of the same run restricted to those members."""
    return result.run if mask is None else _run_id(result, result.members.filter(pa.array(mask)))


def _run_id(header: RunHeader, members: pa.Array) -> str:
    digest = RunDigest(header)
    digest.add(members)
    return digest.run


def narrow(counts: Counts) -> Counts:
    """The same counts in the fewest bits that hold them, 16 at least."""
    largest = int(counts.max(initial=0))
    for width in (np.int16, np.int32):
        if largest <= np.iinfo(width).max:
            return counts.astype(width, copy=False)
    return counts.astype(np.int64, copy=False)
