"""What all payment arrangements have in common: their inputs, their terms, their registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.distribution import Panel
from fhir_gateway.contracts.scoring import MeasureOutcome
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.terms import MeasureTerms, Terms
from fhir_gateway.errors import ContractError


@dataclass(frozen=True, slots=True)
class Exposure:
    """Cost and months of the attributed members in a period: exact sums."""

    members: int
    member_months: Decimal
    cost: Decimal  # after truncation and completion
    cost_before_truncation: Decimal
    cost_before_completion: Decimal
    truncated_members: int


@dataclass(frozen=True, slots=True)
class SettlementInputs:
    """All that a settlement is computed from. ``outcomes`` by measure id of the contract; ``facts`` where needed.

    ``part`` is how much of the contract's period the inputs are about: 1, or less for an interim settlement, where
    amounts agreed for the year count in proportion. ``panels`` are the roster by ``tin`` and ``npi``.
    """

    exposure: Exposure
    outcomes: Mapping[str, MeasureOutcome]
    baseline: Exposure | None = None
    stamps: Mapping[str, str] = field(default_factory=dict)
    facts: Facts | None = None
    cut: Cut | None = None
    part: Decimal = Decimal(1)
    panels: Mapping[str, Mapping[str, Panel]] = field(default_factory=dict)

    def columns(self) -> Facts:
        """The columns of an arrangement that needs them; ContractError when they were not given."""
        if self.facts is None:
            raise ContractError("claim lines, persons and tables are needed and were not given")
        return self.facts


#: How a payment is carried on to the end of a period of which a part has passed: settled on the cost that is expected
#: (``cost``), on everybody's months as coverage stands (``months``), on scores as they stand (``scores``), or as what
#: the part that has passed came to times the whole (``time``), where it is services that count completed for those not
#: yet known (``services``).
Carried = Literal["cost", "months", "scores", "time", "services"]


class ArrangementTerms(Terms):
    """What every arrangement states. ``pool`` names the money it pays from: no two arrangements share one."""

    kind: str
    id: str = Field(pattern=r"^[A-Za-z0-9\-]{1,40}$")
    pool: str
    measures: tuple[str, ...] | None = Field(
        default=None, description="Ids of the measures that count here; default all contractual ones."
    )

    #: VBPR metrics a report on this arrangement may carry.
    metrics: ClassVar[tuple[str, ...]] = ()

    def chosen(self, measures: tuple[MeasureTerms, ...]) -> tuple[MeasureTerms, ...]:
        """The contract's measures that count here."""
        if self.measures is None:
            return tuple(m for m in measures if m.status == "contractual")
        return tuple(m for m in measures if m.id in self.measures)

    @property
    def where(self) -> str:
        """Path of this arrangement's terms in messages and settlement lines."""
        return f"arrangements.{self.id}"

    @abstractmethod
    def stream(self) -> str:
        """VBPR payment stream code."""

    @abstractmethod
    def uses_quality(self) -> bool:
        """Whether quality changes the payment."""

    def weighs_measures(self) -> bool:
        """Whether the measures' weights matter; they sum to 1 then."""
        return self.uses_quality()

    def names_measures(self) -> tuple[str, ...]:
        """Ids of measures that other terms than ``measures`` name."""
        return ()

    @abstractmethod
    def problems(self) -> list[str]:
        """Contradictions within the terms, as ``term: message``."""

    @abstractmethod
    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Write every number into the ledger, the payable line last."""

    def needs(self) -> Needs:
        """What it looks at beside sums: nothing."""
        return Needs()

    def needs_baseline(self) -> bool:
        """Whether cost and months of the year before are needed."""
        return False

    def carried_on(self) -> Carried:
        """How a projection carries its payment on; ContractError with the reason when that would mean nothing."""
        if self.needs():
            raise self.not_carried("rests on more than total cost, which cannot be carried on")
        return "cost"

    def not_carried(self, why: str) -> ContractError:
        """The error that names the arrangement and says why it has no projection."""
        return ContractError(f"projection: {self.where} ({self.kind}): {why}")


T = TypeVar("T", bound=type[ArrangementTerms])
ARRANGEMENTS: dict[str, type[ArrangementTerms]] = {}


def arrangement(kind: str) -> Callable[[T], T]:
    """Register a class of arrangement terms."""

    def register(terms: T) -> T:
        ARRANGEMENTS[kind] = terms
        return terms

    return register
