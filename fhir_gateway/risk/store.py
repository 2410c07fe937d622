"""What risk adjustment keeps: a folder for each computation and each import, whole, never changed.

Computed and imported scores are read alike: a settlement that names a model and a period gets the newest of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.errors import NotFoundError

Kind = Literal["scores", "members", "gaps", "decisions", "models"]

#: Scores of any model, as whoever pays by them looks at them. ``score`` is what counts: the payment score where the
#: model has one, else the normalised, else the raw one; null of whom there is none.
MEMBER_SCORE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("raw", pa.decimal128(18, 8)),
        ("normalised", pa.decimal128(18, 8)),
        ("score", pa.decimal128(18, 8)),
    ]
)


@dataclass(frozen=True, slots=True)
class RiskRun:
    """A kept computation or import: its header says what it was made of."""

    id: str
    folder: Path
    header: Mapping[str, Any]

    def table(self, name: str) -> pa.Table:
        """One of its tables; NotFoundError when it has none of that name."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            raise NotFoundError(f"risk run {self.id} keeps no {name}")
        return pq.read_table(path)


class RiskStore:
    """Runs by kind in a folder. Safe to share between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, kind: Kind, run: str, header: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> RiskRun:
        """Keep a run, whole or not at all; one that is there already stays and becomes the newest of its kind again."""
        folder = self._folder / kind / run
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder.parent))
            try:
                for name, table in tables.items():
                    pq.write_table(table, partial / f"{name}.parquet", compression="zstd", compression_level=1)
                (partial / "header.json").write_bytes(orjson.dumps(header, option=orjson.OPT_INDENT_2))
                os.rename(partial, folder)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                if not folder.exists():  # otherwise somebody kept the same run meanwhile
                    raise
        with (folder.parent / "runs.txt").open("a", encoding="utf-8") as history:
            history.write(f"{run}\n")
        return RiskRun(run, folder, orjson.loads((folder / "header.json").read_bytes()))

    def runs(self, kind: Kind) -> list[RiskRun]:
        """All runs of a kind, the newest last."""
        history = self._folder / kind / "runs.txt"
        order = history.read_text(encoding="utf-8").split() if history.exists() else []
        newest = dict.fromkeys(reversed(order))  # each once, at its last place
        return list(self._read(kind, reversed(list(newest))))

    def newest(self, kind: Kind, **wanted: Any) -> RiskRun | None:
        """The newest run whose header says all that is wanted; None when there is none."""
        for run in reversed(self.runs(kind)):
            if all(run.header.get(name) == value for name, value in wanted.items()):
                return run
        return None

    def _read(self, kind: Kind, ids: Iterator[str]) -> Iterator[RiskRun]:
        for run in ids:
            folder = self._folder / kind / run
            if (folder / "header.json").exists():
                yield RiskRun(run, folder, orjson.loads((folder / "header.json").read_bytes()))
