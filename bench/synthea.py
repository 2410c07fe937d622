"""CMS130 over a Synthea population of 50,000 patients with some 300 resources each, and the peer on some of them.

``python -m bench.synthea [--patients 50000] [--peer-patients 60] [--data ../shared/data]``

The base population is taken in once, as any pull is. Its stored columns are then copied under new ids and members,
bucket by bucket, into the lake that is measured: everything but the raw JSON. Every copy is a person of its own;
references keep their text. The base population is evaluated as well, and its counts times the copies must be those of
the copies.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.measures import HEAD, PEER, EachPatientAPerson, cells_of, child, machine, peer
from fhir_gateway.cql.values.base import offsets_of, ranges
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.columns import belongs_to_patients
from fhir_gateway.lake.object_tables import open_table
from fhir_gateway.lake.parts import BucketWriter
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.versions import TableState, VersionLog
from fhir_gateway.measures.population import member_of
from fhir_gateway.sources.files import stage_files

MEASURE = "CMS130FHIRColorectalCancerScrn"
PERIOD = {"start": "2019-01-01", "end": "2019-12-31"}
BUCKETS = 16
_ROWS = 16_384


def take_in(folder: Path, lake: Path, scratch: Path) -> None:
    """The base population, as one pull."""
    Lake.open(str(lake), buckets=BUCKETS).commit(stage_files([folder], "synthea", scratch), EachPatientAPerson())


def replicate(base: Path, target: Path, copies: int) -> int:
    """Copy the stored columns of ``base`` under new ids; how many resources there are then."""
    source = Lake.open(str(base), buckets=BUCKETS)
    Lake.open(str(target), buckets=BUCKETS)
    members = source.members().to_pylist()
    # (bucket, new member, copy, base member) of everybody, in the order of the files
    everybody = sorted(
        (bucket_of(name, BUCKETS), name, copy, position)
        for copy in range(copies)
        for position, name in enumerate(f"c{copy}-{member}" for member in members)
    )
    states, written = {}, 0
    for resource_type in source.types():
        table = open_table(target, resource_type)
        rows = _stored(base, resource_type)
        writer = BucketWriter(table, 1, target / "_lake")
        if belongs_to_patients(resource_type):
            place = pc.index_in(rows["_member"], value_set=pa.array(members)).combine_chunks()
            rows = rows.take(pc.sort_indices(place).slice(0, len(place) - place.null_count))
            owner = np.asarray(place.drop_null()).astype(np.int64)
            counts = np.bincount(owner, minlength=len(members)).astype(np.int64)
            starts = offsets_of(counts)[:-1]
            for some in _portions(everybody, counts):
                writer.add(_copied(rows, some, starts, counts))
        else:
            writer.add(rows.append_column("_bucket", pa.repeat(pa.scalar(-1, pa.int32()), rows.num_rows)))
        files = writer.close()
        written += sum(pq.read_metadata(file.path).num_rows for file in files)
        states[resource_type] = TableState(table.append(files), superseded=False)
    version = source.versions()[-1]
    VersionLog(target / "_lake").add(replace(version, tables=states, links=None, quarantine=None))
    return written


def _stored(lake: Path, resource_type: str) -> pa.Table:
    """All rows of a table with the columns its files have, but for the raw JSON."""
    files = sorted((lake / resource_type).glob("_bucket=*/*.parquet"))
    names = [name for name in pq.read_schema(files[0]).names if name != "_raw"]
    return pa.concat_tables([pq.ParquetFile(file).read(columns=names) for file in files], promote_options="permissive")


def _portions(everybody: list[Any], counts: np.ndarray) -> Iterator[list[Any]]:
    """Members of one bucket with about a row group of rows."""
    portion: list[Any] = []
    size = 0
    for one in everybody:
        if portion and (one[0] != portion[0][0] or size >= _ROWS):
            yield portion
            portion, size = [], 0
        portion.append(one)
        size += int(counts[one[3]])
    if portion:
        yield portion


def _copied(rows: pa.Table, some: list[Any], starts: np.ndarray, counts: np.ndarray) -> pa.Table:
    """The rows of some members under their new ids."""
    positions = np.array([one[3] for one in some], dtype=np.int64)
    number = counts[positions]
    table = rows.take(pa.array(ranges(starts[positions], number)))
    prefix = pa.array([f"c{one[2]}-" for one in some]).take(pa.array(np.repeat(np.arange(len(some)), number)))
    for name in ("id", "_member", "_patient"):
        renamed = pc.binary_join_element_wise(prefix, table[name].combine_chunks(), "")
        table = table.set_column(table.column_names.index(name), name, renamed)
    return table.append_column("_bucket", pa.repeat(pa.scalar(some[0][0], pa.int32()), table.num_rows))


def cases(folder: Path, patients: int) -> list[dict[str, Any]]:
    """The resources of the first patients, as the peer takes them."""
    found: dict[str, list[Any]] = defaultdict(list)
    for file in sorted(folder.glob("*.ndjson.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                resource = json.loads(line)
                member = member_of(resource)
                if member is not None:
                    found[member].append(resource)
    return [{"id": member, "resources": found[member]} for member in sorted(found)[:patients]]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=50_000)
    parser.add_argument("--peer-patients", type=int, default=60)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data")
    options = parser.parse_args()
    folder = options.data / "synthea/generated-sample-data-r4"
    measure = options.data / "ecqm/dqm2025" / MEASURE
    if not folder.is_dir() or not measure.is_dir():
        raise SystemExit(f"{options.data}: no Synthea population or published measures here; name them with --data")
    print(f"{machine()}, {MEASURE}, measurement period {PERIOD['start']} to {PERIOD['end']}")
    with tempfile.TemporaryDirectory() as scratch:
        base, target = Path(scratch) / "base", Path(scratch) / "lake"
        take_in(folder, base, Path(scratch) / "staged")
        people = Lake.open(str(base), buckets=BUCKETS).members()
        copies = max(1, options.patients // len(people))
        resources = replicate(base, target, copies)
        plain = child("--evaluate", str(measure), str(base), PERIOD["start"], PERIOD["end"])
        done = child("--evaluate", str(measure), str(target), PERIOD["start"], PERIOD["end"])
        every = child("--cores", str(measure), str(target), PERIOD["start"], PERIOD["end"])
        some = cases(folder, options.peer_patients)
        reference = peer(measure, some, len(some), PERIOD) if some else None
        ours = child("--evaluate", str(measure), str(base), PERIOD["start"], PERIOD["end"], *[c["id"] for c in some])
    wrong = {k: (v, plain["counts"][k] * copies) for k, v in done["counts"].items() if v != plain["counts"][k] * copies}
    if wrong:
        raise SystemExit(f"the copies' counts are not the base population's times {copies}: {wrong}")
    print(f"{resources / done['patients']:.0f} resources for each patient in the lake; {done['rows']:,} rows read")
    print(" | ".join(HEAD))
    row = {**done, "cores": every, "peer": reference, "resources": resources}
    print(" | ".join(cells_of(MEASURE, row, f"{copies} times the base population's: {plain['counts']}")))
    if reference:
        print(
            f"{len(some)} patients: {PEER} {reference['counts']} ({reference['failed']} failed), here {ours['counts']}"
        )


if __name__ == "__main__":
    main()
