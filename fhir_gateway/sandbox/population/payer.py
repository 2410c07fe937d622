"""The payer's members and their coverage, in the shape of CARIN Blue Button 2.0.0."""

from __future__ import annotations

import json

import numpy as np

from fhir_gateway.sandbox.population.calendar import NEVER, day
from fhir_gateway.sandbox.population.columns import Coded, Dates, Numbered, words
from fhir_gateway.sandbox.population.demographics import name_fields
from fhir_gateway.sandbox.population.directory import Directory
from fhir_gateway.sandbox.population.identifiers import Mbi
from fhir_gateway.sandbox.population.names import FAMILIES
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.render import Field, Maybe, Raw, Sheet, Text
from fhir_gateway.sandbox.population.shapes import concept
from fhir_gateway.sandbox.population.sources import (
    C4BB,
    C4BB_CODES,
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

_HL7 = "http://terminology.hl7.org/CodeSystem/"


class PayerSheets:
    """Renders a batch; every method gives the sheets of one resource type."""

    def __init__(self, seed: int, year: int, people: People, directory: Directory) -> None:
        """Sheets of everybody whom the payer knows."""
        self.ids = Ids(PAYER_PREFIX, seed)
        self.people, self.year = people, year
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
                    "type": concept(f"{C4BB_CODES}C4BBIdentifierType", "um"),
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
            "relationship": concept(f"{_HL7}subscriber-relationship", "self"),
            "period": {"start": Text("start"), "end": Maybe("end", Text("end"))},
            "payor": [{"reference": f"Organization/{self.payer}"}],
            "class": [
                {"type": concept(classes, "group"), "value": Text("plan", "G-"), "name": Text("plan_name")},
                {"type": concept(classes, "plan"), "value": Text("plan"), "name": Text("plan_name")},
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
