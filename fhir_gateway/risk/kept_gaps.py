"""Coding gaps that were computed, as :class:`~fhir_gateway.risk.models.CodingGapSource` gives them to ``$report``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.risk.hcc.years import MODELS
from fhir_gateway.risk.models import CodingGaps, ConditionCategory, RiskModel
from fhir_gateway.risk.store import RiskRun, RiskStore

_BASE = "https://fhir-gateway.example/fhir/"
IDENTIFIER_SYSTEM = "https://fhir-gateway.example/risk-models"

RISK_MODELS = tuple(
    RiskModel(
        url=f"{_BASE}Measure/cms-hcc-{model.lower()}",
        version=model.removeprefix("V"),
        identifier=(IDENTIFIER_SYSTEM, "CMS-HCC"),
        measure_id=f"cms-hcc-{model.lower()}",
    )
    for model in MODELS
)


class KeptGaps:
    """Gaps out of the newest run of a model for each period."""

    def __init__(self, store: RiskStore) -> None:
        self._store = store

    def models(self) -> Sequence[RiskModel]:
        """CMS-HCC V24 and V28."""
        return RISK_MODELS

    def gaps(self, model: RiskModel, period: tuple[date, date], persons: Sequence[str]) -> list[CodingGaps] | None:
        """Gaps of these persons in periods that overlap; None when no run is of such a period."""
        runs: dict[tuple[date, date], RiskRun] = {}
        for run in self._store.runs("gaps"):
            if run.header["model"] == f"V{model.version}" and _overlap(_period(run), period):
                runs[_period(run)] = run
        if not runs:
            return None
        wanted = pa.array(sorted(set(persons)), pa.string())
        return [one for of, run in sorted(runs.items()) for one in _of_run(run, model, of, wanted)]


def _of_run(run: RiskRun, model: RiskModel, period: tuple[date, date], persons: pa.Array) -> list[CodingGaps]:
    rows = pq.read_table(run.folder / "gaps.parquet", filters=pc.is_in(pc.field("member"), persons))
    categories: dict[str, list[ConditionCategory]] = {}
    for row in rows.to_pylist():
        categories.setdefault(row["member"], []).append(_category(row))
    deadline = run.header.get("deadline")
    return [
        CodingGaps(
            person=member,
            model=model,
            period=period,
            generated=datetime.fromisoformat(run.header["generated"]),
            categories=tuple(found),
            deadline=date.fromisoformat(deadline) if deadline else None,
        )
        for member, found in categories.items()
    ]


def _category(row: dict[str, Any]) -> ConditionCategory:
    return ConditionCategory(
        code=row["cc"],
        display=row["label"],
        cc_type=row["cc_type"],
        evidence_status=row["evidence_status"],
        evidence_date=row["evidence_date"],
        hierarchical_status=row["hierarchical_status"],
        diagnoses=tuple(_dotted(code) for code in row["diagnoses"]),
        evidence=tuple(row["references"]),
    )


def _dotted(code: str) -> str:
    return code if len(code) <= 3 else f"{code[:3]}.{code[3:]}"


def _period(run: RiskRun) -> tuple[date, date]:
    first, last = run.header["period"]
    return date.fromisoformat(first), date.fromisoformat(last)


def _overlap(one: tuple[date, date], other: tuple[date, date]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
