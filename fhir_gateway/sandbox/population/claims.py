"""Claims and their adjudication: what was billed, allowed and paid, line by line, and how it was corrected later.

A claim has lines with final amounts. Each claim is told in one or more versions (ExplanationOfBenefit):

* final - one version, active;
* replaced - the original, cancelled, and its replacement with the final amounts, active;
* reversed - the original, its reversal with all amounts negated, and a new version with the final amounts, all active;
* voided - one version, cancelled; nothing remains;
* denied - one version, active, with nothing allowed.

In every case the sum over the active versions is the final amount.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.sandbox.population.calendar import day
from fhir_gateway.sandbox.population.clinical import Prescriptions
from fhir_gateway.sandbox.population.columns import Ints
from fhir_gateway.sandbox.population.directory import PHARMACY, Directory
from fhir_gateway.sandbox.population.lines import DRUG, OUTPATIENT, PROFESSIONAL, STAY, Lines, make_lines
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import (
    EMERGENCY,
    INPATIENT,
    PROCEDURE,
    Events,
)

FINAL, REPLACED, REVERSED, VOIDED, DENIED = range(5)
_FATES = (0.925, 0.030, 0.020, 0.005, 0.020)

#: Roles of a version among those of its claim.
ONLY, ORIGINAL, REVERSAL, REPLACEMENT = range(4)


@dataclass(frozen=True, slots=True)
class Claims:
    """One row per claim; events are positions in all events, -1 for pharmacy claims."""

    kind: Ints  # PROFESSIONAL ... DRUG
    person: Ints
    event: Ints
    start: Ints  # days
    end: Ints
    organization: Ints  # who bills
    practitioner: Ints  # rendering, attending or prescribing
    diagnosis: Ints  # -1 on pharmacy claims
    stay: Ints  # -1 unless an inpatient claim
    fate: Ints  # FINAL ... DENIED
    received: Ints  # day
    line_start: Ints  # offsets into lines, one more than claims

    def __len__(self) -> int:
        """Number of claims."""
        return len(self.kind)


@dataclass(frozen=True, slots=True)
class Versions:
    """ExplanationOfBenefits, ordered by claim and time."""

    claim: Ints
    role: Ints
    cancelled: np.ndarray[tuple[int], np.dtype[np.bool_]]
    paid_on: Ints  # day
    line_start: Ints
    line: Ints  # position in Lines of each version line
    submitted: Ints
    allowed: Ints
    patient: Ints

    def totals(self, amounts: Ints) -> Ints:
        """Sum of line amounts per version."""
        sums = np.concatenate([[0], np.cumsum(amounts)])
        return np.asarray(sums[self.line_start[1:]] - sums[self.line_start[:-1]])


def _claim_rows(
    rng: np.random.Generator,
    people: People,
    directory: Directory,
    events: Events,
    prescriptions: Prescriptions,
    year: int,
) -> dict[str, Ints]:
    """Claims as columns: professional ones of all events but procedures, institutional ones, fills."""
    covered = people.covered(events.person, events.start_day)
    treat_and_release = (events.what == EMERGENCY) & (events.stay < 0)
    rows = {
        PROFESSIONAL: np.flatnonzero(covered & (events.what != PROCEDURE)),
        OUTPATIENT: np.flatnonzero(covered & (treat_and_release | (events.what == PROCEDURE))),
        STAY: np.flatnonzero(covered & (events.what == INPATIENT)),
    }
    parts = [
        {
            "kind": np.full(len(row), kind),
            "person": events.person[row],
            "event": row,
            "start": events.start_day[row],
            "end": events.end_day[row],
            "organization": events.organization[row],
            "practitioner": events.practitioner[row],
            "diagnosis": events.diagnosis[row],
            "stay": np.where(kind == STAY, events.stay[row], -1),
            "drug": np.full(len(row), -1),
        }
        for kind, row in rows.items()
    ]
    parts.append(_fills(rng, people, directory, events, prescriptions, year))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fills(
    rng: np.random.Generator,
    people: People,
    directory: Directory,
    events: Events,
    prescriptions: Prescriptions,
    year: int,
) -> dict[str, Ints]:
    """Fills of 90 days from the order on, within the last six quarters, four of five picked up."""
    quarters = 6
    first = np.maximum(events.start_day[prescriptions.event], day(year - 1, 7)) + rng.integers(
        0, 6, len(prescriptions.event)
    )
    on = (first[:, None] + 91 * np.arange(quarters)).ravel()
    row = np.repeat(np.arange(len(first)), quarters)
    person = prescriptions.person[row]
    picked = rng.random(len(on)) < 0.8
    picked &= (on < day(year + 1)) & (on <= people.death[person]) & people.pharmacy_benefit[person]
    picked &= people.covered(person, on)
    row, on, person = row[picked], on[picked], person[picked]
    pharmacies = directory.of_kind(PHARMACY)
    return {
        "kind": np.full(len(row), DRUG),
        "person": person,
        "event": np.full(len(row), -1),
        "start": on,
        "end": on,
        "organization": pharmacies[people.number[person] % len(pharmacies)],
        "practitioner": events.practitioner[prescriptions.event[row]],
        "diagnosis": np.full(len(row), -1),
        "stay": np.full(len(row), -1),
        "drug": prescriptions.medication[row],
    }


def make_claims(
    rng: np.random.Generator,
    people: People,
    directory: Directory,
    events: Events,
    stays: Stays,
    prescriptions: Prescriptions,
    year: int,
) -> tuple[Claims, Lines]:
    """Claims for all covered care, ordered by person and start."""
    rows = _claim_rows(rng, people, directory, events, prescriptions, year)
    order = np.lexsort((rows["event"], rows["kind"], rows["start"], rows["person"]))
    rows = {name: column[order] for name, column in rows.items()}
    lines, line_start = make_lines(rng, rows, people, events, stays)
    count = len(rows["kind"])
    fate = rng.choice(len(_FATES), count, p=_FATES)
    visit = (rows["kind"] == PROFESSIONAL) | (rows["kind"] == STAY)
    fate = np.where(visit & (fate >= VOIDED), FINAL, fate)  # visits stand; what is denied is the optional rest
    fate = np.where((rows["kind"] == DRUG) & (fate == REPLACED), FINAL, fate)
    claims = Claims(
        kind=rows["kind"],
        person=rows["person"],
        event=rows["event"],
        start=rows["start"],
        end=rows["end"],
        organization=rows["organization"],
        practitioner=rows["practitioner"],
        diagnosis=rows["diagnosis"],
        stay=rows["stay"],
        fate=fate,
        received=rows["end"] + rng.integers(2, 21, count),
        line_start=line_start,
    )
    return claims, lines


def adjudicate(rng: np.random.Generator, claims: Claims, lines: Lines) -> Versions:
    """All versions of all claims with their amounts."""
    count = np.array([1, 2, 3, 1, 1])[claims.fate]
    claim = np.repeat(np.arange(len(claims)), count)
    ordinal = np.arange(len(claim)) - np.repeat(np.cumsum(count) - count, count)
    fate = claims.fate[claim]
    role = np.where(count[claim] == 1, ONLY, ordinal + 1)
    role = np.where((fate == REPLACED) & (ordinal == 1), REPLACEMENT, role)
    delay, correction = rng.integers(4, 19, len(claims)), rng.integers(25, 80, len(claims))
    paid_on = claims.received[claim] + delay[claim] + np.where(ordinal > 0, correction[claim], 0)

    size = np.diff(claims.line_start)[claim]
    line_start = np.concatenate([[0], np.cumsum(size)])
    version = np.repeat(np.arange(len(claim)), size)
    line = claims.line_start[claim][version] + np.arange(len(version)) - line_start[version]
    wrong = np.isin(role, (ORIGINAL, REVERSAL))[version]  # the first adjudication allowed a quarter too much
    sign = np.where(role == REVERSAL, -1, 1)[version]
    denied = (fate == DENIED)[version]

    rebilled = wrong & (fate == REPLACED)[version]  # a corrected claim bills less; a re-adjudication bills the same

    def amount(final: Ints, raised: np.ndarray[tuple[int], np.dtype[np.bool_]] = wrong) -> Ints:
        return np.asarray(np.where(raised, final[line] * 5 // 4, final[line]) * sign)

    return Versions(
        claim=claim,
        role=role,
        cancelled=(fate == VOIDED) | ((fate == REPLACED) & (role == ORIGINAL)),
        paid_on=paid_on,
        line_start=line_start,
        line=line,
        submitted=amount(lines.submitted, rebilled),
        allowed=np.where(denied, 0, amount(lines.allowed)),
        patient=np.where(denied, 0, amount(lines.patient)),
    )
