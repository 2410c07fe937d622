"""Settlement lines: every number of a settlement, in order, with the term and the lines it comes from.

Values are exact; rounding happens once, when an arrangement's payable amount is published. The total is the sum of the
published amounts, so the lines always add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal, NamedTuple

Rounding = Literal["cent", "dollar"]
#: What published amounts are whole numbers of.
QUANTUM = {"cent": Decimal("0.01"), "dollar": Decimal(1)}


def publish(value: Decimal, rounding: Rounding) -> Decimal:
    """Round for publication: half up (away from zero), to whole cents or dollars."""
    rounded = value.quantize(QUANTUM[rounding], ROUND_HALF_UP)
    return rounded + 0  # no negative zero


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """One number. ``amount`` is set on payable lines only: what the payer owes (positive) or is owed (negative)."""

    id: str
    arrangement: str
    term: str  # path of the contract term that asks for it
    label: str
    value: Decimal | None
    unit: str  # currency code or UCUM unit
    formula: str
    because: tuple[str, ...] = ()  # ids of the lines it is computed from
    metric: str | None = None  # VBPR performance metric code
    stream: str | None = None  # VBPR payment stream code
    amount: Decimal | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)  # what outside the settlement it rests on


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome of a contract for its period, explained line by line."""

    contract: str
    contract_version: str
    contract_digest: str
    period: tuple[date, date]
    paid_through: date
    currency: str
    lines: tuple[SettlementLine, ...]
    stamps: Mapping[str, str]  # what it was computed from: lake version, terms and measure package hashes ...

    @property
    def total(self) -> Decimal:
        """Sum of the published amounts: what the payer owes the provider, negative when the provider owes."""
        return sum((line.amount for line in self.lines if line.amount is not None), Decimal(0))

    def line(self, line_id: str) -> SettlementLine:
        """The line of an id."""
        for candidate in self.lines:
            if candidate.id == line_id:
                return candidate
        raise KeyError(line_id)

    def payable(self) -> Iterator[SettlementLine]:
        """Lines that pay."""
        return (line for line in self.lines if line.amount is not None)

    def explain(self, line_id: str) -> str:
        """The line and, indented below it, all it was computed from (each line once)."""
        return "\n".join(self._explain(line_id, 0, set()))

    def _explain(self, line_id: str, depth: int, seen: set[str]) -> Iterator[str]:
        line = self.line(line_id)
        value = line.amount if line.amount is not None else line.value
        shown = "none" if value is None else f"{round(value, 8).normalize():f}"
        repeated = " (above)" if line_id in seen and line.because else ""
        yield (
            f"{'  ' * depth}{line.label}: {shown} {line.unit}".rstrip() + f"  = {line.formula}  [{line.term}]{repeated}"
        )
        if line_id not in seen:
            seen.add(line_id)
            for other in line.because:
                yield from self._explain(other, depth + 1, seen)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; decimals as text, so nothing is lost. Same settlement, same bytes."""
        return {
            "contract": self.contract,
            "contract_version": self.contract_version,
            "contract_digest": self.contract_digest,
            "period": [day.isoformat() for day in self.period],
            "paid_through": self.paid_through.isoformat(),
            "currency": self.currency,
            "total": str(self.total),
            "stamps": dict(sorted(self.stamps.items())),
            "lines": [_line_to_dict(line) for line in self.lines],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Settlement:
        """The settlement that :meth:`to_dict` wrote."""
        return cls(
            contract=stored["contract"],
            contract_version=stored["contract_version"],
            contract_digest=stored["contract_digest"],
            period=(date.fromisoformat(stored["period"][0]), date.fromisoformat(stored["period"][1])),
            paid_through=date.fromisoformat(stored["paid_through"]),
            currency=stored["currency"],
            lines=tuple(_line_from_dict(line) for line in stored["lines"]),
            stamps=dict(stored["stamps"]),
        )


def _line_to_dict(line: SettlementLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "arrangement": line.arrangement,
        "term": line.term,
        "label": line.label,
        "value": None if line.value is None else str(line.value),
        "unit": line.unit,
        "formula": line.formula,
        "because": list(line.because),
        "metric": line.metric,
        "stream": line.stream,
        "amount": None if line.amount is None else str(line.amount),
        "evidence": dict(line.evidence),
    }


def _line_from_dict(stored: Mapping[str, Any]) -> SettlementLine:
    return SettlementLine(
        id=stored["id"],
        arrangement=stored["arrangement"],
        term=stored["term"],
        label=stored["label"],
        value=None if stored["value"] is None else Decimal(stored["value"]),
        unit=stored["unit"],
        formula=stored["formula"],
        because=tuple(stored["because"]),
        metric=stored["metric"],
        stream=stored["stream"],
        amount=None if stored["amount"] is None else Decimal(stored["amount"]),
        evidence=dict(stored["evidence"]),
    )


class Number(NamedTuple):
    """A value in a ledger and the id of its line."""

    value: Decimal
    line: str


class Ledger:
    """Collects the lines of one arrangement in the order they are computed."""

    def __init__(self, arrangement: str, currency: str, rounding: Rounding, stream: str | None) -> None:
        self.arrangement = arrangement
        self.currency = currency
        self.rounding = rounding
        self.stream = stream
        self.lines: list[SettlementLine] = []

    def add(
        self,
        name: str,
        value: Decimal | None,
        label: str,
        formula: str,
        term: str,
        because: Iterable[Number] = (),
        *,
        unit: str | None = None,
        metric: str | None = None,
        evidence: Mapping[str, str] | None = None,
        amount: Decimal | None = None,
    ) -> Number:
        """Add a number in ``unit`` (default the currency). What is computed from an absent one takes it as zero."""
        line = SettlementLine(
            id=f"{self.arrangement}.{name}",
            arrangement=self.arrangement,
            term=term,
            label=label,
            value=value,
            unit=self.currency if unit is None else unit,
            formula=formula,
            because=tuple(number.line for number in because),
            metric=metric,
            stream=self.stream,
            amount=amount,
            evidence=dict(evidence or {}),
        )
        self.lines.append(line)
        return Number(Decimal(0) if value is None else value, line.id)

    def pay(self, number: Number, label: str, term: str, metric: str) -> None:
        """Add the payable line: the number exact, its amount rounded for publication."""
        step = {"cent": "cents", "dollar": "dollars"}[self.rounding]
        formula = f"rounded half up to whole {step}"
        amount = publish(number.value, self.rounding)
        self.add("payable", number.value, label, formula, term, (number,), metric=metric, amount=amount)
