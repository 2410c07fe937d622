"""Claims and ExplanationOfBenefits of a batch as columns for their templates."""

from __future__ import annotations

import json

import numpy as np

from fhir_gateway.sandbox.population.claims import (
    DENIED,
    ONLY,
    ORIGINAL,
    REPLACED,
    REPLACEMENT,
    REVERSAL,
    VOIDED,
    Claims,
    Versions,
)
from fhir_gateway.sandbox.population.clinical import stay_procedure
from fhir_gateway.sandbox.population.codes import (
    DIAGNOSES,
    DISPOSITIONS,
    DRGS,
    DRUG_PRODUCTS,
    PLACES,
    QUALIFICATIONS,
    REVENUES,
    SERVICES,
    STAY_PROCEDURES,
    STAYS,
)
from fhir_gateway.sandbox.population.columns import Bools, Coded, Dates, Decimals, Ints, Numbered, words
from fhir_gateway.sandbox.population.directory import Directory
from fhir_gateway.sandbox.population.lines import DRUG, OUTPATIENT, PROFESSIONAL, STAY, Lines
from fhir_gateway.sandbox.population.people import People
from fhir_gateway.sandbox.population.render import Field, Nested, Sheet
from fhir_gateway.sandbox.population.shapes import claim_template, explanation_template
from fhir_gateway.sandbox.population.sources import C4BB_CODES, PAYER_PREFIX, Ids, updated
from fhir_gateway.sandbox.population.stays import Stays
from fhir_gateway.sandbox.population.visits import EMERGENCY, Events

_HL7 = "http://terminology.hl7.org/CodeSystem/"


class ClaimSheets:
    """Renders the claims of a batch."""

    def __init__(
        self,
        seed: int,
        batch_base: int,
        people: People,
        directory: Directory,
        events: Events,
        stays: Stays,
    ) -> None:
        """``events`` are all events of the batch."""
        self.ids = Ids(PAYER_PREFIX, seed)
        self.base = batch_base
        self.people, self.directory, self.events, self.stays = people, directory, events, stays
        self.payer = self.ids.organizations(directory)[directory.payer].as_py()

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
            "service": Coded(SERVICES.bare, lines.service[line]),
            "drug": Coded(DRUG_PRODUCTS.bare, lines.drug[line]),
            "revenue": Coded(REVENUES.bare, lines.revenue[line]),
            "place": Coded(PLACES.bare, lines.place[line]),
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
            "qualification": Coded(QUALIFICATIONS.bare, self.directory.specialty[practitioner]),
            "diagnosis": Coded(DIAGNOSES.bare, claims.diagnosis[claim]),
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
            sheets.append(Sheet(claim_template(kind, self.payer), len(rows), fields))
        return sheets

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
                    words(("0111", "0117")),
                    ((versions.role[rows] == REPLACEMENT) | (versions.role[rows] == REVERSAL)) * 1,
                )
            if kind == OUTPATIENT:
                emergency = self.events.what[claims.event[claim]] == EMERGENCY
                fields["admission"] = Coded(words(("3", "1")), emergency.astype(np.int64))
            sheets.append(Sheet(explanation_template(kind, self.payer), len(rows), fields))
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
            "procedure": Coded(STAY_PROCEDURES.bare, stay_procedure(stays, stay)),
        }
