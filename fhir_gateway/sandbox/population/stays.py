"""Inpatient stays: a renewal process per person, so that stays never overlap and readmissions follow discharges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER, day
from fhir_gateway.sandbox.population.codes import (
    AGAINST_ADVICE,
    COPD,
    DIAGNOSES,
    DISPOSITIONS,
    EXPIRED,
    HEART_FAILURE,
    HOME,
    KIDNEY,
    STAYS,
    TRANSFER,
)
from fhir_gateway.sandbox.population.columns import Bools, Ints
from fhir_gateway.sandbox.population.directory import HOSPITAL, Directory
from fhir_gateway.sandbox.population.people import People

#: Chance that a discharge alive is followed by another admission within 30 days for a new reason of any kind; together
#: with stays that happen to fall into the window the rate is near the 14 to 15 percent that Medicare reports.
READMITTED = 0.13
_MOST_STAYS = 8


@dataclass(frozen=True, slots=True)
class Stays:
    """Inpatient stays, ordered by person and start; ``end`` is the discharge day."""

    person: Ints
    start: Ints
    end: Ints
    kind: Ints  # position in codes.STAYS
    disposition: Ints  # position in codes.DISPOSITIONS
    organization: Ints
    through_emergency: Bools
    transferred_in: Bools

    def inside(self, person: Ints, on: Ints) -> Bools:
        """Whether each person is in hospital on the day."""
        if not len(self.person):
            return np.zeros(len(person), bool)
        span = 2 * NEVER
        key = self.person * span + self.start
        last = np.searchsorted(key, person * span + on, side="right") - 1
        found = np.maximum(last, 0)
        return np.asarray((last >= 0) & (self.person[found] == person) & (on <= self.end[found]))


def _hazard(people: People, age: Ints) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Stays per day outside hospital."""
    burden = (people.onset < NEVER).sum(axis=1)
    frail = people.chronic(HEART_FAILURE) * 0.21 + people.chronic(COPD) * 0.10 + people.chronic(KIDNEY) * 0.06
    yearly = 0.014 + 0.016 * burden + 0.0032 * np.maximum(age - 60, 0) + frail
    return np.asarray(yearly / 365.0)


def make_stays(rng: np.random.Generator, people: People, directory: Directory, year: int) -> Stays:
    """All stays of the two years; deaths in hospital are written into ``people.death``."""
    first, last = day(year - 1), day(year, 12, 31)
    age = (last - people.birth) // 365
    hazard = _hazard(people, age)
    shares = np.array([kind.share for kind in STAYS])
    planned = np.array([kind.planned for kind in STAYS])
    mean_days = np.array([kind.days for kind in STAYS])
    ends = np.array([disposition.share for disposition in DISPOSITIONS])
    inside, outside = directory.of_kind(HOSPITAL, on_ehr=True), directory.of_kind(HOSPITAL, on_ehr=False)

    person = np.flatnonzero(age >= 1)
    free_from = np.full(len(person), first - 1)  # day of the last discharge
    was_transfer = np.zeros(len(person), bool)
    had_stay = np.zeros(len(person), bool)
    hospital = np.full(len(person), -1)
    found: list[dict[str, Ints | Bools]] = []
    for _ in range(_MOST_STAYS):
        count = len(person)
        gap = 1 + rng.exponential(1.0 / hazard[person]).astype(np.int64)
        again = had_stay & (rng.random(count) < READMITTED)
        gap = np.where(again, rng.integers(1, 31, count), gap)
        gap = np.where(was_transfer, 0, gap)
        start = np.minimum(free_from + gap, NEVER)
        kind = rng.choice(len(STAYS), count, p=shares / shares.sum())
        kind = np.where(planned[kind] & (age[person] < 40), 1, kind)
        length = np.clip(rng.gamma(2.2, mean_days[kind] / 2.2).round(), 1, 30).astype(np.int64)
        end = start + length
        disposition = rng.choice(len(DISPOSITIONS), count, p=ends / ends.sum())
        young = (age[person] < 45) & (disposition == EXPIRED)
        disposition = np.where(young | (planned[kind] & (disposition == TRANSFER)), HOME, disposition)
        disposition = np.where(planned[kind] & (disposition == AGAINST_ADVICE), HOME, disposition)
        known = np.where(people.in_ehr[person], rng.random(count) < 0.92, False)
        chosen = np.where(
            known, inside[rng.integers(0, len(inside), count)], outside[rng.integers(0, len(outside), count)]
        )
        stay_put = inside[(np.searchsorted(inside, hospital) + 1) % len(inside)]
        chosen = np.where(was_transfer & (chosen == hospital), stay_put, chosen)
        by_ambulance = ~planned[kind] & ~was_transfer & (rng.random(count) < 0.7)

        dies_inside = people.death[person] <= end
        end = np.minimum(end, people.death[person])
        disposition = np.where(dies_inside, EXPIRED, disposition)
        keep = (start <= last) & (end <= last) & (start < end) & (start >= first)
        if not keep.any():
            break
        found.append(
            {
                "person": person[keep],
                "start": start[keep],
                "end": end[keep],
                "kind": kind[keep],
                "disposition": disposition[keep],
                "organization": chosen[keep],
                "through_emergency": by_ambulance[keep],
                "transferred_in": was_transfer[keep],
            }
        )
        dead = keep & (disposition == EXPIRED)
        people.death[person[dead]] = end[dead]
        going = keep & ~dead
        person, free_from = person[going], end[going]
        was_transfer, hospital = disposition[going] == TRANSFER, chosen[going]
        had_stay = np.ones(len(person), bool)

    def column(name: str) -> Ints:
        return np.concatenate([part[name].astype(np.int64) for part in found]) if found else np.zeros(0, np.int64)

    order = np.lexsort((column("start"), column("person")))
    return Stays(
        person=column("person")[order],
        start=column("start")[order],
        end=column("end")[order],
        kind=column("kind")[order],
        disposition=column("disposition")[order],
        organization=column("organization")[order],
        through_emergency=column("through_emergency")[order].astype(bool),
        transferred_in=column("transferred_in")[order].astype(bool),
    )


def principal_diagnoses() -> Ints:
    """Position in ``codes.DIAGNOSES`` of each kind of stay."""
    return DIAGNOSES.find(kind.diagnosis for kind in STAYS)
