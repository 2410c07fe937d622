"""Charts of settlements, as the data that the page's script draws, and the steps from a benchmark to a payment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fhir_gateway.contracts import Settlement
from fhir_gateway.contracts.runs import ZERO
from fhir_gateway.contracts.settlement import SettlementLine


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a waterfall: the settlement line that it comes to, what it is about, and the amounts around it.

    ``line`` is what the step is explained by; ``label`` says what was added or taken away.
    """

    line: str
    label: str
    before: Decimal
    after: Decimal

    @property
    def change(self) -> Decimal:
        """What the step adds."""
        return self.after - self.before


def steps(settlement: Settlement, payable: SettlementLine) -> list[Step]:
    """From the amount that a payment begins with (benchmark, target, pool, fee times months) to what is paid.

    Read off the lines backwards: each line rests first on the amount before it. What is counted up from months or
    members, or is a sum of parts, is where it begins. All numbers are those of lines.
    """
    by_id = {line.id: line for line in settlement.lines}

    def amounts_below(line: SettlementLine) -> list[SettlementLine]:
        below = [by_id[name] for name in line.because]
        return [one for one in below if one.unit == settlement.currency and one.value is not None]

    def origins(line: SettlementLine) -> list[SettlementLine]:
        """The amounts that a line rests on first, one below the other."""
        found: list[SettlementLine] = []
        while (below := amounts_below(line)) and len(found) < len(by_id):
            line = below[0]
            found.append(line)
        return found

    chain = [payable]
    parts: list[SettlementLine] = []
    while len(chain) <= len(by_id):
        line = chain[-1]
        below = amounts_below(line)
        if not below or any(by_id[name].unit not in (settlement.currency, "1") for name in line.because):
            break
        if len(below) > 1 and sum((one.value or ZERO for one in below), ZERO) == line.value:
            others = [origins(one) for one in below[1:]]
            common = next((one for one in origins(below[0]) if all(one in other for other in others)), None)
            if common is None:
                parts = below
                break
            below = [common]
        chain.append(below[0])
    chain.reverse()
    found: list[Step] = []
    running = ZERO
    for part in parts:
        found.append(Step(part.id, part.label, running, running + (part.value or ZERO)))
        running = found[-1].after
    if not parts:
        running = _amount(chain[0])
        found.append(Step(chain[0].id, chain[0].label, ZERO, running))
        chain = chain[1:]
    for line in chain:
        after = _amount(line)
        if after != running or line is payable:
            found.append(Step(*_about(line, amounts_below(line)), running, after))
        running = after
    return found


def _amount(line: SettlementLine) -> Decimal:
    return line.amount if line.amount is not None else line.value or ZERO


def _about(line: SettlementLine, below: Sequence[SettlementLine]) -> tuple[str, str]:
    """A difference of two amounts is about the second one, every other step about the line that it comes to."""
    if len(below) == 2 and (below[0].value or ZERO) - (below[1].value or ZERO) == line.value and below[1].value:
        return below[1].id, f"less {below[1].label}"
    return line.id, line.label


def bridge(settlement: Settlement, found: Sequence[Step]) -> dict[str, Any]:
    """The steps as a chart, with the payment as its last bar."""
    return _bars(
        settlement.currency, [*((one.label, one.before, one.after) for one in found), ("Paid", ZERO, found[-1].after)]
    )


def waterfall(settlement: Settlement) -> dict[str, Any] | None:
    """From the first payable line to the total: each bar begins where the one before it ends."""
    lines = [(line.label, line.amount) for line in settlement.payable() if line.amount]
    if not lines:
        return None
    bars, running = [], ZERO
    for name, amount in lines:
        bars.append((name, running, running + amount))
        running += amount
    return _bars(settlement.currency, [*bars, ("Total", ZERO, running)])


def _bars(currency: str, bars: Sequence[tuple[str, Decimal, Decimal]]) -> dict[str, Any]:
    """Bars from one amount to another.

    Drawn as stacked bars, the lower one unseen; where a running sum crosses zero the bar has a part on each side.
    """
    names, hidden, above, below = [], [], [], []
    for name, start, end in bars:
        low, high = (start, end) if start < end else (end, start)
        names.append(name)
        hidden.append(float(low if low > 0 else high if high < 0 else 0))
        above.append(float(max(high, ZERO) - max(low, ZERO)))
        below.append(float(min(low, ZERO) - min(high, ZERO)))
    return {
        "xAxis": {"type": "category", "data": names, "axisLabel": {"interval": 0, "rotate": 20}},
        "yAxis": {"type": "value", "name": currency},
        "series": [
            {"type": "bar", "stack": "all", "data": hidden, "itemStyle": {"color": "transparent"}, "silent": True},
            {"type": "bar", "stack": "all", "name": "above zero", "data": above, "itemStyle": {"color": "#1b6ca8"}},
            {"type": "bar", "stack": "all", "name": "below zero", "data": below, "itemStyle": {"color": "#b23b3b"}},
        ],
    }


def totals(values: Sequence[tuple[str, Decimal]]) -> dict[str, Any]:
    """A bar for each of some totals."""
    return {
        "xAxis": {"type": "category", "data": [name for name, _ in values]},
        "yAxis": {"type": "value"},
        "series": [{"type": "bar", "name": "total", "data": [float(total) for _, total in values]}],
    }
