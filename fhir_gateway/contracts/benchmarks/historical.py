"""Historical benchmark of the Shared Savings Program, and its update (42 CFR 425.601, 425.652); all steps are lines.

Base years are trended to the last one by a blend of national and regional growth, risk-adjusted to it and weighted; the
adjustment per capita is added; then risk ratio and update factor carry the benchmark of each enrolment type into the
performance year, whose mix of types weights them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fhir_gateway.contracts.benchmarks.adjustment import regional_adjustment
from fhir_gateway.contracts.benchmarks.blend import ZERO, blended, weighted
from fhir_gateway.contracts.benchmarks.risk import capped_in_aggregate, capped_ratio
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.errors import ContractError


@dataclass(frozen=True, slots=True)
class TypeYear:
    """An enrolment type in a year: the ACO's persons, cost and risk; national and regional cost per capita.

    ``regional`` is risk-standardised: cost per capita at a score of 1. ``demographic`` is the mean demographic score.
    """

    person_years: Decimal
    per_capita: Decimal
    risk: Decimal
    national: Decimal
    regional: Decimal
    demographic: Decimal | None = None


Year = Mapping[str, TypeYear]


class Benchmark:
    """The arithmetic, for the types that have persons in the last base year."""

    def __init__(self, base: Sequence[Year], year: Year, national_weight: Decimal, where: str, ledger: Ledger) -> None:
        self.base = base
        self.year = year
        self.national_weight = national_weight
        self.where = where
        self.ledger = ledger
        self.types = [kind for kind in base[-1] if any(by.get(kind) and by[kind].person_years for by in base)]
        lost = [kind for kind, now in year.items() if now.person_years and kind not in self.types]
        if lost:
            raise ContractError(f"{where}: {', '.join(lost)} has persons now and none in the base years")
        if not self.types:
            raise ContractError(f"{where}: nobody was in the base years")

    @property
    def last(self) -> Year:
        """The last base year."""
        return self.base[-1]

    def growth(self, kind: str, start: TypeYear, end: TypeYear, name: str) -> Number:
        """Blend of national and regional growth."""
        national, regional = end.national / start.national, end.regional / start.regional
        value = blended(national, regional, self.national_weight)
        formula = f"{self.national_weight} x national {national:.6f} + the rest x regional {regional:.6f}"
        return self.ledger.add(f"{kind}.{name}", value, f"{kind}: growth, {name}", formula, self.where, unit="1")

    def historical(self, weights: Sequence[Decimal]) -> dict[str, Number]:
        """Per capita by type: trended and risk-adjusted to the last base year, weighted over years with persons."""
        found = {}
        for kind in self.types:
            end, parts, shares = self.last[kind], [], []
            for number, (by, weight) in enumerate(zip(self.base, weights, strict=True), 1):
                start = by.get(kind)
                if start is None or not start.person_years:
                    continue
                name = f"BY{number}"
                formula = f"cost / {start.person_years:.4f} person years"
                part = self.ledger.add(
                    f"{kind}.{name}", start.per_capita, f"{kind}: per capita, {name}", formula, self.where
                )
                if by is not self.last:
                    growth = self.growth(kind, start, end, f"{name}-to-last")
                    formula = f"x growth x risk {end.risk} / {start.risk}"
                    part = self.ledger.add(
                        f"{kind}.{name}.adjusted", part.value * growth.value * end.risk / start.risk,
                        f"{kind}: per capita, {name}, as of the last base year", formula, self.where, (part, growth),
                    )  # fmt: skip
                parts.append(part)
                shares.append(weight)
            value = weighted([part.value for part in parts], shares)
            formula = f"mean of base years by {', '.join(map(str, shares))}"
            label = f"{kind}: historical benchmark"
            found[kind] = self.ledger.add(f"{kind}.historical", value, label, formula, self.where, parts)
        return found

    def mix(self, per_type: Mapping[str, Number], year: Year, name: str, label: str) -> Number:
        """Mean over types by person years of a year."""
        kinds = [kind for kind in self.types if kind in year and year[kind].person_years]
        value = weighted([per_type[kind].value for kind in kinds], [year[kind].person_years for kind in kinds])
        because = [per_type[kind] for kind in kinds]
        return self.ledger.add(name, value, label, "mean over types by person years", self.where, because)

    def regional(
        self,
        historical: Mapping[str, Number],
        weights: tuple[Decimal, Decimal],
        caps: tuple[Decimal, Decimal],
        offset: Number | None = None,
    ) -> dict[str, Number]:
        """Regional adjustment per type; ``weights`` below and above the region, decided once for all types.

        ``offset``: the part of negative ones that is left out.
        """
        gaps = {kind: self.last[kind].regional * self.last[kind].risk - historical[kind].value for kind in self.types}
        shares = [self.last[kind].person_years for kind in self.types]
        below = sum(gap * share for gap, share in zip(gaps.values(), shares, strict=True)) >= 0
        weight, (cap, negative) = weights[0 if below else 1], caps
        found = {}
        for kind, gap in gaps.items():
            national = self.last[kind].national
            region = gap + historical[kind].value
            less = offset.value if offset is not None else ZERO
            value = regional_adjustment(region, historical[kind].value, weight, national, cap, negative, less)
            formula = f"{weight} x (region {region:.2f} - own), within +{cap} and -{negative} of national"
            because = [historical[kind]]
            if offset is not None and value < 0:
                formula += ", less the offset"
                because.append(offset)
            label = f"{kind}: regional adjustment"
            found[kind] = self.ledger.add(f"{kind}.regional", value, label, formula, self.where, because)
        return found

    def risk(self, cap: Decimal, *, in_aggregate: bool) -> dict[str, Number]:
        """Risk ratio of each type from the last base year, capped each, or only when all together grow too much."""
        kinds = [kind for kind in self.types if kind in self.year and self.year[kind].person_years]
        ratios = {kind: self.year[kind].risk / self.last[kind].risk for kind in kinds}
        note = f"at most 1 + {cap}"
        if in_aggregate:
            capped, note = self._aggregate(ratios, cap)
        else:
            capped = {kind: capped_ratio(ratio, cap) for kind, ratio in ratios.items()}
        return {
            kind: self.ledger.add(
                f"{kind}.risk", capped[kind], f"{kind}: risk ratio",
                f"{self.year[kind].risk} / {self.last[kind].risk}, {note}", self.where, unit="1",
            )
            for kind in kinds
        }  # fmt: skip

    def _aggregate(self, ratios: Mapping[str, Decimal], allowance: Decimal) -> tuple[dict[str, Decimal], str]:
        demographic = {}
        for kind in ratios:
            now, before = self.year[kind].demographic, self.last[kind].demographic
            if now is None or not before:
                raise ContractError(f"{self.where}: the cap on all types together needs demographic scores of {kind}")
            demographic[kind] = now / before
        weights = {kind: self.year[kind].person_years * self.last[kind].per_capita for kind in ratios}
        capped, aggregate, cap = capped_in_aggregate(ratios, demographic, weights, allowance)
        return capped, f"at most {cap:.6f} as all types together grow by {aggregate:.6f}"

    def update(self, acpt: Mapping[str, Decimal] | None, two_way_share: Decimal) -> dict[str, tuple[Number, Number]]:
        """Update factor of each type: with the growth set in advance where there is one, and without it."""
        found = {}
        for kind in self.types:
            if kind not in self.year or not self.year[kind].person_years:
                continue
            two = self.growth(kind, self.last[kind], self.year[kind], "update")
            three = two
            if acpt is not None:
                value = blended(two.value, acpt[kind], two_way_share)
                formula = f"{two_way_share:.4f} x two-way + the rest x growth set in advance {acpt[kind]}"
                label = f"{kind}: three-way update"
                three = self.ledger.add(f"{kind}.update-3", value, label, formula, self.where, (two,), unit="1")
            found[kind] = (three, two)
        return found

    def updated(
        self, historical: Mapping[str, Number], risk: Mapping[str, Number], update: Mapping[str, Number], name: str
    ) -> Number:
        """Benchmark per capita of the performance year."""
        per_type = {
            kind: self.ledger.add(
                f"{kind}.{name}", historical[kind].value * risk[kind].value * factor.value, f"{kind}: {name} benchmark",
                "historical benchmark x risk ratio x update", self.where, (historical[kind], risk[kind], factor),
            )
            for kind, factor in update.items()
        }  # fmt: skip
        return self.mix(per_type, self.year, f"{name}-per-capita", f"Benchmark per capita, {name}")


def total(per_capita: Number, person_years: Decimal, ledger: Ledger, where: str, name: str, label: str) -> Number:
    """Per capita times person years (not heads)."""
    formula = f"per capita x {person_years:.4f} person years"
    return ledger.add(name, per_capita.value * person_years, label, formula, where, (per_capita,))
