"""Who will need unplanned acute care most, and who will come back to hospital: ranked by models of the own lake.

By the versions in force (:mod:`.prediction_models`); where there is none yet, one is learned first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.assessments import serve
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.prediction_inputs import buckets
from fhir_gateway.jobs.prediction_models import drift_of, member_rows, models_for, planning, readmission_rows
from fhir_gateway.jobs.predictions import SERVED_DAYS, encounter_of
from fhir_gateway.risk.prediction.assessment import assessment
from fhir_gateway.risk.prediction.drift import drifted
from fhir_gateway.risk.prediction.features import matrix
from fhir_gateway.risk.prediction.store import StoredModel
from fhir_gateway.risk.prediction.targets import COST_TARGETS, READMISSION
from fhir_gateway.risk.prediction.training import contributions, tiers
from fhir_gateway.risk.prediction.trees import Floats

_REASONS = 3


@dataclass(frozen=True, slots=True)
class WorkList:
    """A ranked list. ``table`` has member, tier, reasons and expected_cost, expected_avoidable or stay, probability.

    ``models`` by target; ``drift`` by target and feature: how far those who are ranked are from those who taught.
    """

    as_of: date
    table: pa.Table
    models: Mapping[str, StoredModel]
    drift: Mapping[str, Mapping[str, float]]
    served: int

    def warnings(self) -> list[str]:
        """Models that no longer fit, and by which features."""
        found = ((name, drifted(one)) for name, one in self.drift.items())
        return [f"{name} has drifted in {', '.join(features)}: learn it anew" for name, features in found if features]


def work_list(gateway: Gateway, as_of: date | None = None, *, now: datetime | None = None) -> WorkList:
    """Rank everybody as of a day (default: today) by expected unplanned acute cost of the next year.

    InputError when there is no model yet and the lake has too little to learn from.
    """
    now = instant(gateway, now)
    day = as_of or now.date()
    with hold(gateway, "predictions", wait=lambda: True):
        models = models_for(gateway, COST_TARGETS, day, now)
        [present] = member_rows(gateway, gateway.lake.version, [day])
        features = matrix(present)
        expected = {target: np.round(one.model.predict(features), 2) for target, one in models.items()}
        avoidable = expected["next_acute_cost"]
        tier, acute = tiers(avoidable), models["next_acute_cost"]
        ranked = pa.table(
            {
                "member": present["member"],
                "expected_cost": expected["next_cost"],
                "expected_avoidable": avoidable,
                "tier": tier,
                "reasons": _reasons(acute, features, tier != "rest"),
            }
        ).sort_by([("expected_avoidable", "descending"), ("member", "ascending")])
        found = WorkList(day, ranked, models, {name: drift_of(one, present) for name, one in models.items()}, 0)
        _keep(gateway, "work-list", found)
        basis = f"Model {acute.id}; expected unplanned acute cost of the next year"

        def render(row: Mapping[str, Any]) -> dict[str, Any]:
            said = f"{basis}: {row['expected_avoidable']:.0f}."
            member = row["member"]
            return assessment("work-list", member, member, now, band=row["tier"], reasons=row["reasons"], basis=said)

        told = ranked.filter(pc.not_equal(ranked["tier"], "rest"))
        served = serve(gateway, _as_served(told, "work-list", "member", acute), render, ("work-list",))
    return WorkList(day, ranked, models, found.drift, served)


def readmission_list(gateway: Gateway, as_of: date | None = None, *, now: datetime | None = None) -> WorkList:
    """Rank the stays that ended within 30 days of a day (default: today) by the chance of an unplanned readmission.

    All are served as RiskAssessments with the chance and the reasons. InputError as :func:`work_list`.
    """
    now = instant(gateway, now)
    day = as_of or now.date()
    with hold(gateway, "predictions", wait=lambda: True):
        models = models_for(gateway, (READMISSION,), day, now)
        [stored] = models.values()
        span, tables = (day - timedelta(SERVED_DAYS), day), planning(gateway)
        parts = [readmission_rows(bucket, span, tables) for bucket in buckets(gateway, gateway.lake.version)]
        present = _still_home(pa.concat_tables(parts), day)
        features = matrix(present, stored.model.about.features)
        chance = np.round(stored.model.predict(features), 4)
        ranked = pa.table(
            {
                "stay": present["stay"],
                "member": present["member"],
                "discharged": present["discharged"],
                "probability": chance,
                "tier": tiers(chance),
                "reasons": _reasons(stored, features, np.ones(len(chance), dtype=bool)),
            }
        ).sort_by([("probability", "descending"), ("stay", "ascending")])
        found = WorkList(day, ranked, models, {READMISSION: drift_of(stored, present)}, 0)
        _keep(gateway, "readmissions", found)
        basis = f"Model {stored.id}; chance of an unplanned readmission within 30 days of discharge."

        def render(row: Mapping[str, Any]) -> dict[str, Any]:
            return assessment(
                "readmission-30",
                row["stay"],
                row["member"],
                now,
                band=row["tier"],
                probability=row["probability"],
                reasons=row["reasons"],
                encounter=encounter_of(row["encounter"]),
                basis=basis,
            )

        rows = _as_served(ranked, "readmission-30", "stay", stored)
        of_claims = pc.starts_with(rows["stay"], "claim/")
        encounter = pc.if_else(of_claims, pa.scalar(None, pa.string()), rows["stay"])
        served = serve(gateway, rows.append_column("encounter", encounter), render, ("readmission-30",))
    return WorkList(day, ranked, models, found.drift, served)


def newest_work_list(gateway: Gateway) -> pa.Table:
    """The list that was made last; NotFoundError when none was."""
    return _newest(gateway, "work-list")


def newest_readmission_list(gateway: Gateway) -> pa.Table:
    """The list of readmissions that was made last; NotFoundError when none was."""
    return _newest(gateway, "readmissions")


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list that was made last, as a file, and what it was made of: as_of, lake_version, models, drift, warnings."""

    path: Path
    about: Mapping[str, Any]


def kept_list(gateway: Gateway, name: Literal["work-list", "readmissions"]) -> KeptList | None:
    """The list of that name that was made last, not read yet; None when none was."""
    path = gateway.data_folder / "predictions" / f"{name}.parquet"
    about = path.with_suffix(".json")
    return KeptList(path, orjson.loads(about.read_bytes())) if about.is_file() and path.is_file() else None


def _newest(gateway: Gateway, name: str) -> pa.Table:
    path = gateway.data_folder / "predictions" / f"{name}.parquet"
    if not path.is_file():
        raise NotFoundError(f"no list yet: fhir-gateway predict {name}")
    return pq.read_table(path)


def _still_home(stays: pa.Table, day: date) -> pa.Table:
    """Stays whose person is alive and not in hospital again by a day."""
    until = pa.scalar(day, pa.date32())
    back, dead = (pc.fill_null(pc.less_equal(stays[name], until), False) for name in ("next_admitted", "death"))
    return stays.filter(pc.invert(pc.or_(back, dead))).sort_by("stay")


def _reasons(stored: StoredModel, features: Floats, whose: np.ndarray) -> pa.Array:
    """Of rows that are asked for the three features that add most, with how much; null of the others."""
    names = np.array([name.replace("_", " ") for name in stored.model.about.features])
    unit = " points" if stored.model.about.kind == "chance" else ""
    found = contributions(stored.model, features[whose], stored.medians)
    order = np.argsort(-found, axis=1, kind="stable")[:, :_REASONS]
    values = np.round(np.take_along_axis(found, order, axis=1)).astype(np.int64)
    counts = np.zeros(len(features), dtype=np.int64)
    counts[whose] = (values > 0).sum(axis=1)
    named, added = pa.array(names[order[values > 0]], pa.string()), pa.array(values[values > 0]).cast(pa.string())
    texts = pc.binary_join_element_wise(named, pc.binary_join_element_wise("+", added, unit, ""), " ")
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, texts, mask=pa.array(~whose))


def _as_served(ranked: pa.Table, method: str, key: str, stored: StoredModel) -> pa.Table:
    """Rows with what assessments.serve looks at; another model says the same anew."""
    size = ranked.num_rows
    fixed = {"method": method, "model": stored.id}
    for name, value in fixed.items():
        ranked = ranked.append_column(name, pa.repeat(pa.scalar(value), size))
    return ranked.append_column("key", ranked[key])


def _keep(gateway: Gateway, name: str, found: WorkList) -> None:
    """The list, and beside it what it was made of."""
    folder = gateway.data_folder / "predictions"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = {
        "as_of": found.as_of.isoformat(),
        "lake_version": gateway.lake.version,
        "models": {target: one.id for target, one in found.models.items()},
        "drift": found.drift,
        "warnings": found.warnings(),
    }
    partial = folder / f"{name}.partial"
    pq.write_table(found.table, partial, compression="zstd")
    os.replace(partial, folder / f"{name}.parquet")
    (folder / f"{name}.json").write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
