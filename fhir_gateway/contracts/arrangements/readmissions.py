"""Readmission penalties: excess readmissions over the median of hospitals with a like share of poor patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import AMOUNT, Needs
from fhir_gateway.contracts.scoring import ONE, ZERO
from fhir_gateway.contracts.scoring import readmissions as rules
from fhir_gateway.contracts.scoring.readmissions import Condition, ReadmissionsYear
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

#: Every hospital of the programme: base operating payments, share of stays of dually eligible patients.
HOSPITALS_SCHEMA = pa.schema(
    [
        pa.field("hospital", pa.string(), False),
        pa.field("base", AMOUNT, False),
        pa.field("dual_proportion", AMOUNT),
    ]
)
#: Conditions of every hospital; ``payment_ratio`` is the condition's part in the hospital's base payments. ``median``
#: is that of the peers where it is published; otherwise it is computed from this table.
CONDITIONS_SCHEMA = pa.schema(
    [
        pa.field("hospital", pa.string(), False),
        pa.field("condition", pa.string(), False),
        pa.field("discharges", AMOUNT, False),
        pa.field("predicted", AMOUNT, False),
        pa.field("expected", AMOUNT, False),
        pa.field("payment_ratio", AMOUNT, False),
        pa.field("median", AMOUNT),
    ]
)


class _Programme(NamedTuple):
    bases: Mapping[str, Decimal]
    groups: Mapping[str, int]
    conditions: Mapping[str, Mapping[str, Condition]]  # hospital -> condition


@arrangement("readmissions")
class Readmissions(ArrangementTerms):
    """Terms of readmission penalties; cap, groups and smallest numbers by ``year``, or the contract's own in ``rules``.

    ``modifier`` is the published neutrality modifier; without one it is computed so that all penalties together are
    what they would be against a ratio of 1, without peer groups.
    """

    kind: Literal["readmissions"]
    hospital: str = Field(description="The contract's hospital in the tables.")
    year: int
    rules: ReadmissionsYear | None = Field(default=None, description="Own table; default the one shipped.")
    modifier: Annotated[Decimal, Field(ge=0)] | None = None
    hospitals_table: str = "hospitals"
    conditions_table: str = "conditions"

    metrics = ("readmission", "interim-pmt-rate", "drg-expense", "potential-downside-qip", "earnings-qip")

    def stream(self) -> str:
        """Quality incentive payment, for utilisation."""
        return "ubip"

    def uses_quality(self) -> bool:
        """Readmissions are in its own tables, not among the contract's measures."""
        return False

    def needs(self) -> Needs:
        """Hospitals and conditions of the programme."""
        return Needs(tables={self.hospitals_table: HOSPITALS_SCHEMA, self.conditions_table: CONDITIONS_SCHEMA})

    @property
    def table(self) -> ReadmissionsYear:
        """The rules that hold."""
        return self.rules or ReadmissionsYear.of(self.year)

    def problems(self) -> list[str]:
        """A year without rules; a modifier where there are no peer groups."""
        try:
            table = self.table
        except ContractError as error:
            return [f"{self.where}.year: {error.message}"]
        if self.modifier is not None and not table.peer_groups:
            return [f"{self.where}.modifier: without peer groups there is nothing to be neutral to"]
        return []

    def carried_on(self) -> Carried:
        """By scores and tables as they stand."""
        return "scores"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Excess of each condition, modifier, capped penalty, factor, what is lost."""
        programme = self._programme(inputs)
        where, table = self.where, self.table
        base = ledger.add(
            "base",
            programme.bases[self.hospital],
            "Base operating payments",
            f"tables.{self.hospitals_table}",
            where,
            metric="drg-expense",
        )
        own = programme.conditions.get(self.hospital, {})
        excesses = [self._excess(name, own[name], programme, ledger) for name in sorted(own)]
        unmodified = ledger.add(
            "unmodified",
            rules.unmodified_penalty(tuple(own.values()), table.min_discharges),
            "Excess payments as a part of base payments",
            "sum of payment ratio x excess",
            f"{where}.rules",
            excesses,
            unit="1",
        )
        modifier = self._modifier(programme, ledger)
        penalty = ledger.add(
            "penalty",
            rules.penalty(unmodified.value, modifier.value, table.cap),
            "Penalty",
            f"modifier x excess, at most {percent(table.cap)}",
            f"{where}.rules.cap",
            (unmodified, modifier),
            unit="1",
        )
        factor = ledger.add(
            "factor",
            rules.adjustment_factor(penalty.value),
            "Payment adjustment factor",
            "1 - penalty, four digits",
            f"{where}.rules",
            (penalty,),
            unit="1",
            metric="interim-pmt-rate",
        )
        lost = ledger.add(
            "lost", base.value * (factor.value - ONE), "Lost", "base x (factor - 1)", where, (base, factor)
        )
        ledger.pay(lost, "Readmission penalty", where, "earnings-qip")

    def _programme(self, inputs: SettlementInputs) -> _Programme:
        facts, table = inputs.columns(), self.table
        hospitals = facts.table(self.hospitals_table).to_pylist()
        bases = {row["hospital"]: row["base"] for row in hospitals}
        if self.hospital not in bases:
            raise ContractError(f"{self.where}.hospital: is not in tables.{self.hospitals_table}")
        groups: dict[str, int] = {}
        if table.peer_groups:
            if any(row["dual_proportion"] is None for row in hospitals):
                raise ContractError(f"tables.{self.hospitals_table}: peer groups need a dual_proportion in each row")
            dual = {row["hospital"]: row["dual_proportion"] for row in hospitals}
            groups = rules.peer_groups(dual, table.peer_groups)
        rows = [row for row in facts.table(self.conditions_table).to_pylist() if row["hospital"] in bases]
        ratios: dict[str, dict[str, Decimal]] = defaultdict(dict)
        for row in rows:
            ratios[row["condition"]][row["hospital"]] = rules.excess_ratio(row["predicted"], row["expected"])
        medians = {name: rules.peer_medians(of_all, groups) for name, of_all in ratios.items()} if groups else {}
        found: dict[str, dict[str, Condition]] = defaultdict(dict)
        for row in rows:
            hospital, name = row["hospital"], row["condition"]
            median = medians[name][groups[hospital]] if groups else ONE
            found[hospital][name] = _condition(row, ratios[name][hospital], median)
        return _Programme(bases, groups, found)

    def _excess(self, name: str, condition: Condition, programme: _Programme, ledger: Ledger) -> Number:
        group = programme.groups.get(self.hospital)
        ratio = ledger.add(
            f"{name}.ratio",
            condition.ratio,
            f"{name}: excess readmission ratio",
            "predicted / expected",
            f"tables.{self.conditions_table}",
            unit="1",
            metric="readmission",
        )
        median = ledger.add(
            f"{name}.median",
            condition.median,
            f"{name}: median of the peers",
            f"peer group {group} of {self.table.peer_groups}" if group else "as expected: no peer groups",
            f"{self.where}.rules.peer_groups",
            unit="1",
        )
        counts = rules.is_penalised(condition, self.table.min_discharges)
        enough = f"at least {self.table.min_discharges} discharges and a ratio above the median"
        return ledger.add(
            f"{name}.excess",
            condition.payment_ratio * (ratio.value - median.value) if counts else ZERO,
            f"{name}: excess payments",
            f"payment ratio {condition.payment_ratio.normalize():f} x (ratio - median)" if counts else f"not {enough}",
            f"{self.where}.rules.min_discharges",
            (ratio, median),
            unit="1",
        )

    def _modifier(self, programme: _Programme, ledger: Ledger) -> Number:
        value, formula = self.modifier, "as published"
        table = self.table
        if value is None and not table.peer_groups:
            value, formula = ONE, "none: no peer groups"
        elif value is None:
            before, excess = ZERO, []
            for name, base in programme.bases.items():
                mine = tuple(programme.conditions.get(name, {}).values())
                alone = tuple(Condition(c.discharges, c.ratio, ONE, c.payment_ratio) for c in mine)
                before += base * rules.penalty(rules.unmodified_penalty(alone, table.min_discharges), ONE, table.cap)
                excess.append((base, rules.unmodified_penalty(mine, table.min_discharges)))
            value = rules.neutrality_modifier(excess, before, table.cap)
            formula = f"all penalties come to {before:f}, as against a ratio of 1 without peer groups"
        return ledger.add("modifier", value, "Neutrality modifier", formula, f"{self.where}.modifier", unit="1")


def _condition(row: Mapping[str, Any], ratio: Decimal, median: Decimal) -> Condition:
    stated = row["median"]
    return Condition(row["discharges"], ratio, median if stated is None else stated, row["payment_ratio"])
