"""Builders of claim lines and Coverage for attribution tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.r4.spec import arrow_type, column_structure

LineMaker = Callable[[Iterable[dict[str, Any]]], pa.Table]


@pytest.fixture(scope="session")
def make_lines() -> LineMaker:
    """Claim lines from a few columns; the rest as an office visit that counts."""

    def make(rows: Iterable[dict[str, Any]]) -> pa.Table:
        full = []
        for number, row in enumerate(rows):
            day = row.get("service_from", date(2024, 6, 1))
            line = dict.fromkeys(LINE_SCHEMA.names) | {
                "_member": "p1",
                "source": "payer",
                "eob": f"e{number}",
                "claim_group": f"payer/e{number}",
                "version": 1,
                "version_status": "active",
                "counts": True,
                "line": 1,
                "service_from": day,
                "service_thru": day,
                "claim_type": "professional",
                "npi": f"{row.get('tin') or ''}1",
                "procedure": "99213",
                "place_of_service": "11",
                "denied": False,
            }
            line |= row
            for name in ("allowed", "paid"):
                if line[name] is not None:
                    line[name] = Decimal(line[name])
            full.append(line)
        return pa.Table.from_pylist(full, schema=LINE_SCHEMA)

    return make


@pytest.fixture(scope="session")
def make_coverage() -> Callable[..., pa.Table]:
    """Coverage rows (member, start, end, type code, status) as the lake gives them."""

    def make(*rows: tuple[str, str | None, str | None, str, str]) -> pa.Table:
        structure = column_structure("Coverage")
        schema = pa.schema(
            [("_member", pa.string()), ("_source", pa.string()), ("id", pa.string())]
            + [(name, arrow_type(structure[name])) for name in ("status", "type", "period")]
        )
        return pa.Table.from_pylist(
            [
                {
                    "_member": member,
                    "_source": "payer",
                    "id": f"c{number}",
                    "status": status,
                    "type": {"coding": [{"code": kind}]},
                    "period": {"start": start, "end": end},
                }
                for number, (member, start, end, kind, status) in enumerate(rows)
            ],
            schema=schema,
        )

    return make
