"""Where models rest: each version whole, never changed; a log says which were retired, by whom and why."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from fhir_gateway.errors import ConflictError, NotFoundError
from fhir_gateway.risk.prediction.cards import as_markdown
from fhir_gateway.risk.prediction.targets import TARGETS
from fhir_gateway.risk.prediction.training import Calibration, Model
from fhir_gateway.risk.prediction.trees import Floats, Trees
from fhir_gateway.risk.store import RiskRun, RiskStore


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A version of a model: its card (plain values, with the ``id``), and its retirement when it was retired."""

    card: Mapping[str, Any]
    model: Model
    retired: Mapping[str, str] | None = None

    @property
    def id(self) -> str:
        """Follows from all that was learned and what it was learned from."""
        return str(self.card["id"])

    @property
    def medians(self) -> Floats:
        """Of those whom it learned from, by feature."""
        return np.array([np.nan if one is None else one for one in self.card["medians"]], dtype=np.float64)


class ModelStore:
    """Versions of models in a folder."""

    def __init__(self, folder: Path) -> None:
        self._runs = RiskStore(folder)
        self._retired = folder / "models" / "retired.jsonl"

    def keep(self, model: Model, card: Mapping[str, Any]) -> StoredModel:
        """Keep a version with its card; one that was kept already stays as it is, with the date of then."""
        digest = hashlib.sha256()
        about = {name: value for name, value in card.items() if name != "learned_at"}
        digest.update(orjson.dumps([about, model.calibration.to_dict()], option=orjson.OPT_SORT_KEYS))
        for name in model.trees.nodes.column_names:
            digest.update(orjson.dumps(model.trees.nodes[name].to_pylist()))
        identity = f"model-{digest.hexdigest()[:24]}"
        header = {"id": identity, **card, "base": model.trees.base, "calibration": model.calibration.to_dict()}
        run = self._runs.keep("models", identity, header, {"trees": model.trees.nodes})
        (run.folder / "card.md").write_text(as_markdown(run.header), encoding="utf-8")
        return self._stored(run, self._retirements())

    def models(self, target: str | None = None) -> list[StoredModel]:
        """All versions, of a target or of all; the newest last."""
        retired = self._retirements()
        found = (self._stored(run, retired) for run in self._runs.runs("models"))
        return [one for one in found if target in (None, one.model.target)]

    def load(self, identity: str) -> StoredModel:
        """A version by its id; NotFoundError."""
        found = next((one for one in self.models() if one.id == identity), None)
        if found is None:
            raise NotFoundError("no such model: fhir-gateway predict models")
        return found

    def in_force(self, target: str, on: date) -> StoredModel | None:
        """The newest version of a target that was not retired and knew nothing after a day; None when there is none.

        One of other features than this program computes is passed over.
        """
        features = list(TARGETS[target].features)
        able = (
            one
            for one in self.models(target)
            if one.retired is None and one.card["as_of"] <= on.isoformat() and one.card["features"] == features
        )
        return max(able, key=lambda one: (one.card["as_of"], one.card["learned_at"]), default=None)

    def retire(self, identity: str, by: str, why: str, at: datetime) -> StoredModel:
        """A version scores nobody any more; what it said and its card stay. ConflictError when it was retired."""
        if self.load(identity).retired is not None:
            raise ConflictError("this model was retired before")
        line = orjson.dumps({"model": identity, "by": by, "at": at.isoformat(timespec="seconds"), "why": why})
        with self._retired.open("ab") as log:
            log.write(line + b"\n")
        return self.load(identity)

    def _retirements(self) -> dict[str, dict[str, str]]:
        lines = self._retired.read_bytes().splitlines() if self._retired.exists() else []
        return {one["model"]: one for one in map(orjson.loads, lines)}

    def _stored(self, run: RiskRun, retired: Mapping[str, Mapping[str, str]]) -> StoredModel:
        header = run.header
        nodes: pa.Table = run.table("trees")
        model = Model(header["target"], Trees(header["base"], nodes), Calibration.from_dict(header["calibration"]))
        return StoredModel(header, model, retired.get(run.id))
