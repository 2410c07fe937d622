"""The board summary: members, quality, money and outlook, on one page or two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.projection import Projection
from fhir_gateway.contracts.runs import Run
from fhir_gateway.contracts.settlement import Settlement
from fhir_gateway.reports.document import HIDDEN, Bar, Chart, Document, Section, Table, Text, money, plain
from fhir_gateway.reports.quality import Rate, rates_section


@dataclass(frozen=True, slots=True)
class Account:
    """A contract as the board sees it: its newest settlement, who is on its list, what is owed and disputed.

    ``members`` is null where there are too few to say. ``outlook`` is a projection, or why there is none.
    """

    contract: Contract
    run: Run
    settlement: Settlement
    members: int | None
    owed: Decimal
    disputes: int
    disputed: Decimal
    outlook: Projection | str | None = None


def board_summary(
    period: tuple[date, date],
    accounts: Sequence[Account],
    rates: Sequence[Rate],
    facts: Sequence[tuple[str, str]],
    as_of: date | None,
) -> Document:
    """The summary of a period."""
    return Document(
        title=f"Board summary, {period[0]} to {period[1]}",
        author="fhir-gateway",
        facts=tuple(facts),
        sections=tuple(_sections(accounts, rates, as_of)),
        notes=("Hidden: the number would tell of fewer people than the threshold.",),
    )


def _sections(accounts: Sequence[Account], rates: Sequence[Rate], as_of: date | None) -> Iterator[Section]:
    rows = tuple((one.contract.title, HIDDEN if one.members is None else plain(one.members)) for one in accounts)
    table = Table("Members on the lists of contracts", ("Contract", "Members"), rows, frozenset({1}), (4, 1))
    yield Section("Members", (table if rows else Text("No contract was settled."),))
    if rates:
        yield rates_section(rates, "Quality")
    else:
        yield Section("Quality", (Text("No measure has results of this period."),))
    if not accounts:
        return
    yield _money(accounts)
    yield _outlook(accounts, as_of)


def _money(accounts: Sequence[Account]) -> Section:
    rows = tuple(
        (
            one.contract.title,
            f"{one.run.state}, through {one.run.through}",
            money(one.settlement.total, one.settlement.currency),
            money(one.owed, one.settlement.currency),
            f"{one.disputes}: {money(one.disputed, one.settlement.currency)}" if one.disputes else "none",
        )
        for one in accounts
    )
    bars = tuple(
        Bar(one.contract.title, one.settlement.total, money(one.settlement.total, one.settlement.currency))
        for one in accounts
    )
    return Section(
        "Money",
        (
            Text("Positive amounts are owed by the payer, negative ones by the provider."),
            Chart("Settled by contract", f"Bars of {len(bars)} settlements; the table has the amounts.", bars),
            Table(
                "Settlements",
                ("Contract", "State", "Settled", "Posted so far", "Open disputes"),
                rows,
                frozenset({2, 3, 4}),
                (2.6, 1.3, 1.2, 1.2, 1.2),
            ),
        ),
    )


def _outlook(accounts: Sequence[Account], as_of: date | None) -> Section:
    if as_of is None:
        return Section("Outlook", (Text("Projected as of no day: name one to see where contracts will end."),))
    parts: list[Text | Table] = []
    rows = []
    for one in accounts:
        if isinstance(one.outlook, Projection):
            found, currency = one.outlook, one.contract.currency
            rows.append(
                (
                    one.contract.title,
                    money(found.cost, currency),
                    money(found.total, currency),
                    f"{money(found.total_at_low_cost, currency)} to {money(found.total_at_high_cost, currency)}",
                )
            )
        elif one.outlook:
            parts.append(Text(f"{one.contract.title}: {one.outlook}"))
    head = ("Contract", "Cost at the end", "Settlement", "At both ends of the band")
    if rows:
        parts.insert(0, Table(f"As of {as_of}", head, tuple(rows), frozenset({1, 2, 3}), (2.6, 1.4, 1.3, 2.4)))
    return Section("Outlook", tuple(parts) or (Text(f"No contract can be projected as of {as_of}."),))
