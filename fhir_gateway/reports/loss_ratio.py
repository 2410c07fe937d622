"""The medical loss ratio report: claims and quality improvement over premium, by contract or line of business.

It needs accounts that claims do not have: earned premium, taxes and fees, what was spent on quality improvement. They
come with a contract (arrangements ``medical_loss_ratio`` and ``provider_mlr``, as they were settled) or as a file of
accounts by line of business. The ratio, its credibility and the rebate are those of the settlement, or of
:mod:`fhir_gateway.contracts.scoring.medical_loss_ratio`; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.contracts.arrangements.medical_loss_ratio import EXPERIENCE_SCHEMA, MedicalLossRatio, experience
from fhir_gateway.contracts.arrangements.provider_mlr import ProviderMlr
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.given import read_table
from fhir_gateway.contracts.scoring import medical_loss_ratio as rules
from fhir_gateway.contracts.settlement import Settlement, SettlementLine, publish
from fhir_gateway.errors import ContractError, NotFoundError
from fhir_gateway.reports.document import NONE, Bar, Chart, Document, Section, Table, Text, money, percent, plain

#: A row per line of business and reporting year; the markets are those of the shipped rules.
ACCOUNTS_SCHEMA = pa.schema(
    [pa.field("line_of_business", pa.string(), False), pa.field("market", pa.string(), False), *EXPERIENCE_SCHEMA]
)
NEEDED = (
    "a medical loss ratio needs premium, which claims do not have: settle a contract with the arrangement"
    " medical_loss_ratio or provider_mlr, or give a file of accounts"
)
_PARTS = ("claims", "quality_improvement", "fraud_reduction", "net_transfers", "premium", "taxes", "member_months")


@dataclass(frozen=True, slots=True)
class LossRatio:
    """A ratio as it was settled or reported. ``credibility`` is null where the experience is too small to judge.

    ``owed`` is the rebate, or what the provider shares; ``years`` are the accounts it comes from, the oldest first.
    """

    name: str
    line_of_business: str
    period: str
    numerator: Decimal
    denominator: Decimal
    ratio: Decimal | None
    credibility: Decimal | None
    standard: Decimal
    owed: Decimal
    owed_as: str
    currency: str
    made_of: str
    years: tuple[Mapping[str, Any], ...] = ()


def of_settlement(settlement: Settlement, contract: Contract, run_id: str) -> Iterator[LossRatio]:
    """The ratios of a settlement; none where no arrangement is about one."""
    start, end = settlement.period
    for terms in contract.arrangements:
        lines = {
            line.id.removeprefix(f"{terms.id}."): line for line in settlement.lines if line.arrangement == terms.id
        }
        found = {name: line.value for name, line in lines.items()}
        about = (contract.title, contract.line_of_business)
        if isinstance(terms, MedicalLossRatio):
            rows = contract.given[terms.experience_table].table.to_pylist()
            yield LossRatio(
                *about,
                str(terms.year),
                _stated(found["numerator"]),
                _stated(found["denominator"]),
                found["ratio"],
                found["credibility"],
                _stated(found["standard"]),
                _paid(lines.values()),
                "rebate",
                settlement.currency,
                f"settlement {run_id}",
                tuple(row for row in sorted(rows, key=lambda row: row["year"]) if row["year"] <= terms.year),
            )
        elif isinstance(terms, ProviderMlr):
            yield LossRatio(
                *about,
                f"{start} to {end}",
                _stated(found["cost"]),
                _stated(found["revenue"]),
                found["ratio"],
                None,
                _stated(found["target"]),
                _paid(lines.values()),
                "shared with the provider",
                settlement.currency,
                f"settlement {run_id}",
            )


def of_accounts(path: Path) -> list[LossRatio]:
    """A ratio for each line of business of a file of accounts, as of its last year; ContractError for wrong ones."""
    by_line: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_table(path, ACCOUNTS_SCHEMA, "accounts").to_pylist():
        by_line.setdefault((row["line_of_business"], row["market"]), []).append(row)
    return [_of_line(name, market, rows, path.name) for (name, market), rows in sorted(by_line.items())]


def _of_line(name: str, market: str, rows: list[dict[str, Any]], file: str) -> LossRatio:
    rows.sort(key=lambda row: row["year"])
    years = [experience(row) for row in rows]
    markets = rules.MedicalLossRatioYear.of(years[-1].year).markets
    if market not in markets:
        raise ContractError(f"accounts: a market is one of {', '.join(sorted(markets))}")
    if len({one.year for one in years}) < len(years):
        raise ContractError("accounts: a line of business has two rows of a year")
    found = rules.loss_ratio(years, markets[market])
    return LossRatio(
        name,
        market,
        str(years[-1].year),
        found.numerator,
        found.denominator,
        found.ratio,
        found.credibility,
        markets[market].standard,
        publish(rules.rebate(found, markets[market], years[-1]), "cent"),
        "rebate",
        "USD",
        f"accounts {file}",
        tuple(rows),
    )


def loss_ratio_report(found: Sequence[LossRatio], author: str) -> Document:
    """The report; NotFoundError, which says what is needed, when there is no ratio."""
    if not found:
        raise NotFoundError(NEEDED)
    return Document(
        title="Medical loss ratio",
        author=author,
        facts=(("Periods", ", ".join(sorted({one.period for one in found}))),),
        sections=(_ratios(found), *([_accounts(found)] if any(one.years for one in found) else [])),
        notes=(
            "An insurer's ratio adds up to three years, adds credibility, and is rounded to three decimals"
            " (45 CFR 158.221-158.232; 42 CFR 422.2420, 438.8); a provider's is its cost over its revenue.",
            "Where quality improvement is not stated the flat part of the premium counts, in markets that have one.",
        ),
    )


def _ratios(found: Sequence[LossRatio]) -> Section:
    rows = tuple(
        (
            one.name,
            one.line_of_business,
            one.period,
            money(one.numerator, one.currency),
            money(one.denominator, one.currency),
            plain(one.credibility, 4),
            percent(one.ratio),
            percent(one.standard),
            f"{money(one.owed, one.currency)} {one.owed_as}",
            one.made_of,
        )
        for one in found
    )
    drawn = tuple(
        Bar(f"{one.name}, {one.period}", one.ratio, percent(one.ratio), mark=one.standard)
        for one in found
        if one.ratio is not None
    )
    below = sum(one.ratio is not None and one.ratio < one.standard for one in found)
    said = f"Bars of {len(drawn)} ratios, each with a stroke at its standard; {below} are below. The table has them."
    head = ("Of", "Line of business", "Period", "Claims and quality improvement", "Premium less taxes", "Credibility")
    return Section(
        "Ratios",
        (
            Text("Claims incurred and quality improvement over earned premium less taxes and fees."),
            Chart("Medical loss ratio; the stroke is the standard", said, drawn),
            Table(
                "Ratios by contract or line of business",
                (*head, "Ratio", "Standard", "Owed", "From"),
                rows,
                frozenset({3, 4, 5, 6, 7, 8}),
                (1.6, 1.0, 0.7, 1.3, 1.3, 0.9, 0.7, 0.8, 1.3, 1.0),
            ),
        ),
    )


def _accounts(found: Iterable[LossRatio]) -> Section:
    rows = tuple(
        (one.name, str(row["year"]), *(NONE if row[part] is None else plain(row[part]) for part in _PARTS))
        for one in found
        for row in one.years
    )
    head = ("Of", "Year", *(part.replace("_", " ").capitalize() for part in _PARTS))
    table = Table("Accounts by year", head, rows, frozenset(range(2, len(head))), (1.6, 0.5, 1, 1, 1, 1, 1, 1, 1))
    return Section("What they are made of", (table,))


def _paid(lines: Iterable[SettlementLine]) -> Decimal:
    return sum((line.amount for line in lines if line.amount is not None), Decimal(0))


def _stated(value: Decimal | None) -> Decimal:
    assert value is not None  # noqa: S101 - these lines always have a value
    return value
