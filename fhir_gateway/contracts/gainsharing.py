"""Gainsharing: what a settlement comes to, shared with collaborators, to the cent, the rest staying with the hospital.

Order: costs and reserve -> quality gate of each collaborator -> weights -> cap by fees -> residual. Of a loss
collaborators bear parts within the limits (42 CFR 510.505: half in all, a quarter each). Parts are made by largest
remainder, so that they sum to the amount exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.apportion import CENT, apportion_by
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.terms import Fraction, Money, Terms
from fhir_gateway.errors import ContractError

ZERO = Decimal(0)
_AMOUNT = pa.decimal128(28, 8)
#: Collaborators, as a table of the contract. ``weight`` is the stated one (empty: 1), by the terms multiplied with the
#: episodes whose anchor names ``npi``, or with ``improvement`` (what its costs improved by). ``fees``: of its services.
COLLABORATOR_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("weight", _AMOUNT),
        pa.field("npi", pa.string()),
        pa.field("quality", _AMOUNT),
        pa.field("improvement", _AMOUNT),
        pa.field("fees", _AMOUNT),
    ]
)


@dataclass(frozen=True, slots=True)
class Collaborator:
    """Somebody to share with; ``weight`` as it counts."""

    name: str
    weight: Decimal
    quality: Decimal | None = None
    fees: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody gets (or bears, negative) and why."""

    name: str
    amount: Decimal
    because: str


class Alignment(Terms):
    """What collaborators bear of a loss: parts of it."""

    whole: Fraction = Decimal("0.5")
    each: Fraction = Decimal("0.25")


class Gainsharing(Terms):
    """How a settlement is shared with the collaborators of a table."""

    table: str
    weight: Literal["stated", "episodes", "improvement"] = "stated"
    quality_gate: Decimal | None = Field(default=None, description="Quality below which a collaborator gets nothing.")
    costs: Money = Field(default=ZERO, description="Costs of the programme, kept from a gain before it is shared.")
    reserve: Fraction = Field(default=ZERO, description="Part of a gain after costs that is kept.")
    cap_of_fees: Fraction | None = Field(
        default=None, description="Most of a gain, as a part of a collaborator's fees."
    )
    alignment: Alignment | None = Field(default=None, description="Collaborators bear parts of a loss.")
    residual: str = Field(default="hospital", description="Who keeps what is left.", pattern=r"^[A-Za-z0-9\-.]{1,40}$")

    def collaborators(self, table: pa.Table, episodes: Mapping[str, int]) -> list[Collaborator]:
        """The collaborators of the table; ``episodes`` are counted by NPI of the anchor."""
        found = []
        for row in table.to_pylist():
            weight = Decimal(1) if row["weight"] is None else row["weight"]
            if self.weight == "episodes":
                weight *= episodes.get(row["npi"] or "", 0)
            elif self.weight == "improvement":
                weight *= max(ZERO, row["improvement"] or ZERO)
            found.append(Collaborator(row["name"], weight, row["quality"], row["fees"]))
        names = [one.name for one in found]
        if len(set(names)) < len(names) or self.residual in names:
            raise ContractError(f"tables.{self.table}: a name is there twice, or is that of the residual")
        if not all(re.fullmatch(r"[A-Za-z0-9\-.]{1,40}", name) for name in names):
            raise ContractError(f"tables.{self.table}: a name is not of letters, digits, - and ., 40 at most")
        if any(one.weight < 0 or (one.fees or ZERO) < 0 for one in found):
            raise ContractError(f"tables.{self.table}: a weight or fees are negative")
        if self.cap_of_fees is not None and any(one.fees is None for one in found):
            raise ContractError(f"tables.{self.table}: fees are needed, the cap is a part of them")
        return found

    def shares(self, pool: Decimal, collaborators: Sequence[Collaborator], quantum: Decimal = CENT) -> list[Share]:
        """The shares, by name, and the residual last; they sum to ``pool``, which is a whole number of ``quantum``."""
        found = self._gain(pool, collaborators, quantum) if pool >= 0 else self._loss(pool, collaborators, quantum)
        rest = pool - sum((share.amount for share in found), ZERO)
        return [*found, Share(self.residual, rest, "what is left")]

    def _gain(self, pool: Decimal, collaborators: Sequence[Collaborator], quantum: Decimal) -> list[Share]:
        shared = _down(max(ZERO, pool - self.costs) * (1 - self.reserve), quantum)
        passed = {
            one.name
            for one in collaborators
            if self.quality_gate is None or (one.quality is not None and one.quality >= self.quality_gate)
        }
        weights = {one.name: one.weight if one.name in passed else ZERO for one in collaborators}
        parts = _parts(shared, weights, quantum)
        found = []
        for one in sorted(collaborators, key=lambda c: c.name):
            amount = parts[one.name]
            because = f"weight {one.weight:f} of {sum(weights.values(), ZERO):f}, largest remainder"
            if one.name not in passed:
                because = f"quality below {self.quality_gate}"
            elif self.cap_of_fees is not None and amount > (
                most := _down(self.cap_of_fees * (one.fees or ZERO), quantum)
            ):
                amount, because = most, f"{because}, at most {self.cap_of_fees} of its fees"
            found.append(Share(one.name, amount, because))
        return found

    def _loss(self, pool: Decimal, collaborators: Sequence[Collaborator], quantum: Decimal) -> list[Share]:
        if self.alignment is None:
            return [Share(one.name, ZERO, "bears no losses") for one in sorted(collaborators, key=lambda c: c.name)]
        weights = {one.name: one.weight for one in collaborators}
        parts = _parts(_down(-pool * self.alignment.whole, quantum), weights, quantum)
        most = _down(-pool * self.alignment.each, quantum)
        because = f"{self.alignment.whole} of the loss by weight, at most {self.alignment.each} of it each"
        return [Share(name, -min(part, most), because) for name, part in sorted(parts.items())]


def _parts(amount: Decimal, weights: Mapping[str, Decimal], quantum: Decimal) -> dict[str, Decimal]:
    if not any(weights.values()):
        return dict.fromkeys(weights, ZERO)
    return apportion_by(amount, weights, quantum)


def _down(value: Decimal, quantum: Decimal) -> Decimal:
    return value.quantize(quantum, ROUND_DOWN)


def add_shares(ledger: Ledger, where: str, payable: Number, shares: Sequence[Share]) -> None:
    """A line for each share."""
    for share in shares:
        ledger.add(
            f"gainsharing.{share.name}", share.amount, f"Of the settlement to {share.name}", share.because,
            f"{where}.gainsharing", (payable,),
        )  # fmt: skip
