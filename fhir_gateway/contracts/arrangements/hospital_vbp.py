"""Hospital value-based purchasing: payments withheld from all hospitals of a programme, paid back by performance."""

from __future__ import annotations

from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.apportion import apportion_by
from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import AMOUNT, Needs
from fhir_gateway.contracts.scoring import ZERO
from fhir_gateway.contracts.scoring import hospital_vbp as rules
from fhir_gateway.contracts.scoring.hospital_vbp import HospitalVbpYear, MeasurePoints, Rates, WeightedDomain
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

#: Base operating payments of every hospital of the programme.
HOSPITALS_SCHEMA = pa.schema([pa.field("hospital", pa.string(), False), pa.field("base", AMOUNT, False)])
#: What every hospital reached, and the standards; ``weight``: predicted infections, of parts of a combined measure.
RATES_SCHEMA = pa.schema(
    [
        pa.field("hospital", pa.string(), False),
        pa.field("measure", pa.string(), False),
        pa.field("threshold", AMOUNT, False),
        pa.field("benchmark", AMOUNT, False),
        pa.field("performance", AMOUNT, False),
        pa.field("baseline", AMOUNT),
        pa.field("floor", AMOUNT),
        pa.field("weight", AMOUNT),
    ]
)


@arrangement("hospital_vbp")
class HospitalVbp(ArrangementTerms):
    """Terms of hospital value-based purchasing; domains and weights by ``year``, or the contract's own in ``rules``.

    Dimensions of a survey are the measures that have a ``floor``; a hospital needs as many as any hospital has.
    """

    kind: Literal["hospital_vbp"]
    hospital: str = Field(description="The contract's hospital in the tables.")
    year: int
    rules: HospitalVbpYear | None = Field(default=None, description="Own table; default the one shipped for the year.")
    hospitals_table: str = "hospitals"
    rates_table: str = "rates"

    metrics = ("performance-qip", "interim-pmt-rate", "drg-expense", "potential-upside-qip", "earnings-qip")

    def stream(self) -> str:
        """Quality incentive payment, pay for performance."""
        return "p4p"

    def uses_quality(self) -> bool:
        """Quality is in its own tables, not among the contract's measures."""
        return False

    def needs(self) -> Needs:
        """Hospitals and rates of the programme."""
        return Needs(tables={self.hospitals_table: HOSPITALS_SCHEMA, self.rates_table: RATES_SCHEMA})

    @property
    def table(self) -> HospitalVbpYear:
        """The rules that hold."""
        return self.rules or HospitalVbpYear.of(self.year)

    def problems(self) -> list[str]:
        """Domains that weigh other than 1 together, or share a measure."""
        try:
            table = self.table
        except ContractError as error:
            return [f"{self.where}.year: {error.message}"]
        found = []
        total = sum((domain.weight for domain in table.domains), ZERO)
        if total != 1:
            found.append(f"{self.where}.rules.domains: their weights sum to {total}, not 1")
        named = [name for domain in table.domains for name in domain.measures]
        twice = sorted({name for name in named if named.count(name) > 1})
        found += [f"{self.where}.rules.domains: measure '{name}' is in two" for name in twice]
        if table.min_domains > len(table.domains):
            found.append(f"{self.where}.rules.min_domains: more than there are")
        return found

    def carried_on(self) -> Carried:
        """By scores and tables as they stand."""
        return "scores"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Scores of all hospitals, exchange function, what the contract's hospital gains or loses."""
        facts = inputs.columns()
        bases = {row["hospital"]: row["base"] for row in facts.table(self.hospitals_table).to_pylist()}
        if self.hospital not in bases:
            raise ContractError(f"{self.where}.hospital: is not in tables.{self.hospitals_table}")
        rates: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for row in facts.table(self.rates_table).to_pylist():
            rates[row["hospital"]][row["measure"]] = row
        dimensions = {name for mine in rates.values() for name, row in mine.items() if row["floor"] is not None}
        scored = {
            name: domains
            for name in bases
            if (domains := self._domains(rates.get(name, {}), dimensions, None)) is not None
        }
        self._settle(bases, rates, dimensions, scored, ledger)

    def _settle(
        self,
        bases: dict[str, Decimal],
        rates: dict[str, dict[str, dict[str, Any]]],
        dimensions: set[str],
        scored: dict[str, dict[str, WeightedDomain]],
        ledger: Ledger,
    ) -> None:
        withhold = self.table.withhold
        base = ledger.add(
            "base",
            bases[self.hospital],
            "Base operating payments",
            f"tables.{self.hospitals_table}",
            self.where,
            metric="drg-expense",
        )
        own = self._domains(rates.get(self.hospital, {}), dimensions, ledger)
        if own is None:
            note = f"fewer than {self.table.min_domains} domains: the programme does not apply"
            ledger.pay(
                ledger.add("excluded", ZERO, "Outside the programme", note, f"{self.where}.rules", (base,)),
                "Value-based incentive",
                self.where,
                "earnings-qip",
            )
            return
        lines = [self._domain_line(name, domain, ledger) for name, domain in own.items()]
        total = ledger.add(
            "total-performance-score",
            rules.total_performance_score(own),
            "Total Performance Score",
            "sum of weighted domain scores",
            f"{self.where}.rules",
            lines,
            unit="1",
            metric="performance-qip",
        )
        totals = {name: rules.total_performance_score(domains) for name, domains in scored.items()}
        exchange = rules.exchange([(bases[name], totals[name]) for name in totals], withhold)
        slope = ledger.add(
            "slope",
            exchange.slope,
            "Slope of the exchange function",
            f"sum of bases / sum of base x score / 100, over {len(totals)} hospitals",
            f"{self.where}.rules.withhold",
            unit="1",
            evidence={"table": self.rates_table},
        )
        factor = ledger.add(
            "factor",
            exchange.payment_factor(total.value),
            "Payment factor",
            f"1 - {percent(withhold)} + {percent(withhold)} x score / 100 x slope",
            f"{self.where}.rules.withhold",
            (total, slope),
            unit="1",
            metric="interim-pmt-rate",
        )
        self._pay(bases, totals, base, factor, ledger)

    def _pay(
        self, bases: dict[str, Decimal], totals: dict[str, Decimal], base: Number, factor: Number, ledger: Ledger
    ) -> None:
        cents = Decimal("0.01")
        withheld = {name: (bases[name] * self.table.withhold).quantize(cents, ROUND_HALF_UP) for name in totals}
        pool = sum(withheld.values(), ZERO)
        shares = apportion_by(pool, {name: bases[name] * totals[name] for name in totals})
        term = f"{self.where}.rules.withhold"
        kept = ledger.add(
            "withheld",
            withheld[self.hospital],
            "Withheld",
            f"{percent(self.table.withhold)} of base, to the cent",
            term,
            (base,),
        )
        share = ledger.add(
            "incentive",
            shares[self.hospital],
            "Value-based incentive payment",
            f"{pool} withheld from all, shared by base x score to the last cent (largest remainder): base x (factor - 1"
            " + withhold) but for that cent",
            term,
            (base, factor),
            metric="potential-upside-qip",
        )
        net = ledger.add(
            "net", share.value - kept.value, "Gained or lost", "incentive payment - withheld", term, (share, kept)
        )
        ledger.pay(net, "Value-based incentive", self.where, "earnings-qip")

    def _domain_line(self, name: str, domain: WeightedDomain, ledger: Ledger) -> Number:
        return ledger.add(
            f"{name}.weighted",
            domain.weighted,
            f"{name}: weighted domain score",
            f"{domain.weight.normalize():f} x {domain.score.normalize():f} (weight after missing domains)",
            f"{self.where}.rules.domains.{name}",
            unit="1",
        )

    def _domains(
        self, rates: dict[str, dict[str, Any]], dimensions: set[str], ledger: Ledger | None
    ) -> dict[str, WeightedDomain] | None:
        """Weighted domains of a hospital; its points go into the ledger when there is one."""
        points = {name: rules.measure_points(_rates(row)) for name, row in rates.items()}
        if ledger is not None:
            for name in sorted(points):
                self._points_line(name, rates[name], points[name], ledger)
        scores: dict[str, Decimal | None] = {}
        for domain in self.table.domains:
            if domain.survey:
                scores[domain.id] = _survey(rates, points, dimensions)
                continue
            parts = {part for names in domain.parts.values() for part in names}
            scored = [points[name].score for name in domain.measures if name in points and name not in parts]
            for names in domain.parts.values():
                there = [name for name in names if name in points]
                if len(there) > 1 and any(rates[name]["weight"] is None for name in there):
                    raise ContractError(f"tables.{self.rates_table}: {' and '.join(there)} need a weight each")
                weighed = [(points[name].score, rates[name]["weight"] or Decimal(1)) for name in there]
                if (whole := rules.combined_score(weighed)) is not None:
                    scored.append(whole)
            scores[domain.id] = rules.domain_score(scored, domain.min_measures)
        weights = {domain.id: domain.weight for domain in self.table.domains}
        return rules.weighted_domains(scores, weights, self.table.min_domains)

    def _points_line(self, name: str, row: dict[str, Any], points: MeasurePoints, ledger: Ledger) -> None:
        standards = f"threshold {row['threshold'].normalize():f}, benchmark {row['benchmark'].normalize():f}"
        before = "none" if row["baseline"] is None else f"{row['baseline'].normalize():f}"
        ledger.add(
            f"{name}.points",
            Decimal(points.score),
            f"{name}: points",
            f"better of achievement {points.achievement} and improvement {points.improvement or 0}; performance"
            f" {row['performance'].normalize():f}, baseline {before}, {standards}",
            f"tables.{self.rates_table}",
            unit="1",
        )


def _rates(row: dict[str, Any]) -> Rates:
    return Rates(row["threshold"], row["benchmark"], row["performance"], row["baseline"], row["floor"])


def _survey(rates: dict[str, dict[str, Any]], points: dict[str, MeasurePoints], dimensions: set[str]) -> Decimal | None:
    """Base plus consistency points; None unless all dimensions are there."""
    if not dimensions or not dimensions <= rates.keys():
        return None
    names = sorted(dimensions)
    base = rules.survey_base([points[name].score for name in names])
    consistency = rules.consistency_points([_rates(rates[name]) for name in names])
    return None if base is None or consistency is None else Decimal(base + consistency)
