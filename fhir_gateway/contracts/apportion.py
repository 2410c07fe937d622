"""Sharing an amount so that the published parts add up to it: largest remainder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

from fhir_gateway.errors import ContractError

CENT = Decimal("0.01")


def apportion(total: Decimal, weights: Sequence[Decimal], quantum: Decimal = CENT) -> tuple[Decimal, ...]:
    """Parts of ``total`` in proportion to ``weights``, each a whole number of ``quantum``, that sum to it exactly.

    ``total`` is first rounded half up to the quantum. Every part is its exact share rounded towards zero; what is left
    goes, one quantum each, to the largest remainders, ties to the earlier. A negative total is shared as its opposite.
    Without any weight (all zero) there is nobody to share with: ContractError, unless the total is zero. Weights are
    not negative.
    """
    if quantum <= 0:
        raise ContractError("apportion: the quantum is not positive")
    if any(weight < 0 for weight in weights):
        raise ContractError("apportion: a weight is negative")
    with localcontext() as context:
        context.prec = 60
        units = int((total / quantum).to_integral_value(ROUND_HALF_UP))
    whole = sum(map(Fraction, weights), Fraction(0))
    if whole == 0:
        if units:
            raise ContractError("apportion: there is an amount to share and no weight to share it by")
        return tuple(Decimal(0) * quantum for _ in weights)
    exact = [Fraction(weight) * abs(units) / whole for weight in weights]
    parts = [int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda n: (parts[n] - exact[n], n))
    for index in by_remainder[: abs(units) - sum(parts)]:
        parts[index] += 1
    sign = -1 if units < 0 else 1
    return tuple(sign * part * quantum for part in parts)


def apportion_by(total: Decimal, weights: Mapping[str, Decimal], quantum: Decimal = CENT) -> dict[str, Decimal]:
    """:func:`apportion` by name; ties go to the name that sorts first, whatever the order of the mapping."""
    names = sorted(weights)
    return dict(zip(names, apportion(total, [weights[name] for name in names], quantum), strict=True))
