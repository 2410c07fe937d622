"""Attribution terms: versioned configuration, one TOML file per programme and year, validated on load.

Shipped files are in ``terms/``; a contract may have one of its own. Every code list says where it comes from and how
far it was checked (``trust``: CFR read in the regulation, DOC read in a public document, M from memory, G generic
practice).
"""

from __future__ import annotations

import csv
import hashlib
import re
import tomllib
from collections.abc import Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fhir_gateway.errors import ContractError, Location

Trust = Literal["V", "CFR", "DOC", "M", "G"]
MonthRule = Literal["snapshot_1st", "snapshot_15th", "snapshot_last", "any_day", "whole_month", "prorated", "mid_month"]
TieBreak = Literal["latest", "visits", "allowed", "paid", "lowest_id", "hash"]
Share = Annotated[Decimal, Field(ge=0, le=1)]

_MOST_BITS = 62  # groups, and service lists with facilities, are bits of a 64 bit integer


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
    if_window_touches: tuple[date, date] | None = Field(
        default=None, description="Counts in all of a window that touches these days, in no other (public emergency)."
    )
    unless_place: tuple[str, ...] = Field(default=(), description="Place of service codes that exclude the line.")
    unless_facility: tuple[str, ...] = Field(
        default=(), description="Bill types (two digits) of a facility claim covering the day that exclude the line."
    )
    needs_base: bool = Field(default=False, description="Only beside a counting code, no add-on itself, of its claim.")
    only_facility: bool = Field(default=False, description="Only on claims of facility services that name this list.")
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
    """Facility claims that count: rural health clinics, health centers, method II hospitals, teaching election.

    Every line of such a claim counts, or with ``services`` those with a code of these lists.
    """

    name: str = "facilities"
    bill_types: tuple[str, ...] = Field(min_length=1, description="First two digits, without leading zero.")
    revenue_codes: tuple[str, ...] = Field(default=(), description="First three of four digits; empty for all.")
    ccns: tuple[str, ...] = Field(default=(), description="Facilities by CCN (an election list); empty for all.")
    services: tuple[str, ...] = Field(default=(), description="Names of the service lists that count there.")
    group: str | None = Field(default=None, description="Specialty group it counts as; without, that of the line.")
    source: str
    trust: Trust


class Need(_Terms):
    """The participant must itself have rendered a counting service by one of ``groups`` in the window."""

    groups: tuple[str, ...] = Field(min_length=1)
    window_months: int = Field(default=12, ge=1)


class AtLeast(_Terms):
    """A share that services of ``groups`` must have in those of ``groups`` and ``of``, whoever rendered them."""

    groups: tuple[str, ...] = Field(min_length=1)
    of: tuple[str, ...] = Field(min_length=1)
    share: Share


def _fraction(value: Any) -> Any:
    try:
        return str(Fraction(str(value)))
    except (ValueError, ZeroDivisionError):
        raise ValueError("not a fraction such as 1/3 or 0.5") from None


class Pass(_Terms):
    """One comparison. A member is settled by the first pass in which somebody competes for him."""

    name: str
    groups: tuple[str, ...] = Field(min_length=1, description="Specialty groups whose services are compared.")
    window_months: int = Field(default=12, ge=1, description="Months up to the window's end.")
    services: tuple[str, ...] = Field(default=(), description="Service lists that count in this pass; empty for all.")
    winner: Literal["amount", "latest"] = Field(default="amount", description="The largest amount, or the last visit.")
    weights: tuple[Annotated[str, BeforeValidator(_fraction)], ...] = Field(
        default=(), description="Weights of equal parts of the window, the oldest first (1/3 and 2/3 of two years)."
    )
    unless_any: tuple[str, ...] = Field(
        default=(), description="Skip members with a counting service by these groups, whoever rendered it."
    )
    at_least: AtLeast | None = Field(default=None, description="Skip members where this share is not reached.")
    needs: tuple[Need, ...] = Field(default=(), description="What a participant needs to compete in this pass at all.")

    @model_validator(mode="after")
    def _window_divides(self) -> Self:
        if self.weights and self.window_months % len(self.weights):
            raise ValueError(f"pass '{self.name}': its window does not divide into {len(self.weights)} parts of months")
        if any(Fraction(one) < 0 for one in self.weights):
            raise ValueError(f"pass '{self.name}': weights are not negative")
        return self


class Eligibility(_Terms):
    """Who can be attributed: months of coverage, kind of coverage, residence, other programmes."""

    coverage: Literal["required", "ignored"] = "required"
    over: Literal["period", "window", "window_and_period"] = Field(
        default="period", description="Where coverage is tested: the period, the claims window before it, or both."
    )
    month_rule: MonthRule = "any_day"
    newborns: Literal["by_rule", "birth_month"] = Field(
        default="by_rule", description="Whether the month of birth of a covered newborn counts in full."
    )
    min_months: Decimal = Decimal(1)
    include_types: tuple[str, ...] = Field(default=(), description="Coverage type codes that count; empty for all.")
    exclude_types: tuple[str, ...] = Field(
        default=(), description="Coverage type codes of which a single month excludes the member."
    )
    excludes: Literal["member", "month"] = Field(
        default="member", description="What a month of an excluded type excludes: the member, or that month."
    )
    parts: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Coverage codes by part (A, B): a month counts with all parts; a Coverage without a code has all.",
    )
    without_parts: tuple[str, ...] = Field(default=(), description="Codes of Coverage that has none of the parts (D).")
    split_months: Literal["excluded", "ignored"] = Field(
        default="excluded", description="Whether a month with some of the parts only excludes the member."
    )
    countries: tuple[str, ...] = Field(default=(), description="Countries of residence, by the latest address.")
    service_area: bool = Field(default=False, description="Months count where the member lives in the entity's area.")
    exclude_programmes: tuple[str, ...] = Field(default=(), description="Programmes that exclude who is in them.")
    require_programmes: tuple[str, ...] = Field(default=(), description="Lists of which a member must be on one.")


class SelectionRule(_Terms):
    """From when on a selection of a clinician holds, and what ends it."""

    effective: Literal["immediate", "next_month", "fifteenth"] = Field(
        default="immediate", description="fifteenth: made on 1-15 from that month's first day, later from the next."
    )
    by: Literal["period_end", "period_start"] = "period_end"
    lasts_months: int | None = Field(default=None, ge=1, description="Months after which a selection lapses.")
    needs_visit_months: int | None = Field(
        default=None, ge=1, description="Dropped when the member did not see whom he selected in so many months."
    )


class AttributionTerms(_Terms):
    """All that decides who is whose patient under a contract."""

    name: str
    version: str
    programme: str
    year: int | None = None
    source: str
    methods: tuple[str, ...] = ("selection", "plurality")
    measure: Literal["allowed", "paid", "visits", "days", "rvu"] = "allowed"
    level: Literal["entity", "tin", "npi"] = "entity"
    roll_up: Literal["claim", "primary_tin"] = Field(
        default="claim", description="TIN of a service: on its claim, or the clinician's own on the period's last day."
    )
    tie_break: tuple[TieBreak, ...] = ("latest", "hash")
    min_visits: int = Field(default=1, ge=1)
    min_share: Share = Decimal(0)
    stickiness: Share = Field(
        default=Decimal(0), description="Who won before stays when within this share of the leader."
    )
    window_offset_months: int = Field(default=0, ge=0, description="Months the window ends before the period does.")
    institutional: Literal["all", "listed"] = Field(
        default="all", description="Facility claims that count by code: all, or those of facility_services alone."
    )
    rvu: dict[str, Decimal] = Field(default_factory=dict, description="Relative value units by procedure code.")
    eligibility: Eligibility = Eligibility()
    selection: SelectionRule = SelectionRule()
    groups: dict[str, SpecialtyGroup] = Field(default_factory=dict)
    services: tuple[ServiceCodes, ...] = ()
    facility_services: tuple[FacilityServices, ...] = ()
    passes: tuple[Pass, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _other_spellings(cls, given: Any) -> Any:
        """``source_order`` for methods, ``claims`` for plurality, a single table of facility services."""
        if not isinstance(given, dict):
            return given
        stated = dict(given)
        if "source_order" in stated:
            if "methods" in stated:
                raise ValueError("give either methods or source_order")
            stated["methods"] = stated.pop("source_order")
        if isinstance(stated.get("methods"), (list, tuple)):
            stated["methods"] = ["plurality" if one == "claims" else one for one in stated["methods"]]
        if isinstance(stated.get("facility_services"), dict):
            stated["facility_services"] = [stated["facility_services"]]
        return stated

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        steps = self.passes
        used = {group for step in steps for group in (*step.groups, *step.unless_any)}
        used |= {group for step in steps for need in step.needs for group in need.groups}
        used |= {group for step in steps if step.at_least for group in (*step.at_least.groups, *step.at_least.of)}
        used |= {one.group for one in self.facility_services if one.group}
        if unknown := sorted(used - set(self.groups)):
            raise ValueError(f"specialty groups {unknown} are used but not defined")
        if len({step.name for step in steps}) < len(steps):
            raise ValueError("two passes have the same name")
        lists = [*(one.name for one in self.services), *(one.name for one in self.facility_services)]
        if len(set(lists)) < len(lists):
            raise ValueError("two service lists or facility services have the same name")
        named = {name for step in steps for name in step.services}
        named |= {name for one in self.facility_services for name in one.services}
        if unknown := sorted(named - set(lists)):
            raise ValueError(f"service lists {unknown} are used but not defined")
        if len(lists) > _MOST_BITS or len(self.groups) > _MOST_BITS:
            raise ValueError(f"more than {_MOST_BITS} specialty groups or service lists")
        bills = [bill for one in self.facility_services for bill in one.bill_types]
        if len(set(bills)) < len(bills):
            raise ValueError("two facility services have the same bill type")
        if "plurality" in self.methods and not (self.passes and self.services and self.groups):
            raise ValueError("attribution by claims needs groups, services and passes")
        if self.measure == "rvu" and not self.rvu:
            raise ValueError("measure rvu needs a table of relative value units: rvu or rvu_file")
        return self

    @model_validator(mode="after")
    def _codes_are_unambiguous(self) -> Self:
        days: dict[str, list[tuple[date, date]]] = {}
        for code, found in self.lists_of_codes():
            span = (found[0].since or date.min, found[0].until or date.max)
            if any(span[0] <= other[1] and other[0] <= span[1] for other in days.get(code, ())):
                raise ValueError(f"code {code} is on two service lists with different conditions for the same days")
            days.setdefault(code, []).append(span)
        return self

    def lists_of_codes(self) -> list[tuple[str, list[ServiceCodes]]]:
        """Each code with the lists that have it under the same conditions; a code may come again for other days."""
        found: dict[tuple[object, ...], list[ServiceCodes]] = {}
        for one in self.services:
            conditions = (one.since, one.until, one.unless_place, one.unless_facility, one.needs_base)
            for code in dict.fromkeys(one.expanded()):
                found.setdefault((code, *conditions), []).append(one)
        return [(str(key[0]), lists) for key, lists in found.items()]

    @property
    def digest(self) -> str:
        """SHA-256 of the terms that are no defaults as canonical JSON; named by every result computed from them."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()

    @property
    def rule(self) -> str:
        """Name and version, as results state them."""
        return f"{self.name}|{self.version}"

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Terms shipped with the package (by file name without suffix) or of a TOML file.

        A file may name a CSV beside it as ``rvu_file`` (columns ``code`` and ``rvu``).
        """
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
            stated = tomllib.loads(text)
            if "rvu_file" in stated:
                stated["rvu"] = _rvus(path.parent / str(stated.pop("rvu_file"))) | stated.get("rvu", {})
            return cls.model_validate(stated)
        except tomllib.TOMLDecodeError as error:
            raise ContractError(f"not TOML: {error}", location=Location(file=str(name))) from error
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'terms'}: {e['msg']}" for e in error.errors())
            raise ContractError(problems, location=Location(file=str(name))) from error


def shipped_terms() -> tuple[str, ...]:
    """Names of the attribution terms in the package."""
    folder = files(__package__).joinpath("terms")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def _rvus(path: Path) -> dict[str, Decimal]:
    """Relative value units of a CSV file with the columns ``code`` and ``rvu``."""
    if not path.is_file():
        raise ContractError("rvu_file: there is no such file", location=Location(file=str(path)))
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if not {"code", "rvu"} <= set(reader.fieldnames or ()):
            raise ContractError("rvu_file: columns are code and rvu", location=Location(file=str(path)))
        try:
            return {row["code"]: Decimal(row["rvu"]) for row in reader}
        except (InvalidOperation, TypeError):
            where = Location(file=str(path), line=reader.line_num)
            raise ContractError("rvu_file: rvu is a number", location=where) from None
