"""Retrospective reconciliation: fee for service, then each initiator's costs against its targets."""

from __future__ import annotations

from abc import abstractmethod
from decimal import Decimal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.arrangements.episode_ledger import (
    Group,
    add_group,
    add_population,
    add_prices,
    groups,
    pay,
    total,
)
from fhir_gateway.contracts.arrangements.episode_reckoning import Reckoned
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.episodes.reconciliation import (
    HUNDRED,
    ZERO,
    Limits,
    LowVolume,
    PostEpisode,
    QualityAdjustment,
)
from fhir_gateway.contracts.scoring import composite, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_measures, percent
from fhir_gateway.contracts.terms import MeasureTerms


class ReconciledTerms(EpisodeTerms):
    """Terms of a reconciliation. Quality is a composite of 0-100: given, or of the contract's measures."""

    quality_score: Decimal | None = Field(
        default=None, ge=0, le=100, description="Composite quality score; default the composite of the measures x 100."
    )
    post_episode: PostEpisode | None = None
    low_volume: LowVolume | None = None

    metrics = (
        *("eligible-member", "cost-target", "adjusted-paid-claim", "variance-cost", "performance-qip"),
        *("readmission", "shared-saving-deficit"),
    )

    @abstractmethod
    def adjustment(self) -> QualityAdjustment | None:
        """What quality changes."""

    @abstractmethod
    def limits(self) -> Limits:
        """Stop-gain and stop-loss."""

    def stop_loss(self) -> Decimal | None:
        """What of an episode counts above its target; None: all."""
        return None

    def uses_quality(self) -> bool:
        """When the score is not given."""
        return self.adjustment() is not None and self.quality_score is None

    def afterwards(self) -> PostEpisode | None:
        """How spending after windows is looked at."""
        return self.post_episode

    def post_days(self) -> int:
        """Those of the look at spending after windows."""
        rule = self.afterwards()
        return 0 if rule is None else rule.days

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        if self.post_episode is not None:
            found += self.post_episode.problems(f"{self.where}.post_episode")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Episodes, prices, each initiator's differences, quality, limits, spending after windows, payable."""
        reckoned = self.reckon(inputs)
        add_population(ledger, self, reckoned)
        add_prices(ledger, self, reckoned)
        score = self._score(inputs, measures, ledger)
        rule = self.afterwards()
        threshold = None if rule is None else rule.threshold(reckoned.table)
        sums = groups(reckoned.standing, self.stop_loss())
        self._readmissions(ledger, sums)
        names = sorted(reckoned.multipliers)
        parts, all_targets, all_counted = [], [], []
        for name in names:
            prefix = "" if len(names) == 1 else f"{name}."
            mine = [group for group in sums if group.entity == name]
            targets, counted, difference = self._differences(ledger, prefix, mine, reckoned, name, len(names) == 1)
            all_targets.append(targets)
            all_counted.append(counted)
            count = sum(group.episodes for group in mine)
            amount = self.share(ledger, prefix, difference, targets, count)
            amount = self.adjust(ledger, prefix, amount, score)
            amount = self._limit(ledger, prefix, amount, targets)
            if threshold is not None:
                amount = self._after(ledger, prefix, amount, mine, threshold)
            parts.append(self.bonus(ledger, prefix, amount, count))
        if len(names) > 1:
            targets = total(ledger, "target", all_targets, "Targets of all", self.where, "cost-target")
            counted = total(ledger, "counted", all_counted, "Cost of all", self.where, "adjusted-paid-claim")
            value = targets.value - counted.value
            ledger.add(
                "difference",
                value,
                "Difference of all",
                "targets - cost",
                self.where,
                (targets, counted),
                metric="variance-cost",
            )
        net = total(ledger, "net", parts, "Net of all initiators", self.where) if len(parts) > 1 else parts[0]
        pay(ledger, self, net, reckoned, "Reconciliation", "shared-saving-deficit")

    def _differences(
        self, ledger: Ledger, prefix: str, mine: list[Group], reckoned: Reckoned, entity: str, alone: bool
    ) -> tuple[Number, Number, Number]:
        targets, counted, differences = [], [], []
        for family in dict.fromkeys(group.family for group in mine):
            of_family = [group for group in mine if group.family == family]
            lines = [add_group(ledger, self.where, prefix, group) for group in of_family]
            policy = self._policy(of_family, reckoned, entity)
            difference = total(
                ledger, f"{prefix}{family}.difference", [one[2] for one in lines], f"{family}: difference", self.where
            )
            if policy == "excluded" or (policy == "no_downside" and difference.value < 0):
                note = (
                    "too few baseline episodes: not reconciled"
                    if policy == "excluded"
                    else "too few baseline episodes: no loss"
                )
                difference = ledger.add(
                    f"{prefix}{family}.low-volume", ZERO, f"{family}: difference that counts", note,
                    f"{self.where}.low_volume", (difference,),
                )  # fmt: skip
            if policy != "excluded":
                targets += [one[0] for one in lines]
                counted += [one[1] for one in lines]
            differences.append(difference)
        metric = (lambda code: code) if alone else (lambda code: None)
        target = total(ledger, f"{prefix}target", targets, "Targets", f"{self.where}.price", metric("cost-target"))
        cost = total(
            ledger, f"{prefix}counted", counted, "Cost within bounds", self.where, metric("adjusted-paid-claim")
        )
        difference = total(
            ledger, f"{prefix}difference", differences, "Target - cost", self.where, metric("variance-cost")
        )
        return target, cost, difference

    def _policy(self, of_family: list[Group], reckoned: Reckoned, entity: str) -> str:
        if self.low_volume is None:
            return "none"
        counts = reckoned.baseline_counts
        known = [counts.get((entity, g.price_group), counts.get((None, g.price_group))) for g in of_family]
        episodes = sum(count for count in known if count is not None)
        return self.low_volume.policy if episodes < self.low_volume.below else "none"

    def _score(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> Number | None:
        """The composite as a line; without any measure that takes part it is 0."""
        term, label = f"{self.where}.quality_score", "Composite quality score"
        if self.adjustment() is None:
            return None
        if self.quality_score is not None:
            return ledger.add(
                "quality", self.quality_score, label, "as stated", term, unit="1", metric="performance-qip"
            )
        scored = score_measures(measures, inputs.outcomes, "reweight")
        weighted = add_measures(ledger, scored)
        value = composite(scored)
        formula = "100 x sum of weighted points" if value is not None else "no measure takes part"
        score = ZERO if value is None else value * HUNDRED
        return ledger.add("quality", score, label, formula, self.where, weighted, unit="1", metric="performance-qip")

    def share(self, ledger: Ledger, prefix: str, difference: Number, targets: Number, episodes: int) -> Number:
        """What of a difference is shared: all."""
        del ledger, prefix, targets, episodes
        return difference

    def bonus(self, ledger: Ledger, prefix: str, amount: Number, episodes: int) -> Number:
        """What comes on top of a reconciled amount: nothing."""
        del ledger, prefix, episodes
        return amount

    def adjust(self, ledger: Ledger, prefix: str, difference: Number, score: Number | None) -> Number:
        """The difference after quality."""
        adjustment = self.adjustment()
        if adjustment is None or score is None:
            return difference
        part = adjustment.positive if difference.value > 0 else adjustment.negative
        formula = (
            f"difference x (1 - {percent(part)} x (1 - score / 100))"
            if difference.value > 0
            else f"difference x (1 - {percent(part)} x score / 100)"
        )
        value = difference.value * adjustment.share(difference.value, score.value)
        return ledger.add(f"{prefix}adjusted", value, "After quality", formula, self.where, (difference, score))

    def _limit(self, ledger: Ledger, prefix: str, amount: Number, targets: Number) -> Number:
        limits = self.limits()
        value = limits.within(amount.value, targets.value)
        side = limits.gain if amount.value > 0 else limits.loss
        if side is None:
            return amount
        formula = f"at most {percent(side)} of targets" if amount.value else "nothing to limit"
        return ledger.add(f"{prefix}limited", value, "Within the limits", formula, self.where, (amount, targets))

    def _after(self, ledger: Ledger, prefix: str, amount: Number, mine: list[Group], threshold: Decimal) -> Number:
        term = f"{self.where}.post_episode"
        episodes = sum(group.episodes for group in mine)
        spent = sum((group.after_window for group in mine), ZERO)
        label = "Spending after the windows"
        spending = ledger.add(f"{prefix}after", spent, label, f"{self.post_days()} days, {episodes} episodes", term)
        limit = ledger.add(
            f"{prefix}after-limit", threshold * episodes, f"{label}: limit", f"{threshold:f} x episodes", term
        )
        value = amount.value - max(ZERO, spent - limit.value)
        formula = "less what was spent after the windows above the limit"
        return ledger.add(
            f"{prefix}after-spending", value, "After spending afterwards", formula, term, (amount, spending, limit)
        )

    def _readmissions(self, ledger: Ledger, sums: list[Group]) -> None:
        count = sum(group.readmissions for group in sums)
        ledger.add(
            "readmissions", Decimal(count), "Readmissions", "acute stays in the windows that count",
            f"{self.where}.episode", unit="{admissions}", metric="readmission",
        )  # fmt: skip
        cost = sum((group.complications for group in sums), ZERO)
        whole = sum((group.actual for group in sums), ZERO)
        if self.definition().complications:
            value = cost / whole if whole else None
            ledger.add(
                "complication-rate", value, "Potentially avoidable complications", "their part of all cost",
                f"{self.where}.episode.complications", unit="1",
            )  # fmt: skip
