"""Projections that were made, kept beside each other: where a contract was thought to end, as the year went."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.projection import ProjectedMonth, ProjectedPayment, Projection
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.what_if import project

_AMOUNTS = ("paid", "ibnr", "to_come", "cost", "total", "cost_low", "total_at_low_cost", "cost_high")


@dataclass(frozen=True, slots=True)
class KeptProjection:
    """A projection, the terms (digest) and lake version that it was made of, when and by whom."""

    projection: Projection
    version: str
    digest: str
    lake_version: int
    made: datetime
    by: str


def project_and_keep(
    gateway: Gateway, contract_name: str, as_of: date, by: str, now: datetime | None = None
) -> KeptProjection:
    """Project a contract from the claims known as of a day, and keep it in the place of an earlier one of that day."""
    moment = instant(gateway, now)
    contract = Contract.load(gateway.contract(contract_name))
    found = project(gateway, contract_name, as_of, moment)
    kept = KeptProjection(found, contract.version, contract.digest, gateway.lake.version, moment, by)
    folder = _folder(gateway, contract.id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f".{as_of.isoformat()}.{os.getpid()}"
    partial.write_bytes(orjson.dumps(asdict(kept), default=_text, option=orjson.OPT_INDENT_2))
    os.replace(partial, folder / f"{as_of.isoformat()}.json")
    return kept


def kept_projections(gateway: Gateway, contract_id: str) -> list[KeptProjection]:
    """Those of a contract, by the day as of which its claims were known."""
    folder = _folder(gateway, contract_id)
    return [_read(orjson.loads(path.read_bytes())) for path in sorted(folder.glob("[!.]*.json"))]


def _folder(gateway: Gateway, contract_id: str) -> Path:
    return gateway.data_folder / "projections" / contract_id


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no part of a projection")


def _read(stored: Mapping[str, Any]) -> KeptProjection:
    told = stored["projection"]
    projection = Projection(
        through=date.fromisoformat(told["through"]),
        months_left=told["months_left"],
        level=told["level"],
        total_at_high_cost=Decimal(told["total_at_high_cost"]),
        **{name: Decimal(told[name]) for name in _AMOUNTS},
        payments=tuple(
            ProjectedPayment(one["arrangement"], one["carried"], Decimal(one["total"])) for one in told["payments"]
        ),
        path=tuple(
            ProjectedMonth(
                date.fromisoformat(one["month"]),
                None if one["paid"] is None else Decimal(one["paid"]),
                *(Decimal(one[name]) for name in ("cost", "low", "high")),
            )
            for one in told["path"]
        ),
    )
    made = datetime.fromisoformat(stored["made"])
    return KeptProjection(projection, stored["version"], stored["digest"], stored["lake_version"], made, stored["by"])
