"""The payer's resources, in the shape of CARIN Blue Button 2.0.0, with amounts on every line."""

from __future__ import annotations

import json

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER, day
from fhir_gateway.sandbox.population.claims import (
    DENIED,
    DRUG,
    ONLY,
    ORIGINAL,
    OUTPATIENT,
    PROFESSIONAL,
    REPLACED,
    REPLACEMENT,
    REVERSAL,
    STAY,
    VOIDED,
    Claims,
    Lines,
    Versions,
)
from fhir_gateway.sandbox.population.clinical import stay_procedure
from fhir_gateway.sandbox.population.codes import (
    DIAGNOSES,
    DISPOSITIONS,
    DRGS,
    DRUG_PRODUCTS,
    MS_DRG,
    PLACES,
    QUALIFICATIONS,
    REVENUES,
    SERVICES,
    STAY_PROCEDURES,
    STAYS,
    TYPE_OF_BILL,
)
from fhir_gateway.sandbox.population.columns import Bools, Coded, Dates, Decimals, Ints, Numbered, words
from fhir_gateway.sandbox.population.directory import Directory
from fhir_gateway.sandbox.population.ehr import name_fields
from fhir_gateway.sandbox.population.identifiers import Mbi
from fhir_gateway.sandbox.population.names import FAMILIES
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.render import Each, Field, Maybe, Nested, Raw, Sheet, Template, Text
from fhir_gateway.sandbox.population.sources import (
    C4BB,
    C4BB_CODES,
    CLAIM_GROUP,
    CLAIM_ID,
    MBI,
    MEMBER_ID,
    PAYER_PREFIX,
    UNIQUE_MEMBER_ID,
    Ids,
    member_ids,
    meta,
    typed,
    updated,
)
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import EMERGENCY, Events

_HL7 = "http://terminology.hl7.org/CodeSystem/"
_NUBC = "https://www.nubc.org/CodeSystem/"
_ADJUDICATION = f"{_HL7}adjudication"
#: Amount categories on lines and in totals, with their column.
AMOUNTS = (
    (_ADJUDICATION, "submitted", "submitted"),
    (_ADJUDICATION, "eligible", "allowed"),
    (_ADJUDICATION, "benefit", "paid"),
    (f"{C4BB_CODES}C4BBAdjudication", "paidtoprovider", "paid"),
    (f"{C4BB_CODES}C4BBAdjudication", "paidbypatient", "patient"),
)
_NOT_COVERED = (f"{C4BB_CODES}C4BBAdjudication", "noncovered", "submitted")
_PROFILES = {
    PROFESSIONAL: "ExplanationOfBenefit-Professional-NonClinician",
    OUTPATIENT: "ExplanationOfBenefit-Outpatient-Institutional",
    STAY: "ExplanationOfBenefit-Inpatient-Institutional",
    DRUG: "ExplanationOfBenefit-Pharmacy",
}
_TYPES = {PROFESSIONAL: "professional", OUTPATIENT: "institutional", STAY: "institutional", DRUG: "pharmacy"}
_ROLES = {PROFESSIONAL: "rendering", OUTPATIENT: "attending", STAY: "attending", DRUG: "prescribing"}


def _concept(system: str, code: Template) -> Template:
    return {"coding": [{"system": system, "code": code}]}


def _money(column: str) -> Template:
    return {"value": Raw(column), "currency": "USD"}


def _amount(system: str, code: str, column: str) -> Template:
    return {"category": _concept(system, code), "amount": _money(column)}


def _status(category: str, reason: str) -> Template:
    return {
        "category": _concept(f"{C4BB_CODES}C4BBAdjudicationDiscriminator", category),
        "reason": _concept(f"{C4BB_CODES}C4BBPayerAdjudicationStatus", reason),
    }


def _info(sequence: int, category: str, **value: Template) -> Template:
    return {"sequence": sequence, "category": _concept(f"{C4BB_CODES}C4BBSupportingInfoType", category)} | value


class PayerSheets:
    """Renders a batch; every method gives the sheets of one resource type."""

    def __init__(
        self,
        seed: int,
        batch_base: int,
        year: int,
        people: People,
        directory: Directory,
        events: Events,
        stays: Stays,
    ) -> None:
        """``events`` are all events of the batch."""
        self.ids = Ids(PAYER_PREFIX, seed)
        self.base, self.year = batch_base, year
        self.people, self.directory, self.events, self.stays = people, directory, events, stays
        self.payer = self.ids.organizations(directory)[directory.payer].as_py()

    def patients(self) -> list[Sheet]:
        """C4BB Patient with member id, unique member id and, for Medicare members, the Medicare number."""
        people = self.people
        rows = np.flatnonzero(people.in_payer)
        template = {
            "resourceType": "Patient",
            "id": Text("id"),
            "meta": meta(f"{C4BB}Patient|2.0.0"),
            "identifier": [
                typed("MB", MEMBER_ID, Text("member")),
                {
                    "type": _concept(f"{C4BB_CODES}C4BBIdentifierType", "um"),
                    "system": UNIQUE_MEMBER_ID,
                    "value": Text("member", "U"),
                },
                Maybe("mbi", typed("MC", MBI, Text("mbi"))),
            ],
            "active": True,
            "name": [{"family": Text("family"), "given": [Text("given")]}],
            "gender": Text("gender"),
            "birthDate": Text("birth"),
            "deceasedDateTime": Maybe("death", Text("death")),
            "address": [
                {
                    "line": [Text("street")],
                    "city": Text("city"),
                    "state": "AZ",
                    "postalCode": Text("zip"),
                    "country": "US",
                }
            ],
        }
        number = people.number[rows]
        family = (people.family[rows] + 31 * people.changed_name[rows]) % len(FAMILIES)
        fields = name_fields(people, rows) | {
            "updated": updated(np.full(len(rows), day(self.year, 12, 31)), 5),
            "id": self.ids.patients(number),
            "member": member_ids(number),
            "mbi": Mbi(np.where(people.medicare[rows], number, -1)),
            "family": Coded(words(FAMILIES), family),
            "birth": Dates(people.birth[rows]),
        }
        return [Sheet(template, len(rows), dict(fields))]

    def coverages(self) -> list[Sheet]:
        """C4BB Coverage, one per span of coverage."""
        people = self.people
        person, span = np.nonzero((people.cover_start < NEVER) & people.in_payer[:, None])
        end = people.cover_end[person, span]
        medicare = people.medicare[person].astype(np.int64)
        plans = (("COM-PPO", "Commercial PPO"), ("MA-HMO", "Medicare Advantage HMO"))
        classes = f"{_HL7}coverage-class"
        template = {
            "resourceType": "Coverage",
            "id": Text("id"),
            "meta": meta(f"{C4BB}Coverage|2.0.0"),
            "identifier": [typed("MB", MEMBER_ID, Text("member"))],
            "status": "active",
            "type": Raw("type"),
            "subscriber": {"reference": Text("patient", "Patient/")},
            "subscriberId": Text("member"),
            "beneficiary": {"reference": Text("patient", "Patient/")},
            "relationship": _concept(f"{_HL7}subscriber-relationship", "self"),
            "period": {"start": Text("start"), "end": Maybe("end", Text("end"))},
            "payor": [{"reference": f"Organization/{self.payer}"}],
            "class": [
                {"type": _concept(classes, "group"), "value": Text("plan", "G-"), "name": Text("plan_name")},
                {"type": _concept(classes, "plan"), "value": Text("plan"), "name": Text("plan_name")},
            ],
        }
        kinds = (("EHCPOL", "extended healthcare"), ("RETIRE", "retiree health program"))
        number = people.number[person]
        closed = np.where(end < NEVER, end, day(self.year))
        fields: dict[str, Field] = {
            "updated": updated(closed + 15, 4),
            "id": Numbered("cov", number * 2 + span, 10),
            "member": member_ids(number),
            "type": Coded(
                words(
                    json.dumps(
                        {"coding": [{"system": f"{_HL7}v3-ActCode", "code": code, "display": display}]},
                        separators=(",", ":"),
                    )
                    for code, display in kinds
                ),
                medicare,
            ),
            "patient": self.ids.patients(number),
            "start": Dates(people.cover_start[person, span]),
            "end": Dates(end, NEVER),
            "plan": Coded(words(code for code, _ in plans), medicare),
            "plan_name": Coded(words(name for _, name in plans), medicare),
        }
        return [Sheet(template, len(person), fields)]

    def _claim_number(self, claims: Claims, claim: Ints, corrected: Bools) -> Ints:
        """Number of the Claim resource of a version: corrected claims are claims of their own."""
        return (self.base + claim) * 2 + corrected

    def _claim_fields(self, claims: Claims, lines: Lines, versions: Versions, rows: Ints) -> dict[str, Field]:
        """Columns shared by Claim and ExplanationOfBenefit for the chosen versions."""
        people = self.people
        claim = versions.claim[rows]
        person, start = claims.person[claim], claims.start[claim]
        later_span = people.cover_start[person, 1] <= start
        role, fate = versions.role[rows], claims.fate[claim]
        corrected = (role == REPLACEMENT) & (fate == REPLACED)
        number = self._claim_number(claims, claim, corrected)
        size = versions.line_start[rows + 1] - versions.line_start[rows]
        offsets = np.concatenate([[0], np.cumsum(size)])
        at = np.repeat(versions.line_start[rows] - offsets[:-1], size) + np.arange(offsets[-1])
        line = versions.line[at]
        allowed, patient = versions.allowed[at], versions.patient[at]
        item: dict[str, Field] = {
            "sequence": Numbered("", np.arange(len(at)) - np.repeat(offsets[:-1], size) + 1),
            "service": Coded(SERVICES.fragments, lines.service[line]),
            "drug": Coded(DRUG_PRODUCTS.fragments, lines.drug[line]),
            "revenue": Coded(REVENUES.fragments, lines.revenue[line]),
            "place": Coded(PLACES.fragments, lines.place[line]),
            "units": Numbered("", lines.units[line]),
            "serviced": Dates(lines.serviced[line]),
            "submitted": Decimals(versions.submitted[at]),
            "allowed": Decimals(allowed),
            "patient": Decimals(patient),
            "paid": Decimals(allowed - patient),
            "denied": np.repeat(fate == DENIED, size),
        }
        totals = {name: versions.totals(getattr(versions, name))[rows] for name in ("submitted", "allowed", "patient")}
        practitioner = claims.practitioner[claim]
        cancelled = versions.cancelled[rows].astype(np.int64)
        return {
            "items": Nested(offsets, item),
            "claim": Numbered("clm", number, 11),
            "original": Numbered("clm", np.where(corrected, number - 1, -1), 11),
            "number": Numbered("", number, 11),
            "original_number": Numbered("", np.where(corrected, number - 1, -1), 11),
            "group": Numbered("", self.base + claim, 10),
            "status": Coded(words(("active", "cancelled")), cancelled),
            "patient_id": self.ids.patients(people.number[person]),
            "coverage": Numbered("cov", people.number[person] * 2 + later_span, 10),
            "start": Dates(start),
            "end": Dates(claims.end[claim]),
            "received": Dates(claims.received[claim]),
            "organization": Coded(self.ids.organizations(self.directory), claims.organization[claim]),
            "practitioner": Coded(self.ids.practitioners(self.directory), practitioner),
            "qualification": Coded(QUALIFICATIONS.fragments, self.directory.specialty[practitioner]),
            "diagnosis": Coded(DIAGNOSES.fragments, claims.diagnosis[claim]),
            "submitted": Decimals(totals["submitted"]),
            "allowed": Decimals(totals["allowed"]),
            "patient": Decimals(totals["patient"]),
            "paid": Decimals(totals["allowed"] - totals["patient"]),
            "denied": fate == DENIED,
            "updated": updated(self._known_on(claims, versions, rows), 8),
        }

    def _known_on(self, claims: Claims, versions: Versions, rows: Ints) -> Ints:
        """Day of the last change of a version: its payment, or its cancellation."""
        paid = versions.paid_on[rows]
        following = versions.paid_on[np.minimum(rows + 1, len(versions.paid_on) - 1)]
        fate = claims.fate[versions.claim[rows]]
        cancelled = versions.cancelled[rows]
        return np.select([cancelled & (fate == REPLACED), cancelled & (fate == VOIDED)], [following, paid + 30], paid)

    def claims(self, claims: Claims, lines: Lines, versions: Versions) -> list[Sheet]:
        """Claims as submitted: the first version of each, and corrected ones."""
        sheets = []
        first = np.isin(versions.role, (ONLY, ORIGINAL))
        corrected = (versions.role == REPLACEMENT) & (claims.fate[versions.claim] == REPLACED)
        for kind in (PROFESSIONAL, OUTPATIENT, STAY, DRUG):
            rows = np.flatnonzero((first | corrected) & (claims.kind[versions.claim] == kind))
            fields = self._claim_fields(claims, lines, versions, rows)
            fields["updated"] = updated(claims.received[versions.claim[rows]], 6)
            sheets.append(Sheet(self._claim_template(kind), len(rows), fields))
        return sheets

    def _claim_template(self, kind: int) -> Template:
        item = _item(kind) | {"net": _money("submitted")}
        template: dict[str, Template] = {
            "resourceType": "Claim",
            "id": Text("claim"),
            "meta": {"lastUpdated": Text("updated")},
            "identifier": [{"system": CLAIM_ID, "value": Text("number", "S")}],
            "status": Text("status"),
            "type": _concept(f"{_HL7}claim-type", _TYPES[kind]),
            "use": "claim",
            "patient": {"reference": Text("patient_id", "Patient/")},
            "billablePeriod": {"start": Text("start"), "end": Text("end")},
            "created": Text("received"),
            "insurer": {"reference": f"Organization/{self.payer}"},
            "provider": {"reference": Text("organization", "Organization/")},
            "priority": _concept(f"{_HL7}processpriority", "normal"),
            "related": Maybe(
                "original",
                [
                    {
                        "claim": {"reference": Text("original", "Claim/")},
                        "relationship": _concept(f"{_HL7}ex-relatedclaimrelationship", "prior"),
                    }
                ],
            ),
            "careTeam": [_care_team(kind)],
        }
        if kind != DRUG:
            template["diagnosis"] = [_diagnosis()]
        return template | {
            "insurance": [{"sequence": 1, "focal": True, "coverage": {"reference": Text("coverage", "Coverage/")}}],
            "item": Each("items", item),
            "total": _money("submitted"),
        }

    def explanations(self, claims: Claims, lines: Lines, versions: Versions) -> list[Sheet]:
        """ExplanationOfBenefit of every version."""
        sheets = []
        for kind in (PROFESSIONAL, OUTPATIENT, STAY, DRUG):
            rows = np.flatnonzero(claims.kind[versions.claim] == kind)
            claim = versions.claim[rows]
            fields = self._claim_fields(claims, lines, versions, rows)
            fields |= self._relation_fields(claims, versions, rows) | {
                "id": Numbered("eob", self._version_number(rows), 11),
                "version": Numbered("", self._version_number(rows), 11),
                "paid_on": Dates(versions.paid_on[rows]),
                "payment": Coded(words(("paid", "denied")), (claims.fate[claim] == DENIED).astype(np.int64)),
            }
            if kind == STAY:
                fields |= self._stay_fields(claims.stay[claim])
                fields["bill"] = Coded(
                    words(("111", "117")),
                    ((versions.role[rows] == REPLACEMENT) | (versions.role[rows] == REVERSAL)) * 1,
                )
            if kind == OUTPATIENT:
                emergency = self.events.what[claims.event[claim]] == EMERGENCY
                fields["admission"] = Coded(words(("3", "1")), emergency.astype(np.int64))
            sheets.append(Sheet(self._explanation_template(kind), len(rows), fields))
        return sheets

    def _version_number(self, rows: Ints) -> Ints:
        """Number of a version in the whole population (a claim has at most three)."""
        return self.base * 3 + rows

    def _relation_fields(self, claims: Claims, versions: Versions, rows: Ints) -> dict[str, Field]:
        """What a version replaces or is replaced by; -1 for none."""
        role, claim = versions.role[rows], versions.claim[rows]
        replaced = claims.fate[claim] == REPLACED
        other = np.select(
            [
                (role == ORIGINAL) & replaced,
                (role == REPLACEMENT) & replaced,
                role == REVERSAL,
                role == REPLACEMENT,
            ],
            [rows + 1, rows - 1, rows - 1, rows - 2],
            -1,
        )
        related = other >= 0
        other_corrected = related & replaced & (role == ORIGINAL)
        number = np.where(related, self._claim_number(claims, claim, other_corrected), -1)
        relations = (
            (f"{_HL7}ex-relatedclaimrelationship", "prior"),
            (f"{C4BB_CODES}C4BBRelatedClaimRelationshipCodes", "replacedby"),
        )
        return {
            "related": related,
            "related_claim": Numbered("clm", number, 11),
            "related_version": Numbered("", np.where(related, self._version_number(other), -1), 11),
            "relationship": Coded(
                words(
                    json.dumps({"coding": [{"system": system, "code": code}]}, separators=(",", ":"))
                    for system, code in relations
                ),
                ((role == ORIGINAL) & replaced).astype(np.int64),
            ),
        }

    def _stay_fields(self, stay: Ints) -> dict[str, Field]:
        stays = self.stays
        planned = np.array([kind.planned for kind in STAYS])[stays.kind[stay]]
        drg = DRGS.find(kind.drg for kind in STAYS)
        return {
            "drg": Coded(words(DRGS.codes), drg[stays.kind[stay]]),
            "discharge": Coded(words(d.status for d in DISPOSITIONS), stays.disposition[stay]),
            "admission": Coded(words(("1", "3")), planned.astype(np.int64)),
            "origin": Coded(words(("1", "4")), stays.transferred_in[stay].astype(np.int64)),
            "procedure": Coded(STAY_PROCEDURES.fragments, stay_procedure(stays, stay)),
        }

    def _explanation_template(self, kind: int) -> Template:
        template: dict[str, Template] = {
            "resourceType": "ExplanationOfBenefit",
            "id": Text("id"),
            "meta": meta(f"{C4BB}{_PROFILES[kind]}|2.0.0"),
            "identifier": [
                {
                    "type": _concept(f"{C4BB_CODES}C4BBIdentifierType", "uc"),
                    "system": CLAIM_ID,
                    "value": Text("version", "X"),
                },
                {"system": CLAIM_GROUP, "value": Text("group", "G")},
            ],
            "status": Text("status"),
            "type": _concept(f"{_HL7}claim-type", _TYPES[kind]),
        }
        if kind in (STAY, OUTPATIENT):
            code = "inpatient" if kind == STAY else "outpatient"
            template["subType"] = _concept(f"{C4BB_CODES}C4BBInstitutionalClaimSubType", code)
        template |= {
            "use": "claim",
            "patient": {"reference": Text("patient_id", "Patient/")},
            "billablePeriod": {"start": Text("start"), "end": Text("end")},
            "created": Text("paid_on"),
            "insurer": {"reference": f"Organization/{self.payer}"},
            "provider": {"reference": Text("organization", "Organization/")},
            "related": Maybe(
                "related",
                [
                    {
                        "claim": {"reference": Text("related_claim", "Claim/")},
                        "relationship": Raw("relationship"),
                        "reference": {"system": CLAIM_ID, "value": Text("related_version", "X")},
                    }
                ],
            ),
            "claim": {"reference": Text("claim", "Claim/")},
            "outcome": "complete",
            "careTeam": [_care_team(kind)],
            "supportingInfo": _supporting_info(kind),
        }
        if kind != DRUG:
            template["diagnosis"] = [_diagnosis()]
        if kind == STAY:
            template["procedure"] = Maybe(
                "procedure",
                [
                    {
                        "sequence": 1,
                        "type": [_concept(f"{C4BB_CODES}C4BBClaimProcedureType", "principal")],
                        "date": Text("start"),
                        "procedureCodeableConcept": Raw("procedure"),
                    }
                ],
            )
        amounts = [_amount(*amount) for amount in AMOUNTS]
        lines = [*amounts, Maybe("denied", _amount(*_NOT_COVERED))]
        if kind == PROFESSIONAL:
            lines.insert(0, _status("benefitpaymentstatus", "innetwork"))
        header = [_status("billingnetworkstatus", "innetwork")]
        if kind != PROFESSIONAL:
            header.append(_status("benefitpaymentstatus", "innetwork"))
        return template | {
            "insurance": [{"focal": True, "coverage": {"reference": Text("coverage", "Coverage/")}}],
            "item": Each("items", _item(kind) | {"adjudication": lines}),
            "adjudication": header,
            "total": [*amounts, Maybe("denied", _amount(*_NOT_COVERED))],
            "payment": {
                "type": _concept(f"{C4BB_CODES}C4BBPayerAdjudicationStatus", Text("payment")),
                "date": Text("paid_on"),
                "amount": _money("paid"),
            },
        }


def _care_team(kind: int) -> Template:
    return {
        "sequence": 1,
        "provider": {"reference": Text("practitioner", "Practitioner/")},
        "role": _concept(f"{C4BB_CODES}C4BBClaimCareTeamRole", _ROLES[kind]),
        "qualification": Raw("qualification"),
    }


def _diagnosis() -> Template:
    return {
        "sequence": 1,
        "diagnosisCodeableConcept": Raw("diagnosis"),
        "type": [_concept(f"{_HL7}ex-diagnosistype", "principal")],
    }


def _supporting_info(kind: int) -> list[Template]:
    received = _info(1, "clmrecvddate", timingDate=Text("received"))
    if kind == PROFESSIONAL:
        return [received]
    if kind == OUTPATIENT:
        return [
            received,
            _info(2, "typeofbill", code=_concept(TYPE_OF_BILL, "131")),
            _info(3, "admtype", code=_concept(f"{_NUBC}PriorityTypeOfAdmitOrVisit", Text("admission"))),
            _info(4, "discharge-status", code=_concept(f"{_NUBC}PatDischargeStatus", "01")),
        ]
    if kind == STAY:
        return [
            received,
            _info(2, "admissionperiod", timingPeriod={"start": Text("start"), "end": Text("end")}),
            _info(3, "typeofbill", code=_concept(TYPE_OF_BILL, Text("bill"))),
            _info(4, "pointoforigin", code=_concept(f"{_NUBC}PointOfOrigin", Text("origin"))),
            _info(5, "admtype", code=_concept(f"{_NUBC}PriorityTypeOfAdmitOrVisit", Text("admission"))),
            _info(6, "discharge-status", code=_concept(f"{_NUBC}PatDischargeStatus", Text("discharge"))),
            _info(7, "drg", code=_concept(MS_DRG, Text("drg"))),
        ]
    return [
        received,
        _info(2, "dayssupply", valueQuantity={"value": 90}),
        _info(3, "dawcode", code=_concept(f"{_HL7}NCPDPDispensedAsWrittenOrProductSelectionCode", "0")),
        _info(4, "refillnum", valueQuantity={"value": 0}),
        _info(5, "refillsauthorized", valueQuantity={"value": 3}),
    ]


def _item(kind: int) -> dict[str, Template]:
    """A line without its amounts."""
    item: dict[str, Template] = {"sequence": Raw("sequence"), "careTeamSequence": [1]}
    if kind != DRUG:
        item["diagnosisSequence"] = [1]
    if kind in (STAY, OUTPATIENT):
        item["revenue"] = Raw("revenue")
    item["productOrService"] = Raw("drug" if kind == DRUG else "service")
    item["servicedDate"] = Text("serviced")
    if kind == PROFESSIONAL:
        item["locationCodeableConcept"] = Raw("place")
    return item | {"quantity": {"value": Raw("units")}}
