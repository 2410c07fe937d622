"""The persons of a batch: demographics, coverage, conditions, identities in both sources, where they are cared for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fhir_gateway.sandbox.population.calendar import NEVER, day, month_starts
from fhir_gateway.sandbox.population.codes import CHRONIC, DIABETES, DIAGNOSES
from fhir_gateway.sandbox.population.columns import Bools, Ints
from fhir_gateway.sandbox.population.directory import PRACTICE, Directory
from fhir_gateway.sandbox.population.names import CITIES, FAMILIES, MEN, STREETS, WOMEN

#: How persons use primary care; see ``docs/develop/sandbox.md``.
LOYAL, SPLIT, SPECIALISTS_ONLY, ABSENT, TIED = range(5)
_HABITS = (0.77, 0.12, 0.03, 0.07, 0.01)


_AGE_BANDS = ((0, 18, 0.08), (18, 45, 0.27), (45, 65, 0.28), (65, 80, 0.26), (80, 98, 0.11))


@dataclass(frozen=True, slots=True)
class People:
    """One row per person; ``number`` is unique in the whole population, positions are local to the batch."""

    number: Ints
    birth: Ints
    death: Ints  # NEVER while alive; moved forward when a stay ends in death
    female: Bools
    family: Ints
    given: Ints
    city: Ints
    street: Ints
    house: Ints
    race: Ints
    hispanic: Bools
    medicare: Bools
    in_ehr: Bools
    in_payer: Bools
    cover_start: npt.NDArray[np.int64]  # (persons, 2) spans; NEVER when there is no such span
    cover_end: npt.NDArray[np.int64]  # last covered day, NEVER when open
    pharmacy_benefit: Bools
    habit: Ints
    home: Ints  # organization
    second: Ints  # organization
    clinician: Ints  # usual practitioner in the home practice
    onset: npt.NDArray[np.int64]  # (persons, conditions) day, NEVER when the person does not have it
    a1c_level: npt.NDArray[np.float64]  # personal mean of HbA1c
    pressure: npt.NDArray[np.float64]  # personal mean of systolic pressure
    ehr_member: Ints  # number of the person whose member id the EHR record carries, -1 for none
    ehr_mbi: Ints  # the same for the Medicare number
    swapped_birth: Bools  # the EHR's birth date has day and month exchanged (or is off by ten days)
    changed_name: Bools  # the payer has another family name (marriage)

    def __len__(self) -> int:
        """Number of persons."""
        return len(self.number)

    def covered(self, person: Ints, on: Ints) -> Bools:
        """Whether the payer covers each person on the day."""
        inside = (self.cover_start[person] <= on[:, None]) & (on[:, None] <= self.cover_end[person])
        return np.asarray(inside.any(axis=1) & self.in_payer[person])

    def chronic(self, condition: int) -> Bools:
        """Who has a chronic condition of :data:`~fhir_gateway.sandbox.population.codes.CHRONIC`."""
        return np.asarray(self.onset[:, condition] < NEVER)


def _band(age: Ints) -> Ints:
    return np.searchsorted(np.array([18, 45, 65]), age, side="right")


def _coverage(
    rng: np.random.Generator, count: int, year: int, birth: Ints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Spans of whole months: continuous, with a gap, left early, joined late."""
    months = month_starts(year - 1, 2)
    kind = rng.choice(4, count, p=(0.80, 0.07, 0.06, 0.07))
    start = np.full((count, 2), NEVER, np.int64)
    end = np.full((count, 2), NEVER, np.int64)
    years_before = rng.integers(0, 6, count)
    first = np.array([day(year - 1 - back) for back in range(6)])[years_before]
    gap_at, gap_long = rng.integers(5, 18, count), rng.integers(1, 5, count)
    left, joined = rng.integers(11, 24, count), rng.integers(1, 20, count)
    start[:, 0] = np.where(kind == 3, months[joined], first)
    end[:, 0] = np.select([kind == 1, kind == 2], [months[gap_at] - 1, months[left] - 1], NEVER)
    start[:, 1] = np.where(kind == 1, months[gap_at + gap_long], NEVER)
    start = np.maximum(start, np.where(birth > first, _month_start(birth), 0)[:, None])
    return start, end


def end_coverage_at_death(people: People) -> None:
    """Close coverage with the month of death and forget spans that would begin after it."""
    ends = np.where(people.death < NEVER, _month_end(people.death), NEVER)[:, None]
    gone = (people.cover_start > ends) | (people.cover_start > people.cover_end)
    np.minimum(people.cover_end, ends, out=people.cover_end)
    people.cover_start[gone] = NEVER
    people.cover_end[gone] = NEVER


def _month_start(days: Ints) -> Ints:
    return days.astype("datetime64[D]").astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _month_end(days: Ints) -> Ints:
    following = days.astype("datetime64[D]").astype("datetime64[M]") + 1
    return following.astype("datetime64[D]").astype(np.int64) - 1


def _onsets(rng: np.random.Generator, birth: Ints, age: Ints, year: int) -> npt.NDArray[np.int64]:
    """Onset days of chronic conditions, most of them years ago, some in the two years of data."""
    count, band = len(birth), _band(age)
    onset = np.full((count, len(CHRONIC)), NEVER, np.int64)
    has_before = np.zeros(count, bool)
    for position, condition in enumerate(CHRONIC):
        chance = np.array(condition.prevalence)[band]
        if position != DIABETES:  # conditions cluster
            chance = np.where(has_before, chance * 1.3, chance * 0.85)
        has = rng.random(count) < chance
        ago = rng.integers(200, 12 * 365, count)
        began = np.maximum(day(year, 12, 31) - ago, birth + np.minimum(age, 16) * 330)
        onset[has, position] = began[has]
        has_before |= has
    return onset


def _identities(
    rng: np.random.Generator, number: Ints, both: Bools, in_payer: Bools, medicare: Bools
) -> tuple[Ints, Ints]:
    """Which member id and Medicare number the EHR record carries: one's own, none, or by mistake a neighbour's."""
    count = len(number)
    none = rng.random(count) < 0.12
    member = np.where(both & ~none, number, -1)
    mbi = np.where(both & medicare & (rng.random(count) < 0.85), number, -1)
    candidates = np.flatnonzero(both & ~medicare)
    wrong = candidates[rng.random(len(candidates)) < 0.006]
    if len(candidates) > 1:
        neighbour = candidates[(np.searchsorted(candidates, wrong) + 1) % len(candidates)]
        member[wrong] = number[neighbour]
    return member, mbi


def make_people(rng: np.random.Generator, first: int, count: int, directory: Directory, year: int) -> People:
    """Persons ``first`` to ``first + count`` of the population, as they are at the end of ``year``."""
    band = rng.choice(len(_AGE_BANDS), count, p=[share for *_, share in _AGE_BANDS])
    low = np.array([bounds[0] for bounds in _AGE_BANDS])[band]
    high = np.array([bounds[1] for bounds in _AGE_BANDS])[band]
    age = rng.integers(low, high)
    birth = day(year, 12, 31) - age * 365 - age // 4 - rng.integers(1, 365, count)
    dies = rng.random(count) < np.select([age >= 80, age >= 65, age >= 45], [0.07, 0.02, 0.006], 0.001)
    death = np.where(dies, rng.integers(day(year - 1, 3), day(year + 1), count), NEVER)
    death = np.where(death > birth + 365, death, NEVER)
    medicare = rng.random(count) < np.where(age >= 65, 0.93, np.where(age >= 45, 0.06, 0.0))
    where = rng.choice(3, count, p=(0.88, 0.07, 0.05))
    in_ehr, in_payer = where != 2, where != 1
    cover_start, cover_end = _coverage(rng, count, year, birth)
    number = first + np.arange(count)
    member, mbi = _identities(rng, number, in_ehr & in_payer, in_payer, medicare)

    inside, outside = directory.of_kind(PRACTICE, on_ehr=True), directory.of_kind(PRACTICE, on_ehr=False)
    pick = rng.integers(0, len(inside), count)
    home = np.where(in_ehr, inside[pick], outside[rng.integers(0, len(outside), count)])
    elsewhere = rng.random(count) < 0.25
    other_inside = inside[(pick + rng.integers(1, len(inside), count)) % len(inside)]
    other_outside = outside[rng.integers(0, len(outside), count)]
    second = np.where(in_ehr & ~elsewhere, other_inside, other_outside)
    habit = rng.choice(len(_HABITS), count, p=_HABITS)
    habit = np.where((habit == TIED) & ~((where == 0) & (age >= 18)), LOYAL, habit)
    clinician = directory.staff_start[home] + rng.integers(0, directory.staff_size[home])
    female = rng.random(count) < 0.52
    return People(
        number=number,
        birth=birth,
        death=death,
        female=female,
        family=rng.integers(0, len(FAMILIES), count),
        given=rng.integers(0, np.where(female, len(WOMEN), len(MEN))),
        city=rng.integers(0, len(CITIES), count),
        street=rng.integers(0, len(STREETS), count),
        house=rng.integers(1, 9_999, count),
        race=rng.choice(5, count, p=(0.72, 0.08, 0.06, 0.09, 0.05)),
        hispanic=rng.random(count) < 0.28,
        medicare=medicare,
        in_ehr=in_ehr,
        in_payer=in_payer,
        cover_start=cover_start,
        cover_end=cover_end,
        pharmacy_benefit=rng.random(count) < 0.65,
        habit=habit,
        home=home,
        second=second,
        clinician=clinician,
        onset=_onsets(rng, birth, age, year),
        a1c_level=np.clip(rng.normal(7.6, 1.6, count), 5.2, 13.5),
        pressure=np.clip(rng.normal(131, 12, count), 95, 185),
        ehr_member=member,
        ehr_mbi=mbi,
        swapped_birth=(where == 0) & (rng.random(count) < 0.006),
        changed_name=(where == 0) & female & (rng.random(count) < 0.01),
    )


def chronic_diagnoses() -> Ints:
    """Positions of the chronic conditions in :data:`~fhir_gateway.sandbox.population.codes.DIAGNOSES`."""
    return DIAGNOSES.find(condition.diagnosis for condition in CHRONIC)
