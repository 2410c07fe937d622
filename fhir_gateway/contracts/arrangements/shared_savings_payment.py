"""From the provider's share to what is paid: sequestration, caps, limits, relief, proration, advances."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from fhir_gateway.contracts.arrangements.shared_savings_parts import Losses
from fhir_gateway.contracts.arrangements.shared_savings_target import agreed
from fhir_gateway.contracts.scoring import ONE, ZERO
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent

if TYPE_CHECKING:
    from fhir_gateway.contracts.arrangements.shared_savings import SharedSavings

_METRIC = "shared-saving-deficit"


class Payment:
    """The last steps of one settlement."""

    def __init__(self, terms: SharedSavings, target: Number, part: Decimal, ledger: Ledger) -> None:
        self.terms = terms
        self.target = target
        self.part = part  # of the period: of an amount agreed for the whole one, so much counts
        self.fees = None if terms.fees is None else terms.fees * part
        self.ledger = ledger
        self.where = terms.where

    def pay_savings(self, amount: Number) -> None:
        """Sequestration, then caps, floor, proration, advances, what is paid."""
        terms, where, add = self.terms, self.where, self.ledger.add
        if terms.sequestration:
            value, formula = amount.value * (1 - terms.sequestration), f"x (1 - {percent(terms.sequestration)})"
            amount = add("sequestered", value, "After sequestration", formula, f"{where}.sequestration", (amount,))
        amount = self._cap(amount)
        if amount.value < terms.floor * self.part:
            note = f"below {terms.floor * self.part}: not paid"
            amount = add("floored", ZERO, "Share from the floor on", note, f"{where}.floor", (amount,))
        amount = self._prorate(amount)
        if terms.advances:
            term, formula = f"{where}.advances", "the lesser of the share and what is outstanding"
            value = min(amount.value, terms.advances)
            kept = add("recouped", value, "Advance payments made good", formula, term, (amount,))
            left = terms.advances - kept.value
            add("advances-left", left, "Advance payments outstanding", "as agreed - made good", term, (kept,))
            value, formula = amount.value - kept.value, "share - advance payments made good"
            amount = add("after-advances", value, "Share after advance payments", formula, term, (amount, kept))
        self.ledger.pay(amount, "Shared savings", where, _METRIC)

    def pay_losses(self, amount: Number) -> None:
        """Limit, proration, relief, what is owed."""
        losses = self.terms.losses
        if losses is not None:
            amount = self._prorate(self._limit(amount, losses))
            amount = self._relieve(amount, losses)
        self.ledger.pay(amount, "Shared losses", self.where, _METRIC)

    def _cap(self, amount: Number) -> Number:
        """The least of all caps that are agreed."""
        terms, where, add = self.terms, self.where, self.ledger.add
        caps = []
        if terms.cap is not None:
            caps.append((terms.cap * self.target.value, f"{percent(terms.cap)} of target", "cap"))
        if terms.cap_of_fees is not None and self.fees is not None:
            note = f"{percent(terms.cap_of_fees)} of {self.fees}"
            caps.append((terms.cap_of_fees * self.fees, note, "cap_of_fees"))
        if terms.cap_amount is not None:
            caps.append((terms.cap_amount * self.part, agreed(self.part), "cap_amount"))
        if not caps:
            return amount
        value, formula, name = min(caps)
        if len(caps) > 1:
            formula += ", the least of the caps"
        term = f"{where}.{name}"
        because = (self.target,) if name == "cap" else ()
        cap = add("cap", value, "Most that is paid", formula, term, because, metric="potential-upside-ssl")
        value = min(amount.value, cap.value)
        return add("capped", value, "Share within the cap", "the lesser", term, (amount, cap))

    def _limit(self, amount: Number, losses: Losses) -> Number:
        """The least of all limits that are agreed."""
        where, add, fees = f"{self.where}.losses", self.ledger.add, self.fees
        limits = [] if losses.limit_amount is None else [losses.limit_amount * self.part]
        if losses.limit is not None:
            limits.append(losses.limit * self.target.value)
        if losses.limit_of_fees is not None and fees is not None:
            limits.append(losses.limit_of_fees * fees)
        if not limits:
            return amount
        term, note = f"{where}.limit", "the lesser of the limits"
        limit = add(
            "loss-limit", -min(limits), "Most that is owed", note, term, (self.target,), metric="potential-downside-ssl"
        )
        value = max(amount.value, limit.value)
        return add("limited", value, "Losses within the limit", "the smaller loss", term, (amount, limit))

    def _prorate(self, amount: Number) -> Number:
        months = self.terms.participation_months
        if months == 12:
            return amount
        term, formula = f"{self.where}.participation_months", f"x {months} / 12 months"
        value = amount.value * months / Decimal(12)
        return self.ledger.add("prorated", value, "For the months of participation", formula, term, (amount,))

    def _relieve(self, amount: Number, losses: Losses) -> Number:
        where, add = f"{self.where}.losses", self.ledger.add
        label = "Losses after relief"
        if losses.disaster is not None:
            months, share = losses.disaster.months, losses.disaster.share
            part = months / Decimal(12) * share
            formula = f"{months} / 12 months x {percent(share)} of members"
            relief = add("relief", part, "Part of losses forgiven", formula, f"{where}.disaster", unit="1")
            value = amount.value * (ONE - relief.value)
            return add("relieved", value, label, "x (1 - part forgiven)", f"{where}.disaster", (amount, relief))
        if losses.relief:
            value, formula = amount.value * (1 - losses.relief), f"x (1 - {percent(losses.relief)})"
            return add("relieved", value, label, formula, f"{where}.relief", (amount,))
        if losses.relief_amount:
            value, formula = min(ZERO, amount.value + losses.relief_amount), f"+ {losses.relief_amount}, not above 0"
            return add("relieved", value, label, formula, f"{where}.relief_amount", (amount,))
        return amount
