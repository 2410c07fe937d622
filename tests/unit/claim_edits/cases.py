"""A failing and a passing claim for every edit; the passing one is as near to the failing one as the rule allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tests.support.claims import (
    BAD_NPI,
    CPT,
    FREQUENCY,
    GOOD_NPI,
    NDC,
    NPI,
    OTHER_NPI,
    Claim,
    changed,
    coverage,
    diagnosis,
    institutional,
    line,
    professional,
    supporting,
)


@dataclass(frozen=True)
class Case:
    """``path`` is the element that the finding names; ``known`` and ``known_passing`` are changes of the context."""

    edit: str
    fails: Claim
    path: str
    passes: Claim
    history: tuple[Claim, ...] = ()
    history_passing: tuple[Claim, ...] | None = None
    known: dict[str, Any] = field(default_factory=dict)
    known_passing: dict[str, Any] | None = None


GOOD = professional()
LINE = "Claim.item[0]"


def one(code: str, day: str = "2025-03-10", identifier: str = "claim-1", net: str = "125.00", **more: Any) -> Claim:
    """A claim of one line."""
    return professional(line(1, code, day, net, **more), identifier=identifier)


def past(code: str, day: str, identifier: str = "earlier", **more: Any) -> Claim:
    """A claim of before, of one line."""
    return one(code, day, identifier, **more)


def diagnosed(*codes: str) -> Claim:
    """A visit for these diagnoses, the first of them principal."""
    return professional(diagnosis=[diagnosis(number, code) for number, code in enumerate(codes, 1)])


def stay(first: str, last: str, identifier: str = "claim-1", npi: str = GOOD_NPI, bill: str = "0111") -> Claim:
    """An inpatient claim."""
    days = {"servicedPeriod": {"start": first, "end": last}, "revenue": {"coding": [{"code": "0120"}]}}
    item = line(1, None, net="900.00", **days) | {"sequence": 1}
    del item["servicedDate"]
    provider = {"reference": "Organization/org", "identifier": {"system": NPI, "value": npi}}
    claim = institutional(item, bill=bill, identifier=identifier, provider=provider)
    return claim | {"billablePeriod": {"start": first, "end": last}, "created": "2025-04-30"}


def team(npi: str, taxonomy: str | None = None) -> list[Any]:
    """A care team of one."""
    coded = {"qualification": {"coding": [{"system": "http://nucc.org/provider-taxonomy", "code": taxonomy}]}}
    member = {"sequence": 1, "provider": {"identifier": {"system": NPI, "value": npi}}}
    return [member | (coded if taxonomy else {})]


def patient(**more: Any) -> dict[str, Any]:
    """The patient, otherwise."""
    return {"patients": [{"member": "p1", "birth": date(1950, 3, 14), "sex": "F", "mbi": "1EG4TE5MK73"} | more]}


def covered(*coverages: Any) -> dict[str, Any]:
    """The coverages that are known."""
    return {"coverages": list(coverages)}


def directory(**more: Any) -> dict[str, Any]:
    """The biller, otherwise."""
    return {"directory": [{"source": "s", "reference": "Organization/org", "npi": GOOD_NPI, "tin": "123456789"} | more]}


def replacing(frequency: str, reference: str | None, institution: bool = False) -> Claim:
    """A claim of this frequency that names an original."""
    made = institutional(bill=f"013{frequency}") if institution else professional()
    if not institution:
        made["supportingInfo"] = [supporting("other", frequency, FREQUENCY)]
    if reference:
        made["related"] = [{"relationship": {"coding": [{"code": "prior"}]}, "reference": {"value": reference}}]
    return made


NUMBERED = professional(identifier="earlier", identifier_=None)
NUMBERED["identifier"] = [{"system": "https://payer.example/claims", "value": "ICN1"}]
TWO_INSURANCES = [
    {"sequence": 1, "focal": False, "coverage": {"reference": "Coverage/cov0"}},
    {"sequence": 2, "focal": True, "coverage": {"reference": "Coverage/cov1"}},
]
ANSWERED = [TWO_INSURANCES[0] | {"claimResponse": {"reference": "ClaimResponse/r"}}, TWO_INSURANCES[1]]
PRIMARY, SECONDARY = coverage("cov0", rank=1), coverage("cov1", rank=2)
DRUG = {"productOrService": {"coding": [{"system": CPT, "code": "J1100"}, {"system": NDC, "code": "00641-0367-25"}]}}
OUTPATIENT = {"revenue": {"coding": [{"code": "0300"}]}}


def drug(ndc: str) -> Claim:
    """A claim for a drug with this NDC."""
    return changed(professional(line(1, "J1100", **DRUG)), "item.0.productOrService.coding.1.code", ndc)


CASES = (
    # identity
    Case(
        "npi-check-digit",
        changed(GOOD, "provider.identifier.value", BAD_NPI),
        "Claim.provider",
        GOOD | {"careTeam": team(OTHER_NPI)},
    ),
    Case("npi-missing", GOOD | {"provider": {"display": "Practice"}}, "Claim.provider", GOOD),
    Case(
        "tin-format",
        GOOD,
        "Claim.provider",
        GOOD,
        known=directory(tin="12345678"),
        known_passing=directory(tin="12-3456789"),
    ),
    Case(
        "provider-not-on-roster",
        GOOD | {"careTeam": team("1245319599")},
        "Claim.careTeam[0].provider",
        GOOD | {"careTeam": team(OTHER_NPI)},
    ),
    Case(
        "taxonomy-not-on-roster",
        GOOD | {"careTeam": team(OTHER_NPI, "208600000X")},
        "Claim.careTeam[0].qualification",
        GOOD | {"careTeam": team(OTHER_NPI, "207R00000X")},
    ),
    Case("patient-missing", GOOD | {"patient": {"display": "somebody"}}, "Claim.patient", GOOD),
    Case(
        "mbi-format",
        GOOD,
        "Claim.patient",
        GOOD,
        known=patient(mbi="1SG4TE5MK73"),
        known_passing=patient(mbi="1EG4-TE5-MK73"),
    ),
    Case(
        "patient-differs",
        GOOD,
        "Claim.patient",
        GOOD,
        known={"patients": patient()["patients"] + patient(sex="M")["patients"]},
        known_passing={"patients": patient()["patients"] * 2},
    ),
    Case(
        "service-before-birth",
        GOOD,
        f"{LINE}.serviced",
        GOOD,
        known=patient(birth=date(2025, 3, 11)),
        known_passing=patient(birth=date(2025, 3, 10)),
    ),
    # eligibility
    Case(
        "insurance-focal",
        changed(GOOD, "insurance.0.focal", False),
        "Claim.insurance",
        GOOD,
    ),
    Case(
        "coverage-status",
        GOOD,
        "Claim.insurance.where(focal).coverage",
        GOOD,
        known=covered(coverage("cov1", status="cancelled")),
    ),
    Case(
        "coverage-not-active",
        GOOD,
        f"{LINE}.serviced",
        GOOD,
        known=covered(coverage("cov1", last="2025-03-09")),
        known_passing=covered(coverage("cov1", first="2025-03-10", last="2025-03-10")),
    ),
    Case(
        "other-payer-primary",
        GOOD,
        "Claim.insurance.where(focal).coverage",
        GOOD | {"insurance": ANSWERED},
        known=covered(PRIMARY, SECONDARY),
    ),
    Case(
        "not-attributed",
        GOOD,
        "Claim.provider",
        GOOD,
        known={"attributed": []},
        known_passing={
            "attributed": [
                {
                    "member": "p1",
                    "npi": GOOD_NPI,
                    "attributed_from": date(2025, 1, 1),
                    "attributed_to": date(2025, 3, 31),
                }
            ]
        },
    ),
    # codes: diagnoses
    Case("diagnosis-missing", GOOD | {"diagnosis": []}, "Claim.diagnosis", GOOD),
    Case("diagnosis-format", diagnosed("E11.9", "1E1"), "Claim.diagnosis[1].diagnosis", diagnosed("E11.9", "W01.0XXA")),
    Case(
        "diagnosis-not-valid",
        diagnosed("E11.9", "E11.5"),
        "Claim.diagnosis[1].diagnosis",
        one("99213", "2022-09-30") | {"diagnosis": [diagnosis(1, "E11.5")]},
        known_passing=covered(coverage("cov1", first="2020-01-01")),
    ),
    Case("diagnosis-not-specific", diagnosed("E11"), "Claim.diagnosis[0].diagnosis", GOOD),
    Case(
        "diagnosis-repeated",
        diagnosed("E11.9", "I10", "E119"),
        "Claim.diagnosis[2].diagnosis",
        diagnosed("E11.9", "I10"),
    ),
    Case(
        "diagnoses-too-many",
        diagnosed(*(["E11.9"] * 13)),
        "Claim.diagnosis",
        diagnosed(*(["E11.9"] * 12)),
    ),
    Case(
        "external-cause-first",
        diagnosed("W01.0XXA", "S01.00XA"),
        "Claim.diagnosis[0].diagnosis",
        GOOD | {"diagnosis": [diagnosis(1, "W01.0XXA"), diagnosis(2, "S01.00XA", "principal")]},
    ),
    Case(
        "manifestation-principal",
        diagnosed("F02.80", "E11.9"),
        "Claim.diagnosis[0].diagnosis",
        diagnosed("E11.9", "F02.80"),
    ),
    Case(
        "diagnosis-unacceptable-principal",
        diagnosed("Z37.0", "O80"),
        "Claim.diagnosis[0].diagnosis",
        diagnosed("E11.9", "Z37.0"),
    ),
    Case(
        "diagnosis-sex",
        diagnosed("B20"),
        "Claim.diagnosis[0].diagnosis",
        diagnosed("B20"),
        known_passing=patient(sex="M"),
    ),
    Case(
        "diagnosis-age",
        diagnosed("O80"),
        "Claim.diagnosis[0].diagnosis",
        diagnosed("O80"),
        known=patient(birth=date(1960, 3, 10)),  # 65 on the day
        known_passing=patient(birth=date(1960, 3, 11)),
    ),
    Case(
        "diagnosis-pointer-missing",
        one("99213", diagnosisSequence=None),
        f"{LINE}.diagnosisSequence",
        GOOD,
    ),
    Case("diagnosis-pointer", one("99213", diagnosisSequence=[1, 2]), f"{LINE}.diagnosisSequence", GOOD),
    # codes: institutional
    Case("bill-type-missing", institutional(bill=None), "Claim.supportingInfo", institutional()),
    Case("bill-type-format", institutional(bill="0091"), "Claim.supportingInfo", institutional(bill="131")),
    Case(
        "frequency-code",
        GOOD | {"supportingInfo": [supporting("other", "2", FREQUENCY)]},
        "Claim.supportingInfo",
        GOOD | {"supportingInfo": [supporting("other", "1", FREQUENCY)]},
    ),
    Case("revenue-missing", institutional(line()), f"{LINE}.revenue", institutional()),
    Case(
        "revenue-not-valid",
        institutional(line(revenue={"coding": [{"code": "0999"}]})),
        f"{LINE}.revenue",
        institutional(line(revenue={"coding": [{"code": "0120"}]})),
    ),
    Case(
        "revenue-needs-procedure",
        institutional(line(1, None, **OUTPATIENT)),
        f"{LINE}.productOrService",
        institutional(line(1, "36415", **OUTPATIENT)),
    ),
    Case(
        "revenue-procedure",
        institutional(line(1, "99213", **OUTPATIENT)),
        f"{LINE}.productOrService",
        institutional(line(1, "80053", **OUTPATIENT)),
    ),
    # codes: procedures
    Case("procedure-missing", one(""), f"{LINE}.productOrService", GOOD),
    Case("procedure-format", one("9921"), f"{LINE}.productOrService", GOOD),
    Case(
        "procedure-not-active",
        one("99201", "2021-01-01"),
        f"{LINE}.productOrService",
        one("99201", "2020-12-31"),
    ),
    Case("procedure-sex", one("55700"), f"{LINE}.productOrService", one("55700"), known_passing=patient(sex="M")),
    Case(
        "procedure-age",
        one("90460"),
        f"{LINE}.productOrService",
        one("90460"),
        known_passing=patient(birth=date(2006, 3, 11)),
    ),
    Case("modifier-format", one("99213", modifiers=["2"]), f"{LINE}.modifier[0]", one("99213", modifiers=["25"])),
    Case(
        "modifier-not-valid",
        one("99213", modifiers=["25", "ZZ"]),
        f"{LINE}.modifier[1]",
        one("99213", modifiers=["25"]),
    ),
    Case(
        "modifier-repeated",
        one("99213", modifiers=["25", "25"]),
        f"{LINE}.modifier[1]",
        one("99213", modifiers=["25", "24"]),
    ),
    Case(
        "modifiers-conflict",
        one("93000", modifiers=["26", "TC"]),
        f"{LINE}.modifier",
        one("93000", modifiers=["26", "76"]),
    ),
    Case("modifier-not-allowed", one("93000", modifiers=["25"]), f"{LINE}.modifier[0]", one("93000", modifiers=["76"])),
    Case("place-missing", one("99213", locationCodeableConcept=None), f"{LINE}.location", GOOD),
    Case(
        "place-not-valid",
        changed(GOOD, "item.0.locationCodeableConcept.coding.0.code", "30"),
        f"{LINE}.location",
        changed(GOOD, "item.0.locationCodeableConcept.coding.0.code", "02"),
    ),
    Case(
        "place-not-allowed",
        changed(one("93000"), "item.0.locationCodeableConcept.coding.0.code", "12"),
        f"{LINE}.location",
        changed(one("93000"), "item.0.locationCodeableConcept.coding.0.code", "22"),
    ),
    Case("drug-needs-ndc", one("J1100"), f"{LINE}.productOrService", drug("00641-0367-25")),
    Case("ndc-format", drug("641-0367-25"), f"{LINE}.productOrService", drug("00641036725")),
    # ncci
    Case(
        "ncci-ptp-never",
        professional(line(1, "11042"), line(2, "97597", modifiers=["59"])),
        "Claim.item[1].productOrService",
        professional(line(1, "11042"), line(2, "97597", "2025-03-11")),
    ),
    Case(
        "ncci-ptp-modifier",
        one("36415"),
        f"{LINE}.productOrService",
        one("36415", modifiers=["59"]),
        history=(past("27130", "2025-03-10"),),
    ),
    Case(
        "ncci-mue-line",
        one("11042", quantity={"value": 2}),
        f"{LINE}.quantity",
        professional(line(1, "11042"), line(2, "11042", modifiers=["59"])),
    ),
    Case(
        "ncci-mue-day",
        one("27130"),
        f"{LINE}.quantity",
        one("27130", "2025-03-11"),
        history=(past("27130", "2025-03-10", modifiers=["RT"]),),
    ),
    Case(
        "ncci-mue-day-clinical",
        changed(drug("00641036725"), "item.0.quantity.value", 11),
        f"{LINE}.quantity",
        changed(drug("00641036725"), "item.0.quantity.value", 10),
    ),
    Case(
        "add-on-alone",
        one("11045"),
        f"{LINE}.productOrService",
        one("11045"),
        history_passing=(past("97597", "2025-03-10"),),
    ),
    Case(
        "global-same-day",
        professional(line(1, "99213"), line(2, "11042")),
        f"{LINE}.modifier",
        professional(line(1, "99213", modifiers=["25"]), line(2, "11042")),
    ),
    Case(
        "global-follow-up",
        one("99213", "2025-06-08"),  # 90 days after
        f"{LINE}.modifier",
        one("99213", "2025-06-09"),
        history=(past("27130", "2025-03-10"),),
    ),
    Case(
        "global-further-surgery",
        one("27447", "2025-03-20"),
        f"{LINE}.modifier",
        one("27447", "2025-03-20", modifiers=["78"]),
        history=(past("27130", "2025-03-10"),),
    ),
    # coverage
    Case(
        "frequency-limit",
        one("G0439", "2026-02-28"),
        f"{LINE}.serviced",
        one("G0439", "2026-03-01"),
        history=(past("G0439", "2025-03-10"),),
    ),
    Case(
        "payer-frequency-limit",
        one("93000", "2025-08-31"),
        f"{LINE}.serviced",
        one("93000", "2025-09-01"),
        history=(past("93000", "2025-03-10"),),
    ),
    Case(
        "prior-authorization-missing",
        one("27130"),
        f"{LINE}.productOrService",
        changed(one("27130"), "insurance.0.preAuthRef", ["A1"]),
    ),
    Case(
        "diagnosis-not-covered",
        one("93000", diagnosisSequence=[2]) | {"diagnosis": [diagnosis(1, "I10"), diagnosis(2, "B20")]},
        f"{LINE}.diagnosisSequence",
        one("93000") | {"diagnosis": [diagnosis(1, "E11.9")]},
    ),
    # time
    Case(
        "service-date-missing",
        changed(changed(GOOD, "item.0.servicedDate", None), "billablePeriod", None),
        f"{LINE}.serviced",
        changed(GOOD, "item.0.servicedDate", None),
    ),
    Case(
        "period-reversed",
        GOOD | {"billablePeriod": {"start": "2025-03-11", "end": "2025-03-10"}},
        "Claim.billablePeriod",
        GOOD,
    ),
    Case(
        "service-outside-period",
        GOOD | {"billablePeriod": {"start": "2025-03-01", "end": "2025-03-09"}},
        f"{LINE}.serviced",
        GOOD | {"billablePeriod": {"start": "2025-03", "end": "2025-03"}},
    ),
    Case("service-in-future", GOOD | {"created": "2025-03-09"}, f"{LINE}.serviced", GOOD | {"created": "2025-03-10"}),
    Case(
        "timely-filing",
        GOOD | {"created": "2026-03-11"},
        f"{LINE}.serviced",
        GOOD | {"created": "2026-03-10"},
    ),
    Case(
        "stay-overlap",
        stay("2025-03-10", "2025-03-15"),
        "Claim.billablePeriod",
        stay("2025-03-12", "2025-03-15"),
        history=(stay("2025-03-08", "2025-03-12", "earlier", OTHER_NPI),),
    ),
    Case(
        "three-day-window",
        institutional(),
        f"{LINE}.serviced",
        institutional(),
        history=(stay("2025-03-13", "2025-03-15", "earlier"),),
        history_passing=(stay("2025-03-14", "2025-03-15", "earlier"),),
    ),
    Case(
        "care-management-month",
        one("99490", "2025-03-31"),
        f"{LINE}.serviced",
        one("99490", "2025-04-01"),
        history=(past("99490", "2025-03-01"),),
    ),
    Case(
        "transition-once",
        one("99495", "2025-03-30"),
        f"{LINE}.serviced",
        one("99495", "2025-03-31"),
        history=(past("99495", "2025-03-01"),),
    ),
    # duplicates
    Case(
        "duplicate-line",
        professional(line(1), line(2)),
        "Claim.item[1].productOrService",
        professional(line(1), line(2, modifiers=["76"])),
    ),
    Case(
        "duplicate-service",
        GOOD,
        f"{LINE}.productOrService",
        one("99213", modifiers=["25"]),
        history=(professional(identifier="earlier"),),
    ),
    Case(
        "replacement-names-original", replacing("7", None), "Claim.related", replacing("7", "ICN1"), history=(NUMBERED,)
    ),
    Case(
        "original-unknown", replacing("7", "ICN2"), "Claim.related", replacing("7", "ICN1", True), history=(NUMBERED,)
    ),
    # money
    Case("lines-missing", GOOD | {"item": []}, "Claim.item", GOOD),
    Case(
        "charge-not-positive",
        one("99213", net="0"),
        f"{LINE}.net",
        one("3074F", net="0"),
    ),
    Case(
        "total-unbalanced", changed(GOOD, "total.value", 125.01), "Claim.total", professional(line(1), line(2, "93000"))
    ),
    Case("total-missing", changed(GOOD, "total", None), "Claim.total", GOOD),
    Case(
        "line-unbalanced",
        one("99213", net="125.00", quantity={"value": 2}, unitPrice={"value": 62.49}),
        f"{LINE}.net",
        one("99213", net="125.00", quantity={"value": 3}, unitPrice={"value": 41.6667}),
    ),
    Case(
        "units-not-positive",
        one("99213", quantity={"value": 0}),
        f"{LINE}.quantity",
        one("99213", quantity={"value": 0.5}),
    ),
    Case("currency-mixed", changed(GOOD, "total.currency", "EUR"), f"{LINE}.net.currency", GOOD),
    Case("charge-below-fee", one("99213", net="92.49"), f"{LINE}.net", one("99213", net="92.50")),
    Case("charge-outlier", one("99213", net="925.01"), f"{LINE}.net", one("99213", net="925.00")),
    Case(
        "primary-answer-missing",
        GOOD | {"insurance": TWO_INSURANCES},
        "Claim.insurance",
        GOOD | {"insurance": ANSWERED},
        known=covered(PRIMARY, SECONDARY),
    ),
    # value-based
    Case(
        "apcm-conflict",
        one("99490"),
        f"{LINE}.productOrService",
        one("99490", "2025-04-01"),
        history=(past("G0557", "2025-03-01"),),
    ),
    Case(
        "clinic-day-without-detail",
        one("T1040"),
        f"{LINE}.productOrService",
        professional(line(1, "T1040"), line(2, "99213")),
    ),
    Case("quality-code-charged", one("3074F", net="5"), f"{LINE}.net", one("3074F", net="0.01")),
)
