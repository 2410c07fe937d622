"""Cost that is not the plain sum of claims: exclusions of categories and members, truncation or pooling, completion."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.benchmarks.completion import completed, triangle
from fhir_gateway.contracts.benchmarks.cost import COST_COLUMNS, member_costs, pooled
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import Terms
from fhir_gateway.errors import ContractError

EXCLUDED_SCHEMA = pa.schema([pa.field("member", pa.string(), nullable=False), ("reason", pa.string())])


class Pooling(Terms):
    """High-cost members: ``share`` of what lies above the ``attachment`` point is borne by a pool; 1 truncates."""

    attachment: Annotated[Decimal, Field(gt=0, decimal_places=2)]
    share: Annotated[Decimal, Field(gt=0, le=1)] = Decimal(1)


class Completion(Terms):
    """Cost that was incurred and is not yet paid, by the chain ladder over the claims' own months of payment."""

    as_of: date = Field(description="Claims are known as far as this day, the last of a month.")
    months: int = Field(default=24, ge=2, le=60, description="Months of service that the factors are learned from.")


class Expenditures(Terms):
    """Which cost is set against the target, when it is not simply that of the contract's claims terms."""

    amount: Literal["paid", "allowed"] = "paid"
    service_date: Literal["line", "claim_from", "claim_thru"] = "line"
    without_types: tuple[str, ...] = Field(default=(), description="Claim types that do not count, such as pharmacy.")
    excluded_members: bool = Field(default=False, description="Members in the contract's table `excluded_members`.")
    pooling: Pooling | None = None
    completion: Completion | None = None

    def needs(self) -> Needs:
        """Claim lines, and the table of excluded members."""
        tables = {"excluded_members": EXCLUDED_SCHEMA} if self.excluded_members else {}
        return Needs((*COST_COLUMNS, "payment_date"), tables, people=True)

    def cost(self, inputs: SettlementInputs, where: str, ledger: Ledger) -> tuple[Number, Number, Number]:
        """Members, months and cost that count, each with its lines."""
        facts = inputs.columns()
        chosen = facts.people["member"].combine_chunks()
        excluded = facts.table("excluded_members")["member"].combine_chunks() if self.excluded_members else None
        costs = member_costs(
            facts.lines,
            chosen,
            facts.period,
            amount=self.amount,
            day=self.service_date,
            without_types=self.without_types,
            without_members=excluded,
        )
        left = _months(facts, costs["member"].combine_chunks())
        add = ledger.add
        members = add(
            "counted-members", Decimal(costs.num_rows), "Members that count", "roster without excluded members", where,
            unit="{members}",
        )  # fmt: skip
        months = add("counted-months", left, "Member months that count", "of these members", where, unit="mo")
        pooling = self.pooling
        kept = pooled(costs, pooling.attachment, pooling.share) if pooling else pooled(costs, None, Decimal(1))
        excluding = f", without {', '.join(self.without_types)}" if self.without_types else ""
        raw = add("paid", kept.raw, "Claims cost", f"sum of {self.amount}{excluding}", where, metric="paid-claim")
        number = raw
        if pooling:
            formula = f"without {percent(pooling.share)} of what lies above {pooling.attachment}; {kept.over} members"
            term = f"{where}.pooling"
            number = add("pooled", kept.kept, "Cost after pooling", formula, term, (raw,), metric="adjusted-paid-claim")
        factor = Decimal(1)
        because: tuple[Number, ...] = (number,)
        if self.completion:
            term = f"{where}.completion"
            known, how = costs["member"].combine_chunks(), self.completion
            paid = triangle(facts.lines, known, how.as_of, how.months, self.amount, self.without_types)
            done = completed(paid, facts.period)
            factor = done.factor
            formula = "chain ladder: completed cost of the period / its cost so far"
            because = (number, add("completion", factor, "Completion factor", formula, term, unit="1"))
        cost = add("cost", number.value * factor, "Cost", "x completion factor", where, because, metric="med-cost")
        return members, months, cost


def _months(facts: Facts, members: pa.Array) -> Decimal:
    if not len(members):
        raise ContractError("expenditures: no member is left")
    mine = facts.months.filter(pc.is_in(facts.months["member"], value_set=members))
    total: Decimal | None = pc.sum(mine["months"]).as_py()
    return Decimal(0) if total is None else total
