"""Claim lines of a lake version, derived once and kept beside the lake.

Which version of a claim counts depends on the day it was paid through, and on nothing else of a contract; contracts of
one year share their lines. They are derived bucket by bucket, so memory is bounded by the largest bucket.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.factory import Gateway
from fhir_gateway.lake.claims import LINE_SCHEMA, claims, directory
from fhir_gateway.lake.links import bucket_of

#: Rows of a row group at most (a bucket's are sorted by member: in so few those of one are found by statistics), and
#: the key of the file's metadata that says how many row groups each bucket has.
_ROWS = 1 << 14
_ROW_GROUPS = b"buckets"
#: Members whose buckets are looked up.
_FEW = 64


def kept_claim_lines(
    gateway: Gateway,
    version: int,
    paid_through: date | None,
    columns: Sequence[str],
    precedence: Sequence[str] = (),
    members: pa.Array | None = None,
) -> pa.Table:
    """Columns of the claim lines of (these) members (:data:`LINE_SCHEMA`) at a lake version, as of a payment date.

    Of a claim that several sources sent the first of ``precedence`` is believed. Lines are grouped by bucket and sorted
    within. Those of nobody known are left out. What an earlier version of the lake or of this program derived is
    deleted.
    """
    path = _path(gateway, version, paid_through, precedence)
    folder = path.parent
    try:
        return _read(gateway, path, columns, members)
    except FileNotFoundError:
        _derive(gateway, version, paid_through, precedence, path)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)  # somebody may be deleting it too
    return _read(gateway, path, columns, members)


def _read(gateway: Gateway, path: Path, columns: Sequence[str], members: pa.Array | None) -> pa.Table:
    """Columns of a kept file; of few members only the row groups of their buckets that may have them."""
    if members is None or len(members) > _FEW:
        only = None if members is None else pc.field("_member").isin(members)
        return pq.read_table(path, columns=list(columns), filters=only, memory_map=True)
    wanted = members.cast(pa.string())
    names: dict[int, list[str]] = {}
    for one in wanted.to_pylist():
        names.setdefault(bucket_of(one, gateway.lake.buckets), []).append(one)
    with pq.ParquetFile(path, memory_map=True) as kept:
        place = [kept.metadata.row_group(0).column(n).path_in_schema for n in range(kept.metadata.num_columns)]
        first, chosen = 0, []
        for bucket, count in enumerate(json.loads(kept.metadata.metadata[_ROW_GROUPS])):
            for group in range(first, first + count) if bucket in names else ():
                told = kept.metadata.row_group(group).column(place.index("_member")).statistics
                if told is None or not told.has_min_max or any(told.min <= one <= told.max for one in names[bucket]):
                    chosen.append(group)
            first += count
        found = kept.read_row_groups(chosen, columns=list(dict.fromkeys([*columns, "_member"])))
    return found.filter(pc.is_in(found["_member"], value_set=wanted)).select(list(columns))


def kept_claim_line_buckets(
    gateway: Gateway, version: int, paid_through: date | None, columns: Sequence[str], precedence: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """As :func:`kept_claim_lines`, of one bucket after the other, also of those without any."""
    kept_claim_lines(gateway, version, paid_through, ["counts"], precedence)
    with pq.ParquetFile(_path(gateway, version, paid_through, precedence), memory_map=True) as kept:
        first = 0
        for count in json.loads(kept.metadata.metadata[_ROW_GROUPS]):
            yield kept.read_row_groups(list(range(first, first + count)), columns=list(columns))
            first += count


def copies_set_aside(
    gateway: Gateway, version: int, paid_through: date | None, precedence: Sequence[str], members: pa.Array
) -> dict[tuple[str, str], int]:
    """How many EOBs of a source stand aside, for members, for those of another source that sent the same claims."""
    kept_claim_lines(gateway, version, paid_through, ["version_status"], precedence)
    found = pq.read_table(
        _path(gateway, version, paid_through, precedence),
        columns=["_member", "source", "eob", "claim_group"],
        filters=pc.field("version_status") == "copy",
    )
    found = found.filter(pc.is_in(found["_member"], value_set=members)).drop_columns("_member")
    pairs = found.group_by(["source", "eob", "claim_group"]).aggregate([]).to_pylist()
    return dict(sorted(Counter((one["source"], one["claim_group"].partition("/")[0]) for one in pairs).items()))


def _path(gateway: Gateway, version: int, paid_through: date | None, precedence: Sequence[str]) -> Path:
    order = f"-{hashlib.sha256(' '.join(precedence).encode()).hexdigest()[:12]}" if precedence else ""
    folder = gateway.data_folder / "claim-lines" / f"{version}-{_derivation()}"
    return folder / f"{paid_through or 'all'}{order}.parquet"


@cache
def _derivation() -> str:
    """Changes with the program that derives: lines kept by another one are not read."""
    program = files("fhir_gateway")
    names = ("lake/claims.py", "lake/claims.sql", "lake/macros.sql", "jobs/claim_lines.py")
    parts = [program.joinpath(name).read_bytes() for name in names]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _derive(gateway: Gateway, version: int, paid_through: date | None, precedence: Sequence[str], path: Path) -> None:
    """Write the lines, whole or not at all; of two that do so at once the last one wins, with the same lines."""
    lake = gateway.lake
    providers = directory(lake, version)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, partial = tempfile.mkstemp(prefix=".deriving-", dir=path.parent)
    os.close(descriptor)
    try:
        with pq.ParquetWriter(partial, LINE_SCHEMA, compression="zstd", compression_level=1) as writer:
            groups = []
            for bucket in range(lake.buckets):
                lines = claims(lake, bucket, version, paid_through, precedence, providers)
                writer.write_table(lines, row_group_size=_ROWS)
                groups.append(max(1, -(-lines.num_rows // _ROWS)))  # of an empty table there is one too
                del lines  # before the next bucket is read
            writer.add_key_value_metadata({_ROW_GROUPS: json.dumps(groups)})
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
