"""Every dimension of every member as of a day, computed once for a lake version and kept as columns.

Strata of everybody, of each practice and of each client are of the same dimensions: whose rows are taken differs.
Like kept views (:mod:`fhir_gateway.jobs.kept_views`) the file is named by all that it rests on, so it is never out of
date; a few are kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.equity.dimensions import Column, MemberDimensions
from fhir_gateway.equity.tables import ReferenceTables
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold

#: Changes with what the columns mean: files of an older program are not read.
_KIND = "dimensions-1"
_MOST = 8
_STRATA, _FACT = b"strata", "fact "


def kept_dimensions(
    gateway: Gateway, tables: ReferenceTables, on: date, version: int, compute: Callable[[], MemberDimensions]
) -> MemberDimensions:
    """Those of a lake version with the tables in force; computed by the first who asks, while others wait."""
    digests = [f"{one.kind} {one.imported_at} {one.sha256}" for one in tables.versions()]
    digest = hashlib.sha256("\n".join([on.isoformat(), f"lake {version}", *digests]).encode()).hexdigest()[:32]
    path = gateway.data_folder / "views" / _KIND / f"{digest}.parquet"
    found = _read(path, on)
    if found is None:
        with hold(gateway, f"{_KIND}-{digest}", wait=lambda: True, once=True):
            found = _read(path, on)
            if found is None:
                found = compute()
                _write(path, found)
    return found


def _read(path: Path, on: date) -> MemberDimensions | None:
    try:
        table = pq.read_table(path).combine_chunks()
    except FileNotFoundError:
        return None
    strata: Mapping[str, list[str]] = orjson.loads(table.schema.metadata[_STRATA])
    members = table["member"].combine_chunks()
    columns = {name: Column(np.asarray(table[name]).astype(np.int64), tuple(those)) for name, those in strata.items()}
    facts = {name.removeprefix(_FACT): table[name] for name in table.column_names if name.startswith(_FACT)}
    return MemberDimensions(members, on, columns, pa.table({"member": members} | facts))


def _write(path: Path, found: MemberDimensions) -> None:
    """Whole or not at all. Codes are numbers into the strata, which stand beside them: unused ones as well."""
    columns = {"member": found.members}
    columns |= {name: pa.array(one.codes.astype(np.int32)) for name, one in found.columns.items()}
    columns |= {f"{_FACT}{name}": found.facts[name] for name in found.facts.column_names if name != "member"}
    strata = orjson.dumps({name: one.strata for name, one in found.columns.items()})
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, partial = tempfile.mkstemp(prefix=".keeping-", dir=path.parent)
    with open(descriptor, "wb") as file:
        pq.write_table(pa.table(columns).replace_schema_metadata({_STRATA: strata}), file, compression="zstd")
    os.replace(partial, path)
    for old in sorted(path.parent.glob("*.parquet"), key=lambda one: one.stat().st_mtime_ns)[:-_MOST]:
        old.unlink(missing_ok=True)
