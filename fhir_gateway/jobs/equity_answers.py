"""Which members strata were answered about: two answers whose members differ by few say by subtraction what these have.

Nothing is refused: lists change by few members every month. Whoever is answered is told not to give out both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.factory import Gateway

_MOST = 500
"""Answers that are remembered of a period; the oldest are forgotten."""
FEW_MEMBERS = "an answer about members that differ by fewer than {0} was given before: give out only one of the two"
OTHER_RESULTS = "an answer about the same members was given from other results before: give out only one of the two"


def noted(
    gateway: Gateway, period: tuple[date, date], members: pa.Array, runs: Sequence[str], threshold: int
) -> list[str]:
    """What to know about answers of a period that were given before this one, which is remembered."""
    folder = gateway.data_folder / "equity" / "answered" / f"{period[0]}_{period[1]}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    members = members.cast(pa.string()).sort()
    population, results = _digest(members.to_pylist()), _digest(sorted(runs))
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.parquet")):
        size, other, of = path.stem.split("-")
        if other == population:
            found |= {OTHER_RESULTS: None} if of != results else {}
        elif abs(int(size) - len(members)) < threshold and _differing(path, members) < threshold:
            found |= {FEW_MEMBERS.format(threshold): None}
    _remember(folder, f"{len(members)}-{population}-{results}", members)
    return list(found)


def _differing(path: Path, members: pa.Array) -> int:
    """Members who are of one answer only."""
    former = pq.read_table(path)["member"].combine_chunks()
    common = pc.sum(pc.is_in(members, value_set=former)).as_py() or 0
    return len(former) + len(members) - 2 * int(common)


def _remember(folder: Path, name: str, members: pa.Array) -> None:
    path = folder / f"{name}.parquet"
    if not path.exists():
        partial = folder / f".{name}.{os.getpid()}"
        pq.write_table(pa.table({"member": members}), partial, compression="zstd")
        os.replace(partial, path)
    for old in sorted(folder.glob("*.parquet"), key=lambda one: one.stat().st_mtime_ns)[:-_MOST]:
        old.unlink(missing_ok=True)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]
