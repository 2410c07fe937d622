"""Human-services bundle: a price per episode, earned by milestones; a case rate where there was little service."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.episode_ledger import add_population, add_prices, pay, total
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.episodes.reconciliation import ZERO
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import MeasureTerms, Money


@arrangement("bundle_milestones")
class BundleMilestones(EpisodeTerms):
    """Terms of a bundle with milestones (``episode.milestones``), such as 90 days of substance use treatment."""

    kind: Literal["bundle_milestones"]
    min_services: int = Field(default=0, ge=0, description="Services of an episode below which the case rate is paid.")
    case_rate: Money = Field(default=ZERO, description="For an episode with too few services.")
    net_of_claims: bool = Field(default=False, description="What was paid for services of the episodes is taken off.")

    metrics = ("eligible-member", "paid-claim", "earned-incentive")

    def uses_quality(self) -> bool:
        """Milestones are the quality."""
        return False

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        if self.episode is not None and not self.episode.milestones:
            found.append(f"{self.where}.episode.milestones: there are none")
        if self.case_rate and not self.min_services:
            found.append(f"{self.where}.case_rate: is never paid, min_services is 0")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Full episodes by milestone, the others at the case rate, claims, payable."""
        del measures
        reckoned = self.reckon(inputs)
        add_population(ledger, self, reckoned)
        add_prices(ledger, self, reckoned)
        standing = reckoned.standing
        enough = pc.greater_equal(standing["services"], self.min_services)
        full, few = standing.filter(enough), standing.filter(pc.invert(enough))
        earned = [self._milestone(ledger, full, one.id, one.share) for one in self.definition().milestones]
        if self.min_services:
            count = ledger.add(
                "case-rate.episodes",
                Decimal(few.num_rows),
                "Episodes at the case rate",
                f"fewer than {self.min_services} services",
                f"{self.where}.min_services",
                unit="{episodes}",
            )
            value = self.case_rate * count.value
            earned.append(
                ledger.add(
                    "case-rate",
                    value,
                    "Case rates",
                    f"{self.case_rate} x episodes",
                    f"{self.where}.case_rate",
                    (count,),
                )
            )
        amount = total(ledger, "earned", earned, "Earned", self.where)
        if self.net_of_claims:
            term = f"{self.where}.net_of_claims"
            spent = pc.sum(standing["spending"]).as_py() or ZERO
            claims = ledger.add(
                "claims", spent, "Paid for services", "claims in the windows", term, metric="paid-claim"
            )
            amount = ledger.add(
                "less-claims", amount.value - spent, "Earned less claims", "difference", term, (amount, claims)
            )
        pay(ledger, self, amount, reckoned, "Earned by milestones", "earned-incentive")

    def _milestone(self, ledger: Ledger, full: pa.Table, milestone: str, share: Decimal) -> Number:
        term = f"{self.where}.episode.milestones.{milestone}"
        reached = _with(full, milestone)
        count = ledger.add(
            f"{milestone}.reached",
            Decimal(reached.num_rows),
            f"{milestone}: reached",
            f"of {full.num_rows} episodes with enough services",
            term,
            unit="{episodes}",
        )
        value = share * (pc.sum(reached["target"]).as_py() or ZERO)
        return ledger.add(milestone, value, f"{milestone}: earned", f"{percent(share)} of their prices", term, (count,))


def _with(episodes: pa.Table, milestone: str) -> pa.Table:
    """Episodes that reached a milestone."""
    reached = episodes["milestones"].combine_chunks()
    rows = pc.list_parent_indices(reached).filter(pc.equal(pc.list_flatten(reached), milestone))
    return episodes.take(rows)
