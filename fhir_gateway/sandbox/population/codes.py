"""The codes the population uses, with what they cost and how they relate: all from public code systems.

CPT and HCPCS appear as bare codes (CPT descriptions are licensed). Fees and weights are invented round numbers in the
order of magnitude of 2025 Medicare fees, in cents. NDCs carry the labeler 99999, which names no real product; the
RxNorm code beside them says what was meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fhir_gateway.sandbox.population.columns import Ints, TextArray, words

ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD10PCS = "http://www.cms.gov/Medicare/Coding/ICD10"
LOINC = "http://loinc.org"
CPT = "http://www.ama-assn.org/go/cpt"
HCPCS = "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
NDC = "http://hl7.org/fhir/sid/ndc"
REVENUE = "https://www.nubc.org/CodeSystem/RevenueCodes"
TYPE_OF_BILL = "https://www.nubc.org/CodeSystem/TypeOfBill"
PLACE_OF_SERVICE = "https://www.cms.gov/Medicare/Coding/place-of-service-codes/Place_of_Service_Code_Set"
MS_DRG = "https://www.cms.gov/Medicare/Medicare-Fee-for-Service-Payment/AcuteInpatientPPS/MS-DRG-Classifications-and-Software"
NUCC = "http://nucc.org/provider-taxonomy"
CMS_SPECIALTY = "https://bluebutton.cms.gov/resources/variables/prvdr_spclty"


def coding(system: str, code: str, display: str | None = None) -> dict[str, str]:
    """A Coding as JSON object."""
    return {"system": system, "code": code} | ({"display": display} if display else {})


@dataclass(frozen=True)
class CodeTable:
    """Codes of one kind; rows of columns hold positions in it."""

    concepts: tuple[tuple[tuple[dict[str, str], ...], str | None], ...]

    @classmethod
    def of(cls, system: str, rows: Mapping[str, str | None]) -> CodeTable:
        """A table of one system: code to display (None where descriptions are licensed)."""
        return cls(tuple(((coding(system, code, display),), display) for code, display in rows.items()))

    def find(self, codes: Iterable[str]) -> Ints:
        """Positions of codes (of the first coding); KeyError for an unknown one."""
        return np.array([self._position[code] for code in codes], np.int64)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {codings[0]["code"]: n for n, (codings, _) in enumerate(self.concepts)}

    @cached_property
    def fragments(self) -> TextArray:
        """A CodeableConcept as JSON text, per row."""
        return words(
            json.dumps({"coding": list(codings)} | ({"text": text} if text else {}), separators=(",", ":"))
            for codings, text in self.concepts
        )

    @cached_property
    def bare(self) -> TextArray:
        """The same without the text, for claims."""
        return words(json.dumps({"coding": list(codings)}, separators=(",", ":")) for codings, _ in self.concepts)

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """The code of each row's first coding."""
        return tuple(codings[0]["code"] for codings, _ in self.concepts)


DIAGNOSES = CodeTable.of(
    ICD10CM,
    {
        "E11.9": "Type 2 diabetes mellitus without complications",
        "I10": "Essential (primary) hypertension",
        "E78.5": "Hyperlipidemia, unspecified",
        "I50.22": "Chronic systolic (congestive) heart failure",
        "J44.9": "Chronic obstructive pulmonary disease, unspecified",
        "N18.31": "Chronic kidney disease, stage 3a",
        "I25.10": "Atherosclerotic heart disease of native coronary artery without angina pectoris",
        "F33.1": "Major depressive disorder, recurrent, moderate",
        "J45.909": "Unspecified asthma, uncomplicated",
        "N18.6": "End stage renal disease",
        "Z00.00": "Encounter for general adult medical examination without abnormal findings",
        "J06.9": "Acute upper respiratory infection, unspecified",
        "M54.50": "Low back pain, unspecified",
        "N39.0": "Urinary tract infection, site not specified",
        "L30.9": "Dermatitis, unspecified",
        "R05.9": "Cough, unspecified",
        "R07.9": "Chest pain, unspecified",
        "R10.9": "Unspecified abdominal pain",
        "R51.9": "Headache, unspecified",
        "S93.401A": "Sprain of unspecified ligament of right ankle, initial encounter",
        "M17.11": "Unilateral primary osteoarthritis, right knee",
        "Z09": "Encounter for follow-up examination after completed treatment",
        "Z12.11": "Encounter for screening for malignant neoplasm of colon",
        "H25.9": "Unspecified age-related cataract",
        "I50.23": "Acute on chronic systolic (congestive) heart failure",
        "J18.9": "Pneumonia, unspecified organism",
        "J44.1": "Chronic obstructive pulmonary disease with (acute) exacerbation",
        "A41.9": "Sepsis, unspecified organism",
        "I21.4": "Non-ST elevation (NSTEMI) myocardial infarction",
        "I63.9": "Cerebral infarction, unspecified",
        "K92.2": "Gastrointestinal hemorrhage, unspecified",
        "N17.9": "Acute kidney failure, unspecified",
        "L03.115": "Cellulitis of right lower limb",
        "Z51.11": "Encounter for antineoplastic chemotherapy",
        "F33.2": "Major depressive disorder, recurrent severe without psychotic features",
    },
)


@dataclass(frozen=True, slots=True)
class Chronic:
    """A chronic condition: diagnosis, share of persons per age band (0-17, 18-44, 45-64, 65+), medication."""

    name: str
    diagnosis: str
    prevalence: tuple[float, float, float, float]
    medication: str | None


#: Prevalences follow the order of magnitude of the CDC's National Health Interview Survey for US adults.
CHRONIC: tuple[Chronic, ...] = (
    Chronic("diabetes", "E11.9", (0.002, 0.05, 0.16, 0.27), "860975"),
    Chronic("hypertension", "I10", (0.0, 0.09, 0.40, 0.66), "314076"),
    Chronic("hyperlipidemia", "E78.5", (0.0, 0.08, 0.34, 0.52), "312961"),
    Chronic("heart failure", "I50.22", (0.0, 0.003, 0.02, 0.09), "315971"),
    Chronic("copd", "J44.9", (0.0, 0.01, 0.06, 0.12), "896209"),
    Chronic("kidney disease", "N18.31", (0.0, 0.01, 0.05, 0.19), None),
    Chronic("coronary disease", "I25.10", (0.0, 0.005, 0.07, 0.20), "309362"),
    Chronic("depression", "F33.1", (0.02, 0.10, 0.10, 0.07), None),
    Chronic("asthma", "J45.909", (0.08, 0.08, 0.06, 0.04), "745679"),
    Chronic("end stage renal disease", "N18.6", (0.0, 0.001, 0.004, 0.008), None),
)
DIABETES, HYPERTENSION, HEART_FAILURE, COPD, KIDNEY = 0, 1, 3, 4, 5

#: RxNorm code -> display, NDC (made up), fee of 90 days in cents.
_MEDICATIONS: tuple[tuple[str, str, str, int], ...] = (
    (
        "860975",
        "24 HR metformin hydrochloride 500 MG Extended Release Oral Tablet",
        "99999-0101-90",
        2_150,
    ),
    ("314076", "lisinopril 10 MG Oral Tablet", "99999-0102-90", 1_240),
    ("312961", "simvastatin 20 MG Oral Tablet", "99999-0103-90", 1_480),
    ("315971", "furosemide 40 MG", "99999-0104-90", 960),
    ("896209", "fluticasone / salmeterol Dry Powder Inhaler", "99999-0105-03", 38_900),
    ("309362", "clopidogrel 75 MG Oral Tablet", "99999-0106-90", 3_320),
    ("745679", "200 ACTUAT albuterol 0.09 MG/ACTUAT Metered Dose Inhaler", "99999-0107-01", 5_410),
)
MEDICATIONS = CodeTable(tuple(((coding(RXNORM, code, name),), name) for code, name, _, _ in _MEDICATIONS))
DRUG_PRODUCTS = CodeTable(tuple(((coding(NDC, ndc), coding(RXNORM, code)), None) for code, _, ndc, _ in _MEDICATIONS))
DRUG_FEES: Ints = np.array([fee for _, _, _, fee in _MEDICATIONS], np.int64)

#: Service code -> fee in cents. Fees below are final allowed amounts before the line of business factor.
_CPT_FEES: Mapping[str, int] = {
    "99203": 11_300,
    "99204": 16_900,
    "99212": 5_700,
    "99213": 9_200,
    "99214": 13_000,
    "99215": 18_300,
    "99395": 12_400,
    "99396": 13_200,
    "99495": 20_800,
    "99309": 9_300,
    "99223": 19_100,
    "99232": 7_900,
    "99239": 11_600,
    "99281": 1_200,
    "99282": 4_200,
    "99283": 7_200,
    "99284": 12_200,
    "99285": 17_700,
    "83036": 971,
    "80053": 1_056,
    "80061": 1_339,
    "36415": 857,
    "90686": 2_240,
    "93000": 1_490,
    "71046": 3_060,
    "45378": 98_500,
    "66984": 212_000,
    "73721": 23_400,
}
_HCPCS_FEES: Mapping[str, int] = {"G0438": 16_600, "G0439": 13_100}

SERVICES = CodeTable(
    tuple(((coding(CPT, code),), None) for code in _CPT_FEES)
    + tuple(((coding(HCPCS, code),), None) for code in _HCPCS_FEES)
    + (
        (
            (coding("http://terminology.hl7.org/CodeSystem/data-absent-reason", "not-applicable", "Not Applicable"),),
            None,
        ),
    )
)
SERVICE_FEES: Ints = np.array([*_CPT_FEES.values(), *_HCPCS_FEES.values(), 0], np.int64)

#: Those of the codes above that count as primary care services under 42 CFR 425.400(c) (99309 only outside POS 31).
PRIMARY_CARE_CODES = frozenset(["99203", "99204", "99212", "99213", "99214", "99215", "99495", "G0438", "G0439"])
#: CMS specialty codes whose primary care services are compared in step 1 (physicians and NP, PA, CNS).
PRIMARY_CARE_SPECIALTIES = frozenset(["01", "08", "11", "37", "38", "50", "89", "97"])

REVENUES = CodeTable.of(
    REVENUE,
    {
        "0120": "Room & board, semiprivate",
        "0250": "Pharmacy",
        "0300": "Laboratory",
        "0320": "Radiology, diagnostic",
        "0360": "Operating room services",
        "0450": "Emergency room",
        "0610": "Magnetic resonance technology",
        "0750": "Gastrointestinal services",
    },
)
PLACES = CodeTable.of(
    PLACE_OF_SERVICE,
    {
        "11": "Office",
        "21": "Inpatient Hospital",
        "23": "Emergency Room - Hospital",
        "31": "Skilled Nursing Facility",
    },
)


@dataclass(frozen=True, slots=True)
class StayKind:
    """A kind of inpatient stay: MS-DRG, principal diagnosis, share, mean days, allowed cents, planned, procedure."""

    drg: str
    diagnosis: str
    share: float
    days: float
    fee: int
    planned: bool = False
    procedure: str | None = None


STAYS: tuple[StayKind, ...] = (
    StayKind("291", "I50.23", 0.14, 4.6, 1_010_000),
    StayKind("193", "J18.9", 0.12, 4.2, 930_000),
    StayKind("190", "J44.1", 0.09, 3.7, 810_000),
    StayKind("871", "A41.9", 0.15, 5.6, 1_380_000),
    StayKind("280", "I21.4", 0.07, 4.3, 1_190_000),
    StayKind("065", "I63.9", 0.07, 3.9, 780_000),
    StayKind("690", "N39.0", 0.07, 3.3, 600_000),
    StayKind("378", "K92.2", 0.06, 3.4, 740_000),
    StayKind("683", "N17.9", 0.06, 3.6, 690_000),
    StayKind("603", "L03.115", 0.05, 3.5, 640_000),
    StayKind("885", "F33.2", 0.03, 6.1, 860_000),
    StayKind("470", "M17.11", 0.06, 1.8, 1_420_000, planned=True, procedure="0SRC0J9"),
    StayKind("847", "Z51.11", 0.03, 3.0, 1_030_000, planned=True, procedure="3E03305"),
)
DRGS = CodeTable.of(MS_DRG, {kind.drg: None for kind in STAYS})
STAY_PROCEDURES = CodeTable.of(
    ICD10PCS,
    {
        "0SRC0J9": "Replacement of Right Knee Joint with Synthetic Substitute, Cemented, Open Approach",
        "3E03305": "Introduction of Other Antineoplastic into Peripheral Vein, Percutaneous Approach",
    },
)


@dataclass(frozen=True, slots=True)
class Disposition:
    """How a stay ends: UB-04 patient discharge status, FHIR discharge disposition, share."""

    status: str
    disposition: str
    display: str
    share: float


DISPOSITIONS: tuple[Disposition, ...] = (
    Disposition("01", "home", "Home", 0.70),
    Disposition("06", "home", "Home", 0.11),
    Disposition("03", "snf", "Skilled nursing facility", 0.12),
    Disposition("02", "other-hcf", "Other healthcare facility", 0.03),
    Disposition("07", "aadvice", "Left against advice", 0.01),
    Disposition("20", "exp", "Expired", 0.02),
    Disposition("51", "hosp", "Hospice", 0.01),
)
HOME, SNF, TRANSFER, AGAINST_ADVICE, EXPIRED = 0, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Specialty:
    """A kind of clinician: CMS specialty code, NUCC taxonomy code with display."""

    cms: str
    taxonomy: str
    display: str


SPECIALTIES: tuple[Specialty, ...] = (
    Specialty("08", "207Q00000X", "Family Medicine Physician"),
    Specialty("11", "207R00000X", "Internal Medicine Physician"),
    Specialty("50", "363L00000X", "Nurse Practitioner"),
    Specialty("97", "363A00000X", "Physician Assistant"),
    Specialty("38", "207RG0300X", "Geriatric Medicine (Internal Medicine) Physician"),
    Specialty("06", "207RC0000X", "Cardiovascular Disease Physician"),
    Specialty("46", "207RE0101X", "Endocrinology, Diabetes & Metabolism Physician"),
    Specialty("20", "207X00000X", "Orthopaedic Surgery Physician"),
    Specialty("07", "207N00000X", "Dermatology Physician"),
    Specialty("93", "207P00000X", "Emergency Medicine Physician"),
    Specialty("C6", "208M00000X", "Hospitalist Physician"),
)
QUALIFICATIONS = CodeTable(
    tuple((((coding(NUCC, s.taxonomy, s.display)), coding(CMS_SPECIALTY, s.cms)), s.display) for s in SPECIALTIES)
)
