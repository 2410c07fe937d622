"""Care that is not an inpatient stay: office and specialist visits, emergency visits, outpatient procedures."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER, day, weekdays
from fhir_gateway.sandbox.population.codes import CHRONIC, DIABETES, DIAGNOSES, HOME, SERVICES, SNF
from fhir_gateway.sandbox.population.columns import Bools, Ints
from fhir_gateway.sandbox.population.directory import GROUP, HOSPITAL, Directory
from fhir_gateway.sandbox.population.people import (
    ABSENT,
    LOYAL,
    SPECIALISTS_ONLY,
    SPLIT,
    TIED,
    People,
    chronic_diagnoses,
)
from fhir_gateway.sandbox.population.stays import Stays, principal_diagnoses

OFFICE, SPECIALIST, EMERGENCY, PROCEDURE, SKILLED_NURSING, INPATIENT = range(6)


@dataclass(frozen=True, slots=True)
class Events:
    """All care of a batch, one row per encounter, ordered by person and start minute."""

    person: Ints
    what: Ints  # OFFICE ... INPATIENT
    start: Ints  # local minute since 1970-01-01
    end: Ints
    organization: Ints
    practitioner: Ints
    service: Ints  # position in codes.SERVICES: the evaluation and management or procedure code
    diagnosis: Ints  # position in codes.DIAGNOSES
    chronic: Bools  # the diagnosis is one of the person's chronic conditions
    stay: Ints  # position in Stays, of the stay itself or of the one that an emergency visit led to; else -1
    hba1c: Ints  # tenths of a percent, -1 when not measured

    def __len__(self) -> int:
        """Number of events."""
        return len(self.person)

    @property
    def start_day(self) -> Ints:
        """Day of the start."""
        return self.start // 1440

    @property
    def end_day(self) -> Ints:
        """Day of the end."""
        return self.end // 1440

    def take(self, rows: Ints | Bools) -> Events:
        """The chosen rows."""
        return Events(*(getattr(self, column.name)[rows] for column in fields(self)))


def _events(**columns: Ints | Bools | int) -> Events:
    """Events with defaults for what is not given."""
    person = np.asarray(columns["person"])
    full = {"chronic": np.zeros(len(person), bool), "stay": -1, "hba1c": -1} | columns
    return Events(**{name: np.broadcast_to(np.asarray(value), person.shape).copy() for name, value in full.items()})


def _concat(parts: list[Events]) -> Events:
    return Events(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Events)))


def _diagnose(rng: np.random.Generator, people: People, person: Ints, on: Ints, acute: Ints) -> tuple[Ints, Bools]:
    """One of the person's chronic conditions that has begun by then, else an acute diagnosis."""
    begun = people.onset[person] <= on[:, None]
    scores = np.where(begun, rng.random(begun.shape) + np.array([0.5, 0.4] + [0.0] * (len(CHRONIC) - 2)), -1.0)
    best = scores.argmax(axis=1)
    chronic = begun.any(axis=1) & (rng.random(len(person)) < 0.72)
    other = acute[rng.integers(0, len(acute), len(person))]
    return np.where(chronic, chronic_diagnoses()[best], other), chronic


def _spread(rng: np.random.Generator, counts: Ints, year: int) -> tuple[Ints, Ints]:
    """A row per event and its day, somewhere in the two years."""
    person = np.repeat(np.arange(len(counts)), counts)
    return person, rng.integers(day(year - 1), day(year + 1), len(person))


def _minutes(rng: np.random.Generator, days: Ints, first_hour: int, last_hour: int) -> Ints:
    """Start minutes on quarter hours. Before 17:00, so that the date is the same in UTC."""
    return days * 1440 + rng.integers(first_hour * 4, last_hour * 4, len(days)) * 15


def _office(
    rng: np.random.Generator, people: People, directory: Directory, year: int, age: Ints, burden: Ints
) -> Events:
    yearly = (1.1 + 0.012 * age + 0.6 * burden) * np.isin(people.habit, (LOYAL, SPLIT))
    person, on = _spread(rng, rng.poisson(2 * yearly), year)
    on = np.clip(weekdays(on), day(year - 1), day(year, 12, 31))
    service = SERVICES.find(("99212", "99213", "99214", "99215"))[
        rng.choice(4, len(person), p=(0.07, 0.48, 0.40, 0.05))
    ]
    first = np.ones(len(person), bool)
    first[1:] = person[1:] != person[:-1]
    well = (rng.random(len(person)) < 0.55) & first
    wellness = np.select(
        [people.medicare[person], age[person] >= 40], SERVICES.find(("G0439", "99396")), SERVICES.find(("99395",))
    )
    service = np.where(well & (age[person] >= 18), wellness, service)
    service = np.where(~first & (rng.random(len(person)) < 0.02), SERVICES.find(("99204",))[0], service)
    away = rng.random(len(person)) < np.where(people.habit[person] == SPLIT, 0.48, 0.03)

    tied = np.flatnonzero(people.habit == TIED)  # two equal visits of the year, one in each practice
    tied_days = weekdays(rng.integers(day(year, 2), day(year, 11), 2 * len(tied)))
    person = np.concatenate([person, tied, tied])
    on = np.concatenate([on, tied_days])
    service = np.concatenate([service, np.full(2 * len(tied), SERVICES.find(("99213",))[0])])
    away = np.concatenate([away, np.zeros(len(tied), bool), np.ones(len(tied), bool)])

    organization = np.where(away, people.second[person], people.home[person])
    anyone = directory.staff_start[organization] + rng.integers(0, directory.staff_size[organization])
    usual = ~away & (rng.random(len(person)) < 0.75)
    start = _minutes(rng, on, 8, 16)
    acute = DIAGNOSES.find(("J06.9", "M54.50", "N39.0", "L30.9", "R05.9", "R51.9"))
    diagnosis, chronic = _diagnose(rng, people, person, on, acute)
    checkup = np.isin(service, SERVICES.find(("G0439", "99396", "99395"))) & ~chronic
    return _events(
        person=person,
        what=OFFICE,
        start=start,
        end=start + 15 + 15 * rng.integers(0, 2, len(person)),
        organization=organization,
        practitioner=np.where(usual, people.clinician[person], anyone),
        service=service,
        diagnosis=np.where(checkup, DIAGNOSES.find(("Z00.00",))[0], diagnosis),
        chronic=chronic,
    )


def _specialist(rng: np.random.Generator, people: People, directory: Directory, year: int, burden: Ints) -> Events:
    yearly = 0.12 + 0.2 * burden + 0.8 * (people.habit == SPECIALISTS_ONLY)
    person, on = _spread(rng, rng.poisson(2 * yearly * (people.habit != ABSENT) * (people.habit != TIED)), year)
    on = np.clip(weekdays(on), day(year - 1), day(year, 12, 31))
    inside, outside = directory.of_kind(GROUP, on_ehr=True), directory.of_kind(GROUP, on_ehr=False)
    stays_in = people.in_ehr[person] & (rng.random(len(person)) < 0.9)
    organization = np.where(stays_in, inside[person % len(inside)], outside[person % len(outside)])
    practitioner = directory.staff_start[organization] + rng.choice(4, len(person), p=(0.42, 0.22, 0.2, 0.16))
    start = _minutes(rng, on, 8, 16)
    diagnosis, chronic = _diagnose(rng, people, person, on, DIAGNOSES.find(("M17.11", "L30.9", "R07.9")))
    return _events(
        person=person,
        what=SPECIALIST,
        start=start,
        end=start + 30,
        organization=organization,
        practitioner=practitioner,
        service=SERVICES.find(("99213", "99214", "99203"))[rng.choice(3, len(person), p=(0.45, 0.4, 0.15))],
        diagnosis=diagnosis,
        chronic=chronic,
    )


def _at_hospital(
    rng: np.random.Generator, people: People, directory: Directory, person: Ints, cms: str
) -> tuple[Ints, Ints]:
    """A hospital near the person and one of its clinicians."""
    inside, outside = directory.of_kind(HOSPITAL, on_ehr=True), directory.of_kind(HOSPITAL, on_ehr=False)
    near = people.in_ehr[person] & (rng.random(len(person)) < 0.92)
    organization = np.where(
        near, inside[rng.integers(0, len(inside), len(person))], outside[rng.integers(0, len(outside), len(person))]
    )
    return organization, directory.staff(cms)[organization] + rng.integers(0, 2, len(person))


def _emergency(
    rng: np.random.Generator, people: People, directory: Directory, year: int, burden: Ints, stays: Stays
) -> Events:
    yearly = 0.11 + 0.055 * burden + 0.25 * (rng.random(len(people)) < 0.03)
    person, on = _spread(rng, rng.poisson(2 * yearly), year)
    organization, practitioner = _at_hospital(rng, people, directory, person, "93")
    start = _minutes(rng, on, 0, 16)
    acute = DIAGNOSES.find(("R07.9", "R10.9", "R51.9", "S93.401A", "N39.0", "J06.9", "M54.50"))
    released = _events(
        person=person,
        what=EMERGENCY,
        start=start,
        end=np.minimum(start + rng.integers(60, 420, len(person)), on * 1440 + 16 * 60 + 59),
        organization=organization,
        practitioner=practitioner,
        service=SERVICES.find(("99281", "99282", "99283", "99284", "99285"))[
            rng.choice(5, len(person), p=(0.03, 0.12, 0.35, 0.33, 0.17))
        ],
        diagnosis=acute[rng.integers(0, len(acute), len(person))],
    )
    admitted = np.flatnonzero(stays.through_emergency)
    arrives = stays.start[admitted] * 1440 + rng.integers(0, 5 * 4, len(admitted)) * 15
    leading = _events(
        person=stays.person[admitted],
        what=EMERGENCY,
        start=arrives,
        end=arrives + 180,
        organization=stays.organization[admitted],
        practitioner=directory.staff("93")[stays.organization[admitted]],
        service=SERVICES.find(("99285",))[0],
        diagnosis=principal_diagnoses()[stays.kind[admitted]],
        stay=admitted,
    )
    outside_stay = ~stays.inside(released.person, released.start_day)
    return _concat([released.take(outside_stay), leading])


#: Outpatient hospital procedures: code, reason, share.
OUTPATIENT = (("45378", "Z12.11", 0.4), ("66984", "H25.9", 0.2), ("73721", "M17.11", 0.4))


def _procedures(
    rng: np.random.Generator, people: People, directory: Directory, year: int, age: Ints, burden: Ints
) -> Events:
    yearly = np.where(age >= 45, 0.12 + 0.03 * burden, 0.01) * (people.habit != ABSENT)
    person, on = _spread(rng, rng.poisson(2 * yearly), year)
    organization, practitioner = _at_hospital(rng, people, directory, person, "C6")
    kind = rng.choice(len(OUTPATIENT), len(person), p=[share for *_, share in OUTPATIENT])
    start = _minutes(rng, np.clip(weekdays(on), day(year - 1), day(year, 12, 31)), 7, 13)
    return _events(
        person=person,
        what=PROCEDURE,
        start=start,
        end=start + 120,
        organization=organization,
        practitioner=practitioner,
        service=SERVICES.find(code for code, _, _ in OUTPATIENT)[kind],
        diagnosis=DIAGNOSES.find(reason for _, reason, _ in OUTPATIENT)[kind],
    )


def _after_discharge(rng: np.random.Generator, people: People, directory: Directory, stays: Stays) -> list[Events]:
    """Transitional care visits at the home practice, and visits in the skilled nursing facility."""
    untied = people.habit[stays.person] <= SPLIT
    home = np.isin(stays.disposition, (HOME, HOME + 1)) & untied & (rng.random(len(stays.person)) < 0.35)
    nursing = (stays.disposition == SNF) & untied & (rng.random(len(stays.person)) < 0.6)
    parts = []
    for what, code, chosen in ((OFFICE, "99495", home), (SKILLED_NURSING, "99309", nursing)):
        rows = np.flatnonzero(chosen)
        person = stays.person[rows]
        start = _minutes(rng, stays.end[rows] + rng.integers(3, 12, len(rows)), 8, 16)
        parts.append(
            _events(
                person=person,
                what=what,
                start=start,
                end=start + 30,
                organization=people.home[person],
                practitioner=people.clinician[person],
                service=SERVICES.find((code,))[0],
                diagnosis=DIAGNOSES.find(("Z09",))[0],
            )
        )
    return parts


def _inpatient(rng: np.random.Generator, directory: Directory, stays: Stays) -> Events:
    """Stays as events: admission after any emergency visit, discharge before the next hospital admits."""
    count = len(stays.person)
    start = stays.start * 1440 + 10 * 60 + rng.integers(0, 5 * 4, count) * 15
    return _events(
        person=stays.person,
        what=INPATIENT,
        start=start,
        end=np.maximum(stays.end * 1440 + rng.integers(7 * 4, 9 * 4, count) * 15, start + 60),
        organization=stays.organization,
        practitioner=directory.staff("C6")[stays.organization] + rng.integers(0, 2, count),
        service=SERVICES.find(("99223",))[0],
        diagnosis=principal_diagnoses()[stays.kind],
        stay=np.arange(count),
    )


def _measure_hba1c(rng: np.random.Generator, people: People, events: Events) -> None:
    """Order HbA1c at some office visits of diabetics: about one in fourteen of them is never measured."""
    never = rng.random(len(people)) < 0.07
    diabetic = people.onset[events.person, DIABETES] <= events.start_day
    measured = diabetic & (events.what == OFFICE) & ~never[events.person] & (rng.random(len(events)) < 0.75)
    value = people.a1c_level[events.person] + rng.normal(0, 0.45, len(events))
    events.hba1c[measured] = np.clip((value * 10).round(), 45, 150).astype(np.int64)[measured]


def make_events(rng: np.random.Generator, people: People, directory: Directory, stays: Stays, year: int) -> Events:
    """Everything that happened to the persons of a batch in ``year`` and the year before."""
    age = np.maximum((day(year, 12, 31) - people.birth) // 365, 0)
    burden = (people.onset < NEVER).sum(axis=1)
    ambulatory = _concat(
        [
            _office(rng, people, directory, year, age, burden),
            _specialist(rng, people, directory, year, burden),
            _procedures(rng, people, directory, year, age, burden),
            *_after_discharge(rng, people, directory, stays),
        ]
    )
    ambulatory = ambulatory.take(~stays.inside(ambulatory.person, ambulatory.start_day))
    everything = _concat(
        [
            ambulatory,
            _emergency(rng, people, directory, year, burden, stays),
            _inpatient(rng, directory, stays),
        ]
    )
    on = everything.start_day
    alive = (on >= people.birth[everything.person]) & (everything.end_day <= people.death[everything.person])
    events = everything.take(alive & (on >= day(year - 1)) & (everything.end_day < day(year + 1)))
    events = events.take(np.lexsort((events.what, events.start, events.person)))
    _measure_hba1c(rng, people, events)
    return events
