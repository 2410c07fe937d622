"""What changed since it was served last: a digest for each served resource, kept beside the resources themselves.

Digests are made over whole columns of keys and of the hashes that the lake keeps of its texts, so that looking at
everything costs little; texts are read of what differs only. What a resource becomes depends on its row, and on where
its references lead; both count.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine

from fhir_gateway.db.engine import session
from fhir_gateway.jobs.tables import JobPublication

DIGESTS = pa.schema(
    [
        ("kind", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("digest", pa.uint64()),
        ("addressed", pa.bool_()),  # it has references by URL or UUID, which may lead elsewhere any time
    ]
)
"""A row per served resource; `source` is empty for persons, who may have several."""

NOT_ADDRESSED = pa.schema([DIGESTS.field(name) for name in ("kind", "source", "id")]).empty_table()
"""Keys of what has references by URL or UUID, when there is nothing."""

RENDERING = 2
"""Raise it when what is served of a row changes: then everything is served anew."""

#: Rows that are compared at a time.
_COMPARED = 500_000

_LINK = "patient"  # kind of the rows that say which person a source's patient was

# Rows of some ids at a time, by their hash: what is compared is of one id.
_PERSONS = """
CREATE OR REPLACE TABLE present AS
SELECT 'Patient' AS kind, '' AS source, _member AS id,
  hash($rendering, list(hash(_source, id, _hash) ORDER BY coalesce(rank, 1000000), _source, id)) AS digest
FROM patients LEFT JOIN ranks ON ranks.source = _source
WHERE _member IS NOT NULL AND hash(_member) % $parts = $part GROUP BY _member
UNION ALL SELECT $link, _source, id, hash(_member) FROM patients WHERE hash(id) % $parts = $part
"""

_COPIES = """
INSERT INTO present
SELECT $kind, _source, id, hash($rendering, _hash, _member) FROM rows WHERE hash(id) % $parts = $part
"""
_FORMER = "CREATE OR REPLACE TABLE former AS SELECT * FROM all_former WHERE hash(id) % $parts = $part"

# With what has references by URL or UUID: those lead to what we have by now.
_CHANGED = """
INSERT INTO changed
SELECT n.kind, n.source, n.id FROM present n LEFT JOIN former f USING (kind, source, id)
WHERE n.digest IS DISTINCT FROM f.digest OR f.addressed
"""

# Whose references to a patient lead elsewhere although the row is as it was: to who that is by now.
_LED_ELSEWHERE = """
INSERT INTO changed
WITH line AS ({lines}), mention AS (
    SELECT source, id, sender, unnest(regexp_extract_all(_raw, 'Patient\\\\?/([A-Za-z0-9.-]+)', 1)) AS patient FROM line
    WHERE contains(_raw, 'Patient/') OR contains(_raw, 'Patient\\/')
)
SELECT DISTINCT $kind, m.source, m.id FROM mention m
SEMI JOIN changed c ON c.kind = $link AND c.source = m.sender AND c.id = m.patient
ANTI JOIN changed d ON d.kind = $kind AND d.source = m.source AND d.id = m.id
"""
_PATIENT_LINES = "SELECT '' AS source, _member AS id, _source AS sender, _raw FROM rows"
_COPY_LINES = "SELECT _source AS source, id, _source AS sender, _raw FROM rows"

_ADDRESSED = """
SELECT DISTINCT $kind AS kind, source, id FROM ({lines})
WHERE regexp_matches(_raw, '"reference"\\s*:\\s*"(https?:|urn:)')
"""
# The last segment of each reference, of a URL, a path or a URN, without its version; a text may escape its characters.
_REFERRED = r"""
CREATE TABLE referred AS
WITH written AS (
    SELECT unnest(regexp_extract_all(_raw, '"reference"\s*:\s*("(?:[^"\\]|\\.)*")', 1))::JSON ->> '$' AS reference
    FROM rows
)
SELECT DISTINCT regexp_extract(split_part(reference, '/_history/', 1), '([^/:]*)$', 1) AS id FROM written
"""
_DIGESTS = """
SELECT kind, source, id, digest, a.id IS NOT NULL AS addressed
FROM present p LEFT JOIN addressed a USING (kind, source, id)
"""

_GONE = (
    "SELECT kind, source, id FROM former ANTI JOIN present USING (kind, source, id) WHERE kind <> $link ORDER BY ALL"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Keys (kind, source, id) of what is to be served anew, keys of what is gone, and digests of what is there."""

    changed: pa.Table
    gone: pa.Table
    present: pa.Table

    def keys(self, kind: str) -> pa.Table:
        """Sources and ids of a kind that are to be served anew."""
        return self.changed.filter(pc.equal(self.changed["kind"], kind)).select(["source", "id"])

    @property
    def persons(self) -> pa.Array:
        """Ids of all who are served."""
        return self.present.filter(pc.equal(self.present["kind"], "Patient"))["id"].combine_chunks()

    def digests(self, addressed: pa.Table) -> pa.Table:
        """The digests to keep; ``addressed`` are the rows of :func:`addressed` of all that is served anew."""
        with duckdb.connect() as connection:
            connection.register("present", self.present)
            connection.register("addressed", addressed)
            return connection.sql(_DIGESTS).to_arrow_table().cast(DIGESTS)


def addressed(kind: str, rows: pa.Table) -> pa.Table:
    """Keys of those of some rows, with ``_raw``, that have references by URL or UUID."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        return connection.sql(_ADDRESSED.format(lines=_lines(kind)), params={"kind": kind}).to_arrow_table()


def referred_to(rows: pa.Table, *among: pa.Table) -> list[pa.Table]:
    """Of each table the rows that the texts of ``rows`` may refer to: whose id ends a reference of theirs."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        connection.execute(_REFERRED)
        found = []
        for table in among:
            connection.register("known", table)
            chosen = "SELECT known.* FROM known SEMI JOIN referred ON referred.id = known.id"
            found.append(connection.sql(chosen).to_arrow_table())
        return found


def _lines(kind: str) -> str:
    return _PATIENT_LINES if kind == "Patient" else _COPY_LINES


def compare(
    patients: pa.Table,
    ranks: pa.Table,
    copies: Mapping[str, pa.Table],
    former: pa.Table,
    texts: Callable[[str], Iterable[pa.Table]],
) -> Difference:
    """Compare rows of the lake with what was served.

    `patients` and `copies` have keys and `_hash`; `ranks` is the order of sources. `texts` reads all rows of a type
    with `_raw`, some at a time; it is asked only when a patient is somebody else than before, or has come.
    """
    parts = 1 + (patients.num_rows + former.num_rows) // _COMPARED
    gone, present = [], []
    with duckdb.connect() as connection:
        connection.register("patients", patients)
        connection.register("ranks", ranks)
        connection.register("all_former", former)
        connection.execute("CREATE TABLE changed (kind VARCHAR, source VARCHAR, id VARCHAR)")
        for part in range(parts):
            some = {"parts": parts, "part": part}
            connection.execute(_PERSONS, {"link": _LINK, "rendering": RENDERING, **some})
            for kind, rows in copies.items():
                connection.register("rows", rows)
                connection.execute(_COPIES, {"kind": kind, "rendering": RENDERING, **some})
            connection.execute(_FORMER, some)
            connection.execute(_CHANGED)
            gone.append(connection.sql(_GONE, params={"link": _LINK}).to_arrow_table())
            present.append(connection.sql("SELECT * FROM present").to_arrow_table())
        (moved,) = connection.execute("SELECT count(*) FROM changed WHERE kind = $link", {"link": _LINK}).fetchall()[0]
        for kind in ("Patient", *copies) if former.num_rows and moved else ():
            for rows in texts(kind):
                connection.register("rows", rows)
                connection.execute(_LED_ELSEWHERE.format(lines=_lines(kind)), {"kind": kind, "link": _LINK})
        changed = connection.sql("SELECT * FROM changed WHERE id IS NOT NULL ORDER BY ALL").to_arrow_table()
    return Difference(changed, pa.concat_tables(gone), pa.concat_tables(present))


def read_former(engine: Engine) -> pa.Table:
    """Digests of what was served last; none before the first time."""
    with session(engine) as opened:
        row = opened.get(JobPublication, 1)
    return DIGESTS.empty_table() if row is None else pq.read_table(io.BytesIO(row.digests), schema=DIGESTS)


def write_present(engine: Engine, lake_version: int, digests: pa.Table) -> None:
    """Keep the digests of what is served now."""
    file = io.BytesIO()
    pq.write_table(digests, file, compression="zstd", compression_level=1)
    with session(engine) as opened:
        opened.merge(JobPublication(id=1, lake_version=lake_version, digests=file.getvalue()))
