"""What is true about a population, counted from the generator's columns and never from the files it wrote.

Tests count the same from the files; measures, attribution and settlement may be compared with it. Every number is a
sum over batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER, birthdays, day, month_starts
from fhir_gateway.sandbox.population.claims import DENIED, REPLACED, REVERSED, VOIDED, Claims, Versions
from fhir_gateway.sandbox.population.clinical import Measurements, Pressures
from fhir_gateway.sandbox.population.codes import (
    AGAINST_ADVICE,
    DIABETES,
    EXPIRED,
    HYPERTENSION,
    PRIMARY_CARE_CODES,
    PRIMARY_CARE_SPECIALTIES,
    SERVICES,
    SPECIALTIES,
    STAYS,
    TRANSFER,
)
from fhir_gateway.sandbox.population.columns import Bools, Ints
from fhir_gateway.sandbox.population.directory import Directory
from fhir_gateway.sandbox.population.lines import Lines
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import EMERGENCY, INPATIENT, SKILLED_NURSING, Events

KINDS = ("professional", "outpatient", "inpatient", "pharmacy")


@dataclass(frozen=True, slots=True)
class Truth:
    """Counts of persons and events. "In the year" is by local date of the start; amounts are cents.

    Persons and identities:
        persons, in_both, ehr_only, payer_only; shared_identifier: of those in both, the records share the person's own
        member id or Medicare number; no_identifier: in both, sharing none; misfiled: EHR records that carry another
        person's member id; swapped_birth and changed_name: in both with a wrong birth date or an older name in one
        source; deceased: died by the end of the year; member_months: covered months of the year.
    Clinical, from EHR resources:
        diabetics: EHR patients with a diabetes condition; hba1c_missing and hba1c_above_9: of these, without a result
        in the year, or with the latest one above 9 percent; hypertensives: EHR patients with hypertension;
        pressure_missing and pressure_controlled: of these, without a panel in the year outside emergency and inpatient
        encounters, or with the lowest values of the latest such day below 140 and 90.
    Utilization, from EHR encounters:
        stays: inpatient encounters; in_year_discharges; index_stays: discharges of adults in the year up to 1 December,
        alive, not against advice, not transferred out; readmitted: of these, those with another stay within 30 days
        whose first is not planned; planned_within_30: the first was planned; emergency_visits: emergency encounters of
        the year; released_visits: of these, those that did not lead to a stay.
    Claims, from the active ExplanationOfBenefits:
        allowed and paid: net cents by kind of claim for services of the year; replaced, reversed, voided, denied:
        claims with that fate.
    Attribution, from the claims of the year (plurality of allowed amounts of primary care services by primary care
    clinicians, each tax number its own competitor, visits in nursing facilities left out):
        attributed: persons per tax number with a strict winner; tied: persons whose first two are equal; unattributed:
        persons of the payer with no such service.
    """

    persons: int = 0
    in_both: int = 0
    ehr_only: int = 0
    payer_only: int = 0
    shared_identifier: int = 0
    no_identifier: int = 0
    misfiled: int = 0
    swapped_birth: int = 0
    changed_name: int = 0
    deceased: int = 0
    member_months: int = 0
    diabetics: int = 0
    hba1c_missing: int = 0
    hba1c_above_9: int = 0
    hypertensives: int = 0
    pressure_missing: int = 0
    pressure_controlled: int = 0
    stays: int = 0
    in_year_discharges: int = 0
    index_stays: int = 0
    readmitted: int = 0
    planned_within_30: int = 0
    emergency_visits: int = 0
    released_visits: int = 0
    replaced: int = 0
    reversed: int = 0
    voided: int = 0
    denied: int = 0
    tied: int = 0
    unattributed: int = 0
    allowed: Mapping[str, int] = field(default_factory=dict)
    paid: Mapping[str, int] = field(default_factory=dict)
    attributed: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Truth) -> Truth:
        """Both populations together."""
        mine, theirs = asdict(self), asdict(other)
        summed: dict[str, Any] = {}
        for name, value in mine.items():
            if isinstance(value, Mapping):
                summed[name] = dict(sorted((Counter(value) + Counter(theirs[name])).items()))
            else:
                summed[name] = value + theirs[name]
        return Truth(**summed)


def _total(condition: Bools) -> int:
    return int(np.count_nonzero(condition))


def person_truth(people: People, year: int) -> Truth:
    """Identities, deaths and coverage."""
    both = people.in_ehr & people.in_payer
    own = (people.ehr_member == people.number) | (people.ehr_mbi == people.number)
    middle = month_starts(year, 1)[:12] + 14
    covered = np.zeros((len(people), 12), bool)
    for span in range(2):
        start, end = people.cover_start[:, span, None], people.cover_end[:, span, None]
        covered |= (start <= middle) & (middle <= end)
    return Truth(
        persons=len(people),
        in_both=_total(both),
        ehr_only=_total(people.in_ehr & ~people.in_payer),
        payer_only=_total(people.in_payer & ~people.in_ehr),
        shared_identifier=_total(both & own),
        no_identifier=_total(both & (people.ehr_member < 0) & (people.ehr_mbi < 0)),
        misfiled=_total(both & (people.ehr_member >= 0) & (people.ehr_member != people.number)),
        swapped_birth=_total(people.swapped_birth),
        changed_name=_total(people.changed_name),
        deceased=_total(people.death <= day(year, 12, 31)),
        member_months=int(covered[people.in_payer].sum()),
    )


def clinical_truth(people: People, events: Events, pressures: Pressures, hba1c: Measurements, year: int) -> Truth:
    """Diabetes and blood pressure control; ``events`` are those on the EHR."""
    listed = (people.onset <= np.minimum(people.death, day(year, 12, 31))[:, None]) & people.in_ehr[:, None]
    first, last = day(year), day(year, 12, 31)

    def in_year(event: Ints) -> Bools:
        on = events.start_day[event]
        return np.asarray((first <= on) & (on <= last))

    rows = np.flatnonzero(in_year(hba1c.event))
    latest = np.full(len(people), -1)
    ordered = rows[np.argsort(events.start[hba1c.event[rows]], kind="stable")]
    latest[events.person[hba1c.event[ordered]]] = hba1c.tenths[ordered]

    calm = ~np.isin(events.what[pressures.event], (EMERGENCY, INPATIENT)) & in_year(pressures.event)
    rows = np.flatnonzero(calm)
    person, on = events.person[pressures.event[rows]], events.start_day[pressures.event[rows]]
    last_day = np.full(len(people), -1)
    np.maximum.at(last_day, person, on)
    of_last = on == last_day[person]
    systolic, diastolic = np.full(len(people), NEVER), np.full(len(people), NEVER)
    np.minimum.at(systolic, person[of_last], pressures.systolic[rows][of_last])
    np.minimum.at(diastolic, person[of_last], pressures.diastolic[rows][of_last])
    diabetic, hypertensive = listed[:, DIABETES], listed[:, HYPERTENSION]
    return Truth(
        diabetics=_total(diabetic),
        hba1c_missing=_total(diabetic & (latest < 0)),
        hba1c_above_9=_total(diabetic & (latest > 90)),
        hypertensives=_total(hypertensive),
        pressure_missing=_total(hypertensive & (last_day < 0)),
        pressure_controlled=_total(hypertensive & (systolic < 140) & (diastolic < 90)),
    )


def utilization_truth(people: People, events: Events, stays: Stays, year: int) -> Truth:
    """Stays, readmissions and emergency visits; ``events`` are those on the EHR."""
    rows = np.flatnonzero(events.what == INPATIENT)
    person, start, end = events.person[rows], events.start_day[rows], events.end_day[rows]
    stay = events.stay[rows]
    disposition = stays.disposition[stay] if len(stays.person) else stay
    planned = np.array([kind.planned for kind in STAYS])[stays.kind[stay]] if len(stays.person) else stay > 0
    adult = start >= birthdays(people.birth[person], 18)
    index = (day(year) <= end) & (end <= day(year, 12, 1)) & adult
    index &= ~np.isin(disposition, (EXPIRED, AGAINST_ADVICE, TRANSFER))
    following = np.arange(len(rows)) + 1
    soon = np.zeros(len(rows), bool)
    has_next = following < len(rows)
    n = np.minimum(following, max(len(rows) - 1, 0))
    if len(rows):
        soon = has_next & (person[n] == person) & (start[n] - end <= 30)
    emergency = (events.what == EMERGENCY) & (events.start_day >= day(year))
    return Truth(
        stays=len(rows),
        in_year_discharges=_total((day(year) <= end) & (end <= day(year, 12, 31))),
        index_stays=_total(index),
        readmitted=_total(index & soon & ~planned[n]) if len(rows) else 0,
        planned_within_30=_total(index & soon & planned[n]) if len(rows) else 0,
        emergency_visits=_total(emergency),
        released_visits=_total(emergency & (events.stay < 0)),
    )


def claims_truth(
    people: People, directory: Directory, events: Events, claims: Claims, lines: Lines, versions: Versions, year: int
) -> tuple[Truth, Ints]:
    """Net amounts and attribution; also the organization each person is attributed to (-1 none, -2 tied)."""
    version = np.repeat(np.arange(len(versions.claim)), np.diff(versions.line_start))
    counts = ~versions.cancelled[version]
    claim = versions.claim[version]
    in_year = (claims.start[claim] >= day(year)) & counts
    allowed, paid = {}, {}
    for kind, name in enumerate(KINDS):
        chosen = in_year & (claims.kind[claim] == kind)
        allowed[name] = int(versions.allowed[chosen].sum())
        paid[name] = int((versions.allowed - versions.patient)[chosen].sum())

    code = np.isin(lines.service[versions.line], SERVICES.find(sorted(PRIMARY_CARE_CODES)))
    clinicians = np.array([s.cms in PRIMARY_CARE_SPECIALTIES for s in SPECIALTIES])
    primary = code & in_year & clinicians[directory.specialty[claims.practitioner[claim]]]
    event = claims.event[claim]
    if len(events):
        primary &= (event >= 0) & (events.what[np.maximum(event, 0)] != SKILLED_NURSING)
    amounts = np.zeros((len(people), len(directory.kind)), np.int64)
    np.add.at(amounts, (claims.person[claim[primary]], claims.organization[claim[primary]]), versions.allowed[primary])
    ranked = np.sort(amounts, axis=1)
    best, second = ranked[:, -1], ranked[:, -2]
    winner = np.where(best <= 0, -1, np.where(best == second, -2, amounts.argmax(axis=1)))
    attributed = {
        f"{directory.organization_tin[org]:09}": _total(winner == org)
        for org in np.unique(winner[winner >= 0]).tolist()
    }
    truth = Truth(
        allowed=allowed,
        paid=paid,
        replaced=_total(claims.fate == REPLACED),
        reversed=_total(claims.fate == REVERSED),
        voided=_total(claims.fate == VOIDED),
        denied=_total(claims.fate == DENIED),
        tied=_total((winner == -2) & people.in_payer),
        unattributed=_total((winner == -1) & people.in_payer),
        attributed=attributed,
    )
    return truth, winner
