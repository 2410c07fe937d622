"""Parts of contracts and inputs for tests."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fhir_gateway.contracts import Exposure, SettlementInputs

Terms = dict[str, Any]


def shared_savings(**changes: Any) -> Terms:
    """A one-sided arrangement without quality on a target of 1,000,000."""
    return {
        "kind": "shared_savings",
        "id": "ss",
        "pool": "savings",
        "target": {"kind": "total", "amount": Decimal(1_000_000)},
        "rate": Decimal("0.5"),
    } | changes


def measure(name: str, weight: str, **changes: Any) -> Terms:
    """A contractual measure with a linear scoring from 0 to 1."""
    return {
        "id": name,
        "canonical": f"https://example.org/Measure/{name}|1",
        "name": name,
        "direction": "increase",
        "weight": Decimal(weight),
        "scoring": {"kind": "linear", "threshold": 0, "target": 1},
    } | changes


def exposure(cost: str | Decimal, members: int = 10_000, months: str | None = None) -> Exposure:
    """Exposure without truncation or completion."""
    total = Decimal(cost)
    return Exposure(members, Decimal(months or members * 12), total, total, total, 0)


def inputs(cost: str | Decimal, members: int = 10_000, **more: Any) -> SettlementInputs:
    """Inputs without measure results."""
    return SettlementInputs(exposure(cost, members), more.pop("outcomes", {}), **more)
