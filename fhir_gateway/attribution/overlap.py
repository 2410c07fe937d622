"""Several contracts that claim one member: who would have had him, and which of them does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Precedence:
    """How a contract stands among others: of those in one ``exclusive_group`` only one keeps a member.

    The one with the lowest ``priority`` number keeps him, of equals the first by name. Without a group a contract
    keeps all its members.
    """

    priority: int = 100
    exclusive_group: str | None = None


#: A row per member and contract that would have claimed him. ``kept`` says whether it does, ``lost_to`` which contract
#: of the group has him instead.
CLAIM_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("contract", pa.string()),
        ("exclusive_group", pa.string()),
        ("priority", pa.int64()),
        ("method", pa.string()),
        ("step", pa.string()),
        ("amount", pa.decimal128(28, 8)),
        ("kept", pa.bool_()),
        ("lost_to", pa.string()),
    ]
)


def claimants(claims: Mapping[str, tuple[pa.Table, str]], precedence: Mapping[str, Precedence]) -> pa.Table:
    """Who would have claimed whom (:data:`CLAIM_SCHEMA`), by contract: (table of ``ATTRIBUTION_SCHEMA``, its entity).

    A contract without ``precedence`` stands alone. Contracts of different groups may all keep a member: a bundle runs
    inside an accountable care organization.
    """
    columns = ("member", "method", "step", "amount")
    claimed = []
    for contract, (table, entity) in sorted(claims.items()):
        mine = table.filter(pa.compute.equal(table["entity"], entity)).select(columns)
        stands = precedence.get(contract, Precedence())
        count = mine.num_rows
        claimed.append(
            mine.append_column("contract", pa.repeat(pa.scalar(contract), count))
            .append_column("priority", pa.repeat(pa.scalar(stands.priority, pa.int64()), count))
            .append_column("exclusive_group", pa.repeat(pa.scalar(stands.exclusive_group, pa.string()), count))
        )
    if not claimed:
        return CLAIM_SCHEMA.empty_table()
    with duckdb.connect() as connection:
        connection.register("claimed", pa.concat_tables(claimed))
        found = connection.sql(
            """
            WITH ranked AS (
              SELECT *, first_value(contract) OVER (
                PARTITION BY member, coalesce(exclusive_group, 'contract ' || contract) ORDER BY priority, contract
              ) AS keeper FROM claimed
            )
            SELECT * EXCLUDE (keeper), contract = keeper AS kept,
              CASE WHEN contract <> keeper THEN keeper END AS lost_to
            FROM ranked ORDER BY member, priority, contract
            """
        ).to_arrow_table()
    return found.select(CLAIM_SCHEMA.names).cast(CLAIM_SCHEMA)
