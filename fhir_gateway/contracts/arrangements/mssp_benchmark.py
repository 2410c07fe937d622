"""The benchmark of a Shared Savings Program agreement, built from claims and the program's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import Exposure, SettlementInputs
from fhir_gateway.contracts.arrangements.facts import AMOUNT, Facts, Needs
from fhir_gateway.contracts.arrangements.mssp_rules import BenchmarkRules, mssp_rules
from fhir_gateway.contracts.arrangements.shared_savings_parts import Guardrail, Target
from fhir_gateway.contracts.benchmarks.adjustment import (
    final_adjustment,
    population_adjustment,
    prior_savings_adjustment,
)
from fhir_gateway.contracts.benchmarks.blend import weighted
from fhir_gateway.contracts.benchmarks.historical import Benchmark, TypeYear, total
from fhir_gateway.contracts.benchmarks.person_years import ENROLMENT_SCHEMA, TYPES, TypeCost, type_costs
from fhir_gateway.contracts.scoring import ONE, ZERO
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA, underserved
from fhir_gateway.contracts.terms import Fraction, Terms
from fhir_gateway.errors import ContractError

#: What the program publishes per year and enrolment type.
TYPES_SCHEMA = pa.schema(
    [
        pa.field("year", pa.int64(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("risk", AMOUNT, nullable=False),
        pa.field("national", AMOUNT, nullable=False),
        pa.field("regional", AMOUNT, nullable=False),
        ("demographic", AMOUNT),
        ("truncation", AMOUNT),
        ("completion", AMOUNT),
    ]
)


class PriorSavings(Terms):
    """Mean net savings per capita of the three years before the agreement, and how persons grew since."""

    net_per_capita: Decimal
    growth: Annotated[Decimal, Field(gt=0)] = ONE


class HistoricalBenchmark(Terms):
    """Base years, weights and adjustments; the tables `enrolment` and `benchmark_types` come with the contract."""

    base_years: tuple[int, int, int]
    year: int
    agreement: Literal["first", "later"] = "first"
    new_rules: bool = Field(default=False, description="Agreement periods from 2024.")
    national_weight: Fraction = Field(description="Share of the region's assignable persons that are assigned.")
    regional_time: Annotated[int, Field(ge=1)] | None = Field(
        default=1, description="How often it applied; none: never."
    )
    prior_savings: PriorSavings | None = None
    dual_share: Fraction | None = Field(default=None, description="Dual eligible or low-income persons, from 2025.")
    dual_table: str | None = Field(default=None, description="Or the table of social risk that it is counted in.")
    negative_offset: Literal["none", "dual_and_risk"] = Field(
        default="none", description="What negative regional adjustments are lessened by, in agreements from 2024."
    )
    update_in_advance: dict[str, Decimal] = Field(default={}, description="Growth set in advance (ACPT) by type.")
    negative: Literal["keep", "zero"] = "keep"
    rules: BenchmarkRules | None = Field(default=None, description="In place of the shipped ones.")

    def problems(self, where: str) -> list[str]:
        """Contradictions."""
        found = []
        if list(self.base_years) != sorted(set(self.base_years)) or self.base_years[-1] >= self.year:
            found.append(f"{where}.base_years: go up to the year before {self.year}, oldest first")
        if self.update_in_advance and not self.new_rules:
            found.append(f"{where}.update_in_advance: belongs to agreement periods from 2024")
        if self.update_in_advance and sorted(self.update_in_advance) != sorted(TYPES):
            found.append(f"{where}.update_in_advance: needs {', '.join(TYPES)}")
        if self.dual_share is not None and self.dual_table is not None:
            found.append(f"{where}.dual_share: is stated, and counted in dual_table")
        if self.negative_offset == "dual_and_risk":
            if not self.new_rules:
                found.append(f"{where}.negative_offset: belongs to agreement periods from 2024")
            if self.dual_share is None and self.dual_table is None:
                found.append(f"{where}.negative_offset: needs dual_share or dual_table")
        if self.prior_savings and self.agreement == "first":
            found.append(f"{where}.prior_savings: a first agreement has none")
        return found

    def needs(self) -> Needs:
        """Claim lines of all years, enrolment by month, and what the program publishes."""
        lines = ("service_from", "paid", "denied")
        tables = {"enrolment": ENROLMENT_SCHEMA, "benchmark_types": TYPES_SCHEMA}
        if self.dual_table is not None:
            tables[self.dual_table] = SOCIAL_RISK_SCHEMA
        return Needs(lines, tables, years=(*self.base_years, self.year))

    def build(
        self, inputs: SettlementInputs, where: str, ledger: Ledger
    ) -> tuple[SettlementInputs, Target, Guardrail | None]:
        """Inputs with the year's truncated cost, the updated benchmark, and the one without the advance update."""
        rules, facts = self.rules or mssp_rules().benchmark, inputs.columns()
        types, costs = self._years(facts)
        now = types[self.year]
        work = Benchmark([types[year] for year in self.base_years], now, self.national_weight, where, ledger)
        weights = rules.first_agreement if self.agreement == "first" else rules.later_agreement
        self._add_person_years(costs, facts, where, ledger)
        historical = self._adjusted(work, work.historical(weights), rules, facts)
        risk = work.risk(rules.risk_cap, in_aggregate=self.new_rules)
        update = work.update(self.update_in_advance or None, rules.two_way_share)
        years = sum((cost.person_years for cost in costs.values()), ZERO)
        per_capita = work.updated(historical, risk, {kind: three for kind, (three, _) in update.items()}, "updated")
        target = total(per_capita, years, ledger, where, "updated-total", "Updated benchmark")
        guardrail = None
        if self.update_in_advance:
            other = work.updated(historical, risk, {kind: two for kind, (_, two) in update.items()}, "two-way")
            without = total(other, years, ledger, where, "two-way-total", "Benchmark without the advance update")
            guardrail = Guardrail(target=max(ZERO, without.value))
        spent = sum((now[kind].per_capita * cost.person_years for kind, cost in costs.items()), ZERO)
        exposure = Exposure(
            inputs.exposure.members,
            years * 12,
            spent,
            inputs.exposure.cost_before_truncation,
            sum((cost.cost for cost in costs.values()), ZERO),
            sum(cost.truncated for cost in costs.values()),
        )
        built = replace(inputs, exposure=exposure, part=ONE)  # person years are of the months so far
        return built, Target(kind="total", amount=target.value), guardrail

    def _add_person_years(self, costs: Mapping[str, TypeCost], facts: Facts, where: str, ledger: Ledger) -> None:
        """How many there are of each type, and who says so."""
        source = facts.source("enrolment")
        for kind, cost in costs.items():
            formula = f"{cost.months.normalize():f} months / 12; {source}"
            ledger.add(
                f"{kind}.person-years", cost.person_years, f"{kind}: person years", formula, where, unit="a",
                evidence={"table": "enrolment"},
            )  # fmt: skip

    def _dual(self, facts: Facts, where: str, ledger: Ledger) -> Number | None:
        """The share of persons who are dual eligible or of low income, as stated or counted."""
        share, formula, evidence = self.dual_share, "as stated", {}
        if self.dual_table is not None:
            found = underserved(facts.table(self.dual_table), facts.people["member"].combine_chunks(), 100)
            share = Decimal(found.poor) / found.members if found.members else ZERO
            formula = f"{found.poor} of {found.members} members; {facts.source(self.dual_table)}"
            evidence = {"table": self.dual_table}
        if share is None:
            return None
        label = "Dual eligible or of low income"
        return ledger.add("dual-share", share, label, formula, where, unit="1", evidence=evidence)

    def _offset(self, work: Benchmark, dual: Number | None) -> Number | None:
        """The part of negative regional adjustments that is left out: dual share and mean risk beyond 1."""
        if self.negative_offset == "none" or dual is None:
            return None
        years = [work.last[kind].person_years for kind in work.types]
        risk = weighted([work.last[kind].risk for kind in work.types], years)
        value = min(ONE, max(ZERO, dual.value + risk - 1))
        formula = f"dual share + mean risk {risk:.6f} - 1, between 0 and 1"
        label = "Offset of negative regional adjustments"
        return work.ledger.add("negative-offset", value, label, formula, work.where, (dual,), unit="1")

    def _adjusted(
        self, work: Benchmark, historical: dict[str, Number], rules: BenchmarkRules, facts: Facts
    ) -> dict[str, Number]:
        """Historical benchmark by type with the adjustment that counts."""
        ledger, where = work.ledger, work.where
        work.mix(historical, work.last, "historical-per-capita", "Historical benchmark per capita")
        national = sum((work.last[kind].national * work.last[kind].person_years for kind in work.types), ZERO)
        national /= sum((work.last[kind].person_years for kind in work.types), ZERO)
        per_type: dict[str, Number] = {}
        regional = None
        dual = self._dual(facts, where, ledger)
        if self.regional_time is not None:
            negative = rules.negative_regional_cap_from_2024 if self.new_rules else rules.negative_regional_cap
            weight = rules.regional_weight(self.regional_time)
            per_type = work.regional(
                historical, (weight.below, weight.above), (rules.regional_cap, negative), self._offset(work, dual)
            )
            regional = work.mix(per_type, work.last, "regional-per-capita", "Regional adjustment per capita")
        prior = None
        if self.prior_savings:
            stated = self.prior_savings
            value = prior_savings_adjustment(
                stated.net_per_capita, rules.prior_savings_share, stated.growth, rules.prior_savings_cap, national
            )
            formula = (
                f"{rules.prior_savings_share} x {stated.net_per_capita} x growth, at most {rules.prior_savings_cap}"
            )
            prior = ledger.add("prior-savings", value, "Prior savings adjustment per capita", formula, where)
        higher = max(regional.value if regional else ZERO, prior.value if prior else ZERO)
        population = None
        if dual is not None:
            value = population_adjustment(dual.value, rules.population_minimum, rules.population_cap, national, higher)
            formula = f"({rules.population_cap} of national - the higher of the others) x dual share"
            population = ledger.add("population", value, "Population adjustment per capita", formula, where, (dual,))
        chosen = final_adjustment(
            regional.value if regional else None,
            prior.value if prior else None,
            new_rules=self.new_rules,
            population=population.value if population else None,
        )
        because = [number for number in (regional, prior, population) if number]
        formula = f"the highest: {chosen.kind}"
        flat = ledger.add("adjustment", chosen.amount, "Adjustment per capita", formula, where, because)
        return {
            kind: ledger.add(
                f"{kind}.adjusted",
                number.value + (per_type[kind].value if chosen.kind == "regional" else flat.value),
                f"{kind}: adjusted historical benchmark",
                "historical + the adjustment",
                where,
                (number, per_type[kind] if chosen.kind == "regional" else flat),
            )
            for kind, number in historical.items()
        }

    def _years(self, facts: Facts) -> tuple[dict[int, dict[str, TypeYear]], dict[str, TypeCost]]:
        """Types by year, and what this year cost by type, from claims."""
        published = _published(facts)
        limits: dict[int, dict[str, Decimal]] = {year: {} for year in (*self.base_years, self.year)}
        for (year, kind), row in published.items():
            if year in limits and row["truncation"] is not None:
                limits[year][kind] = row["truncation"]
        enrolment = facts.table("enrolment")
        enrolment = enrolment.filter(pc.less_equal(enrolment["month"], pa.scalar(facts.period[1])))
        costs = type_costs(facts.lines, enrolment, limits, negative=self.negative)
        found: dict[int, dict[str, TypeYear]] = {}
        for year, kinds in costs.items():
            found[year] = {}
            for kind, cost in kinds.items():
                row = published.get((year, kind), {})
                if not row:
                    raise ContractError(f"tables.benchmark_types: has no row of {kind} in {year}")
                factor = ONE if row["completion"] is None else row["completion"]
                per_capita = cost.per_capita * factor
                found[year][kind] = TypeYear(
                    cost.person_years, per_capita, row["risk"], row["national"], row["regional"], row["demographic"]
                )
        return found, costs[self.year]


def _published(facts: Facts) -> dict[tuple[int, str], dict[str, Any]]:
    rows = facts.table("benchmark_types").to_pylist()
    found = {(row["year"], row["type"]): row for row in rows}
    if len(found) != len(rows):
        raise ContractError("tables.benchmark_types: a year and type is there twice")
    if any(not row["risk"] or not row["national"] or not row["regional"] for row in rows):
        raise ContractError("tables.benchmark_types: risk, national and regional are above zero")
    return found
