"""Templates of Claim and ExplanationOfBenefit by kind of claim, after CARIN Blue Button 2.0.0.

The columns they name are filled in :mod:`fhir_gateway.sandbox.population.explanations`.
"""

from __future__ import annotations

from fhir_gateway.sandbox.population.codes import MS_DRG, TYPE_OF_BILL
from fhir_gateway.sandbox.population.lines import DRUG, OUTPATIENT, PROFESSIONAL, STAY
from fhir_gateway.sandbox.population.render import Each, Maybe, Raw, Template, Text
from fhir_gateway.sandbox.population.sources import C4BB, C4BB_CODES, CLAIM_GROUP, CLAIM_ID, meta

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
#: Codes of :data:`AMOUNTS`.
AMOUNT_CODES = tuple(code for _, code, _ in AMOUNTS)
_NOT_COVERED = (f"{C4BB_CODES}C4BBAdjudication", "noncovered", "submitted")
_PROFILES = {
    PROFESSIONAL: "ExplanationOfBenefit-Professional-NonClinician",
    OUTPATIENT: "ExplanationOfBenefit-Outpatient-Institutional",
    STAY: "ExplanationOfBenefit-Inpatient-Institutional",
    DRUG: "ExplanationOfBenefit-Pharmacy",
}
_TYPES = {PROFESSIONAL: "professional", OUTPATIENT: "institutional", STAY: "institutional", DRUG: "pharmacy"}
_ROLES = {PROFESSIONAL: "rendering", OUTPATIENT: "attending", STAY: "attending", DRUG: "prescribing"}


def concept(system: str, code: Template) -> Template:
    """A CodeableConcept with one coding."""
    return {"coding": [{"system": system, "code": code}]}


def _money(column: str) -> Template:
    return {"value": Raw(column), "currency": "USD"}


def _amount(system: str, code: str, column: str) -> Template:
    return {"category": concept(system, code), "amount": _money(column)}


def _status(category: str, reason: str) -> Template:
    return {
        "category": concept(f"{C4BB_CODES}C4BBAdjudicationDiscriminator", category),
        "reason": concept(f"{C4BB_CODES}C4BBPayerAdjudicationStatus", reason),
    }


def _info(sequence: int, category: str, **value: Template) -> Template:
    return {"sequence": sequence, "category": concept(f"{C4BB_CODES}C4BBSupportingInfoType", category)} | value


def claim_template(kind: int, payer: str) -> Template:
    """Claim of a kind; ``payer`` is the id of the insurer's Organization."""
    item = _item(kind) | {"net": _money("submitted")}
    template: dict[str, Template] = {
        "resourceType": "Claim",
        "id": Text("claim"),
        "meta": {"lastUpdated": Text("updated")},
        "identifier": [{"system": CLAIM_ID, "value": Text("number", "S")}],
        "status": Text("status"),
        "type": concept(f"{_HL7}claim-type", _TYPES[kind]),
        "use": "claim",
        "patient": {"reference": Text("patient_id", "Patient/")},
        "billablePeriod": {"start": Text("start"), "end": Text("end")},
        "created": Text("received"),
        "insurer": {"reference": f"Organization/{payer}"},
        "provider": {"reference": Text("organization", "Organization/")},
        "priority": concept(f"{_HL7}processpriority", "normal"),
        "related": Maybe(
            "original",
            [
                {
                    "claim": {"reference": Text("original", "Claim/")},
                    "relationship": concept(f"{_HL7}ex-relatedclaimrelationship", "prior"),
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


def explanation_template(kind: int, payer: str) -> Template:
    """ExplanationOfBenefit of a kind; ``payer`` is the id of the insurer's Organization."""
    template: dict[str, Template] = {
        "resourceType": "ExplanationOfBenefit",
        "id": Text("id"),
        "meta": meta(f"{C4BB}{_PROFILES[kind]}|2.0.0"),
        "identifier": [
            {
                "type": concept(f"{C4BB_CODES}C4BBIdentifierType", "uc"),
                "system": CLAIM_ID,
                "value": Text("version", "X"),
            },
            {"system": CLAIM_GROUP, "value": Text("group", "G")},
        ],
        "status": Text("status"),
        "type": concept(f"{_HL7}claim-type", _TYPES[kind]),
    }
    if kind in (STAY, OUTPATIENT):
        code = "inpatient" if kind == STAY else "outpatient"
        template["subType"] = concept(f"{C4BB_CODES}C4BBInstitutionalClaimSubType", code)
    template |= {
        "use": "claim",
        "patient": {"reference": Text("patient_id", "Patient/")},
        "billablePeriod": {"start": Text("start"), "end": Text("end")},
        "created": Text("paid_on"),
        "insurer": {"reference": f"Organization/{payer}"},
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
                    "type": [concept(f"{C4BB_CODES}C4BBClaimProcedureType", "principal")],
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
            "type": concept(f"{C4BB_CODES}C4BBPayerAdjudicationStatus", Text("payment")),
            "date": Text("paid_on"),
            "amount": _money("paid"),
        },
    }


def _care_team(kind: int) -> Template:
    return {
        "sequence": 1,
        "provider": {"reference": Text("practitioner", "Practitioner/")},
        "role": concept(f"{C4BB_CODES}C4BBClaimCareTeamRole", _ROLES[kind]),
        "qualification": Raw("qualification"),
    }


def _diagnosis() -> Template:
    return {
        "sequence": 1,
        "diagnosisCodeableConcept": Raw("diagnosis"),
        "type": [concept(f"{_HL7}ex-diagnosistype", "principal")],
    }


def _supporting_info(kind: int) -> list[Template]:
    received = _info(1, "clmrecvddate", timingDate=Text("received"))
    if kind == PROFESSIONAL:
        return [received]
    if kind == OUTPATIENT:
        return [
            received,
            _info(2, "typeofbill", code=concept(TYPE_OF_BILL, "0131")),
            _info(3, "admtype", code=concept(f"{_NUBC}PriorityTypeOfAdmitOrVisit", Text("admission"))),
            _info(4, "discharge-status", code=concept(f"{_NUBC}PatDischargeStatus", "01")),
        ]
    if kind == STAY:
        return [
            received,
            _info(2, "admissionperiod", timingPeriod={"start": Text("start"), "end": Text("end")}),
            _info(3, "typeofbill", code=concept(TYPE_OF_BILL, Text("bill"))),
            _info(4, "pointoforigin", code=concept(f"{_NUBC}PointOfOrigin", Text("origin"))),
            _info(5, "admtype", code=concept(f"{_NUBC}PriorityTypeOfAdmitOrVisit", Text("admission"))),
            _info(6, "discharge-status", code=concept(f"{_NUBC}PatDischargeStatus", Text("discharge"))),
            _info(7, "drg", code=concept(MS_DRG, Text("drg"))),
        ]
    return [
        received,
        _info(2, "dayssupply", valueQuantity={"value": 90}),
        _info(3, "dawcode", code=concept(f"{_HL7}NCPDPDispensedAsWrittenOrProductSelectionCode", "0")),
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
