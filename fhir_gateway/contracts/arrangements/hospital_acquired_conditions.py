"""Hospital-acquired conditions: the worst part of a programme's hospitals lose a part of all inpatient payment."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import AMOUNT, Needs
from fhir_gateway.contracts.scoring import ONE
from fhir_gateway.contracts.scoring import acquired_conditions as rules
from fhir_gateway.contracts.scoring.acquired_conditions import AcquiredConditionsYear
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import MeasureTerms, Money
from fhir_gateway.errors import ContractError

#: Results of every hospital of the programme; more is worse.
CONDITIONS_SCHEMA = pa.schema(
    [
        pa.field("hospital", pa.string(), False),
        pa.field("measure", pa.string(), False),
        pa.field("value", AMOUNT, False),
    ]
)


@arrangement("hospital_acquired_conditions")
class HospitalAcquiredConditions(ArrangementTerms):
    """Terms of the reduction; percentiles and its size by ``year``, or the contract's own in ``rules``."""

    kind: Literal["hospital_acquired_conditions"]
    hospital: str = Field(description="The contract's hospital in the table.")
    year: int
    payments: Money = Field(description="All inpatient payment of the hospital, after other adjustments.")
    rules: AcquiredConditionsYear | None = Field(default=None, description="Own table; default the one shipped.")
    conditions_table: str = "conditions"

    metrics = ("performance-qip", "interim-pmt-rate", "drg-expense", "earnings-qip")

    def stream(self) -> str:
        """Quality incentive payment."""
        return "qip"

    def uses_quality(self) -> bool:
        """Results are in its own table, not among the contract's measures."""
        return False

    def needs(self) -> Needs:
        """Results of all hospitals."""
        return Needs(tables={self.conditions_table: CONDITIONS_SCHEMA})

    @property
    def table(self) -> AcquiredConditionsYear:
        """The rules that hold."""
        return self.rules or AcquiredConditionsYear.of(self.year)

    def problems(self) -> list[str]:
        """A year without rules; percentiles in the wrong order."""
        try:
            low, high = self.table.winsor
        except ContractError as error:
            return [f"{self.where}.year: {error.message}"]
        return [] if low < high else [f"{self.where}.rules.winsor: the lower percentile is not below the upper"]

    def carried_on(self) -> Carried:
        """By scores and tables as they stand."""
        return "scores"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Z-scores, total, the cut over all hospitals, reduction."""
        table, where = self.table, self.where
        results: dict[str, dict[str, Decimal]] = defaultdict(dict)
        for row in inputs.columns().table(self.conditions_table).to_pylist():
            if row["measure"] in table.measures:
                results[row["measure"]][row["hospital"]] = row["value"]
        scores: dict[str, dict[str, Decimal]] = defaultdict(dict)
        for name, values in results.items():
            for hospital, score in rules.z_scores(values, table.winsor).items():
                scores[hospital][name] = score
        each = {name: rules.total_score(list(of.values())) for name, of in scores.items()}
        totals = {name: mean for name, mean in each.items() if mean is not None}
        paid = ledger.add("payments", self.payments, "Inpatient payments", "as agreed", where, metric="drg-expense")
        if self.hospital not in totals:
            note = "the hospital has no result: the programme does not apply"
            outside = ledger.add("excluded", Decimal(0), "Outside the programme", note, where, (paid,))
            ledger.pay(outside, "Hospital-acquired conditions", where, "earnings-qip")
            return
        lines = [
            ledger.add(
                f"{name}.z",
                score,
                f"{name}: z-score",
                f"result {results[name][self.hospital].normalize():f} against {len(results[name])} hospitals,"
                f" winsorised at {percent(table.winsor[0])} and {percent(table.winsor[1])}",
                f"{where}.rules.winsor",
                unit="1",
            )
            for name, score in sorted(scores[self.hospital].items())
        ]
        total = ledger.add(
            "total",
            totals[self.hospital],
            "Total score",
            "mean of the z-scores",
            f"{where}.rules",
            lines,
            unit="1",
            metric="performance-qip",
        )
        cut = ledger.add(
            "cut",
            rules.percentile(list(totals.values()), table.cut_percentile),
            "Cut",
            f"percentile {percent(table.cut_percentile)} of {len(totals)} hospitals",
            f"{where}.rules.cut_percentile",
            unit="1",
        )
        worst = rules.is_reduced(total.value, cut.value)
        factor = ledger.add(
            "factor",
            rules.payment_factor(total.value, cut.value, table.reduction),
            "Payment factor",
            f"above the cut: 1 - {percent(table.reduction)}" if worst else "not above the cut",
            f"{where}.rules.reduction",
            (total, cut),
            unit="1",
            metric="interim-pmt-rate",
        )
        lost = ledger.add(
            "lost", paid.value * (factor.value - ONE), "Lost", "payments x (factor - 1)", where, (paid, factor)
        )
        ledger.pay(lost, "Hospital-acquired conditions", where, "earnings-qip")
