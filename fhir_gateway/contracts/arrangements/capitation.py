"""Capitation, global or partial: a rate per member month, less withheld and leaked, plus what was earned."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fhir_gateway.contracts.arrangements.audited import AuditedTerms
from fhir_gateway.contracts.arrangements.base import Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.capitation_rows import (
    Risk,
    kick_rows,
    post_differences,
    posted_with,
    price,
)
from fhir_gateway.contracts.arrangements.capitation_services import FEES_SCHEMA, SERVICE_COLUMNS, Services, services
from fhir_gateway.contracts.arrangements.capitation_terms import (
    AREA_SCHEMA,
    POSTED_SCHEMA,
    SCORES_SCHEMA,
    AddOn,
    GeoTerms,
    KickPayment,
    RetroTerms,
    RiskTerms,
)
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.audit import AUDIT_SCHEMA, ZERO, places, total, totals
from fhir_gateway.contracts.cells import CellTerms
from fhir_gateway.contracts.scoring import composite, score_measures
from fhir_gateway.contracts.service_categories import CATEGORY_COLUMNS, ServiceTerms, code_problems
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.terms import MeasureTerms, Money
from fhir_gateway.contracts.withhold import PEERS_SCHEMA, WithholdTerms, shared_pool_part
from fhir_gateway.errors import ContractError


@arrangement("capitation")
class Capitation(AuditedTerms):
    """Terms of capitation. Every payment is a row."""

    kind: Literal["capitation"]
    cells: CellTerms = CellTerms()
    geo: GeoTerms | None = None
    risk: RiskTerms | None = None
    add_ons: tuple[AddOn, ...] = ()
    kicks: tuple[KickPayment, ...] = ()
    withhold: WithholdTerms | None = None
    services: ServiceTerms | None = Field(
        default=None, description="What is capitated; without it no claim is looked at."
    )
    tins: tuple[str, ...] = Field(default=(), description="TINs of the capitated provider: its lines are encounters.")
    leakage: Literal["deduct_from_cap", "plan"] = Field(
        default="plan", description="Who pays capitated services of other providers."
    )
    paid_encounters: Literal["leave", "recover"] = Field(
        default="leave", description="What was paid to the capitated provider for capitated services."
    )
    fee_schedule: str | None = Field(
        default=None, description="Table of procedure and fee, for the value of encounters."
    )
    retro: RetroTerms | None = None
    advance: Money = Field(default=Decimal(0), description="What was paid for the period already.")
    missing: Literal["reweight", "zero"] = "reweight"

    metrics = (
        *("eligible-member", "member-months", "capitation", "capitation-pmpm", "avg-risk-score", "paid-claim"),
        *("potential-upside-cap", "performance-cap", "earnings-cap"),
    )

    def stream(self) -> str:
        """Capitation."""
        return "pcpcp"

    def uses_quality(self) -> bool:
        """Where a withhold is returned by quality."""
        return self.withhold is not None and self.withhold.uses_quality()

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        found = self.cells.problems(f"{where}.cells")
        found += self.risk.problems(f"{where}.risk") if self.risk else []
        found += self.withhold.problems(f"{where}.withhold") if self.withhold else []
        found += self.services.problems(f"{where}.services") if self.services else []
        names = [*(one.id for one in self.add_ons), *(one.id for one in self.kicks)]
        found += [f"{where}: two add-ons or kicks have the id '{name}'" for name in {*names} if names.count(name) > 1]
        for kick in self.kicks:
            found += code_problems(kick, f"{where}.kicks.{kick.id}")
            if not any(getattr(kick, name) for name in CATEGORY_COLUMNS):
                found.append(f"{where}.kicks.{kick.id}: says no code, every service would be an event")
        used = [(f"add_ons.{one.id}.where", name) for one in self.add_ons for name in one.where]
        if self.geo is not None:
            if (self.geo.factor is None) == (self.geo.attribute is None):
                found.append(f"{where}.geo: either a factor or an attribute")
            used += [("geo.attribute", self.geo.attribute)] if self.geo.attribute else []
        found += [
            f"{where}.{term}: '{name}' is not among cells.attributes"
            for term, name in used
            if name not in self.cells.attributes
        ]
        if self.services is None and (self.tins or self.leakage != "plan" or self.paid_encounters != "leave"):
            found.append(f"{where}.services: is missing, tins and leakage have nothing to work on")
        if self.services is not None and not self.tins:
            found.append(f"{where}.tins: is missing, nobody's services could be told from leakage")
        if self.retro is not None and self.advance:
            found.append(f"{where}.advance: is in the rows posted already (retro)")
        if self.retro is not None and self.risk is not None and self.risk.normalise == "budget_neutral":
            found.append(f"{where}.retro: a budget neutral base changes with every member; agree a reference")
        return found

    def carried_on(self) -> Carried:
        """By months, unless services change the payment."""
        if self.kicks or self.leakage != "plan" or self.paid_encounters != "leave":
            raise self.not_carried("kick payments and leakage follow services that are still to come")
        if self.retro is not None:
            raise self.not_carried("it posts the differences of one cycle")
        return "months"

    def needs(self) -> Needs:
        """Rates and whatever else its terms name."""
        tables = self.cells.tables()
        if self.geo is not None and self.geo.attribute:
            tables[self.geo.table] = AREA_SCHEMA
        if self.risk is not None:
            tables[self.risk.table] = SCORES_SCHEMA
        if self.services is not None:
            tables |= self.services.tables()
        if self.fee_schedule:
            tables[self.fee_schedule] = FEES_SCHEMA
        if self.retro is not None:
            tables[self.retro.table] = POSTED_SCHEMA
        if self.withhold is not None and self.withhold.shared_pool:
            tables[self.withhold.shared_pool] = PEERS_SCHEMA
        lines: tuple[str, ...] = ()
        if self.kicks:
            lines = ("denied", "service_from", *CATEGORY_COLUMNS)
        if self.services is not None:
            lines = SERVICE_COLUMNS
        return Needs(lines=lines, tables=tables, people=True)

    def rows(self, inputs: SettlementInputs) -> pa.Table:
        """Rates (rule ``base``), ``add-on.<id>``, ``kick.<id>``, what is taken out (``leakage.<whose>.<category>``)."""
        return self._rows(inputs)[0]

    def posted(self, inputs: SettlementInputs) -> pa.Table:
        """The table of posted rows for the next cycle; ContractError without ``retro``."""
        if self.retro is None:
            raise ContractError(f"{self.where}.retro: is missing, nothing is posted by cycles")
        return posted_with(inputs.columns().table(self.retro.table), self.audit(inputs), self.retro.cycle)

    def _rows(self, inputs: SettlementInputs) -> tuple[pa.Table, Risk | None, list[Services]]:
        facts = inputs.columns()
        rows, risk = price(
            facts.tables, facts.months, facts.people, self.cells, self.geo, self.risk, self.add_ons, self.where
        )
        if risk is not None and risk.keeps_sum:
            rows = pa.concat_tables([rows, _rest(risk.unadjusted - total(rows, "base"), facts.period[0])])
        kicks = kick_rows(facts.lines, facts.months, self.kicks, facts.period)
        if kicks is not None:
            rows = pa.concat_tables([rows, kicks])
        found: list[Services] = []
        if self.services is not None:
            table = facts.table(self.services.table) if self.services.table else None
            found, leaked = services(
                facts.lines,
                facts.months,
                self.services.all_categories(table),
                self.services.otherwise,
                self.tins,
                facts.period,
                facts.table(self.fee_schedule) if self.fee_schedule else None,
            )
            whose = pc.struct_field(pc.extract_regex(leaked["rule"], r"^leakage\.(?P<whose>[a-z]+)\."), "whose")
            rows = pa.concat_tables([rows, leaked.filter(pc.is_in(whose, pa.array(self._charged(), pa.string())))])
        if self.retro is not None:
            rows = post_differences(rows, facts.table(self.retro.table), self.retro)
        return rows, risk, found

    def _charged(self) -> tuple[str, ...]:
        """Whose paid services are taken out of the capitation."""
        other = ("other",) if self.leakage == "deduct_from_cap" else ()
        return (*other, "own") if self.paid_encounters == "recover" else other

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Rates by cell, risk, add-ons, kicks, withhold, services, what was paid before; payable."""
        _, months = add_exposure(ledger, inputs.exposure)
        rows, risk, found = self._rows(inputs)
        base = self._base(rows, risk, months, ledger)
        parts = [base]
        if self.withhold is not None:
            parts += self._withhold(base, self.withhold, inputs, measures, ledger)
        paid = self._services(found, ledger)
        for number, ((rule,), quantity, amount, count) in enumerate(totals(rows, ["rule"]), start=1):
            kind, _, name = rule.partition(".")
            if kind == "base":
                continue
            because = [paid[name]] if name in paid else []
            label, unit, term = {
                "add-on": (f"Add-on {name}", "member months", f"add_ons.{name}"),
                "kick": (f"Kick payments {name}", "events", f"kicks.{name}"),
                "leakage": (f"Taken out: paid for {name.partition('.')[2]}", "months", "leakage"),
            }[kind]
            formula = f"sum of {count} rows: {quantity.normalize():f} {unit}"
            line = f"{kind}.{number}" if kind == "leakage" else rule
            if kind in ("add-on", "kick"):
                what, of = ("Member months", "mo") if kind == "add-on" else ("Events", "{events}")
                told = f"of {count} rows"
                because = [
                    ledger.add(f"{rule}.quantity", quantity, f"{what}: {name}", told, f"{self.where}.{term}", unit=of)
                ]
            parts.append(ledger.add(line, amount, label, formula, f"{self.where}.{term}", because))
        if self.advance:
            formula = "as paid, taken off"
            parts.append(ledger.add("advance", -self.advance, "Paid already", formula, f"{self.where}.advance"))
        balance = ledger.add(
            "balance", sum((n.value for n in parts), ZERO), "Capitation due", "sum of its parts", self.where, parts
        )
        ledger.pay(balance, "Capitation", self.where, "earnings-cap")

    def _base(self, rows: pa.Table, risk: Risk | None, months: Number, ledger: Ledger) -> Number:
        of_base = rows.select(["cell", "status", "quantity", "amount"]).filter(pc.equal(rows["rule"], "base"))
        cells = [
            ledger.add(
                f"cell.{number}.{status}",
                amount,
                f"Cell {cell or 'none'}" + ("" if status == "paid" else f" ({status})"),
                f"sum of {count} rows of {quantity.normalize():f} member months in all",
                f"{self.where}.cells",
            )
            for number, ((cell, status), quantity, amount, count) in enumerate(totals(of_base, ["cell", "status"]), 1)
        ]
        because = list(cells)
        if risk is not None and self.risk is not None:
            because += self._risk_lines(self.risk, risk, total(of_base), ledger)
        term = f"{self.where}.cells"
        base = ledger.add(
            "capitation", total(of_base), "Capitation by rates", "sum of cells", term, because, metric="capitation"
        )
        pmpm = base.value / months.value if months.value else None
        formula = "capitation / member months"
        ledger.add("pmpm", pmpm, "Capitation PMPM", formula, term, (base, months), metric="capitation-pmpm")
        return base

    def _risk_lines(self, terms: RiskTerms, risk: Risk, adjusted: Decimal, ledger: Ledger) -> list[Number]:
        term = f"{self.where}.risk"
        formula = "by member months, after the cap on change"
        mean = ledger.add("risk.mean", risk.mean, "Mean risk score", formula, term, unit="1", metric="avg-risk-score")
        formula = {
            "none": "scores as they are",
            "reference": "as agreed",
            "budget_neutral": "rate-weighted mean: the sum stays as it was",
        }[terms.normalise]
        base = ledger.add("risk.base", risk.base, "Base of scores", formula, term, (mean,), unit="1")
        without = ledger.add("risk.without", risk.unadjusted, "Capitation without risk", "sum of rows", term)
        found = [without, base]
        if terms.interim_factor is not None:
            factor = percent(terms.interim_factor)
            interim = ledger.add(
                "risk.interim", risk.interim, "Capitation at the interim factor", f"at {factor}", term, (without,)
            )
            found.append(interim)
            if terms.stage == "final" and self.retro is None:
                label, formula = "Risk true-up", "capitation - capitation at the interim factor"
                found.append(ledger.add("risk.true-up", adjusted - risk.interim, label, formula, term, (interim,)))
        return found

    def _withhold(
        self,
        base: Number,
        terms: WithholdTerms,
        inputs: SettlementInputs,
        measures: tuple[MeasureTerms, ...],
        ledger: Ledger,
    ) -> list[Number]:
        where = f"{self.where}.withhold"
        formula = f"{percent(terms.part)} x capitation"
        pool = ledger.add(
            "withhold",
            places(base.value * terms.part),
            "Withhold",
            formula,
            where,
            (base,),
            metric="potential-upside-cap",
        )
        held = ledger.add("withheld", -pool.value, "Withheld", "- withhold", where, (pool,))
        because, value = [], None
        if terms.uses_quality():
            scored = score_measures(measures, inputs.outcomes, self.missing)
            weighted = add_measures(ledger, scored)
            value = composite(scored)
            note = "sum of weighted points" if value is not None else "no measure takes part"
            because = [ledger.add("composite", value, "Composite", note, where, weighted, unit="1")]
        share = ledger.add(
            "earned-share", terms.share(value), "Earned share", f"by {terms.earned}", where, because, unit="1",
            metric="performance-cap",
        )  # fmt: skip
        back = ledger.add(
            "returned", -held.value * share.value, "Withhold returned", "withhold x earned share", where, (pool, share)
        )
        found = [held, back]
        if terms.shared_pool is not None and terms.over_performs_at is not None:
            peers = inputs.columns().table(terms.shared_pool)
            others = list(zip(peers["withheld"].to_pylist(), peers["earned_share"].to_pylist(), strict=True))
            unearned, part = shared_pool_part(-held.value, share.value, others, terms.over_performs_at)
            line = ledger.add(
                "unearned", unearned, "Not earned by anybody", "sum of withheld x (1 - earned share)", where,
                (held, share), evidence={"table": terms.shared_pool},
            )  # fmt: skip
            note = f"by what was withheld, among those at {percent(terms.over_performs_at)} or more"
            found.append(ledger.add("shared-pool", part, "Part of the shared pool", note, where, (line, share)))
        if terms.deficit_offset:
            earned = sum((one.value for one in found[1:]), ZERO)
            taken = -min(terms.deficit_offset, max(ZERO, earned))
            note = "the lesser of the deficit and what is returned"
            found.append(ledger.add("offset", taken, "Deficit taken out", note, where, found[1:]))
        return found

    def _services(self, found: list[Services], ledger: Ledger) -> dict[str, Number]:
        """What services were worth and paid; the paid lines by whose and category."""
        where = f"{self.where}.services"
        lines = {}
        for number, one in enumerate(found, start=1):
            evidence = {"category": one.category, "covered_by": one.covered_by}
            note = f"{one.lines} claim lines"
            if one.covered_by == "capitation" and one.whose == "own":
                name, label = "encounters", f"Encounters, {one.category}: fee-for-service equivalent"
                ledger.add(f"{name}.{number}", one.equivalent, label, note, where, evidence=evidence)
            label = {"own": "own services", "other": "services of others", "unknown": "services without a TIN"}[
                one.whose
            ]
            kind = "Leakage" if one.covered_by == "capitation" and one.whose == "other" else one.covered_by
            paid = ledger.add(
                f"paid.{number}", one.paid, f"{kind}, {one.category}: paid for {label}", note, where, evidence=evidence,
                metric="paid-claim",
            )  # fmt: skip
            if one.covered_by == "capitation":
                lines[f"{one.whose}.{one.category}"] = paid
        return lines


def _rest(difference: Decimal, month: object) -> pa.Table:
    """The row that makes risk adjustment keep the sum: what the places of all rows left over."""
    if not difference:
        return AUDIT_SCHEMA.empty_table()
    row = {
        "member": None,
        "month": month,
        "rule": "base",
        "cell": "places",
        "quantity": ZERO,
        "rate": ZERO,
        "factor": Decimal(1),
        "amount": difference,
        "status": "paid",
        "reason": "keeps-the-sum",
    }
    return pa.Table.from_pylist([row], schema=AUDIT_SCHEMA)
