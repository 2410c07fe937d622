"""Claim lines: what was done at each visit or stay, what it is worth, and what the patient owes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.sandbox.population.clinical import stay_procedure
from fhir_gateway.sandbox.population.codes import DRUG_FEES, PLACES, REVENUES, SERVICE_FEES, SERVICES, STAYS
from fhir_gateway.sandbox.population.columns import Ints
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


def make_lines(
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
