"""What the EHR records about an event: vital signs, laboratory values, diagnoses, procedures, prescriptions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER, day
from fhir_gateway.sandbox.population.codes import (
    CHRONIC,
    HYPERTENSION,
    MEDICATIONS,
    STAY_PROCEDURES,
    STAYS,
)
from fhir_gateway.sandbox.population.columns import Bools, Ints
from fhir_gateway.sandbox.population.people import People, chronic_diagnoses
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import (
    EMERGENCY,
    INPATIENT,
    OFFICE,
    PROCEDURE,
    SPECIALIST,
    Events,
)


@dataclass(frozen=True, slots=True)
class Pressures:
    """Blood pressure panels; ``event`` is a position in the events of the EHR."""

    event: Ints
    systolic: Ints
    diastolic: Ints


@dataclass(frozen=True, slots=True)
class Measurements:
    """Single values in tenths of the unit: HbA1c in percent, body weight in kilograms."""

    event: Ints
    tenths: Ints


@dataclass(frozen=True, slots=True)
class Diagnoses:
    """Conditions: problem list items (event -1, with an onset) and encounter diagnoses."""

    person: Ints
    event: Ints
    code: Ints
    onset: Ints


@dataclass(frozen=True, slots=True)
class Prescriptions:
    """A medication for a chronic condition, first ordered at an event; ``event`` is a position in all events."""

    person: Ints
    event: Ints
    medication: Ints
    diagnosis: Ints


def measure_pressures(rng: np.random.Generator, people: People, events: Events) -> Pressures:
    """Blood pressure at most visits of adults; also in the emergency room, where it does not count for control."""
    adult = (events.start_day - people.birth[events.person]) // 365 >= 18
    chance = np.select(
        [events.what == OFFICE, events.what == SPECIALIST, events.what == EMERGENCY], [0.88, 0.45, 0.8], 0
    )
    rows = np.flatnonzero(adult & (rng.random(len(events)) < chance))
    person = events.person[rows]
    raised = people.chronic(HYPERTENSION)[person] * 4 + (events.what[rows] == EMERGENCY) * 9
    systolic = np.clip((people.pressure[person] + raised + rng.normal(0, 9, len(rows))).round(), 82, 215).astype(
        np.int64
    )
    diastolic = np.clip((systolic * 0.42 + 23 + rng.normal(0, 6, len(rows))).round(), 45, 125).astype(np.int64)
    return Pressures(rows, systolic, np.minimum(diastolic, systolic - 15))


def weigh(rng: np.random.Generator, people: People, events: Events) -> Measurements:
    """Body weight of adults at a third of the office visits."""
    adult = (events.start_day - people.birth[events.person]) // 365 >= 18
    rows = np.flatnonzero(adult & (events.what == OFFICE) & (rng.random(len(events)) < 0.33))
    kilograms = 76 - 9 * people.female[events.person[rows]] + rng.normal(0, 13, len(rows))
    return Measurements(rows, (np.clip(kilograms, 42, 170) * 10).astype(np.int64))


def hba1c_results(events: Events) -> Measurements:
    """HbA1c results of the events that have one."""
    rows = np.flatnonzero(events.hba1c >= 0)
    return Measurements(rows, events.hba1c[rows])


def diagnose(people: People, events: Events, year: int) -> Diagnoses:
    """Problem list items of everybody on the EHR, and diagnoses of emergency visits, stays and acute visits."""
    known_until = np.minimum(people.death, day(year, 12, 31))[:, None]
    person, condition = np.nonzero((people.onset <= known_until) & people.in_ehr[:, None])
    acute = np.flatnonzero(
        np.isin(events.what, (EMERGENCY, INPATIENT)) | (~events.chronic & (events.what <= SPECIALIST))
    )
    return Diagnoses(
        person=np.concatenate([person, events.person[acute]]),
        event=np.concatenate([np.full(len(person), -1), acute]),
        code=np.concatenate([chronic_diagnoses()[condition], events.diagnosis[acute]]),
        onset=np.concatenate([people.onset[person, condition], events.start_day[acute]]),
    )


def stay_procedure(stays: Stays, stay: Ints) -> Ints:
    """Position in ``codes.STAY_PROCEDURES`` of each stay's procedure, -1 for none; ``stay`` may be -1."""
    by_kind = np.array([STAY_PROCEDURES.find([kind.procedure])[0] if kind.procedure else -1 for kind in STAYS])
    if not len(stays.kind):
        return np.full(len(stay), -1)
    return np.where(stay >= 0, by_kind[stays.kind[np.maximum(stay, 0)]], -1)


def procedure_events(events: Events, stays: Stays) -> tuple[Ints, Bools]:
    """Events with a procedure, and whether it is one of a stay (ICD-10-PCS) rather than outpatient (CPT)."""
    inpatient = (events.what == INPATIENT) & (stay_procedure(stays, events.stay) >= 0)
    rows = np.flatnonzero(inpatient | (events.what == PROCEDURE))
    return rows, inpatient[rows]


def prescribe(rng: np.random.Generator, people: People, events: Events) -> Prescriptions:
    """Medications of chronic conditions, ordered at the first visit after onset."""
    by_condition = np.array([MEDICATIONS.find([c.medication])[0] if c.medication else -1 for c in CHRONIC])
    treated = (people.onset < NEVER) & (by_condition >= 0)[None, :] & (rng.random(people.onset.shape) < 0.8)
    person, condition = np.nonzero(treated)
    visits = np.flatnonzero(events.what <= SPECIALIST)
    if not len(visits):
        nothing = np.zeros(0, np.int64)
        return Prescriptions(nothing, nothing, nothing, nothing)
    span = 2 * NEVER
    key = events.person[visits] * span + events.start_day[visits]
    first = np.searchsorted(key, person * span + np.maximum(people.onset[person, condition], 0))
    found = visits[np.minimum(first, len(visits) - 1)]
    kept = (first < len(visits)) & (events.person[found] == person)
    return Prescriptions(
        person=person[kept],
        event=found[kept],
        medication=by_condition[condition[kept]],
        diagnosis=chronic_diagnoses()[condition[kept]],
    )
