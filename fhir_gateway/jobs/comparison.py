"""A measure by provider, side by side: who of them differs from all by more than chance.

Providers are those whom a contract's attribution gave the members to. Denominators, numerators, rates, intervals and
what is hidden come from :mod:`fhir_gateway.equity`, as for any other strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.equity import funnel
from fhir_gateway.equity.dimensions import Dimension, MemberDimensions, column
from fhir_gateway.equity.metrics import Metric, metrics_of
from fhir_gateway.equity.stratify import Cell, stratify
from fhir_gateway.equity.suppression import THRESHOLD
from fhir_gateway.factory import Gateway
from fhir_gateway.lake.claims import directory

By = Literal["practice", "clinician", "entity"]
BY: tuple[By, ...] = get_args(By)
_COLUMNS: dict[By, str] = {"practice": "tin", "clinician": "npi", "entity": "entity"}
NOBODY = "nobody"
LIMITS = ("low95", "high95", "low998", "high998")
#: Points of a limit's curve.
_CURVE = 60
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Whose:
    """Whom a comparison is for: everybody (None), or the members and practices that somebody sees."""

    members: Sequence[str] | None = None
    tins: frozenset[str] | None = None

    @property
    def limited(self) -> bool:
        """Somebody who does not see everybody is shown no small numbers, and no other practice."""
        return self.members is not None


def compare(gateway: Gateway, run: str, evidence: Path, by: By, whose: Whose = Whose()) -> Json:
    """Each group of a kept run by the providers of a kept attribution, as JSON."""
    result = gateway.results.load(run)
    metrics, notes = metrics_of(result)
    table = pq.read_table(evidence / "members.parquet", columns=["member", "tin", "npi", "entity", "participant"])
    if whose.members is not None:
        table = table.filter(pc.is_in(table["member"], value_set=pa.array(whose.members, pa.string())))
    if whose.tins is not None:
        table = table.filter(pc.is_in(table["tin"], value_set=pa.array(sorted(whose.tins), pa.string())))
    table = table.sort_by("member")
    names = provider_names(gateway, result.lake_version, by)
    codes = pc.fill_null(table[_COLUMNS[by]], NOBODY).combine_chunks()
    titles = {code: names.get(code, code) for code in sorted(set(pc.unique(codes).to_pylist()))}
    dimension = Dimension("provider", by.capitalize(), "provider", titles | {NOBODY: "Not attributed"})
    members = table["member"].combine_chunks()
    dimensions = MemberDimensions(members, result.period[1], {"provider": column(dimension, codes)}, table)
    ours = set(pc.unique(table.filter(table["participant"])[_COLUMNS[by]]).to_pylist())
    threshold = THRESHOLD if whose.limited else 1
    strata = stratify(metrics, dimensions, [dimension], threshold, notes)
    groups = [compared(one.metric, one.total, one.cells, ours) for one in strata.breakdowns]
    return {"notes": list(strata.notes), "limited": whose.limited, "groups": groups}


def compared(metric: Metric, total: Cell, cells: Sequence[Cell], ours: set[str]) -> Json:
    """One metric by provider: rows as they are shown, limits, dispersion, the achievable benchmark."""
    shown = [one for one in cells if one.suppressed or one.denominator]
    points = [one for one in shown if one.rate is not None and one.stratum != NOBODY]
    found: Json = {
        "id": metric.id,
        "title": metric.title,
        "group": metric.group,
        "kind": metric.kind,
        "scale": metric.scale,
        "direction": metric.direction,
        "total": cell_json(total),
        "rows": [
            cell_json(one)
            | {"ours": one.stratum in ours, "position": None, "position_widened": None}
            | dict.fromkeys(LIMITS)
            for one in shown
        ],
        "centre": None,
    }
    if metric.kind not in ("proportion", "rate") or len(points) < 2:
        return found
    kind: funnel.Kind = "proportion" if metric.kind == "proportion" else "rate"
    met, sizes = ([float(getattr(one, name)) for one in points] for name in ("numerator", "denominator"))
    centre = sum(met) / sum(sizes)
    spread = funnel.dispersion(kind, met, sizes)
    limits = funnel.control_limits(kind, centre, sizes)
    wide = funnel.widened(kind, centre, sizes, spread)
    exact = funnel.positions(kind, centre, met, sizes)
    allowing = funnel.positions_beyond(wide, exact, met, sizes)
    place = {one.stratum: number for number, one in enumerate(points)}
    for row in found["rows"]:
        number = place.get(row["stratum"])
        if number is not None:
            row["position"], row["position_widened"] = exact[number], allowing[number]
            row |= {name: float(getattr(limits, name)[number]) * metric.scale for name in LIMITS}
    curve = np.unique(np.rint(np.geomspace(max(1.0, min(sizes) * 0.8), max(sizes) * 1.1, _CURVE)))
    drawn = funnel.control_limits(kind, centre, curve.tolist())
    best = funnel.achievable(metric.direction, met, sizes) if metric.direction and kind == "proportion" else None
    return found | {
        "centre": centre * metric.scale,
        "dispersion": {"factor": spread.factor, "more": spread.more, "providers": spread.providers},
        "achievable": best,
        "curve": {
            "denominator": curve.tolist(),
            **{name: (getattr(drawn, name) * metric.scale).tolist() for name in LIMITS},
        },
    }


def cell_json(cell: Cell) -> Json:
    """A cell as it is kept and shown."""
    return {
        "stratum": cell.stratum,
        "title": cell.title,
        "denominator": cell.denominator,
        "numerator": cell.numerator,
        "rate": cell.rate,
        "low": cell.low,
        "high": cell.high,
        "suppressed": cell.suppressed,
        "missing": cell.missing,
    }


def provider_names(gateway: Gateway, version: int | None, by: By) -> dict[str, str]:
    """Names of practices by tax number, or of clinicians by NPI, out of the directories."""
    if by == "entity":
        return {}
    kind, number = ("Organization", "tin") if by == "practice" else ("Practitioner", "npi")
    rows = directory(gateway.lake, version).select(["source", "reference", number])
    rows = rows.filter(pc.and_(pc.starts_with(rows["reference"], f"{kind}/"), rows[number].is_valid()))
    named = gateway.lake.read(kind, ["name"], version=version)
    names = {
        (source, f"{kind}/{one}"): name if isinstance(name, str) else _person(name)
        for source, one, name in zip(*(named[n].to_pylist() for n in ("_source", "id", "name")), strict=True)
        if name
    }
    found: dict[str, str] = {}
    for row in rows.sort_by([("source", "ascending"), ("reference", "ascending")]).to_pylist():
        name = names.get((row["source"], row["reference"]))
        if name:
            found.setdefault(row[number], name)
    return found


def _person(names: list[dict[str, Any]]) -> str:
    one = names[0]
    return one.get("text") or " ".join([*(one.get("given") or ()), *([one["family"]] if one.get("family") else ())])
