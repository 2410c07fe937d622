"""Terms, participants and results of attribution: plain values, no computation.

Terms are versioned configuration, one TOML file per programme and year (``terms/*.toml`` in this package or a file of
the contract's own). Every code list says where it comes from and how far it was checked (``trust``: CFR read in the
regulation, DOC read in a public document, M from memory, G generic practice).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fhir_gateway.errors import ContractError, Location

Trust = Literal["V", "CFR", "DOC", "M", "G"]
MonthRule = Literal["snapshot_1st", "snapshot_15th", "snapshot_last", "any_day", "prorated", "mid_month"]
TieBreak = Literal["latest", "visits", "allowed", "paid", "lowest_id", "hash"]


class _Terms(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpecialtyGroup(_Terms):
    """Specialty codes that compete together; ``any`` takes every clinician, known specialty or not."""

    cms: tuple[str, ...] = ()
    nucc: tuple[str, ...] = ()
    snomed: tuple[str, ...] = ()
    any: bool = False
    source: str
    trust: Trust

    @property
    def codes(self) -> tuple[str, ...]:
        """All codes; the systems' codes do not overlap (2, 10 and 6-18 characters)."""
        return (*self.cms, *self.nucc, *self.snomed)


class ServiceCodes(_Terms):
    """Procedure codes that count, single or as ranges (``99202-99215``), and where they do not."""

    name: str
    codes: tuple[str, ...] = Field(min_length=1)
    since: date | None = None
    until: date | None = None
    unless_place: tuple[str, ...] = Field(default=(), description="Place of service codes that exclude the line.")
    unless_facility: tuple[str, ...] = Field(
        default=(), description="Bill types (two digits) of a facility claim covering the day that exclude the line."
    )
    source: str
    trust: Trust

    def expanded(self) -> Iterator[str]:
        """Every single code."""
        for entry in self.codes:
            low, dash, high = entry.partition("-")
            if not dash:
                yield low
                continue
            prefix = re.match(r"[A-Z]*", low)
            letters = prefix.group() if prefix else ""
            width = len(low) - len(letters)
            if not high.startswith(letters) or len(high) != len(low) or high < low:
                raise ContractError(f"services '{self.name}': '{entry}' is not a code range")
            for number in range(int(low[len(letters) :]), int(high[len(letters) :]) + 1):
                yield f"{letters}{number:0{width}d}"


class FacilityServices(_Terms):
    """Facility claims of which every line counts (rural health clinics and health centers), as a specialty group."""

    bill_types: tuple[str, ...] = Field(min_length=1, description="First two digits, without leading zero.")
    group: str
    source: str
    trust: Trust


class Need(_Terms):
    """The participant must itself have rendered a counting service by one of ``groups`` in the window."""

    groups: tuple[str, ...] = Field(min_length=1)
    window_months: int = Field(default=12, ge=1)


class Pass(_Terms):
    """One comparison. A member is settled by the first pass in which somebody competes for him."""

    name: str
    groups: tuple[str, ...] = Field(min_length=1, description="Specialty groups whose services are compared.")
    window_months: int = Field(default=12, ge=1, description="Months up to the window's end.")
    unless_any: tuple[str, ...] = Field(
        default=(), description="Skip members with a counting service by these groups, whoever rendered it."
    )
    needs: tuple[Need, ...] = Field(default=(), description="What a participant needs to compete in this pass at all.")


class Eligibility(_Terms):
    """Who can be attributed: months of coverage in the period."""

    coverage: Literal["required", "ignored"] = "required"
    month_rule: MonthRule = "any_day"
    min_months: Decimal = Decimal(1)
    include_types: tuple[str, ...] = Field(default=(), description="Coverage type codes that count; empty for all.")
    exclude_types: tuple[str, ...] = Field(
        default=(), description="Coverage type codes of which a single month excludes the member."
    )


class AttributionTerms(_Terms):
    """All that decides who is whose patient under a contract."""

    name: str
    version: str
    programme: str
    year: int | None = None
    source: str
    methods: tuple[str, ...] = ("selection", "plurality")
    measure: Literal["allowed", "paid", "visits", "days"] = "allowed"
    level: Literal["entity", "tin", "npi"] = "entity"
    tie_break: tuple[TieBreak, ...] = ("latest", "hash")
    min_visits: int = Field(default=1, ge=1)
    min_share: Decimal = Field(default=Decimal(0), ge=0, le=1)
    window_offset_months: int = Field(default=0, ge=0, description="Months the window ends before the period does.")
    eligibility: Eligibility = Eligibility()
    groups: dict[str, SpecialtyGroup]
    services: tuple[ServiceCodes, ...]
    facility_services: FacilityServices | None = None
    passes: tuple[Pass, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _groups_exist(self) -> Self:
        used = {group for step in self.passes for group in (*step.groups, *step.unless_any)}
        used |= {group for step in self.passes for need in step.needs for group in need.groups}
        if self.facility_services:
            used.add(self.facility_services.group)
        if unknown := sorted(used - set(self.groups)):
            raise ValueError(f"specialty groups {unknown} are used but not defined")
        if len({step.name for step in self.passes}) < len(self.passes):
            raise ValueError("two passes have the same name")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the terms as canonical JSON; named by every result computed from them."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Terms shipped with the package (by file name without suffix) or of a TOML file."""
        path = Path(name)
        if path.suffix == ".toml":
            if not path.is_file():
                raise ContractError("attribution terms not found", location=Location(file=str(path)))
            text = path.read_text(encoding="utf-8")
        else:
            shipped = files(__package__).joinpath("terms", f"{name}.toml")
            if not shipped.is_file():
                known = ", ".join(shipped_terms())
                raise ContractError(f"attribution terms '{name}' are not shipped; there are {known}")
            text = shipped.read_text(encoding="utf-8")
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ContractError(f"not TOML: {error}", location=Location(file=str(name))) from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'terms'}: {e['msg']}" for e in error.errors())
            raise ContractError(problems, location=Location(file=str(name))) from error


def shipped_terms() -> tuple[str, ...]:
    """Names of the attribution terms in the package."""
    folder = files(__package__).joinpath("terms")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


@dataclass(frozen=True, slots=True)
class Participant:
    """An entity that competes as one: by its TINs, its NPIs, or (both given) those NPIs at those TINs."""

    entity: str
    tins: tuple[str, ...] = ()
    npis: tuple[str, ...] = ()


_AMOUNT = pa.decimal128(28, 8)

#: One row per member. ``entity`` null means not attributed, then ``reason`` says why. A competitor that is no
#: participant is ``tin:``, ``organization:`` or ``npi:`` and its number. ``amount`` is in the measure of the terms.
ATTRIBUTION_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("entity", pa.string()),
        ("participant", pa.bool_()),
        ("method", pa.string()),
        ("step", pa.string()),
        ("tin", pa.string()),
        ("npi", pa.string()),
        ("amount", _AMOUNT),
        ("visits", pa.int64()),
        ("last_service", pa.date32()),
        ("runner_up", pa.string()),
        ("runner_up_amount", _AMOUNT),
        ("tie_break", pa.string()),
        ("months", _AMOUNT),
        ("coverage", pa.string()),
        ("reason", pa.string()),
    ]
)

#: Every competitor of every member in the pass that settled him, best first.
CANDIDATE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("step", pa.string()),
        ("rank", pa.int32()),
        ("competitor", pa.string()),
        ("participant", pa.bool_()),
        ("amount", _AMOUNT),
        ("visits", pa.int64()),
        ("last_service", pa.date32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who is whose patient in a period, with the evidence: runners-up, ties, months, reasons."""

    table: pa.Table
    candidates: pa.Table
    terms: AttributionTerms
    period: tuple[date, date]
    participants: tuple[Participant, ...]

    def members_of(self, entity: str) -> pa.Array:
        """Sorted members attributed to a participant."""
        import pyarrow.compute as pc

        chosen = self.table.filter(pc.equal(self.table["entity"], entity))
        return chosen["member"].combine_chunks()
