"""Medical loss ratio of an insurer: what it pays back when too little of the premium went into care."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import AMOUNT, Needs
from fhir_gateway.contracts.scoring import ZERO
from fhir_gateway.contracts.scoring import medical_loss_ratio as rules
from fhir_gateway.contracts.scoring.medical_loss_ratio import Experience, Market, MedicalLossRatioYear, Ratio
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

#: A row per reporting year, the newest three count. ``net_transfers``: paid less received for risk adjustment,
#: reinsurance and corridors. Without ``quality_improvement`` the flat part of the premium counts.
EXPERIENCE_SCHEMA = pa.schema(
    [
        pa.field("year", pa.int64(), False),
        pa.field("claims", AMOUNT, False),
        pa.field("premium", AMOUNT, False),
        pa.field("taxes", AMOUNT, False),
        pa.field("member_months", AMOUNT, False),
        pa.field("quality_improvement", AMOUNT),
        pa.field("fraud_reduction", AMOUNT),
        pa.field("net_transfers", AMOUNT),
        pa.field("deductible", AMOUNT),
    ]
)
SUBSCRIBERS_SCHEMA = pa.schema([pa.field("subscriber", pa.string(), False), pa.field("premium", AMOUNT, False)])


@arrangement("medical_loss_ratio")
class MedicalLossRatio(ArrangementTerms):
    """Terms of a medical loss ratio; standard and credibility by ``market`` and ``year``, or stated in ``rules``.

    The payer of the contract is the insurer; what it pays back is positive.
    """

    kind: Literal["medical_loss_ratio"]
    market: str = Field(
        description="individual, small_group, large_group, medicare_advantage, part_d, medicaid, or one of ``rules``."
    )
    year: int
    rules: Market | None = Field(default=None, description="Own rules; default those shipped for the market.")
    experience_table: str = "experience"
    subscribers_table: str | None = Field(default=None, description="Table (subscriber, premium) to share out by.")

    metrics = ("revenue", "med-cost", "med-loss-ratio", "med-loss-ratio-target", "member-months", "earnings-cap")

    def stream(self) -> str:
        """Total cost of care."""
        return "tcoc"

    def uses_quality(self) -> bool:
        """Quality plays no part."""
        return False

    def needs(self) -> Needs:
        """The accounts, and who paid the premium."""
        shared = {self.subscribers_table: SUBSCRIBERS_SCHEMA} if self.subscribers_table else {}
        return Needs(tables={self.experience_table: EXPERIENCE_SCHEMA} | shared)

    @property
    def table(self) -> Market:
        """The rules that hold."""
        if self.rules is not None:
            return self.rules
        markets = MedicalLossRatioYear.of(self.year).markets
        if self.market not in markets:
            raise ContractError(f"market: there is no '{self.market}' (there are {', '.join(sorted(markets))})")
        return markets[self.market]

    def problems(self) -> list[str]:
        """A market or year without rules; credibility that is no table."""
        try:
            market = self.table
        except ContractError as error:
            return [f"{self.where}: {error.message}"]
        exposures = [at for at, _ in market.credibility]
        if not exposures or exposures != sorted(set(exposures)):
            return [f"{self.where}.rules.credibility: exposures do not grow"]
        return []

    def carried_on(self) -> Carried:
        """Not at all: accounts are of whole years."""
        raise self.not_carried("its accounts are of whole years")

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Numerator, denominator, credibility, ratio, rebate, who gets it."""
        market = self.table
        rows = inputs.columns().table(self.experience_table).to_pylist()
        years = sorted((experience(row) for row in rows if row["year"] <= self.year), key=lambda one: one.year)
        if not years or years[-1].year != self.year:
            raise ContractError(f"tables.{self.experience_table}: there is no row of {self.year}")
        if any(one.denominator <= 0 for one in years):
            raise ContractError(f"tables.{self.experience_table}: a year's premium does not exceed its taxes and fees")
        found = rules.loss_ratio(years, market)
        ratio = self._ratio_lines(found, market, min(len(years), 1 if market.single_year else 3), ledger)
        last = years[-1]
        term = f"{self.where}.rules.standard"
        standard = ledger.add(
            "standard",
            market.standard,
            "Standard",
            f"{self.market}, {self.year}",
            term,
            unit="1",
            metric="med-loss-ratio-target",
        )
        base = ledger.add(
            "adjusted-premium",
            last.denominator,
            f"Premium of {self.year} less taxes and fees",
            "of the reporting year only",
            f"tables.{self.experience_table}",
            metric="revenue",
        )
        value = rules.rebate(found, market, last)
        formula = "(standard - ratio) x premium less taxes and fees"
        if not found.is_credible:
            formula = "too little experience to judge: presumed to meet the standard"
        elif not value:
            formula = "the ratio meets the standard"
        total = ledger.add("rebate", value, "Rebate", formula, term, (ratio, standard, base))
        self._sanctions(years, market, ratio, ledger)
        if self.subscribers_table is not None:
            self._share(total, market, inputs, ledger)
        ledger.pay(total, "Rebate", self.where, "earnings-cap")

    def _ratio_lines(self, found: Ratio, market: Market, years: int, ledger: Ledger) -> Number:
        source = f"tables.{self.experience_table}"
        span = f"sum of {years} years" if years > 1 else "of the year"
        numerator = ledger.add(
            "numerator",
            found.numerator,
            "Claims, quality improvement, fraud reduction, net transfers",
            span,
            source,
            metric="med-cost",
        )
        denominator = ledger.add("denominator", found.denominator, "Premium less taxes and fees", span, source)
        exposure = ledger.add("exposure", found.exposure, market.exposure.replace("_", " "), span, source, unit="1")
        added = ledger.add(
            "credibility",
            found.credibility,
            "Credibility adjustment",
            "by exposure and average deductible, interpolated" if found.is_credible else "not credible",
            f"{self.where}.rules.credibility",
            (exposure,),
            unit="1",
        )
        return ledger.add(
            "ratio",
            found.ratio,
            "Medical loss ratio",
            "numerator / denominator + credibility, three decimals",
            f"{self.where}.rules",
            (numerator, denominator, added),
            unit="1",
            metric="med-loss-ratio",
        )

    def _sanctions(self, years: list[Experience], market: Market, ratio: Number, ledger: Ledger) -> None:
        """What follows when the ratio stays below the standard for years."""
        if not market.sanctions:
            return
        below = rules.years_below(years, market)
        due = [what for count, what in market.sanctions if below >= count]
        ledger.add(
            "years-below",
            Decimal(below),
            "Years in a row below the standard",
            "; ".join(due) or "; ".join(f"{count}: {what}" for count, what in market.sanctions),
            f"{self.where}.rules.sanctions",
            (ratio,),
            unit="a",
        )

    def _share(self, total: Number, market: Market, inputs: SettlementInputs, ledger: Ledger) -> None:
        """How the rebate is shared out: numbers only, the shares are :func:`rules.rebates` of the table."""
        rows = inputs.columns().table(self.subscribers_table or "").to_pylist()
        premiums: dict[str, Decimal] = {}
        for row in rows:
            premiums[row["subscriber"]] = premiums.get(row["subscriber"], ZERO) + row["premium"]
        shares = rules.rebates(total.value, premiums, market.de_minimis)
        paid = [share for share in shares.values() if share]
        ledger.add(
            "subscribers-paid",
            Decimal(len(paid)),
            "Subscribers with a rebate",
            f"of {len(shares)}; pro rata to premium, shares below {market.de_minimis} go to the others in equal parts",
            f"{self.where}.rules.de_minimis",
            (total,),
            unit="{subscribers}",
            evidence={"table": self.subscribers_table or "", "lowest": str(min(paid, default=ZERO))},
        )


def experience(row: dict[str, Any]) -> Experience:
    """A year of accounts out of a row of :data:`EXPERIENCE_SCHEMA`."""
    return Experience(
        year=row["year"],
        claims=row["claims"],
        premium=row["premium"],
        taxes=row["taxes"],
        member_months=row["member_months"],
        quality_improvement=row["quality_improvement"],
        fraud_reduction=row["fraud_reduction"] or ZERO,
        net_transfers=row["net_transfers"] or ZERO,
        deductible=row["deductible"],
    )
