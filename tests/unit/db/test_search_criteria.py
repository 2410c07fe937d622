"""FHIR search over stored resources, parameter kind by parameter kind (R4 §3.1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.errors import InputError

BASE = "https://gateway.example/fhir"
MBI = "http://hl7.org/fhir/sid/us-mbi"
VBPR = "http://hl7.org/fhir/us/davinci-vbpr/StructureDefinition"

CONTENT: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "anna",
        "identifier": [{"system": MBI, "value": "1EG4"}, {"value": "loose"}],
        "name": [{"family": "Müller-Lüdenscheidt", "given": ["Anna", "Zoë"], "text": "Anna M."}],
        "gender": "female",
        "birthDate": "1950-03-15",
        "active": True,
    },
    {
        "resourceType": "Patient",
        "id": "bob",
        "identifier": [{"system": "urn:other", "value": "1EG4"}, {"system": "urn:a,b|c", "value": "x,y"}],
        "name": [{"family": "Bell", "given": ["Bob"]}, {"family": "O'100%_\\"}],
        "gender": "male",
        "birthDate": "1950",
        "generalPractitioner": [{"reference": "Practitioner/doc"}],
        "meta": {"tag": [{"system": "urn:tags", "code": "demo"}], "profile": ["http://p.example/patient|1.0"]},
    },
    {"resourceType": "Patient", "id": "cy"},
    {
        "resourceType": "MeasureReport",
        "id": "individual",
        "status": "complete",
        "type": "individual",
        "measure": "http://m.example/Measure/a1c|2.1.0",
        "subject": {"reference": "Patient/anna"},
        "date": "2025-02-01T10:00:00+01:00",
        "period": {"start": "2024-01-01", "end": "2024-12-31"},
        "reporter": {"reference": f"{BASE}/Organization/payer"},
        "evaluatedResource": [{"reference": "Observation/o1/_history/3"}, {"reference": "#contained"}],
    },
    {
        "resourceType": "MeasureReport",
        "id": "performance",
        "status": "pending",
        "type": "summary",
        "measure": "http://m.example/Measure/contract|1",
        "subject": {
            "display": "North Clinic",
            "extension": [
                {"url": f"{VBPR}/organization-subject", "valueReference": {"reference": "Organization/north"}}
            ],
        },
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/measurereport-category",
                "valueCodeableConcept": {
                    "coding": [{"system": "http://hl7.org/fhir/CodeSystem/measurereport-category", "code": "vbp"}]
                },
            }
        ],
        "date": "2025-03",
        "period": {"start": "2024-07-01"},
        "reporter": {"identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}},
    },
    {
        "resourceType": "MeasureReport",
        "id": "cohort",
        "status": "complete",
        "type": "summary",
        "measure": "http://m.example/Measure/a1c",
        "subject": {"reference": "Group/panel"},
        "date": "2025-02-01T09:30:00Z",
        "period": {"start": "2024-01", "end": "2024-06"},
        "reporter": {"reference": "https://elsewhere.example/fhir/Organization/payer"},
    },
    {
        "resourceType": "Group",
        "id": "panel",
        "type": "person",
        "actual": True,
        "name": "Panel of North Clinic",
        "identifier": [{"system": "urn:contracts", "value": "C-1"}],
        "managingEntity": {"reference": "Organization/north"},
        "characteristic": [
            {
                "code": {"coding": [{"system": "urn:atr", "code": "attributed-to"}]},
                "valueReference": {"reference": "Practitioner/doc"},
                "exclude": False,
            }
        ],
        "member": [{"entity": {"reference": "Patient/anna"}}, {"entity": {"reference": "Patient/bob"}}],
    },
    {"resourceType": "Organization", "id": "north", "name": "North Clinic", "alias": ["NC"]},
    {
        "resourceType": "Measure",
        "id": "a1c",
        "url": "http://m.example/Measure/a1c",
        "version": "2.1.0",
        "name": "A1cControl",
        "title": "Diabetes: HbA1c",
        "status": "active",
    },
    {
        "resourceType": "PractitionerRole",
        "id": "role",
        "practitioner": {"reference": "Practitioner/doc"},
        "organization": {"reference": "Organization/north"},
    },
    {
        "resourceType": "Coverage",
        "id": "cov",
        "status": "active",
        "beneficiary": {"reference": "Patient/anna"},
        "payor": [{"reference": "Organization/payer"}],
    },
]


@pytest.fixture(scope="module")
def store() -> Iterator[ResourceStore]:
    engine = create_engine("sqlite://")
    upgrade(engine)
    yield filled(engine)
    engine.dispose()


def filled(engine: Engine) -> ResourceStore:
    opened = ResourceStore(engine, BASE, clock=lambda: datetime(2025, 6, 1, 12, 0, 0, 123_000, tzinfo=UTC))
    opened.put_many(CONTENT)
    return opened


CASES = [
    # token (§3.1.1.4.10)
    ("Patient", "identifier=1EG4", "anna bob"),
    ("Patient", f"identifier={MBI}|1EG4", "anna"),
    ("Patient", f"identifier={MBI}|", "anna"),
    ("Patient", "identifier=|loose", "anna"),
    ("Patient", "identifier=|1EG4", ""),
    ("Patient", "identifier=nothing", ""),
    ("Patient", r"identifier=urn:a\,b\|c|x\,y", "bob"),
    ("Patient", "identifier=loose,nothing,urn:other|1EG4", "anna bob"),
    ("Patient", "gender=female", "anna"),
    ("Patient", "gender=http://hl7.org/fhir/administrative-gender|male", "bob"),
    ("Patient", "gender:not=female", "bob cy"),
    ("Patient", "gender:not=female,male", "cy"),
    ("Patient", "gender:missing=true", "cy"),
    ("Patient", "gender:missing=false", "anna bob"),
    ("Patient", "active=true", "anna"),
    ("Patient", "_tag=urn:tags|demo", "bob"),
    ("Group", "actual=true", "panel"),
    ("Group", "characteristic=attributed-to", "panel"),
    ("Group", "characteristic=urn:atr|location", ""),
    ("MeasureReport", "category=vbp", "performance"),
    (
        "MeasureReport",
        "measurereport-category=http://hl7.org/fhir/CodeSystem/measurereport-category|vbp",
        "performance",
    ),
    ("MeasureReport", "status=complete,error", "individual cohort"),
    ("Measure", "version=2.1.0", "a1c"),
    # string (§3.1.1.4.8)
    ("Patient", "name=mull", "anna"),
    ("Patient", "family=MÜLLER-lüd", "anna"),
    ("Patient", "given=zoe", "anna"),
    ("Patient", "given=oë", ""),
    ("Patient", "given:contains=oë", "anna"),
    ("Patient", "family:exact=Bell", "bob"),
    ("Patient", "family:exact=bell", ""),
    ("Patient", "family:contains=100%_", "bob"),
    ("Patient", "family:contains=%", "bob"),
    ("Patient", "name=anna,bob", "anna bob"),
    ("Patient", "name:missing=true", "cy"),
    ("Organization", "name=nc", "north"),
    ("Group", "name=panel of", "panel"),
    ("Measure", "title=diabetes", "a1c"),
    # reference (§3.1.1.4.12)
    ("MeasureReport", "subject=Patient/anna", "individual"),
    ("MeasureReport", "subject=anna", "individual"),
    ("MeasureReport", f"subject={BASE}/Patient/anna", "individual"),
    ("MeasureReport", "subject:Patient=anna", "individual"),
    ("MeasureReport", "subject:Group=anna", ""),
    ("MeasureReport", "patient=anna", "individual"),
    ("MeasureReport", "patient=panel", ""),
    ("MeasureReport", "reporter=Organization/payer", "individual"),
    ("MeasureReport", "reporter=https://elsewhere.example/fhir/Organization/payer", "cohort"),
    ("MeasureReport", "reporter:identifier=http://hl7.org/fhir/sid/us-npi|1234567893", "performance"),
    ("MeasureReport", "evaluated-resource=Observation/o1", "individual"),
    ("MeasureReport", "evaluatedResource=Observation/o1", "individual"),
    ("MeasureReport", "subject-organization=Organization/north", "performance"),
    ("MeasureReport", "measurereport-subject-organization=north", "performance"),
    ("MeasureReport", "subject:missing=true", "performance"),
    ("Group", "member=Patient/bob", "panel"),
    ("Group", "member=Patient/cy", ""),
    ("Group", "managing-entity=Organization/north", "panel"),
    ("Group", "characteristic-reference=Practitioner/doc", "panel"),
    ("Patient", "general-practitioner=Practitioner/doc", "bob"),
    ("PractitionerRole", "practitioner=doc&organization=north", "role"),
    ("Coverage", "patient=anna&payor=Organization/payer", "cov"),
    # composite (§3.1.1.4.13), one kind of it
    ("Group", "characteristic-value=attributed-to$Practitioner/doc", "panel"),
    ("Group", "characteristic-value=urn:atr|attributed-to$Practitioner/doc", "panel"),
    ("Group", "characteristic-value=urn:else|attributed-to$Practitioner/doc", ""),
    ("Group", "characteristic-value=attributed-to$Practitioner/other", ""),
    ("Group", f"characteristic-value=attributed-to${BASE}/Practitioner/doc", "panel"),
    # chains (§3.1.1.4.4)
    ("MeasureReport", "subject:Patient.family=müller", "individual"),
    ("MeasureReport", "patient.identifier=1EG4", "individual"),
    ("MeasureReport", "patient.gender:not=female", ""),
    ("MeasureReport", "subject.identifier=1EG4,C-1", "individual cohort"),
    ("MeasureReport", "subject:Group.managing-entity.name=north", "cohort"),
    ("MeasureReport", "subject:Group.member:Patient.given=zoe", "cohort"),
    ("MeasureReport", "subject-organization.name=north", "performance"),
    ("MeasureReport", "measure.title=diabetes", "individual cohort"),
    ("MeasureReport", "measure.version=9", ""),
    ("MeasureReport", "measure:below=http://m.example/Measure/", "individual performance cohort"),
    ("Measure", "url:below=http://m.example", "a1c"),
    ("Coverage", "beneficiary.name=mull&payor:Organization.name=x", ""),
    ("Coverage", "beneficiary:Patient._id=anna", "cov"),
    ("Coverage", "beneficiary:Patient._has:MeasureReport:patient:status=complete", "cov"),
    # reverse chains (§3.1.1.4.5)
    ("Patient", "_has:Coverage:beneficiary:status=active", "anna"),
    ("Patient", "_has:Group:member:identifier=C-1", "anna bob"),
    ("Patient", "_has:Group:member:name=other", ""),
    ("Patient", "_has:MeasureReport:subject:measure.title=diabetes", "anna"),
    ("Organization", "_has:Group:managing-entity:_has:MeasureReport:subject:status=complete", "north"),
    ("Group", "_has:MeasureReport:subject:date=2025-02-01T09:30:00Z", "panel"),
    # uri and canonical
    ("MeasureReport", "measure=http://m.example/Measure/a1c", "individual cohort"),
    ("MeasureReport", "measure=http://m.example/Measure/a1c|2.1.0", "individual"),
    ("MeasureReport", "measure=http://m.example/Measure/a1c|9", ""),
    ("Patient", "_profile=http://p.example/patient", "bob"),
    ("Measure", "url=http://m.example/Measure/a1c", "a1c"),
    # date (§3.1.1.4.7): anna 1950-03-15, bob 1950
    ("Patient", "birthdate=1950-03-15", "anna"),
    ("Patient", "birthdate=1950", "anna bob"),
    ("Patient", "birthdate=1950-03", "anna"),
    ("Patient", "birthdate=ne1950-03-15", "bob"),
    ("Patient", "birthdate=gt1950-03-15", "bob"),
    ("Patient", "birthdate=lt1950-03-15", "bob"),
    ("Patient", "birthdate=ge1950-03-15", "anna bob"),
    ("Patient", "birthdate=le1950-03-15", "anna bob"),
    ("Patient", "birthdate=gt1950", ""),
    ("Patient", "birthdate=ge1950", "anna bob"),
    ("Patient", "birthdate=sa1950-03-14", "anna"),
    ("Patient", "birthdate=sa1949", "anna bob"),
    ("Patient", "birthdate=eb1951", "anna bob"),
    ("Patient", "birthdate=eb1950-04", "anna"),
    ("Patient", "birthdate=ap1951", "anna bob"),
    ("Patient", "birthdate=ap1970-01-01", ""),
    ("Patient", "birthdate=1950-03-15,1950", "anna bob"),
    ("Patient", "birthdate=ge1950-03-15&birthdate=lt1950-03-16", "anna bob"),
    ("Patient", "birthdate:missing=true", "cy"),
    # periods: individual all of 2024, performance from 2024-07-01 on, cohort 2024-01 to 2024-06
    ("MeasureReport", "period=2024", "individual cohort"),
    ("MeasureReport", "period=ge2024-01-01", "individual performance cohort"),
    ("MeasureReport", "period=gt2024-12-31", "performance"),
    ("MeasureReport", "period=sa2024-06", "performance"),
    ("MeasureReport", "period=eb2024-07", "cohort"),
    ("MeasureReport", "period=lt2024-07", "individual cohort"),
    # times compare as instants: 10:00+01:00 is 09:00Z
    ("MeasureReport", "date=2025-02-01T09:00:00Z", "individual"),
    ("MeasureReport", "date=2025-02-01T10:00+01:00", "individual"),
    ("MeasureReport", "date=2025-02-01T10:00 01:00", "individual"),
    ("MeasureReport", "date=lt2025-02-01T09:30:00Z", "individual"),
    ("MeasureReport", "date=ge2025-02-01T09:30:00Z", "performance cohort"),
    # every type
    ("Patient", "_id=bob", "bob"),
    ("Patient", "_id=bob,cy,nobody", "bob cy"),
    ("Patient", "_lastUpdated=2025-06-01", "anna bob cy"),
    ("Patient", "_lastUpdated=2025-06-01T12:00:00.123Z", "anna bob cy"),
    ("Patient", "_lastUpdated=gt2025-06-01T12:00:00.123Z", ""),
    ("Patient", "_lastUpdated=lt2025-06-01", ""),
    ("Library", "status=active", ""),
]


def criteria(query: str) -> list[tuple[str, str]]:
    pairs = (part.split("=", 1) for part in query.split("&"))
    return [(name, value) for name, value in pairs]


@pytest.mark.parametrize(("resource_type", "query", "expected"), CASES)
def test_search(store: ResourceStore, resource_type: str, query: str, expected: str) -> None:
    page = store.search(resource_type, criteria(query))
    assert " ".join(one.id for one in page.resources) == expected
    assert page.total == len(page.resources)


def test_the_database_does_not_matter(engine: Engine) -> None:
    store = filled(engine)
    found = {
        (resource_type, query): " ".join(one.id for one in store.search(resource_type, criteria(query)).resources)
        for resource_type, query, _ in CASES
    }
    assert found == {(resource_type, query): expected for resource_type, query, expected in CASES}
    assert [one.id for one in store.search("MeasureReport", sort="status,-date").resources] == [
        "cohort",
        "individual",
        "performance",
    ]
    for sort in ("birthdate", "-birthdate", "family", "-family"):
        names = [one.id for one in store.search("Patient", sort=sort).resources]
        expected = {"birthdate": ["cy", "bob", "anna"], "family": ["cy", "bob", "anna"]}[sort.lstrip("-")]
        assert names == (expected[::-1] if sort.startswith("-") else expected)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("nonsense=1", "no search parameter nonsense"),
        ("name.given=a", "name is no reference"),
        ("general-practitioner.shoe-size=a", "nothing that general-practitioner refers to"),
        ("general-practitioner:Patient.name=a", "general-practitioner does not refer to that type"),
        ("general-practitioner:Nobody.name=a", "general-practitioner does not refer to that type"),
        ("organization.partof.partof.partof.name=a", "may lead over 3 references"),
        ("_has:Observation:patient:code=1", "Observation is not searched through others"),
        ("_has:Medication:code:status=1", "Medication has no search parameter code"),
        ("_has:Coverage:status:status=1", "status of Coverage is no reference"),
        ("_has:Coverage:beneficiary=1", "reverse chaining is"),
        ("_has:Nobody:beneficiary:status=1", "reverse chaining is"),
        ("identifier=" + "x," * 1001, "more than 1000 alternatives"),
        ("identifier=" + ",".join(f"urn:{n}|x" for n in range(101)), "more than 100 systems"),
        ("birthdate=" + "1950," * 101, "more than 100"),
        ("identifier=a\x00", "NUL"),
        ("gender:above=female", "no modifier :above"),
        ("name:text=a", "no modifier :text"),
        ("birthdate:exact=1950", "no modifier :exact"),
        ("_id:not=a", "no modifier :not"),
        ("gender:missing=maybe", "true or false"),
        ("birthdate=yesterday", "needs a date"),
        ("birthdate=1950-13", "needs a date"),
        ("birthdate=xx1950", "needs a date"),
        ("_lastUpdated=soon", "needs a date"),
        ("name=", "has no value"),
        ("name=,", "has no value"),
    ],
)
def test_what_is_not_supported_is_said(store: ResourceStore, query: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        store.search("Patient", criteria(query))


def test_every_type_of_the_gateway_has_its_parameters() -> None:
    required = {
        "Group": "identifier type actual member characteristic managing-entity name",
        "MeasureReport": "measure patient subject date period reporter status evaluated-resource identifier category "
        "subject-organization",
        "Measure": "url version name title status identifier",
        "Library": "url version name title status identifier",
        "Patient": "identifier name family given birthdate gender",
        "Organization": "identifier name",
        "Practitioner": "identifier name",
        "PractitionerRole": "identifier practitioner organization",
        "Coverage": "identifier beneficiary payor patient",
    }
    for resource_type, names in required.items():
        assert set(names.split()) <= set(search_parameters(resource_type))
