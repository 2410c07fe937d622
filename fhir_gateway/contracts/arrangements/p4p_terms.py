"""Terms of pay for performance beside its measures: where the money comes from, and what must be met first."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.facts import AMOUNT
from fhir_gateway.contracts.scoring import ZERO, MeasureOutcome
from fhir_gateway.contracts.terms import Money, Terms
from fhir_gateway.errors import ContractError

#: Providers of a programme whose withheld money is paid back to all of them, by score.
PROGRAMME_SCHEMA = pa.schema(
    [pa.field("provider", pa.string(), False), pa.field("base", AMOUNT, False), pa.field("score", AMOUNT)]
)
#: Scores of a peer set, by measure id of the contract.
PEERS_SCHEMA = pa.schema([pa.field("measure", pa.string(), False), pa.field("score", AMOUNT, False)])


class Pool(Terms):
    """What can be earned.

    ``fixed``: an amount; ``per_member``, ``per_member_month``: an amount for each attributed. ``percent_of_premium``:
    the fraction ``amount`` of ``premium``. ``percent_of_savings``: the fraction ``amount`` of what cost is below
    ``target`` (or ``target_pmpm`` times months). ``budget_neutral``: the fraction ``amount`` of every provider's base
    in ``table`` (provider, base, score) was withheld and is paid back by score, all of it: the slope makes it so. The
    contract's provider is the row without a score.
    """

    kind: Literal[
        "fixed", "per_member", "per_member_month", "percent_of_premium", "percent_of_savings", "budget_neutral"
    ]
    amount: Annotated[Decimal, Field(gt=0)]
    premium: Money | None = None
    target: Money | None = None
    target_pmpm: Money | None = None
    table: str | None = None

    def problems(self, where: str) -> list[str]:
        """Terms that this kind of pool lacks or has no use for."""
        uses: dict[str, tuple[str, ...]] = {
            "percent_of_premium": ("premium",),
            "percent_of_savings": ("target", "target_pmpm"),
            "budget_neutral": ("table",),
        }
        mine = uses.get(self.kind, ())
        given = [name for name in ("premium", "target", "target_pmpm", "table") if getattr(self, name) is not None]
        found = [f"{where}.{name}: a {self.kind} pool has no use for it" for name in given if name not in mine]
        if mine and len([name for name in given if name in mine]) != 1:
            found.append(f"{where}: a {self.kind} pool needs {' or '.join(mine)}")
        if mine and self.amount > 1:
            found.append(f"{where}.amount: a {self.kind} pool is a fraction of 1")
        return found


class Condition(Terms):
    """Something that must be met: a measure's score, or the composite when no measure is named.

    ``rises_by`` and ``falls_by`` compare with the measure's ``baseline``. A measure below ``min_denominator`` has not
    met it.
    """

    measure: str | None = None
    at_least: Decimal | None = None
    at_most: Decimal | None = None
    baseline: Decimal | None = None
    rises_by: Money | None = None
    falls_by: Money | None = None
    min_denominator: int = Field(default=1, ge=1)

    def problems(self, where: str) -> list[str]:
        """None or several comparisons, changes without baseline."""
        stated = [n for n in ("at_least", "at_most", "rises_by", "falls_by") if getattr(self, n) is not None]
        found = [] if len(stated) == 1 else [f"{where}: needs one of at_least, at_most, rises_by, falls_by"]
        changes = bool({"rises_by", "falls_by"} & set(stated))
        if changes != (self.baseline is not None):
            found.append(f"{where}.baseline: belongs to rises_by and falls_by")
        if changes and self.measure is None:
            found.append(f"{where}.measure: a composite has no baseline")
        return found

    def margin(self, composite: Decimal | None, outcomes: Mapping[str, MeasureOutcome]) -> Decimal | None:
        """How far it is met, negative when it is not; None when there is no score to judge by."""
        score = composite
        if self.measure is not None:
            outcome = outcomes.get(self.measure)
            if outcome is None:
                raise ContractError(f"measures.{self.measure}: there is no result for it, and a condition asks for it")
            score = outcome.score if outcome.denominator >= self.min_denominator else None
        if score is None:
            return None
        if self.at_least is not None:
            return score - self.at_least
        if self.at_most is not None:
            return self.at_most - score
        change = score - (self.baseline or ZERO)
        return change - self.rises_by if self.rises_by is not None else -change - (self.falls_by or ZERO)

    def is_met(self, composite: Decimal | None, outcomes: Mapping[str, MeasureOutcome]) -> bool:
        """Whether it is met; not when there is no score."""
        margin = self.margin(composite, outcomes)
        return margin is not None and margin >= 0

    def text(self) -> str:
        """The condition in words."""
        name = self.measure or "composite"
        words = {
            "at_least": "at least",
            "at_most": "at most",
            "rises_by": f"above {self.baseline} by",
            "falls_by": f"below {self.baseline} by",
        }
        stated = next(n for n in words if getattr(self, n) is not None)
        return f"{name} {words[stated]} {getattr(self, stated)}"


class Gates(Terms):
    """Conditions of which ``needed`` must be met: ``all``, ``any`` or a number.

    Unmet, ``forfeit`` pays nothing; ``pro_rate`` pays the part of the needed conditions that was met.
    """

    conditions: tuple[Condition, ...] = Field(min_length=1)
    needed: Literal["all", "any"] | Annotated[int, Field(ge=1)] = "all"
    effect: Literal["forfeit", "pro_rate"] = "forfeit"

    @property
    def count(self) -> int:
        """How many must be met."""
        return {"all": len(self.conditions), "any": 1}.get(str(self.needed)) or int(self.needed)

    def problems(self, where: str) -> list[str]:
        """Contradictions in the conditions, and more needed than there are."""
        found = [p for n, c in enumerate(self.conditions, start=1) for p in c.problems(f"{where}.conditions[{n}]")]
        if self.count > len(self.conditions):
            found.append(f"{where}.needed: more than there are conditions")
        return found

    def share(self, met: int) -> Decimal:
        """The part of the money that remains with so many conditions met."""
        if met >= self.count:
            return Decimal(1)
        return Decimal(met) / self.count if self.effect == "pro_rate" else ZERO
