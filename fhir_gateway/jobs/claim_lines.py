"""Claim lines of a lake version, derived once and kept beside the lake.

Which version of a claim counts depends on the day it was paid through, and on nothing else of a contract; contracts of
one year share their lines. They are derived bucket by bucket, so memory is bounded by the largest bucket. Where lines
of an earlier lake version are kept, only those of members who changed since are derived: lines of a member are made of
the member's own rows and of the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.factory import Gateway
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.claims import DIRECTORY_TYPES, LINE_SCHEMA, claims, directory, naming
from fhir_gateway.lake.store import Lake

#: Rows of a row group at most (a bucket's are sorted by member: in so few those of one are found by statistics), and
#: the key of the file's metadata that says how many row groups each bucket has.
_ROWS = 1 << 14
_ROW_GROUPS = b"buckets"
#: Members whose buckets are looked up.
_FEW = 64
#: Members who changed whose lines are derived at once.
_TOGETHER = 20_000
#: Seconds after which lines of an earlier lake version are deleted that nobody went by.
_AGE = 40 * 86_400.0
#: How often lines are derived that somebody deletes meanwhile.
_TRIES = 3


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
    within. Those of nobody known are left out. Of other lake versions the newest lines are kept, to go by, for
    :data:`_AGE` seconds; what another version of this program derived is deleted.
    """
    with _kept(gateway, version, paid_through, precedence) as file:
        return _read(file, columns, members)


def _kept(gateway: Gateway, version: int, paid_through: date | None, precedence: Sequence[str]) -> pa.MemoryMappedFile:
    """The file of the lines, open, and derived where there is none.

    Somebody at a newer lake version, or of another version of this program, may delete it at any moment: what is open
    stays readable, and what was gone before it was open is derived again.
    """
    path = _path(gateway, version, paid_through, precedence)
    for left in reversed(range(_TRIES)):
        with suppress(FileNotFoundError):
            return pa.memory_map(str(path))
        try:
            _derive(gateway, version, paid_through, precedence, path)
        except FileNotFoundError:
            if not left:
                raise
        else:
            _tidy(path, version)
    return pa.memory_map(str(path))


def _tidy(path: Path, version: int) -> None:
    """Delete what another version of this program derived, lines of versions before the newest, and what is old."""
    folder = path.parent
    newest = max([version, *(number for number, _ in _others(path))])
    for other in folder.parent.iterdir():
        number, _, derivation = other.name.partition("-")
        if derivation != _derivation():
            shutil.rmtree(other, ignore_errors=True)  # somebody may be deleting it too
        elif other != folder:
            if int(number) < newest:
                (other / path.name).unlink(missing_ok=True)
            with suppress(OSError):  # somebody may be deleting it too; or it has lines as of other days
                for kept in other.iterdir():
                    if kept.stat().st_mtime < time.time() - _AGE:
                        kept.unlink()
                other.rmdir()


def _others(path: Path) -> Iterator[tuple[int, Path]]:
    """The same lines of other lake versions, by this program."""
    for found in path.parent.parent.glob(f"*-{_derivation()}/{path.name}"):
        if found != path:
            yield int(found.parent.name.partition("-")[0]), found


def _read(file: pa.MemoryMappedFile, columns: Sequence[str], members: pa.Array | None) -> pa.Table:
    """Columns of a kept file; of few members only the row groups of their buckets that may have them."""
    if members is None or len(members) > _FEW:
        only = None if members is None else pc.field("_member").isin(members)
        return pq.read_table(file, columns=list(columns), filters=only)
    wanted = members.cast(pa.string())
    with pq.ParquetFile(file) as kept:
        groups = json.loads(kept.metadata.metadata[_ROW_GROUPS])
        names: dict[int, list[str]] = {}
        for one in wanted.to_pylist():
            names.setdefault(bucket_of(one, len(groups)), []).append(one)
        place = [kept.metadata.row_group(0).column(n).path_in_schema for n in range(kept.metadata.num_columns)]
        first, chosen = 0, []
        for bucket, count in enumerate(groups):
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
    with _kept(gateway, version, paid_through, precedence) as file, pq.ParquetFile(file) as kept:
        first = 0
        for count in json.loads(kept.metadata.metadata[_ROW_GROUPS]):
            yield kept.read_row_groups(list(range(first, first + count)), columns=list(columns))
            first += count


def copies_set_aside(
    gateway: Gateway, version: int, paid_through: date | None, precedence: Sequence[str], members: pa.Array
) -> dict[tuple[str, str], int]:
    """How many EOBs of a source stand aside, for members, for those of another source that sent the same claims."""
    columns = ["_member", "source", "eob", "claim_group"]
    with _kept(gateway, version, paid_through, precedence) as file:
        found = pq.read_table(file, columns=columns, filters=pc.field("version_status") == "copy")
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

    def derived(bucket: int | None, members: pa.Array | None = None) -> pa.Table:
        return claims(lake, bucket, version, paid_through, precedence, providers, members)

    try:
        with pq.ParquetWriter(partial, LINE_SCHEMA, compression="zstd", compression_level=1) as writer:
            groups = []
            for lines in _by_going_on(lake, version, path, providers, derived) or map(
                derived, range(lake.buckets_of(version))
            ):
                writer.write_table(lines, row_group_size=_ROWS)
                groups.append(max(1, -(-lines.num_rows // _ROWS)))  # of an empty table there is one too
                del lines  # before the next bucket is read
            writer.add_key_value_metadata({_ROW_GROUPS: json.dumps(groups)})
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _by_going_on(
    lake: Lake,
    version: int,
    path: Path,
    providers: pa.Table,
    derived: Callable[[int | None, pa.Array], pa.Table],
) -> Iterator[pa.Table] | None:
    """The lines of each bucket by those of an earlier version, and of those who changed since; None: all are needed."""
    since, kept = max((one for one in _others(path) if one[0] < version), default=(0, path))
    if not since:
        return None
    changes = lake.changes(since, version)
    changed = changes.members
    if changes.shared & DIRECTORY_TYPES and not (before := directory(lake, since)).equals(providers):
        others = (naming(lake, one, version, before, providers) for one in range(lake.buckets_of(version)))
        changed = pc.unique(pa.chunked_array([changed, *others], pa.string()))
    if 2 * len(changed) > len(lake.members(version=version)):
        return None  # as fast as looking for them
    try:
        file = pq.ParquetFile(kept, memory_map=True)
    except FileNotFoundError:  # somebody is tidying
        return None
    groups = json.loads(file.metadata.metadata[_ROW_GROUPS])
    return _gone_on(file, groups, changed, derived) if len(groups) == lake.buckets_of(version) else None


def _gone_on(
    file: pq.ParquetFile,
    groups: Sequence[int],
    changed: pa.Array,
    derived: Callable[[int | None, pa.Array], pa.Table],
) -> Iterator[pa.Table]:
    """The lines of each bucket; those of members who changed are derived, some buckets at once."""
    buckets = len(groups)
    places = np.array([bucket_of(one, buckets) for one in changed.to_pylist()], np.int64)
    counts = np.bincount(places, minlength=buckets)
    batches = np.concatenate([[0], np.cumsum(counts)[:-1]]) // _TOGETHER
    first, fresh, at = 0, LINE_SCHEMA.empty_table(), np.empty(0, np.int64)
    with file:
        for bucket, count in enumerate(groups):
            if bucket == 0 or batches[bucket] != batches[bucket - 1]:
                mine = changed.filter(pa.array(batches[places] == batches[bucket])) if len(places) else changed
                fresh = derived(None, mine) if len(mine) else LINE_SCHEMA.empty_table()
                names = fresh["_member"].combine_chunks().dictionary_encode()
                numbers = np.array([bucket_of(one, buckets) for one in names.dictionary.to_pylist()], np.int64)
                at = numbers[names.indices.to_numpy()]
            lines = file.read_row_groups(list(range(first, first + count)))
            first += count
            if counts[bucket]:
                stay = lines.filter(pc.invert(pc.is_in(lines["_member"], value_set=changed)))
                lines = pa.concat_tables([stay, fresh.filter(pa.array(at == bucket))]).combine_chunks()
                lines = lines.take(pc.sort_indices(lines["_member"]))  # stable: within a member they are in order
            yield lines
