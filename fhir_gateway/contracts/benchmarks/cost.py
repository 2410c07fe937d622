"""Cost of members out of claim lines: what is excluded, truncated, pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ContractError

#: Columns of claim lines that cost is computed from.
COST_COLUMNS = ("denied", "claim_type", "service_from", "claim_from", "claim_thru", "allowed", "paid")
Amount = Literal["paid", "allowed"]
Day = Literal["line", "claim_from", "claim_thru"]
#: Class of lines whose claim has no type: nobody leaves them out who does not name it.
UNTYPED = "untyped"
_DAYS = {"line": "service_from", "claim_from": "claim_from", "claim_thru": "claim_thru"}


@dataclass(frozen=True, slots=True)
class Kept:
    """Cost of members, and what of it stays after limits per member."""

    members: int
    raw: Decimal
    kept: Decimal
    over: int  # members above the limit


def member_costs(
    lines: pa.Table,
    members: pa.Array,
    period: tuple[date, date],
    *,
    amount: Amount = "paid",
    day: Day = "line",
    without_types: Sequence[str] = (),
    without_members: pa.Array | None = None,
) -> pa.Table:
    """``member, cost`` of every member who is not excluded, zero without claims.

    ``lines`` count already (newest versions only). Denied lines have an allowed amount that nobody owes: they stay out.
    Lines without a type are of the class :data:`UNTYPED`: they count unless ``without_types`` names it.
    """
    excluded = pa.array([], pa.string()) if without_members is None else without_members
    with duckdb.connect() as connection:
        connection.register("roster", pa.table({"member": members}))
        connection.register("excluded", pa.table({"member": excluded}))
        connection.register("lines", lines)
        return connection.sql(
            f"""
            WITH mine AS (SELECT member FROM roster WHERE member NOT IN (SELECT member FROM excluded)),
            cost AS (
              SELECT _member AS member, sum({amount}) AS cost FROM lines
              WHERE {_DAYS[day]} BETWEEN $start AND $end AND {"NOT denied" if amount == "allowed" else "TRUE"}
                AND NOT list_contains($types, coalesce(claim_type, '{UNTYPED}'))
              GROUP BY _member
            )
            SELECT member, coalesce(cost, 0)::DECIMAL(38, 8) AS cost FROM mine LEFT JOIN cost USING (member)
            ORDER BY member
            """,  # noqa: S608 the words spliced in are enumerated above
            params={"start": period[0], "end": period[1], "types": list(without_types)},
        ).to_arrow_table()


def truncated(costs: pa.Table, at: Decimal | None) -> Kept:
    """Cost up to ``at`` per member."""
    return pooled(costs, at, Decimal(1))


def pooled(costs: pa.Table, attachment: Decimal | None, share: Decimal) -> Kept:
    """Cost without the ``share`` above the ``attachment`` point of each member, which a pool or reinsurer bears."""
    if attachment is not None and attachment.normalize().as_tuple().exponent < -8:  # type: ignore[operator]
        raise ContractError("attachment: has more than eight places")
    with duckdb.connect() as connection:
        connection.register("costs", costs)
        row = connection.execute(
            """
            SELECT count(*), coalesce(sum(cost), 0)::DECIMAL(38, 8),
              coalesce(sum(cost - $at) FILTER (cost > $at), 0)::DECIMAL(38, 8), count(*) FILTER (cost > $at)
            FROM costs
            """,
            {"at": None if attachment is None else attachment.quantize(Decimal("1e-8"))},
        ).fetchone()
    if row is None:
        raise ContractError("cost: could not be summed")
    members, raw, above, over = row
    return Kept(members, raw, raw - share * above, over)
