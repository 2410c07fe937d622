"""The EHR's resources, in the shape of US Core 6.1.0."""

from __future__ import annotations

import json

import numpy as np

from fhir_gateway.sandbox.population.calendar import day
from fhir_gateway.sandbox.population.clinical import (
    Diagnoses,
    Measurements,
    Prescriptions,
    Pressures,
    procedure_events,
    stay_procedure,
)
from fhir_gateway.sandbox.population.codes import (
    DIAGNOSES,
    DISPOSITIONS,
    LOINC,
    MEDICATIONS,
    SERVICES,
    STAY_PROCEDURES,
)
from fhir_gateway.sandbox.population.columns import (
    Coded,
    Column,
    Dates,
    Decimals,
    Instants,
    Ints,
    Numbered,
    words,
)
from fhir_gateway.sandbox.population.demographics import name_fields, swap_day_and_month
from fhir_gateway.sandbox.population.directory import Directory
from fhir_gateway.sandbox.population.identifiers import Mbi, scatter
from fhir_gateway.sandbox.population.laboratory import ANALYTES, Draws
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.render import Field, Maybe, Raw, Sheet, Template, Text
from fhir_gateway.sandbox.population.sources import (
    EHR_PREFIX,
    MBI,
    MEDICAL_RECORD,
    MEMBER_ID,
    US_CORE,
    Ids,
    member_ids,
    meta,
    typed,
    updated,
)
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import EMERGENCY, INPATIENT, Events

_HL7 = "http://terminology.hl7.org/CodeSystem/"
_UCUM = "http://unitsofmeasure.org"
_RACES = (
    ("2106-3", "White"),
    ("2054-5", "Black or African American"),
    ("2028-9", "Asian"),
    ("1002-5", "American Indian or Alaska Native"),
    ("2131-1", "Other Race"),
)


def _fragment(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _race_extension(url: str, code: str, display: str) -> dict[str, object]:
    category = {"system": "urn:oid:2.16.840.1.113883.6.238", "code": code, "display": display}
    return {
        "url": f"{US_CORE}{url}",
        "extension": [{"url": "ombCategory", "valueCoding": category}, {"url": "text", "valueString": display}],
    }


class EhrSheets:
    """Renders a batch; every method gives the sheets of one resource type."""

    def __init__(
        self, seed: int, batch_base: int, year: int, people: People, directory: Directory, events: Events, stays: Stays
    ) -> None:
        """``events`` are those that happened on the EHR."""
        self.ids = Ids(EHR_PREFIX, seed)
        self.base, self.year = batch_base, year
        self.people, self.directory, self.events, self.stays = people, directory, events, stays
        self.organizations = self.ids.organizations(directory)
        self.practitioners = self.ids.practitioners(directory)

    def _patient_reference(self, person: Ints) -> Column:
        return self.ids.patients(self.people.number[person])

    def _event_fields(self, event: Ints) -> dict[str, Field]:
        """Columns of resources that belong to an event (-1 for none)."""
        events = self.events
        at = np.maximum(event, 0)
        return {
            "updated": updated(events.end_day[at] + 1),
            "patient": self._patient_reference(events.person[at]),
            "encounter": Numbered("enc", np.where(event < 0, -1, self.base + event), 10),
            "when": Instants(events.start[at] + 10),
            "practitioner": Coded(self.practitioners, events.practitioner[at]),
        }

    def patients(self) -> list[Sheet]:
        """US Core Patient with medical record number and, for most, the member id and Medicare number."""
        people = self.people
        rows = np.flatnonzero(people.in_ehr)
        ethnicity = (("2186-5", "Not Hispanic or Latino"), ("2135-2", "Hispanic or Latino"))
        birth = people.birth[rows]
        template = {
            "resourceType": "Patient",
            "id": Text("id"),
            "meta": meta(f"{US_CORE}patient"),
            "extension": [
                Raw("race"),
                Raw("ethnicity"),
                {"url": f"{US_CORE}birthsex", "valueCode": Text("sex")},
            ],
            "identifier": [
                typed("MR", MEDICAL_RECORD, Text("mrn")),
                Maybe("member", typed("MB", MEMBER_ID, Text("member"))),
                Maybe("mbi", typed("MC", MBI, Text("mbi"))),
            ],
            "active": True,
            "name": [{"use": "official", "family": Text("family"), "given": [Text("given")]}],
            "gender": Text("gender"),
            "birthDate": Text("birth"),
            "deceasedDateTime": Maybe("death", Text("death")),
            "address": [
                {
                    "use": "home",
                    "line": [Text("street")],
                    "city": Text("city"),
                    "state": "AZ",
                    "postalCode": Text("zip"),
                    "country": "US",
                }
            ],
        }
        fields: dict[str, Field] = {
            **name_fields(people, rows),
            "updated": updated(np.full(len(rows), day(self.year, 12, 31)), 3),
            "id": self.ids.patients(people.number[rows]),
            "race": Coded(words(_fragment(_race_extension("race", *race)) for race in _RACES), people.race[rows]),
            "ethnicity": Coded(
                words(_fragment(_race_extension("ethnicity", *value)) for value in ethnicity),
                people.hispanic[rows].astype(np.int64),
            ),
            "sex": Coded(words(("M", "F")), people.female[rows].astype(np.int64)),
            "mrn": Numbered("", scatter(people.number[rows], 99_999_989, 9), 8),
            "member": member_ids(people.ehr_member[rows]),
            "mbi": Mbi(people.ehr_mbi[rows]),
            "birth": Dates(np.where(people.swapped_birth[rows], swap_day_and_month(birth), birth)),
        }
        return [Sheet(template, len(rows), fields)]

    def encounters(self, diagnoses: Diagnoses) -> list[Sheet]:
        """US Core Encounter: ambulatory, emergency and inpatient, with period and discharge disposition."""
        events, stays = self.events, self.stays
        condition = np.full(len(events), -1)
        attached = np.flatnonzero(diagnoses.event >= 0)
        condition[diagnoses.event[attached]] = self.base + attached
        inpatient = events.what == INPATIENT
        stay = np.where(inpatient, events.stay, 0)
        ended = stays.disposition[stay] if len(stays.person) else stay
        emergency_in = stays.through_emergency[stay] if len(stays.person) else inpatient
        transferred = stays.transferred_in[stay] if len(stays.person) else inpatient
        classes = (("AMB", "ambulatory"), ("EMER", "emergency"), ("IMP", "inpatient encounter"))
        sources = (
            ("outp", "From outpatient department"),
            ("emd", "From accident/emergency department"),
            ("hosp-trans", "Transferred from other hospital"),
        )
        participation = {"system": f"{_HL7}v3-ParticipationType", "code": "PPRF", "display": "primary performer"}
        use = {"system": f"{_HL7}diagnosis-role", "code": "DD", "display": "Discharge diagnosis"}
        template = {
            "resourceType": "Encounter",
            "id": Text("encounter"),
            "meta": meta(f"{US_CORE}encounter"),
            "status": "finished",
            "class": Raw("class"),
            "type": [Raw("type")],
            "subject": {"reference": Text("patient", "Patient/")},
            "participant": [
                {
                    "type": [{"coding": [participation]}],
                    "individual": {"reference": Text("practitioner", "Practitioner/")},
                }
            ],
            "period": {"start": Text("start"), "end": Text("end")},
            "reasonCode": [Raw("reason")],
            "diagnosis": Maybe(
                "condition",
                [{"condition": {"reference": Text("condition", "Condition/")}, "use": {"coding": [use]}, "rank": 1}],
            ),
            "hospitalization": Maybe(
                "inpatient", {"admitSource": Raw("source"), "dischargeDisposition": Raw("disposition")}
            ),
            "location": [{"location": {"reference": Text("organization", "Location/eloc")}}],
            "serviceProvider": {"reference": Text("organization", "Organization/eorg")},
        }
        fields = self._event_fields(np.arange(len(events))) | {
            "class": Coded(
                words(_fragment({"system": f"{_HL7}v3-ActCode", "code": c, "display": d}) for c, d in classes),
                np.where(inpatient, 2, np.where(events.what == EMERGENCY, 1, 0)),
            ),
            "type": Coded(SERVICES.fragments, events.service),
            "start": Instants(events.start),
            "end": Instants(events.end),
            "reason": Coded(DIAGNOSES.fragments, events.diagnosis),
            "condition": Numbered("con", condition, 10),
            "inpatient": inpatient,
            "source": Coded(
                words(_concept(f"{_HL7}admit-source", *source) for source in sources),
                np.where(transferred, 2, np.where(emergency_in, 1, 0)),
            ),
            "disposition": Coded(
                words(_concept(f"{_HL7}discharge-disposition", d.disposition, d.display) for d in DISPOSITIONS), ended
            ),
            "organization": Numbered("", events.organization + 1),
        }
        return [Sheet(template, len(events), fields)]

    def conditions(self, diagnoses: Diagnoses) -> list[Sheet]:
        """US Core problem list items and encounter diagnoses."""
        sheets = []
        for listed, profile, category, status in (
            (True, "condition-problems-health-concerns", "problem-list-item", "active"),
            (False, "condition-encounter-diagnosis", "encounter-diagnosis", "resolved"),
        ):
            rows = np.flatnonzero((diagnoses.event < 0) == listed)
            template: Template = {
                "resourceType": "Condition",
                "id": Text("id"),
                "meta": meta(f"{US_CORE}{profile}"),
                "clinicalStatus": {"coding": [{"system": f"{_HL7}condition-clinical", "code": status}]},
                "verificationStatus": {"coding": [{"system": f"{_HL7}condition-ver-status", "code": "confirmed"}]},
                "category": [{"coding": [{"system": f"{_HL7}condition-category", "code": category}]}],
                "code": Raw("code"),
                "subject": {"reference": Text("patient", "Patient/")},
            }
            fields: dict[str, Field] = {
                "id": Numbered("con", self.base + rows, 10),
                "code": Coded(DIAGNOSES.fragments, diagnoses.code[rows]),
                "onset": Dates(diagnoses.onset[rows]),
            }
            if listed:
                fields["patient"] = self._patient_reference(diagnoses.person[rows])
                fields["updated"] = updated(np.maximum(diagnoses.onset[rows], day(self.year - 1)) + 1)
                template |= {"onsetDateTime": Text("onset"), "recordedDate": Text("onset")}
            else:
                event = diagnoses.event[rows]
                fields |= self._event_fields(event)
                fields["ended"] = Dates(self.events.end_day[event] + 14)
                template |= {
                    "encounter": {"reference": Text("encounter", "Encounter/")},
                    "onsetDateTime": Text("onset"),
                    "abatementDateTime": Text("ended"),
                    "recordedDate": Text("onset"),
                }
            sheets.append(Sheet(template, len(rows), fields))
        return sheets

    def observations(self, pressures: Pressures, hba1c: Measurements, weights: Measurements) -> list[Sheet]:
        """Blood pressure panels, HbA1c and body weight."""
        base = self._observation
        number = self.base
        panel = base("blood-pressure", "vital-signs", "85354-9", "Blood pressure panel") | {
            "component": [
                {"code": _loinc(code, display), "valueQuantity": _quantity(column, "mmHg", "mm[Hg]")}
                for code, display, column in (
                    ("8480-6", "Systolic blood pressure", "systolic"),
                    ("8462-4", "Diastolic blood pressure", "diastolic"),
                )
            ]
        }
        laboratory = base("observation-lab", "laboratory", "4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood") | {
            "valueQuantity": _quantity("value", "%", "%")
        }
        weight = base("body-weight", "vital-signs", "29463-7", "Body weight") | {
            "valueQuantity": _quantity("value", "kg", "kg")
        }
        return [
            Sheet(
                panel,
                len(pressures.event),
                self._event_fields(pressures.event)
                | {
                    "id": Numbered("bp", number + np.arange(len(pressures.event)), 10),
                    "systolic": Numbered("", pressures.systolic),
                    "diastolic": Numbered("", pressures.diastolic),
                },
            ),
            *(
                Sheet(
                    template,
                    len(measured.event),
                    self._event_fields(measured.event)
                    | {
                        "id": Numbered(prefix, number + np.arange(len(measured.event)), 10),
                        "value": Decimals(measured.tenths, 1),
                    },
                )
                for template, prefix, measured in ((laboratory, "a1c", hba1c), (weight, "wt", weights))
            ),
        ]

    def panels(self, draws: Draws) -> list[Sheet]:
        """Laboratory results, a sheet for each analyte."""
        common = self._event_fields(draws.event)
        return [
            Sheet(
                self._observation("observation-lab", "laboratory", one.code, one.display)
                | {"valueQuantity": _quantity("value", one.unit, one.unit)},
                len(draws.event),
                common
                | {
                    "id": Numbered(f"lab{number}-", self.base + draws.event, 10),
                    "value": Decimals(draws.values[:, number], one.places)
                    if one.places
                    else Numbered("", draws.values[:, number]),
                },
            )
            for number, one in enumerate(ANALYTES)
        ]

    def _observation(self, profile: str, category: str, code: str, display: str) -> dict[str, Template]:
        system = f"{_HL7}observation-category"
        return {
            "resourceType": "Observation",
            "id": Text("id"),
            "meta": meta(f"{US_CORE}{profile}"),
            "status": "final",
            "category": [{"coding": [{"system": system, "code": category}]}],
            "code": _loinc(code, display),
            "subject": {"reference": Text("patient", "Patient/")},
            "encounter": {"reference": Text("encounter", "Encounter/")},
            "effectiveDateTime": Text("when"),
            "performer": [{"reference": Text("practitioner", "Practitioner/")}],
        }

    def procedures(self) -> list[Sheet]:
        """Outpatient procedures (CPT) and procedures of stays (ICD-10-PCS)."""
        rows, inpatient = procedure_events(self.events, self.stays)
        template = {
            "resourceType": "Procedure",
            "id": Text("id"),
            "meta": meta(f"{US_CORE}procedure"),
            "status": "completed",
            "code": Raw("code"),
            "subject": {"reference": Text("patient", "Patient/")},
            "encounter": {"reference": Text("encounter", "Encounter/")},
            "performedDateTime": Text("when"),
            "performer": [{"actor": {"reference": Text("practitioner", "Practitioner/")}}],
            "reasonCode": [Raw("reason")],
        }
        sheets = []
        for of_stay, table in ((False, SERVICES), (True, STAY_PROCEDURES)):
            event = rows[inpatient == of_stay]
            code = stay_procedure(self.stays, self.events.stay[event]) if of_stay else self.events.service[event]
            fields = self._event_fields(event) | {
                "id": Numbered("proc", self.base + event, 10),
                "code": Coded(table.fragments, code),
                "reason": Coded(DIAGNOSES.fragments, self.events.diagnosis[event]),
            }
            sheets.append(Sheet(template, len(event), fields))
        return sheets

    def medication_requests(self, prescriptions: Prescriptions) -> list[Sheet]:
        """US Core MedicationRequest, one per medication."""
        template = {
            "resourceType": "MedicationRequest",
            "id": Text("id"),
            "meta": meta(f"{US_CORE}medicationrequest"),
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": Raw("medication"),
            "subject": {"reference": Text("patient", "Patient/")},
            "encounter": {"reference": Text("encounter", "Encounter/")},
            "authoredOn": Text("when"),
            "requester": {"reference": Text("practitioner", "Practitioner/")},
            "reasonCode": [Raw("reason")],
            "dispenseRequest": {
                "numberOfRepeatsAllowed": 3,
                "expectedSupplyDuration": {"value": 90, "unit": "days", "system": _UCUM, "code": "d"},
            },
        }
        count = len(prescriptions.event)
        fields = self._event_fields(prescriptions.event) | {
            "id": Numbered("rx", self.base + np.arange(count), 10),
            "medication": Coded(MEDICATIONS.fragments, prescriptions.medication),
            "reason": Coded(DIAGNOSES.fragments, prescriptions.diagnosis),
        }
        return [Sheet(template, count, fields)]


def _concept(system: str, code: str, display: str) -> str:
    return _fragment({"coding": [{"system": system, "code": code, "display": display}]})


def _loinc(code: str, display: str) -> dict[str, object]:
    return {"coding": [{"system": LOINC, "code": code, "display": display}], "text": display}


def _quantity(column: str, unit: str, code: str) -> dict[str, Template]:
    return {"value": Raw(column), "unit": unit, "system": _UCUM, "code": code}
