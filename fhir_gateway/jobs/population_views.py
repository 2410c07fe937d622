"""What the pages about a contract's population show: members by outcome and practice, churn over the runs, leakage.

Kept views (:mod:`fhir_gateway.jobs.kept_views`): they hold counts and sums, no member.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq

from fhir_gateway.attribution.stability import churn
from fhir_gateway.contracts import Contract
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import roster_evidence
from fhir_gateway.jobs.attribution_runs import evidence_runs
from fhir_gateway.jobs.comparison import provider_names
from fhir_gateway.jobs.kept_views import Json, kept_view

#: Runs that a course over time goes back, and competitors that leakage names.
_RUNS, _COMPETITORS = 24, 20

_PRACTICES = """
SELECT tin, count(*) AS members, count(DISTINCT npi) AS clinicians FROM read_parquet($file)
WHERE entity = $entity AND tin IS NOT NULL GROUP BY tin ORDER BY members DESC, tin
"""


def practices_view(gateway: Gateway, contract: Contract, evidence: Path) -> list[Json]:
    """Practices of the contract's provider with the members that a kept run gave them."""

    def compute() -> Json:
        version = orjson.loads((evidence / "header.json").read_bytes())["lake_version"]
        names = provider_names(gateway, version, "practice")
        with duckdb.connect(config={"threads": 1}) as connection:
            values = {"file": str(evidence / "members.parquet"), "entity": contract.provider.entity}
            rows = connection.execute(_PRACTICES, values).fetchall()
        found = [
            {"tin": tin, "name": names.get(tin, tin), "members": members, "clinicians": clinicians}
            for tin, members, clinicians in rows
        ]
        return {"practices": found}

    found: list[Json] = kept_view(gateway, "practices-1", [contract.id, evidence.name], compute)["practices"]
    return found


def course_view(gateway: Gateway, contract: Contract) -> list[Json]:
    """Members of the contract's provider in each kept run, the first first, and who came and left since the one before.

    Each step is a view of its own: a new run adds one.
    """
    runs = evidence_runs(gateway, contract.id)[-_RUNS:]
    found: list[Json] = []
    for number, (folder, header) in enumerate(runs):
        before = runs[number - 1][0] if number else None
        step = kept_view(
            gateway,
            "course-1",
            [contract.id, contract.provider.entity, before.name if before else "", folder.name],
            lambda before=before, folder=folder: _step(contract.provider.entity, before, folder),  # type: ignore[misc]
        )
        found.append({"computed": header["computed"], "lake_version": header["lake_version"], **step})
    return found


def _step(entity: str, before: Path | None, now: Path) -> Json:
    table = pq.read_table(now / "members.parquet")
    previous = pq.read_table(before / "members.parquet") if before is not None else table.slice(0, 0)
    found = churn(previous, table, entity)
    changes = found.changes.group_by(["change", "reason"]).aggregate([([], "count_all")]).to_pylist()
    counted = {name: sum(one["count_all"] for one in changes if one["change"] == name) for name in ("came", "left")}
    first = before is None
    return {
        "before": None if first else found.before,
        "members": found.now,
        "stayed": None if first else found.stayed,
        "came": None if first else counted["came"],
        "left": None if first else counted["left"],
        "churn": None if found.churn is None else float(found.churn),
        "retention": found.retention.to_pylist(),
        "reasons": []
        if first
        else sorted(
            ({"change": one["change"], "reason": one["reason"], "members": one["count_all"]} for one in changes),
            key=lambda one: (one["change"], -one["members"], one["reason"]),
        ),
    }


def leakage_view(gateway: Gateway, contract: Contract, path: Path, evidence: str) -> Json:
    """Primary care of the contract's members inside and outside of it, by a kept run; amounts as texts."""

    def compute() -> Json:
        report = roster_evidence.kept(gateway, str(path), evidence)
        if "plurality" not in report.attribution.terms.methods:
            return {"looked": False, "inside": None, "outside": None, "share": None, "providers": []}
        found = roster_evidence.leakage_of(report)
        rows: Sequence[dict[str, Any]] = found.providers.slice(0, _COMPETITORS).to_pylist()
        return {
            "looked": True,
            "inside": str(found.inside),
            "outside": str(found.outside),
            "share": None if found.share is None else float(found.share),
            "providers": [one | {"allowed": str(one["allowed"])} for one in rows],
        }

    return kept_view(gateway, "leakage-1", [contract.id, contract.digest, evidence], compute)
