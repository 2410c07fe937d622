"""Who is underserved: what payments that are adjusted for equity look at, by member and as shares.

MSSP's health equity adjustment, ACO REACH's HEBA and TEAM's social risk take these; their rules and points are terms
of the contracts.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.equity.dimensions import MemberDimensions
from fhir_gateway.errors import InputError

SOCIAL_RISK_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("adi_national", pa.int64()),
        ("adi_state", pa.int64()),
        ("dual", pa.bool_()),
        ("lis", pa.bool_()),
        ("rural", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Underserved:
    """Shares of members, or of what they weigh.

    ``adi``: in areas at or above the percentile, of everybody (whoever has no index is not in one). ``dual_or_lis``:
    dually eligible or with the low-income subsidy. ``known_adi``: with an index at all.
    """

    adi: Decimal
    dual_or_lis: Decimal
    known_adi: Decimal

    @property
    def share(self) -> Decimal:
        """The larger of both shares (MSSP's underserved multiplier before its floor)."""
        return max(self.adi, self.dual_or_lis)


def social_risk(dimensions: MemberDimensions) -> pa.Table:
    """:data:`SOCIAL_RISK_SCHEMA`, a row per member, sorted; null is not known."""
    return dimensions.facts.select(SOCIAL_RISK_SCHEMA.names).cast(SOCIAL_RISK_SCHEMA)


def underserved(table: pa.Table, months: pa.Array | None = None, adi: int = 85) -> Underserved:
    """Shares over the rows of :func:`social_risk`, weighing ``months`` (default: one). InputError of nobody."""
    weight = pa.chunked_array([pa.repeat(pa.scalar(Decimal(1)), table.num_rows)]) if months is None else months
    weight = weight.cast(pa.decimal128(38, 8))
    whole = _total(weight)
    if not whole:
        raise InputError("nobody's share is underserved: there are no members, or no months")
    deprived = pc.fill_null(pc.greater_equal(table["adi_national"], adi), False)
    poor = pc.or_(pc.fill_null(table["dual"], False), pc.fill_null(table["lis"], False))
    return Underserved(
        *(_total(weight.filter(mask)) / whole for mask in (deprived, poor, pc.is_valid(table["adi_national"])))
    )


def _total(weights: pa.ChunkedArray | pa.Array) -> Decimal:
    total: Decimal | None = pc.sum(weights).as_py()
    return Decimal(0) if total is None else total
