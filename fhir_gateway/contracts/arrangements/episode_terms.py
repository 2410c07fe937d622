"""What all payments by episode state."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.attribution.anchors import Role
from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs
from fhir_gateway.contracts.arrangements.episode_reckoning import Reckoned, counted_services, reckon
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.episodes import (
    ELIGIBILITY_SCHEMA,
    GMLOS_SCHEMA,
    LINE_COLUMNS,
    STANDARDISATION_SCHEMA,
    Definition,
    Initiator,
    shipped_definition,
)
from fhir_gateway.contracts.episodes.caps import CAP_SCHEMA, Cap
from fhir_gateway.contracts.episodes.multipliers import (
    DIAGNOSES_SCHEMA,
    MULTIPLIER_SCHEMA,
    Normalisation,
    RiskFactors,
    SocialFactor,
)
from fhir_gateway.contracts.episodes.targets import PRICE_SCHEMA, TIER_SCHEMA, Prices, Trend
from fhir_gateway.contracts.gainsharing import COLLABORATOR_SCHEMA, Gainsharing
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA
from fhir_gateway.errors import ContractError

#: Who was in charge of an anchor claim, for initiators by hierarchy.
ANCHORS_SCHEMA = pa.schema(
    [
        pa.field("claim_group", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("ccn", "hospital_npi", "attending", "operating")),
    ]
)


class EpisodeTerms(ArrangementTerms):
    """Terms of a payment by episode of care."""

    episode: Definition | None = Field(default=None, description="What an episode is; default the programme's own.")
    population: Literal["attributed", "all"] = Field(
        default="attributed", description="Whose episodes count: of the members of the list, or of all with claims."
    )
    initiators: tuple[Initiator, ...] = Field(
        default=(), description="Who is accountable, each reconciled for itself; none: every anchor counts."
    )
    eligibility: str | None = Field(default=None, description="Table of the days that members were eligible.")
    gmlos: str | None = Field(default=None, description="Table of geometric mean lengths of stay.")
    standardisation: str | None = Field(default=None, description="Table of factors to standard prices.")
    multipliers: str | None = Field(default=None, description="Table of members' risk multipliers.")
    risk: RiskFactors | None = Field(default=None, description="Multipliers out of members' ages and HCCs.")
    social: SocialFactor | None = Field(default=None, description="Beside the other multipliers, if any.")
    tiers: str | None = Field(default=None, description="Table of severity tiers: a price group becomes group-tier.")
    cap: Cap | None = None
    price: Prices
    normalisation: Normalisation | None = None
    trend: Trend | None = None
    paid_before: Decimal | None = Field(
        default=None, description="What earlier settlements of the period came to; the difference is paid."
    )
    gainsharing: Gainsharing | None = None
    anchors: str | None = Field(
        default=None,
        description="Table of who was in charge of anchors, by claim; then initiators are found by hierarchy.",
    )
    hierarchy: tuple[Role, ...] = Field(
        default=("attending", "operating", "hospital"), description="By whom an initiator is found, with anchors."
    )
    needs_roles: tuple[Role, ...] = Field(
        default=(), description="Roles that must all be with initiators, with anchors."
    )

    #: Programme of ``episodes/models`` whose definition holds when the contract states none.
    programme: ClassVar[str | None] = None

    def stream(self) -> str:
        """Episode of care."""
        return "eoc"

    def definition(self) -> Definition:
        """What an episode is here."""
        if self.episode is not None:
            return self.episode
        if self.programme is None:
            raise ContractError(f"{self.where}.episode: is needed")
        return shipped_definition(self.programme)

    def discount(self, family: str) -> Decimal:
        """What is taken off the price of a family, as a fraction."""
        del family
        return Decimal(0)

    def bound(self) -> Cap | None:
        """Between which amounts the cost of an episode counts."""
        return self.cap

    def post_days(self) -> int:
        """Days after windows whose spending is looked at."""
        return 0

    @property
    def multiplied_by(self) -> tuple[str, ...]:
        """Names of the terms that prices are multiplied by."""
        named = {"multipliers": self.multipliers, "risk": self.risk, "social": self.social}
        return tuple(name for name, stated in named.items() if stated is not None)

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        if self.episode is None and self.programme is None:
            return [f"{self.where}.episode: is needed"]
        definition = self.definition()
        found = definition.problems(f"{self.where}.episode")
        found += self.price.problems(f"{self.where}.price")
        if self.cap is not None:
            found += self.cap.problems(f"{self.where}.cap")
            if self.cap.basis == "baseline" and self.price.kind != "baseline":
                found.append(f"{self.where}.cap.basis: there is no baseline, prices are given")
        if definition.covered is not None and self.eligibility is not None:
            found.append(f"{self.where}.eligibility: the episode's terms say who is covered")
        if definition.needs_gmlos and self.gmlos is None:
            found.append(f"{self.where}.gmlos: is needed, stays are prorated by it")
        found += [] if self.risk is None else self.risk.problems(f"{self.where}.risk")
        if self.normalisation is not None and not self.multiplied_by:
            found.append(f"{self.where}.normalisation: there are no multipliers")
        names = Counter(one.name for one in self.initiators)
        found += [f"{self.where}.initiators: two are named '{name}'" for name, count in names.items() if count > 1]
        for one in self.initiators:
            if not (one.tins or one.npis or one.organizations or one.ccns):
                found.append(f"{self.where}.initiators.{one.name}: no number says who that is")
            if one.ccns and self.anchors is None:
                found.append(f"{self.where}.initiators.{one.name}.ccns: claims have none; they need a table of anchors")
        if self.anchors is not None and not self.initiators:
            found.append(f"{self.where}.anchors: there are no initiators to be found")
        return found

    def needs(self) -> Needs:
        """Claim lines, deaths, and the tables that terms name."""
        tables = {
            name: schema
            for name, schema in (
                (self.eligibility, ELIGIBILITY_SCHEMA),
                (self.gmlos, GMLOS_SCHEMA),
                (self.standardisation, STANDARDISATION_SCHEMA),
                (self.multipliers, MULTIPLIER_SCHEMA),
                (None if self.risk is None else self.risk.table, DIAGNOSES_SCHEMA),
                (None if self.social is None else self.social.table, SOCIAL_RISK_SCHEMA),
                (self.tiers, TIER_SCHEMA),
                (self.price.table, PRICE_SCHEMA),
                (None if self.cap is None else self.cap.table, CAP_SCHEMA),
                (self.anchors, ANCHORS_SCHEMA),
                (None if self.gainsharing is None else self.gainsharing.table, COLLABORATOR_SCHEMA),
            )
            if name is not None
        }
        return Needs(lines=LINE_COLUMNS, tables=tables, people=True)

    def carried_on(self) -> Carried:
        """By the episodes that have ended."""
        if self.paid_before is not None:
            raise self.not_carried("what was paid before is an amount of the whole period")
        return "time"

    def episodes(self, inputs: SettlementInputs) -> pa.Table:
        """Evidence: the contract's episodes of the period with dates, costs, exclusions, target and difference.

        Those of members who are not on the list, or of other providers, are left out.
        The columns are those of :data:`~fhir_gateway.contracts.episodes.targets.PRICED_SCHEMA`.
        """
        return self.reckon(inputs).own

    def services(self, inputs: SettlementInputs) -> pa.Table:
        """Evidence below :meth:`episodes`: the claim lines and what counts of each (``SERVICE_SCHEMA``)."""
        return counted_services(self, inputs)

    def reckon(self, inputs: SettlementInputs) -> Reckoned:
        """Find the episodes and price them."""
        return reckon(self, inputs)
