"""Reference tables that edits look things up in: their columns, and where they are published.

None of them is shipped: code lists and edit files are licensed (CPT: AMA) or change every quarter. Each is imported as
CSV under a version with the period that the version holds for; a row may be narrower by ``effective_from`` and
``effective_to``, which every table has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["code", "text", "integer", "amount", "boolean", "date"]
"""``code`` is upper case without dots and blanks, ``text`` as written."""
SQL_TYPES: Mapping[Kind, str] = MappingProxyType(
    {
        "code": "VARCHAR",
        "text": "VARCHAR",
        "integer": "INTEGER",
        "amount": "DECIMAL(28,8)",
        "boolean": "BOOLEAN",
        "date": "DATE",
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; one that is not required may be missing or empty."""

    name: str
    kind: Kind
    documentation: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table: what it is, its columns, and who publishes it."""

    name: str
    documentation: str
    published: str
    columns: tuple[Column, ...]

    @property
    def view(self) -> str:
        """Its name in SQL."""
        return self.name.replace("-", "_")

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """Its columns and the two dates that every table has."""
        return (*self.columns, *_EFFECTIVE)


_EFFECTIVE = (
    Column("effective_from", "date", "first day of service that the row holds for"),
    Column("effective_to", "date", "last day of service that the row holds for"),
)


def _code(name: str, documentation: str, required: bool = True) -> Column:
    return Column(name, "code", documentation, required)


_AGES = (
    Column("sex", "code", "M or F: only patients of this sex"),
    Column("age_from", "integer", "youngest age in full years"),
    Column("age_to", "integer", "oldest age in full years"),
)
_PAYER = Column("payer", "text", "identifier or name of the payer as claims have it; empty: every payer")
_SETTING = _code("setting", "PROFESSIONAL or INSTITUTIONAL; empty: both", False)

_SPECS = (
    TableSpec(
        "icd10cm",
        "Diagnosis codes, headers among them.",
        "CMS/NCHS ICD-10-CM code files, yearly, April update",
        (_code("code", "code, with or without its dot"), Column("billable", "boolean", "false: a header", True)),
    ),
    TableSpec(
        "diagnosis-edits",
        "Diagnoses that may not be principal, or are for some patients only.",
        "Medicare Code Editor (MCE) of CMS, yearly",
        (
            _code("code", "diagnosis"),
            Column("manifestation", "boolean", "true: never principal, the cause comes first"),
            Column("unacceptable_principal", "boolean", "true: never principal"),
            *_AGES,
        ),
    ),
    TableSpec(
        "procedure-codes",
        "CPT and HCPCS codes that may be billed.",
        "AMA CPT (licence), CMS HCPCS Level II (public), yearly and quarterly",
        (_code("code", "CPT or HCPCS code"), *_AGES),
    ),
    TableSpec("modifier-codes", "Modifiers that exist.", "AMA CPT (licence), CMS HCPCS", (_code("modifier", "code"),)),
    TableSpec(
        "procedure-modifiers",
        "Modifiers that a procedure takes; a procedure without rows takes any.",
        "derived from the indicators of the Medicare Physician Fee Schedule, or a payer's policy",
        (_code("code", "procedure"), _code("modifier", "a modifier it takes")),
    ),
    TableSpec(
        "procedure-places",
        "Places of service of a procedure; a procedure without rows may be done anywhere.",
        "a payer's policy",
        (_code("code", "procedure"), _code("place", "a place of service where it may be done")),
    ),
    TableSpec(
        "revenue-codes",
        "Revenue codes of institutional claims.",
        "NUBC (licence); requirement of HCPCS: Integrated Outpatient Code Editor of CMS",
        (
            _code("revenue", "four digits"),
            Column("procedure_required", "boolean", "true: an outpatient line needs a procedure"),
        ),
    ),
    TableSpec(
        "revenue-procedures",
        "Procedures of a revenue code by ranges; a revenue code without rows takes any.",
        "a payer's policy",
        (_code("revenue", "four digits"), _code("first", "first procedure"), _code("last", "last procedure")),
    ),
    TableSpec(
        "ncci-ptp",
        "Procedure-to-procedure pairs: column 2 is not paid beside column 1.",
        "NCCI PTP files of CMS, quarterly",
        (
            _code("column1", "procedure that is paid"),
            _code("column2", "procedure that is not"),
            Column("indicator", "integer", "0 never, 1 unless a modifier says so, 9 the pair was withdrawn", True),
            _SETTING,
        ),
    ),
    TableSpec(
        "ncci-mue",
        "Medically unlikely units of a procedure.",
        "NCCI MUE files of CMS, quarterly",
        (
            _code("code", "procedure"),
            Column("units", "amount", "most units", True),
            Column("mai", "integer", "1 by line, 2 and 3 by day", True),
            _SETTING,
        ),
    ),
    TableSpec(
        "add-on-codes",
        "Add-on procedures and the primary procedures they go with.",
        "NCCI add-on code files of CMS, yearly",
        (_code("code", "add-on procedure"), _code("primary_code", "a procedure that it may go with")),
    ),
    TableSpec(
        "global-periods",
        "Days after a procedure that its payment includes.",
        "Medicare Physician Fee Schedule relative value file, quarterly",
        (_code("code", "procedure"), Column("days", "integer", "0, 10 or 90", True)),
    ),
    TableSpec(
        "provider-roster",
        "Who bills under which tax number.",
        "the payer's roster, PECOS, or the practice's own",
        (
            _code("npi", "NPI"),
            _code("tin", "tax number, nine digits; empty: any", False),
            _code("taxonomy", "taxonomy (NUCC); empty: any", False),
        ),
    ),
    TableSpec(
        "timely-filing",
        "Days after the service within which a payer takes claims.",
        "42 CFR 424.44 (Medicare: one calendar year), provider contracts",
        (_PAYER, Column("days", "integer", "days after the last day of service", True)),
    ),
    TableSpec(
        "prior-authorization",
        "Services that a payer pays only if it authorized them.",
        "the payer's list",
        (_PAYER, _code("code", "procedure")),
    ),
    TableSpec(
        "frequency-limits",
        "How often a payer pays a service, beside the limits that Medicare sets for everybody.",
        "the payer's policy",
        (
            _PAYER,
            _code("code", "procedure"),
            _code("prior_code", "an earlier procedure that counts, itself among them"),
            Column("full_months", "integer", "full months that must lie between; empty: once in a lifetime"),
        ),
    ),
    TableSpec(
        "coverage-diagnoses",
        "Diagnoses that a procedure is covered for; a procedure without rows is covered for any.",
        "LCD and NCD articles of the Medicare Coverage Database",
        (_code("code", "procedure"), _code("diagnosis", "diagnosis, or the beginning of some")),
    ),
    TableSpec(
        "fee-schedule",
        "What a payer allows for a procedure.",
        "the contract's fee schedule, or the Medicare Physician Fee Schedule",
        (_PAYER, _code("code", "procedure"), Column("amount", "amount", "allowed for one unit", True)),
    ),
)
SPECS: Mapping[str, TableSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
