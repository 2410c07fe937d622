"""Claim lines from the shapes payers send, and which version of a claim counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fhir_gateway.lake import claims
from fhir_gateway.r4.spec import arrow_type, column_structure

C4BB = "http://hl7.org/fhir/us/carin-bb/CodeSystem/"
HL7 = "http://terminology.hl7.org/CodeSystem/adjudication"
NPI = "http://hl7.org/fhir/sid/us-npi"
TIN = "urn:oid:2.16.840.1.113883.4.4"
BB = "https://bluebutton.cms.gov/resources/variables/"


def rows(resource_type: str, resources: Iterable[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Resources as the lake gives them (source ``payer``; a patient reference is the member)."""
    structure = column_structure(resource_type)
    schema = pa.schema(
        [("_member", pa.string()), ("_source", pa.string()), ("id", pa.string())]
        + [("_last_updated", pa.timestamp("us", "UTC"))]
        + [(name, arrow_type(structure[name])) for name in columns]
    )
    texts = pa.table({"raw": [json.dumps(r) for r in resources]}, schema=pa.schema([("raw", pa.string())]))
    wanted: dict[str, Any] = {name: structure[name] for name in columns}
    wanted |= {"id": "VARCHAR", "patient": {"reference": "VARCHAR"}, "subject": {"reference": "VARCHAR"}}
    with duckdb.connect() as connection:
        connection.register("texts", texts)
        picked = ", ".join(f'x."{name}" AS "{name}"' for name in columns)
        table = connection.sql(
            "SELECT regexp_extract(coalesce(x.patient.reference, x.subject.reference), '[^/]+$') AS _member,"  # noqa: S608
            " 'payer' AS _source, x.id AS id,"
            f" NULL::TIMESTAMPTZ AS _last_updated, {picked}"
            f" FROM (SELECT json_transform(raw, '{json.dumps(wanted)}') AS x FROM texts)"
        ).to_arrow_table()
    return table.cast(schema)


def coded(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def amount(code: str, value: float, system: str = HL7) -> dict[str, Any]:
    return {"category": coded(system, code), "amount": {"value": value, "currency": "USD"}}


def eob(name: str, paid: float | None = None, **changes: Any) -> dict[str, Any]:
    """A CARIN professional EOB of one office visit."""
    item: dict[str, Any] = {
        "sequence": 1,
        "careTeamSequence": [1],
        "productOrService": coded("http://www.ama-assn.org/go/cpt", "99213"),
        "servicedDate": "2024-05-05",
        "locationCodeableConcept": coded("pos", "11"),
    }
    if paid is not None:
        item["adjudication"] = [
            amount("submitted", paid * 2),
            amount("eligible", paid * 1.25),
            amount("benefit", paid),
            amount("paidtoprovider", paid, f"{C4BB}C4BBAdjudication"),
            amount("paidbypatient", paid * 0.25, f"{C4BB}C4BBAdjudication"),
        ]
    return {
        "resourceType": "ExplanationOfBenefit",
        "id": name,
        "identifier": [{"type": coded(f"{C4BB}C4BBIdentifierType", "uc"), "system": "https://p/claim", "value": name}],
        "status": "active",
        "use": "claim",
        "type": coded("http://terminology.hl7.org/CodeSystem/claim-type", "professional"),
        "patient": {"reference": "Patient/p1"},
        "billablePeriod": {"start": "2024-05-05", "end": "2024-05-05"},
        "created": "2024-05-20",
        "insurer": {"reference": "Organization/payer"},
        "provider": {"reference": "Organization/o1"},
        "outcome": "complete",
        "careTeam": [
            {"sequence": 2, "provider": {"reference": "Practitioner/d9"}, "role": coded("r", "referring")},
            {
                "sequence": 1,
                "provider": {"reference": "https://payer.example/fhir/Practitioner/d1/_history/2"},
                "role": coded(f"{C4BB}C4BBClaimCareTeamRole", "rendering"),
                "qualification": {
                    "coding": [
                        {"system": "http://nucc.org/provider-taxonomy", "code": "207Q00000X"},
                        {"system": f"{BB}prvdr_spclty", "code": "08"},
                    ]
                },
            },
        ],
        "insurance": [{"focal": True, "coverage": {"reference": "Coverage/c1"}}],
        "item": [item],
        "payment": {"date": "2024-05-22"},
    } | changes


def related(name: str, relationship: str = "prior") -> dict[str, Any]:
    return {"related": [{"relationship": coded("x", relationship), "reference": {"system": "s", "value": name}}]}


def lines(*eobs: dict[str, Any], directory: pa.Table | None = None, **options: Any) -> list[dict[str, Any]]:
    table = claims.claim_lines(rows("ExplanationOfBenefit", eobs, claims.EOB_COLUMNS), directory, **options)
    assert table.schema == claims.LINE_SCHEMA
    return table.to_pylist()


@pytest.fixture(scope="module")
def directory() -> pa.Table:
    practitioners = [
        {"id": "d1", "identifier": [{"system": NPI, "value": "1111111111"}]},
        {"id": "d2", "identifier": [{"type": coded("t", "NPI"), "value": "2222222222"}],
         "qualification": [{"code": coded("http://nucc.org/provider-taxonomy", "207RC0000X")}]},
    ]  # fmt: skip
    roles = [
        {"id": "r2", "practitioner": {"reference": "Practitioner/d1"},
         "organization": {"reference": "Organization/o2"}},
        {"id": "r1", "practitioner": {"identifier": {"system": NPI, "value": "1111111111"}},
         "organization": {"identifier": {"system": "https://p/org", "value": "O-1"}},
         "specialty": [coded("http://nucc.org/provider-taxonomy", "207R00000X")]},
    ]  # fmt: skip
    organizations = [
        {
            "id": "o1",
            "identifier": [{"system": "https://p/org", "value": "O-1"}, {"system": TIN, "value": "12-3456789"}],
        },
        {"id": "o2", "identifier": [{"system": TIN, "value": "999999998"}]},
    ]
    return claims.providers(
        rows("Practitioner", practitioners, claims.PRACTITIONER_COLUMNS),
        rows("PractitionerRole", roles, claims.ROLE_COLUMNS),
        rows("Organization", organizations, claims.ORGANIZATION_COLUMNS),
    )


def test_directory_resolves_by_reference_and_by_identifier(directory: pa.Table) -> None:
    found = {row["reference"]: row for row in directory.to_pylist()}
    assert found["Organization/o1"]["tin"] == "123456789"
    first = found["Practitioner/d1"]
    assert (first["organization"], first["tin"], first["specialty"]) == ("Organization/o1", "123456789", "207R00000X")
    assert found["Practitioner/d2"]["specialty"] == "207RC0000X"
    assert found["PractitionerRole/r1"]["npi"] == "1111111111"


def test_professional_line(directory: pa.Table) -> None:
    (line,) = lines(eob("e1", 80), directory=directory)
    expected = {
        "_member": "p1", "source": "payer", "eob": "e1", "claim_group": "payer/e1", "version_status": "active",
        "counts": True, "line": 1, "service_from": date(2024, 5, 5), "claim_type": "professional",
        "npi": "1111111111", "tin": "123456789", "organization": "Organization/o1", "specialty": "08",
        "procedure": "99213", "place_of_service": "11", "submitted": 160, "allowed": 100, "paid": 80, "patient": 20,
        "amount_level": "line", "denied": False, "payment_date": date(2024, 5, 22), "coverage": "Coverage/c1",
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected


def test_institutional_header_amounts_stand_on_the_first_line() -> None:
    stay = eob(
        "e1",
        type=coded("http://terminology.hl7.org/CodeSystem/claim-type", "institutional"),
        subType=coded(f"{C4BB}C4BBInstitutionalClaimSubType", "inpatient"),
        item=[
            {"sequence": n, "revenue": coded("rev", code), "productOrService": coded("x", "not-applicable")}
            for n, code in ((1, "0120"), (2, "0250"))
        ],
        adjudication=[amount("paidtoprovider", 620), amount("memberliability", 80)],
        total=[amount("paidtoprovider", 600), amount("submitted", 2650)],
        supportingInfo=[
            {"sequence": 1, "category": coded("c", "typeofbill"), "code": coded("b", "0111")},
            {"sequence": 2, "category": coded("c", "drg"), "code": coded("d", "291")},
        ],
        diagnosis=[
            {"sequence": 1, "diagnosisCodeableConcept": coded("icd", "E11.9"), "type": [coded("t", "secondary")]},
            {"sequence": 2, "diagnosisCodeableConcept": coded("icd", "I50.23"), "type": [coded("t", "principal")]},
        ],
        billablePeriod={"start": "2024-05-05", "end": "2024-05-09"},
    )
    first, second = lines(stay)
    assert (first["claim_type"], first["bill_type"], first["drg"], first["diagnosis"]) == (
        "inpatient", "111", "291", "I50.23",
    )  # fmt: skip
    assert (first["paid"], first["patient"], first["allowed"], first["submitted"]) == (600, 80, 680, 2650)
    assert first["amount_level"] == "header"
    assert (second["paid"], second["revenue_code"], second["amount_level"]) == (None, "0250", None)
    assert (second["service_from"], second["service_thru"]) == (date(2024, 5, 5), date(2024, 5, 9))


def test_medicare_variables_and_partial_dates() -> None:
    carrier = eob(
        "e1",
        type={"coding": [{"system": f"{BB}eob_type", "code": "CARRIER"}]},
        item=[
            {
                "sequence": 1,
                "productOrService": coded("hcpcs", "G0438"),
                "servicedPeriod": {"start": "2024-02", "end": "2024-02"},
                "adjudication": [
                    amount(f"{BB}line_nch_pmt_amt", 112.416),
                    amount(f"{BB}line_prvdr_pmt_amt", 112.416),
                    amount(f"{BB}line_coinsrnc_amt", 28.104),
                    amount(f"{BB}line_alowd_chrg_amt", 140.52),
                ],
            }
        ],
    )
    (line,) = lines(carrier)
    assert line["claim_type"] == "professional"
    assert (line["paid"], line["patient"], line["allowed"]) == (
        Decimal("112.416"),
        Decimal("28.104"),
        Decimal("140.52"),
    )
    assert (line["service_from"], line["service_thru"]) == (date(2024, 2, 1), date(2024, 2, 29))


def test_claim_without_items_keeps_its_total() -> None:
    (line,) = lines(eob("e1", item=[], payment={"date": "2024-06-01", "amount": {"value": 12.5}}))
    assert (line["line"], line["paid"], line["service_from"]) == (1, Decimal("12.5"), date(2024, 5, 5))


def test_practitioner_bills_himself_through_his_organization(directory: pa.Table) -> None:
    (line,) = lines(eob("e1", 1, provider={"reference": "Practitioner/d1"}, careTeam=[]), directory=directory)
    assert (line["npi"], line["tin"], line["specialty"]) == ("1111111111", "123456789", "207R00000X")


def test_submitted_claim_names_the_organization_an_eob_does_not(directory: pa.Table) -> None:
    submitted = rows(
        "Claim",
        [{"id": "k1", "patient": {"reference": "Patient/p1"}, "provider": {"reference": "Organization/o2"}}],
        ["provider", "item"],
    )
    bill = eob("e1", 1, provider={"reference": "Practitioner/d2"}, claim={"reference": "Claim/k1"})
    (line,) = lines(bill, directory=directory, submitted_claims=submitted)
    assert (line["organization"], line["tin"]) == ("Organization/o2", "999999998")


def encounter(name: str, kind: str, start: str, end: str | None, person: str = "p1", **more: Any) -> dict[str, Any]:
    period = {"start": start} | ({"end": end} if end else {})
    found = {"id": name, "status": "finished", "class": {"code": kind}, "period": period}
    return found | {"subject": {"reference": f"Patient/{person}"}} | more


def stay_days(
    bill: dict[str, Any], *encounters: dict[str, Any], claim: dict[str, Any] | None = None
) -> tuple[date | None, date | None]:
    visited = rows("Encounter", encounters, ["status", "class", "period"])
    submitted = rows("Claim", [claim], ["provider", "item"]) if claim else None
    (line,) = lines(bill, encounters=visited, submitted_claims=submitted)
    return line["admitted"], line["discharged"]


def hospital(*names: str, **changes: Any) -> dict[str, Any]:
    """An inpatient EOB without days of admission and discharge, whose line names encounters."""
    item = {"sequence": 1, "servicedDate": "2024-05-05", "encounter": [{"reference": f"Encounter/{n}"} for n in names]}
    kind = coded("http://terminology.hl7.org/CodeSystem/claim-type", "institutional")
    year = {"start": "2024-05-05", "end": "2025-05-05"}
    return eob("h1", type=kind, subType=coded("s", "inpatient"), billablePeriod=year, item=[item]) | changes


def test_an_inpatient_claim_that_says_no_days_has_those_of_its_encounters() -> None:
    stay = encounter("s1", "IMP", "2024-05-04T22:00:00-05:00", "2024-05-09T10:00:00-05:00")
    emergency = encounter("s0", "EMER", "2024-05-03", "2024-05-04")
    clinic = encounter("v1", "AMB", "2024-06-05", "2024-06-05")
    days = (date(2024, 5, 4), date(2024, 5, 9))
    assert stay_days(hospital("s1"), stay) == days
    assert stay_days(hospital("s0", "s1", "v1"), emergency, stay, clinic) == days  # inpatient ones alone count
    assert stay_days(hospital("s0"), emergency) == (date(2024, 5, 3), date(2024, 5, 4))
    assert stay_days(hospital("s1"), encounter("s1", "IMP", "2024-05-04", None)) == (date(2024, 5, 4), None)
    assert stay_days(hospital("s1"), stay | {"status": "entered-in-error"}) == (None, None)
    assert stay_days(hospital("s1"), stay | {"subject": {"reference": "Patient/p2"}}) == (None, None)
    assert stay_days(hospital("elsewhere"), stay) == (None, None)


def test_what_the_claim_says_of_its_stay_goes_before_its_encounters() -> None:
    stay = encounter("s1", "IMP", "2024-05-04", "2024-05-09")
    period = {"category": coded("c", "admissionperiod"), "timingPeriod": {"start": "2024-05-05"}, "sequence": 1}
    assert stay_days(hospital("s1", supportingInfo=[period]), stay) == (date(2024, 5, 5), date(2024, 5, 9))


def test_encounters_of_the_claim_that_was_sent_are_those_of_its_answer() -> None:
    stay = encounter("s1", "IMP", "2024-05-04", "2024-05-09")
    sent = {
        "id": "k1",
        "patient": {"reference": "Patient/p1"},
        "item": [{"encounter": [{"reference": "Encounter/s1"}]}],
    }
    bill = hospital(claim={"reference": "Claim/k1"})
    assert stay_days(bill, stay, claim=sent) == (date(2024, 5, 4), date(2024, 5, 9))
    assert stay_days(bill, stay) == (None, None)


def test_a_visit_is_no_stay() -> None:
    visit = eob("e1", 1)
    visit["item"][0]["encounter"] = [{"reference": "Encounter/s1"}]
    assert stay_days(visit, encounter("s1", "IMP", "2024-05-04", "2024-05-09")) == (None, None)


def test_denied_lines_are_marked() -> None:
    denied = eob("e1", 0)
    denied["item"][0]["adjudication"].append(
        {
            "category": coded("x", "benefitpaymentstatus"),
            "reason": coded(f"{C4BB}C4BBPayerAdjudicationStatus", "denied"),
        }
    )
    assert lines(denied)[0]["denied"] is True


#: Versions of one claim -> (status of each version by id, what counts in the end).
HISTORIES: dict[str, tuple[list[dict[str, Any]], dict[str, str], int]] = {
    "replaced": (
        [eob("a", 100), eob("b", 80, **related("a"))],
        {"a": "superseded", "b": "active"},
        80,
    ),
    "replaced, as CARIN says it": (
        [eob("a", 100, status="cancelled", **related("b", "replacedby")), eob("b", 80)],
        {"a": "cancelled", "b": "active"},
        80,
    ),
    "replaced on the same day, told apart only by naming": (
        [eob("z", 100), eob("a", 80, **related("z"))],
        {"z": "superseded", "a": "active"},
        80,
    ),
    "cancelled": ([eob("a", 100), eob("b", 100, status="cancelled", **related("a"))],
                  {"a": "superseded", "b": "cancelled"}, 0),
    "reversed": (
        [eob("a", 100), eob("b", -100, created="2024-06-01", **related("a"))],
        {"a": "reversed", "b": "reversal"},
        0,
    ),
    "reversed and billed again": (
        [eob("a", 100), eob("b", -100, created="2024-06-01", **related("a")),
         eob("c", 70, created="2024-06-01", **related("a"))],
        {"a": "reversed", "b": "reversal", "c": "active"},
        70,
    ),
    "adjusted, cancelled, adjusted again": (
        [eob("a", 100), eob("b", 90, created="2024-06-01", **related("a")),
         eob("c", -90, created="2024-07-01", **related("b")), eob("d", 85, created="2024-07-01", **related("b"))],
        {"a": "superseded", "b": "reversed", "c": "reversal", "d": "active"},
        85,
    ),
    "credited in part": (
        [eob("a", 100), eob("b", -20, created="2024-06-01", **related("a"))],
        {"a": "active", "b": "adjustment"},
        80,
    ),
    "other claims are not versions": (
        [eob("a", 100), eob("b", 80, **related("a", "associated"))],
        {"a": "active", "b": "active"},
        180,
    ),
    "entered in error": ([eob("a", 100), eob("b", 80, status="entered-in-error", **related("a"))],
                         {"a": "active", "b": "entered-in-error"}, 100),
    "estimates are not claims": ([eob("a", 100, use="predetermination")], {"a": "not-a-claim"}, 0),
    "still in process": ([eob("a", 100, outcome="queued")], {"a": "not-adjudicated"}, 0),
}  # fmt: skip


@pytest.fixture(scope="module", params=["as sent", "backwards"])
def histories(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Lines of all histories, each of another member, so that one call judges them all."""
    sent = [
        version | {"patient": {"reference": f"Patient/{name}"}}
        for name, (versions, _, _) in HISTORIES.items()
        for version in versions
    ]
    return lines(*(reversed(sent) if request.param == "backwards" else sent))


@pytest.mark.parametrize("name", HISTORIES)
def test_one_version_counts(name: str, histories: list[dict[str, Any]]) -> None:
    versions, statuses, net = HISTORIES[name]
    found = [line for line in histories if line["_member"] == name]
    assert {line["eob"]: line["version_status"] for line in found} == statuses
    assert sum(line["paid"] for line in found if line["counts"]) == net
    assert len(found) == len(versions), "history is kept"


def test_claim_group_identifier_joins_versions_unless_it_is_a_filler() -> None:
    def grouped(value: str) -> list[dict[str, Any]]:
        group = {"identifier": [{"system": "https://p/identifier/claim-group", "value": value}]}
        return lines(eob("a", 100, **group), eob("b", 80, created="2024-06-01", **group))

    assert {line["claim_group"] for line in grouped("G17")} == {"payer/a"}
    assert [line["counts"] for line in grouped("G17")] == [False, True]
    assert [line["counts"] for line in grouped("99999999999")] == [True, True]


def test_as_of_a_payment_date_the_earlier_version_counts() -> None:
    versions = [eob("a", 100), eob("b", 80, payment={"date": "2025-05-01"}, **related("a"))]
    (line,) = lines(*versions, paid_through=date(2025, 3, 31))
    assert (line["eob"], line["counts"], line["paid"]) == ("a", True, 100)


def by_source(
    sent: dict[str, list[dict[str, Any]]], organizations: dict[str, list[dict[str, Any]]] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Lines of what several sources sent; of each ``organizations`` say who its insurers are."""

    def of(source: str, table: pa.Table) -> pa.Table:
        return table.set_column(1, "_source", pa.repeat(source, table.num_rows))

    eobs = [of(source, rows("ExplanationOfBenefit", those, claims.EOB_COLUMNS)) for source, those in sent.items()]
    named = [
        of(source, rows("Organization", those, claims.ORGANIZATION_COLUMNS))
        for source, those in (organizations or {"payer": []}).items()
    ]
    directory = claims.providers(
        rows("Practitioner", [], claims.PRACTITIONER_COLUMNS),
        rows("PractitionerRole", [], claims.ROLE_COLUMNS),
        pa.concat_tables(named),
    )
    return claims.claim_lines(pa.concat_tables(eobs), directory, **options).to_pylist()


def told(found: list[dict[str, Any]]) -> dict[str, str]:
    return {f"{line['source']}/{line['eob']}": line["version_status"] for line in found}


def net(found: list[dict[str, Any]]) -> Decimal:
    return sum((line["paid"] for line in found if line["counts"]), Decimal(0))


def claim_id(value: str, system: str = "https://p/claim") -> list[dict[str, Any]]:
    return [{"type": coded(f"{C4BB}C4BBIdentifierType", "uc"), "system": system, "value": value}]


def test_a_claim_that_two_sources_sent_counts_once() -> None:
    sent = {"payer": [eob("e1", 100)], "hub": [eob("x7", 100, identifier=claim_id("e1")), eob("x8", 40)]}
    found = by_source(sent)
    assert told(found) == {"hub/x7": "active", "payer/e1": "copy", "hub/x8": "active"}
    assert net(found) == 140
    groups = {line["eob"]: (line["claim_group"], line["copies"], line["counts"]) for line in found}
    assert groups == {"x7": ("hub/x7", 1, True), "e1": ("hub/x7", 0, False), "x8": ("hub/x8", 0, True)}
    preferred = by_source(sent, precedence=["payer", "nobody"])
    assert told(preferred) == {"hub/x7": "copy", "payer/e1": "active", "hub/x8": "active"}
    assert {line["claim_group"] for line in preferred} == {"payer/e1", "hub/x8"}


def test_who_knows_the_latest_version_is_believed_unless_another_is_preferred() -> None:
    first = eob("a", 100)
    voided = eob("b", 100, status="cancelled", created="2024-06-01", **related("a"))
    sent = {"hub": [first], "payer": [first, voided]}
    assert told(by_source(sent)) == {"hub/a": "copy", "payer/a": "superseded", "payer/b": "cancelled"}
    assert net(by_source(sent)) == 0
    assert net(by_source(sent, precedence=["hub"])) == 100
    assert net(by_source(sent, paid_through=date(2024, 5, 22))) == 0, "both were paid, as far as their dates say"
    later = voided | {"payment": {"date": "2024-07-01"}}
    assert net(by_source({"hub": [first], "payer": [first, later]}, paid_through=date(2024, 6, 30))) == 100


ACCOUNT = {"system": "https://p/number", "value": "A-17"}
#: Who else sent the claim of ``payer``, and whether that is the same claim.
OTHERS: dict[str, tuple[dict[str, Any], bool]] = {
    "the same number of the same system": ({}, True),
    "another system": ({"identifier": claim_id("a", "https://other/claim")}, False),
    "another system, the same insurer by its number": (
        {"identifier": claim_id("a", "https://hub/claim"), "insurer": {"reference": "Organization/known"}},
        True,
    ),
    "another system, the same insurer by an identifier": (
        {"identifier": claim_id("a", "https://hub/claim"), "insurer": {"identifier": {"system": TIN, "value": "77"}}},
        True,
    ),
    "the same insurer, but another day": (
        {"identifier": claim_id("a", "https://hub/claim"), "insurer": {"reference": "Organization/known"},
         "billablePeriod": {"start": "2024-05-06"}},
        False,
    ),
    "another insurer": (
        {"identifier": claim_id("a", "https://hub/claim"), "insurer": {"reference": "Organization/other"}},
        False,
    ),
    "an identifier of no stated kind, the same insurer and day": (
        {"identifier": [ACCOUNT], "insurer": {"reference": "Organization/known"}},
        True,
    ),
    "an identifier of no stated kind, the same insurer on another day": (
        {"identifier": [ACCOUNT], "insurer": {"reference": "Organization/known"},
         "billablePeriod": {"start": "2024-05-06"}},
        False,
    ),
    "an identifier of no stated kind, another insurer": (
        {"identifier": [ACCOUNT], "insurer": {"reference": "Organization/other"}},
        False,
    ),
    "the provider's account number, the same insurer and day": (
        {"identifier": [ACCOUNT | {"type": coded(f"{C4BB}C4BBIdentifierType", "patacctnum")}],
         "insurer": {"reference": "Organization/known"}},
        False,
    ),
    "another member": ({"patient": {"reference": "Patient/p2"}}, False),
    "a filler": ({"identifier": claim_id("00000")}, False),
    "entered in error": ({"status": "entered-in-error"}, False),
    "an estimate": ({"use": "predetermination"}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_which_claims_of_two_sources_are_the_same(name: str) -> None:
    change, same = OTHERS[name]
    known = {"id": "payer", "identifier": [{"system": TIN, "value": "77"}]}
    organizations = {
        "payer": [known],
        "hub": [known | {"id": "known"}, {"id": "other", "identifier": [{"system": TIN, "value": "78"}]}],
    }
    mine = eob("a", 100, identifier=[*claim_id("00000" if name == "a filler" else "a"), ACCOUNT])
    found = by_source(
        {"payer": [mine], "hub": [eob("z", 100, **({"identifier": claim_id("a")} | change))]}, organizations
    )
    assert ("copy" in told(found).values()) == same
    counting = [line for line in found if line["counts"]]
    assert len(counting) == (1 if same or change.get("status") or change.get("use") else 2)


def test_what_two_payers_paid_of_one_service_is_two_payments() -> None:
    """Coordination of benefits: the second payer pays what the first left; both claims are cost, neither is a copy.

    They share the member, the day, the provider and the provider's own account number, and no claim number.
    """
    account = [{"type": coded(f"{C4BB}C4BBIdentifierType", "patacctnum"), "system": "https://clinic", "value": "7"}]
    medicare = eob("m", 100, identifier=claim_id("M-1", "https://medicare/claim") + account)
    supplement = eob("s", 20, identifier=claim_id("S-9", "https://plan/claim") + account)
    insurers = {"first": [{"id": "payer", "identifier": [{"system": TIN, "value": "1"}]}],
                "second": [{"id": "payer", "identifier": [{"system": TIN, "value": "2"}]}]}  # fmt: skip
    found = by_source({"first": [medicare], "second": [supplement]}, insurers)
    assert told(found) == {"first/m": "active", "second/s": "active"}
    assert net(found) == 120
    assert {line["copies"] for line in found} == {0}


@pytest.mark.parametrize("precedence", [["payer"], ["hub"]])
@pytest.mark.parametrize("name", HISTORIES)
def test_the_net_of_a_history_holds_when_two_sources_sent_it(name: str, precedence: list[str]) -> None:
    """Copies of adjusted, reversed and cancelled claims: the money is that of one of them, never of both."""
    versions, statuses, expected = HISTORIES[name]
    found = by_source({"payer": versions, "hub": versions}, precedence=precedence)
    assert net(found) == expected
    assert {line["eob"]: line["version_status"] for line in found if line["source"] == precedence[0]} == statuses
    others = {line["version_status"] for line in found if line["source"] != precedence[0]}
    assert others <= {"copy", "entered-in-error", "not-a-claim", "not-adjudicated"}


def test_versions_that_one_source_joins_are_one_claim_for_the_others() -> None:
    """The hub says that b follows a; whoever stands, what the other said of either is not added."""
    sent = {"payer": [eob("a", 100), eob("b", 80)], "hub": [eob("a", 100), eob("b", 80, **related("a"))]}
    assert net(by_source(sent, precedence=["hub"])) == 80
    assert net(by_source(sent, precedence=["payer"])) == 180


def test_no_claims_at_all() -> None:
    assert lines() == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["bulk-data-server-100", "generated-sample-data-r4"])
def test_synthea_amounts_add_up(shared: Path, name: str) -> None:
    import gzip

    path = shared / "data" / "synthea" / name / "ExplanationOfBenefit.ndjson.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        resources = [json.loads(line) for line in stream]
    table = claims.claim_lines(rows("ExplanationOfBenefit", resources, claims.EOB_COLUMNS))
    assert table.num_rows == sum(len(r["item"]) for r in resources)
    assert pc.all(table["counts"]).as_py(), "a constant claim-group of nines is no group"
    paid = sum(r["payment"]["amount"]["value"] for r in resources)
    assert float(pc.sum(table["paid"]).as_py()) == pytest.approx(paid, abs=0.01)


def test_what_a_claim_says_of_a_stay_is_on_its_lines() -> None:
    kinds = f"{C4BB}C4BBSupportingInfoType"
    stay = eob(
        "stay",
        100.0,
        supportingInfo=[
            {"sequence": 1, "category": coded(kinds, "admissionperiod"),
             "timingPeriod": {"start": "2024-05-01", "end": "2024-05-05T09:00:00Z"}},
            {"sequence": 2, "category": coded(kinds, "discharge-status"), "code": coded("nubc", "1")},
            {"sequence": 3, "category": coded(kinds, "admtype"), "code": coded("nubc", "1")},
        ],
        diagnosis=[
            {"sequence": 1, "diagnosisCodeableConcept": coded("icd", "I10")},
            {"sequence": 2, "diagnosisCodeableConcept": coded("icd", "I50.9"), "type": [coded("t", "principal")]},
        ],
        procedure=[{"sequence": 1, "procedureCodeableConcept": coded("pcs", "02703ZZ")}],
    )  # fmt: skip
    stay["item"][0]["quantity"] = {"value": 2.5}
    of_cms = eob(
        "cms",
        100.0,
        supportingInfo=[
            {"sequence": 1, "category": coded(f"{BB}", f"{BB}nch_bene_dschrg_dt"), "timingDate": "2024-05-07"},
            {"sequence": 2, "category": coded(f"{BB}", f"{BB}ptnt_dschrg_stus_cd"), "code": coded(BB, "20")},
        ],
    )
    found = {line["eob"]: line for line in lines(stay, of_cms, eob("plain", 10.0))}
    names = ("units", "admitted", "discharged", "discharge_status", "admission_type", "diagnoses", "procedures")
    assert [found["stay"][name] for name in names] == [
        Decimal("2.5"), date(2024, 5, 1), date(2024, 5, 5), "01", "1", ["I50.9", "I10"], ["02703ZZ"]
    ]  # fmt: skip
    assert [found["cms"][name] for name in names] == [None, None, date(2024, 5, 7), "20", None, None, None]
    assert {found["plain"][name] for name in names} == {None}
