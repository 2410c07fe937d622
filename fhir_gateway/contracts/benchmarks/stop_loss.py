"""Individual stop-loss: what is borne for members of high cost, by bands above attachment points."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import duckdb
import pyarrow as pa


def band_costs(costs: pa.Table, attachments: Sequence[Decimal]) -> tuple[Decimal, ...]:
    """Cost of all members between each attachment point and the next; the last band is open. ``costs`` has ``cost``."""
    with duckdb.connect() as connection:
        connection.register("costs", costs)
        above = []
        for at in attachments:
            row = connection.execute(
                "SELECT coalesce(sum(cost - $at) FILTER (cost > $at), 0)::DECIMAL(38, 8) FROM costs",
                {"at": at.quantize(Decimal("1e-8"))},
            ).fetchone()
            above.append(row[0] if row else Decimal(0))
    following = [*above[1:], Decimal(0)]
    return tuple(here - there for here, there in zip(above, following, strict=True))
