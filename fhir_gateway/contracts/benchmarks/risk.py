"""Risk ratios and their caps."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.benchmarks.blend import ONE, weighted
from fhir_gateway.errors import ContractError


def capped_ratio(ratio: Decimal, cap: Decimal | None, floor: Decimal | None = None) -> Decimal:
    """A ratio that rises at most ``cap`` above 1 and falls at most ``floor`` below it."""
    if cap is not None:
        ratio = min(ratio, ONE + cap)
    if floor is not None:
        ratio = max(ratio, ONE - floor)
    return ratio


def mean_scores(scores: pa.Table, months: pa.Table, where: str) -> tuple[Decimal, Decimal]:
    """Mean of ``score`` and of ``previous`` by member months, of members who have both; ContractError if nobody has.

    ``scores`` have one row for a member; ``months`` (member, month, months) are of the list.
    """
    with duckdb.connect() as connection:
        connection.register("scores", scores)
        connection.register("months", months)
        found = connection.execute(
            """
            WITH each AS (SELECT member, sum(months)::DECIMAL(18, 8) AS months FROM months GROUP BY member)
            SELECT (SELECT count(*) - count(DISTINCT member) FROM scores), sum(months),
              sum(score::DECIMAL(18, 8) * months), sum(previous::DECIMAL(18, 8) * months)
            FROM scores JOIN each USING (member) WHERE score IS NOT NULL AND previous IS NOT NULL
            """
        ).fetchall()
    repeated, weight, now, before = found[0]
    if repeated:
        raise ContractError(f"{where}: a member has two scores")
    if not weight or not before:
        raise ContractError(f"{where}: no member of the list has a score and a previous one")
    return now / weight, before / weight


def capped_in_aggregate(
    ratios: Mapping[str, Decimal],
    demographic: Mapping[str, Decimal],
    weights: Mapping[str, Decimal],
    allowance: Decimal,
) -> tuple[dict[str, Decimal], Decimal, Decimal]:
    """Ratios of enrolment types, capped only when all together grow more than their demographics and an allowance.

    42 CFR 425.605(a)(1)(ii), agreement periods from 2024: the cap of every type is then the aggregate demographic ratio
    plus the allowance. Returns the ratios, their aggregate before the cap, and the cap.
    """
    order = sorted(ratios)
    shares = [weights[name] for name in order]
    aggregate = weighted([ratios[name] for name in order], shares)
    cap = weighted([demographic[name] for name in order], shares) + allowance
    if aggregate <= cap:
        return dict(ratios), aggregate, cap
    return {name: min(ratio, cap) for name, ratio in ratios.items()}, aggregate, cap
