"""Terms of capitation beside cells and services: geography, risk, add-ons, kick payments, retroactive changes."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.audit import AMOUNT, FACTOR
from fhir_gateway.contracts.cells import Attribute
from fhir_gateway.contracts.terms import Fraction, Money, Terms

Positive = Annotated[Decimal, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9\-]{1,40}$")]

SCORES_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("score", AMOUNT, nullable=False),
        pa.field("month", pa.date32()),
        pa.field("previous", AMOUNT),
    ]
)
#: Rows of earlier cycles. What was too late (``status`` outside_window) was not posted, only flagged.
POSTED_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("month", pa.date32(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("cell", pa.string()),
        pa.field("quantity", AMOUNT, nullable=False),
        pa.field("rate", AMOUNT, nullable=False),
        pa.field("factor", FACTOR, nullable=False),
        pa.field("cycle", pa.date32(), nullable=False),
        pa.field("status", pa.string()),
    ]
)
AREA_SCHEMA = pa.schema([pa.field("area", pa.string(), nullable=False), pa.field("factor", AMOUNT, nullable=False)])


class GeoTerms(Terms):
    """A geographic factor: one for all, or by the area that an attribute of the member names."""

    factor: Positive | None = None
    attribute: Attribute | None = None
    table: str = Field(default="geo_factors", description="Table of area and factor.")


class RiskTerms(Terms):
    """Rates adjusted by risk scores: ``rate x score / base``.

    The base is the mean that keeps the sum (``budget_neutral``), a ``reference`` score, or 1 (``none``). A score's
    change against the ``previous`` one is limited before it is normalised. ``month`` of a score is when it begins to
    hold; ``lag_months`` later it is used. At the ``interim`` stage every score counts as ``interim_factor``; the final
    settlement shows the true-up.
    """

    table: str = "risk_scores"
    normalise: Literal["budget_neutral", "reference", "none"]
    reference: Positive | None = None
    lag_months: int = Field(default=0, ge=0)
    change_cap: Fraction | None = None
    missing: Positive | None = Field(default=None, description="Score of who has none; without it that is refused.")
    stage: Literal["interim", "final"] = "final"
    interim_factor: Positive | None = None

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        found = []
        if (self.normalise == "reference") != (self.reference is not None):
            found.append(f"{where}.reference: goes with normalise = 'reference'")
        if self.stage == "interim" and self.interim_factor is None:
            found.append(f"{where}.interim_factor: is missing for the interim stage")
        return found


class AddOn(Terms):
    """An amount per member month beside the rate, for all or for months with these attributes."""

    id: Name
    pmpm: Money
    where: dict[Attribute, str] = Field(default={})


class KickPayment(Terms):
    """A payment per event, at most one in so many months per member. Conditions as in service categories."""

    id: Name
    amount: Money
    every_months: int = Field(default=9, ge=1, description="After a paid event the next one pays this much later.")
    procedure: tuple[str, ...] = ()
    revenue_code: tuple[str, ...] = ()
    drg: tuple[str, ...] = ()
    place_of_service: tuple[str, ...] = ()
    bill_type: tuple[str, ...] = ()
    claim_type: tuple[str, ...] = ()
    specialty: tuple[str, ...] = ()


class RetroTerms(Terms):
    """What was posted before stays; this cycle posts the differences, each at the rate of its own month."""

    table: str = Field(default="capitation_posted", description="All rows posted so far.")
    cycle: date
    window_months: int = Field(ge=0, description="Months further back than this are not changed any more.")
