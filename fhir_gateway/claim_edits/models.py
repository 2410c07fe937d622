"""What a claim edit is, what it finds, and what it is told besides the claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

import pyarrow as pa

Severity = Literal["reject", "deny-likely", "warn", "info"]
"""``reject``: the payer does not take the claim in; ``deny-likely``: it takes it in and does not pay (all of) it."""
SEVERITIES: tuple[Severity, ...] = ("reject", "deny-likely", "warn", "info")
UNCLEAN: tuple[Severity, ...] = ("reject", "deny-likely")
Family = Literal["identity", "eligibility", "codes", "ncci", "coverage", "time", "duplicates", "money", "value-based"]
Issue = Literal[
    "business-rule",
    "code-invalid",
    "conflict",
    "duplicate",
    "informational",
    "invalid",
    "not-found",
    "required",
    "value",
]


@dataclass(frozen=True, slots=True)
class Edit:
    """One rule.

    ``query`` is SQL over the tables of ``claims.sql`` and the reference tables: a row (``rid``, ``path``, ``other``)
    for each finding, paths in FHIRPath (zero-based). ``needs`` names what it cannot be judged without: reference tables
    by name, or the grounds of :mod:`fhir_gateway.claim_edits.grounds`; a claim that lacks one is told as not checked.
    ``effective`` is the first and last day of service that the rule holds for, None is open.
    """

    id: str
    family: Family
    severity: Severity
    issue: Issue
    message: str
    fix: str
    source: str
    query: str
    needs: tuple[str, ...] = ()
    effective: tuple[date | None, date | None] = (None, None)


#: Patients as their sources know them; a person of several sources has several rows.
PATIENT_SCHEMA = pa.schema(
    [("member", pa.string()), ("birth", pa.date32()), ("sex", pa.string()), ("mbi", pa.string())]
)
#: Coverage of members; ``rank`` is the order of benefits (1 is primary), ``payers`` are names the payer is known by.
COVERAGE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("coverage", pa.string()),
        ("status", pa.string()),
        ("covered_from", pa.date32()),
        ("covered_to", pa.date32()),
        ("rank", pa.int64()),
        ("payers", pa.list_(pa.string())),
    ]
)
#: Lines of claims (by their ``sequence``; null: all of them) that the payer denied. A claim is named by its id.
DENIED_SCHEMA = pa.schema([("claim", pa.string()), ("line", pa.int64())])
#: Who is attributed when, and to whom.
ATTRIBUTED_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("npi", pa.string()),
        ("tin", pa.string()),
        ("attributed_from", pa.date32()),
        ("attributed_to", pa.date32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Context:
    """What is known besides the claims; None is not known, which is not the same as empty.

    ``history`` are other claims of the same members, in the columns of the claims; ``denied`` are lines that count for
    no other claim; ``directory`` is what :func:`fhir_gateway.lake.claims.directory` gives. ``submitted`` is the day of
    submission, by default the day on which each claim says that it was created.
    """

    patients: pa.Table | None = None
    coverages: pa.Table | None = None
    attributed: pa.Table | None = None
    history: pa.Table | None = None
    directory: pa.Table | None = None
    submitted: date | None = None
    denied: pa.Table | None = None


#: A finding: claim (row of the batch), edit, path of the element, and path of the other element it is about.
FINDING_SCHEMA = pa.schema([("rid", pa.int64()), ("edit", pa.string()), ("path", pa.string()), ("other", pa.string())])
#: A ground that a claim lacks: no edit that needs it was checked.
UNCHECKED_SCHEMA = pa.schema([("rid", pa.int64()), ("ground", pa.string())])
#: A claim that was checked, whose it is, and what rates are broken down by.
CHECKED_SCHEMA = pa.schema(
    [
        ("rid", pa.int64()),
        ("key", pa.string()),
        ("member", pa.string()),
        ("provider", pa.string()),
        ("payer", pa.string()),
        ("lines", pa.int64()),
        ("clean", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a batch: tables of the schemas above, and the versions of the reference tables that were used."""

    claims: pa.Table
    findings: pa.Table
    unchecked: pa.Table
    tables: Sequence[str] = field(default_factory=tuple)

    def shifted(self, by: int) -> Checked:
        """The same with other row numbers, to be put after another batch."""

        def moved(table: pa.Table) -> pa.Table:
            numbers = pa.array(table["rid"].to_numpy() + by, pa.int64())
            return table.set_column(0, "rid", numbers)

        return replace(self, claims=moved(self.claims), findings=moved(self.findings), unchecked=moved(self.unchecked))


def together(parts: Sequence[Checked]) -> Checked:
    """Batches one after the other, their rows numbered through."""
    shifted, at = [], 0
    for part in parts:
        shifted.append(part.shifted(at))
        at += part.claims.num_rows
    return Checked(
        pa.concat_tables([CHECKED_SCHEMA.empty_table(), *(one.claims for one in shifted)]),
        pa.concat_tables([FINDING_SCHEMA.empty_table(), *(one.findings for one in shifted)]),
        pa.concat_tables([UNCHECKED_SCHEMA.empty_table(), *(one.unchecked for one in shifted)]),
        tuple(sorted({name for one in parts for name in one.tables})),
    )
