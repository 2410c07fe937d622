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
from fhir_gateway.sandbox.population.clinical import Prescriptions, stay_procedure
from fhir_gateway.sandbox.population.codes import DRUG_FEES, PLACES, REVENUES, SERVICE_FEES, SERVICES, STAYS
from fhir_gateway.sandbox.population.columns import Ints
from fhir_gateway.sandbox.population.directory import PHARMACY, Directory
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import (
    EMERGENCY,
    INPATIENT,
    OFFICE,
    PROCEDURE,
    SKILLED_NURSING,
    SPECIALIST,
    Events,
)

PROFESSIONAL, OUTPATIENT, STAY, DRUG = range(4)
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
class Lines:
    """Claim lines with their final amounts in cents; service and revenue are code positions, -1 for none."""

    service: Ints
    drug: Ints
    revenue: Ints
    place: Ints
    units: Ints
    serviced: Ints  # day
    submitted: Ints
    allowed: Ints
    patient: Ints  # what the patient owes of the allowed amount


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


@dataclass(frozen=True, slots=True)
class _Draft:
    """Lines before they are put in order: the claim they belong to and their place in it."""

    claim: Ints
    order: int
    service: Ints | int = -1
    drug: Ints | int = -1
    revenue: Ints | int = -1
    place: Ints | int = -1
    units: Ints | int = 1
    fee: Ints | int = -1  # allowed before the line of business factor, default the service's fee


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


def _drafts(rng: np.random.Generator, rows: dict[str, Ints], events: Events, stays: Stays) -> list[_Draft]:
    """Lines of all claims, in no order."""
    kind, event, drug = rows["kind"], rows["event"], rows["drug"]
    claims = np.arange(len(kind))
    what = np.where(event >= 0, events.what[event], -1) if len(events) else np.full(len(kind), -1)
    chance = rng.random((3, len(kind)))

    def service(code: str) -> int:
        return int(SERVICES.find((code,))[0])

    def revenue(code: str) -> int:
        return int(REVENUES.find((code,))[0])

    def some(condition: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Ints:
        return claims[condition]

    professional = some(kind == PROFESSIONAL)
    place_of = PLACES.find(("11", "11", "23", "21", "31", "21"))  # by what happened
    drafts = [
        _Draft(
            professional,
            0,
            service=events.service[event[professional]],
            place=place_of[what[professional]],
        )
    ]
    office = (kind == PROFESSIONAL) & (what == OFFICE)
    tested = office & (events.hba1c[event] >= 0) if len(events) else office
    bloods = office & (tested | (chance[0] < 0.12))
    season = (rows["start"] % 365) > 270
    for order, code, chosen in (
        (1, "83036", tested),
        (2, "80053", office & (chance[0] < 0.12)),
        (3, "80061", office & (chance[0] < 0.06)),
        (4, "36415", bloods),
        (5, "90686", office & season & (chance[1] < 0.22)),
        (6, "93000", (kind == PROFESSIONAL) & (what == SPECIALIST) & (chance[2] < 0.2)),
    ):
        drafts.append(_Draft(some(chosen), order, service=service(code), place=int(PLACES.find(("11",))[0])))

    facility = some((kind == OUTPATIENT) & (what == EMERGENCY))
    level = events.service[event[facility]]
    drafts.append(_Draft(facility, 0, service=level, revenue=revenue("0450"), fee=SERVICE_FEES[level] * 3 + 8_000))
    drafts.append(
        _Draft(
            some((kind == OUTPATIENT) & (what == EMERGENCY) & (chance[0] < 0.6)),
            1,
            service("80053"),
            -1,
            revenue("0300"),
        )
    )
    drafts.append(
        _Draft(
            some((kind == OUTPATIENT) & (what == EMERGENCY) & (chance[1] < 0.4)),
            2,
            service("71046"),
            -1,
            revenue("0320"),
        )
    )
    department = {"45378": "0750", "66984": "0360", "73721": "0610"}
    for code, where in department.items():
        performed = some((kind == OUTPATIENT) & (what == PROCEDURE))
        performed = performed[events.service[event[performed]] == service(code)]
        drafts.append(_Draft(performed, 0, service=service(code), revenue=revenue(where)))

    inpatient = some(kind == STAY)
    stay = rows["stay"][inpatient]
    days = np.maximum(rows["end"][inpatient] - rows["start"][inpatient], 1)
    fee = np.array([k.fee for k in STAYS])[stays.kind[stay]] if len(inpatient) else inpatient
    # a DRG pays by the case; the payment is spread over the lines in fixed shares
    surgical = stay_procedure(stays, stay) == 0
    emergency = stays.through_emergency[stay] if len(inpatient) else surgical
    other = fee * 15 // 100 * (1 + surgical * 2) + fee * 10 // 100 + fee * 8 // 100 * emergency
    na = len(SERVICE_FEES) - 1
    drafts.append(_Draft(inpatient, 0, service=na, revenue=revenue("0120"), units=days, fee=fee - other))
    drafts.append(_Draft(inpatient, 1, service=na, revenue=revenue("0250"), fee=fee * 10 // 100))
    drafts.append(_Draft(inpatient[~surgical], 2, service=na, revenue=revenue("0300"), fee=fee[~surgical] * 15 // 100))
    drafts.append(
        _Draft(inpatient[surgical], 2, service=na, revenue=revenue("0360"), fee=fee[surgical] * 15 // 100 * 3)
    )
    drafts.append(_Draft(inpatient[emergency], 3, service=na, revenue=revenue("0450"), fee=fee[emergency] * 8 // 100))

    rounds = some((kind == PROFESSIONAL) & (what == INPATIENT))
    nights = rows["end"][rounds] - rows["start"][rounds]
    ward = int(PLACES.find(("21",))[0])
    longer = nights > 1
    drafts.append(
        _Draft(
            rounds[longer],
            1,
            service=service("99232"),
            place=ward,
            units=nights[longer] - 1,
            fee=SERVICE_FEES[service("99232")] * (nights[longer] - 1),
        )
    )
    drafts.append(_Draft(rounds, 2, service=service("99239"), place=ward))
    dispensed = some(kind == DRUG)
    drafts.append(_Draft(dispensed, 0, drug=drug[dispensed], fee=DRUG_FEES[drug[dispensed]]))
    return drafts


def _lines(
    rng: np.random.Generator, rows: dict[str, Ints], people: People, events: Events, stays: Stays
) -> tuple[Lines, Ints]:
    """Lines in claim order with their amounts, and the offsets of each claim's lines."""
    drafts = _drafts(rng, rows, events, stays)

    def column(name: str) -> Ints:
        return np.concatenate([np.broadcast_to(np.asarray(getattr(d, name)), d.claim.shape) for d in drafts])

    claim = column("claim")
    order = np.lexsort((np.concatenate([np.full(len(d.claim), d.order) for d in drafts]), claim))
    claim, service, units = claim[order], column("service")[order], column("units")[order]
    fee = column("fee")[order]
    fee = np.where(fee < 0, SERVICE_FEES[service], fee)
    person, kind = rows["person"][claim], rows["kind"][claim]
    commercial = ~people.medicare[person]
    allowed = np.where(commercial & (kind != DRUG), fee * 5 // 4, fee)
    markup = 150 + rows["organization"][claim] * 37 % 110  # percent, each biller has its own
    submitted = np.maximum(allowed * markup // 100, allowed)
    first = np.ones(len(claim), bool)
    first[1:] = claim[1:] != claim[:-1]
    office = rows["event"][claim] >= 0
    office &= (
        np.isin(events.what[rows["event"][claim]], (OFFICE, SPECIALIST, SKILLED_NURSING)) if len(events) else False
    )
    copay = np.select(
        [office & (kind == PROFESSIONAL), kind == STAY, kind == DRUG],
        [np.where(commercial, 2_500, 500), np.where(commercial, 75_000, 30_000), np.where(commercial, 1_500, 400)],
        allowed // 5,
    )
    patient = np.where(first | (kind == OUTPATIENT), np.minimum(copay, allowed), 0)
    starts = np.searchsorted(claim, np.arange(len(rows["kind"]) + 1))
    lines = Lines(
        service=service,
        drug=column("drug")[order],
        revenue=column("revenue")[order],
        place=column("place")[order],
        units=units,
        serviced=np.where(service == SERVICES.find(("99239",))[0], rows["end"][claim], rows["start"][claim]),
        submitted=submitted,
        allowed=allowed,
        patient=patient,
    )
    return lines, starts


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
    lines, line_start = _lines(rng, rows, people, events, stays)
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
