"""The steps from a benchmark, target or pool to what an arrangement pays, read off the lines of a settlement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fhir_gateway.contracts.settlement import Settlement, SettlementLine

ZERO = Decimal(0)


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
