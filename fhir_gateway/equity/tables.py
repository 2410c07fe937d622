"""Imported reference tables: area deprivation, rurality, eligibility; each version kept with where it came from.

::

    <folder>/<kind>/<sha-256>.parquet    the rows
    <folder>/<kind>/<sha-256>.json       name, version, source, moment of import, SHA-256 of the file as it was given

The version imported last is in force. ``adi``: ``geography`` is a ZIP code of 5 or 9 digits, a census tract (11) or a
block group (12). ``ruca``: a ZIP code of 5 digits or a tract. ``eligibility``: by member (person id).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import duckdb
import orjson
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import InputError, Location, NotFoundError

Kind = Literal["adi", "ruca", "eligibility"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ADI_SCHEMA = pa.schema([("geography", pa.string()), ("national", pa.int64()), ("state", pa.int64())])
RUCA_SCHEMA = pa.schema([("geography", pa.string()), ("code", pa.float64())])
ELIGIBILITY_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("since", pa.date32()),
        ("until", pa.date32()),
        ("dual_status", pa.string()),
        ("lis", pa.bool_()),
        ("disabled", pa.bool_()),
        ("adi_national", pa.int64()),
    ]
)
_SCHEMAS: dict[Kind, pa.Schema] = {"adi": ADI_SCHEMA, "ruca": RUCA_SCHEMA, "eligibility": ELIGIBILITY_SCHEMA}
_REQUIRED: dict[Kind, tuple[str, ...]] = {
    "adi": ("geography", "national"),
    "ruca": ("geography", "code"),
    "eligibility": ("member", "since"),
}
#: Columns by the names that publishers give them: Neighborhood Atlas, ERS RUCA files.
_ALIASES = {
    "geography": (
        "geography",
        "fips",
        "zip_4",
        "zipid",
        "zip",
        "zip_code",
        "tractfips",
        "tract",
        "geoid",
        "block_group",
    ),
    "national": ("national", "adi_natrank", "adi_natrnk", "national_percentile"),
    "state": ("state", "adi_staterank", "adi_staternk", "state_decile"),
    "code": ("code", "ruca1", "primaryruca", "ruca"),
}
#: What the Neighborhood Atlas says where it ranks nothing (group quarters, few people, suppressed), and RUCA's 99.
_RULES = {
    "national": (1, 100, "a percentile from 1 to 100"),
    "state": (1, 10, "a decile from 1 to 10"),
    "adi_national": (1, 100, "a percentile from 1 to 100"),
}
_NOT_RANKED = "'', 'GQ', 'PH', 'GQ-PH', 'PH-GQ', 'KVM', 'QDI', 'NONE', 'NA', 'GQ-PH/QDI'"


@dataclass(frozen=True, slots=True)
class TableVersion:
    """An imported table: what it is called, where it came from, and the SHA-256 of the file as it was given."""

    kind: Kind
    name: str
    version: str
    source: str
    imported_at: str
    sha256: str
    rows: int


class ReferenceTables:
    """Imported tables in a local folder."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``, which is made when the first table is imported."""
        self._folder = folder

    def add(self, kind: Kind, path: Path, *, name: str, version: str, source: str, now: datetime) -> TableVersion:
        """Read a CSV file with a header and keep it; the same file again is the same version, now in force.

        InputError names file, line, column and rule, never the value.
        """
        if kind not in KINDS:
            raise InputError(f"tables are of the kinds {', '.join(KINDS)}")
        try:
            content = path.read_bytes()
        except OSError:
            raise InputError("there is no such file", location=Location(file=str(path))) from None
        digest = hashlib.sha256(content).hexdigest()
        table = _read(kind, path)
        made = TableVersion(kind, name, version, source, now.isoformat(), digest, table.num_rows)
        folder = self._folder / kind
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = folder / f".{digest}.part"
        pq.write_table(table, partial, compression="zstd")
        partial.replace(folder / f"{digest}.parquet")
        partial.write_bytes(orjson.dumps(asdict(made), option=orjson.OPT_INDENT_2))
        partial.replace(folder / f"{digest}.json")
        return made

    def versions(self) -> tuple[TableVersion, ...]:
        """All imported tables, by kind and moment."""
        found = [TableVersion(**orjson.loads(path.read_bytes())) for path in self._folder.glob("*/*.json")]
        return tuple(sorted(found, key=lambda one: (one.kind, one.imported_at)))

    def in_force(self, kind: Kind) -> TableVersion | None:
        """The table of a kind that was imported last."""
        return next((one for one in reversed(self.versions()) if one.kind == kind), None)

    def table(self, kind: Kind, sha256: str | None = None) -> pa.Table | None:
        """Rows of the table in force, or of one by its digest (NotFoundError); None when there is none."""
        if sha256 is None:
            newest = self.in_force(kind)
            if newest is None:
                return None
            sha256 = newest.sha256
        path = self._folder / kind / f"{sha256}.parquet"
        if not path.is_file():
            raise NotFoundError(f"there is no table of the kind {kind} with that digest")
        return pq.read_table(path)


def _read(kind: Kind, path: Path) -> pa.Table:
    where = Location(file=str(path))
    try:
        header = pc.open_csv(path).schema.names
        convert = pc.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True)
        text = pc.read_csv(path, read_options=pc.ReadOptions(use_threads=False), convert_options=convert)
    except pa.ArrowInvalid:
        raise InputError("not a CSV file with a header and equally long rows", location=where) from None
    schema = _SCHEMAS[kind]
    named = {name.strip().lower(): name for name in text.column_names}
    chosen = {
        field.name: next((named[one] for one in _ALIASES.get(field.name, (field.name,)) if one in named), None)
        for field in schema
    }
    if missing := [name for name in _REQUIRED[kind] if chosen[name] is None]:
        raise InputError(f"{kind}: the table lacks the columns {', '.join(missing)}", location=where)
    with duckdb.connect() as connection:
        rows = text.append_column("__line", pa.array(range(2, text.num_rows + 2), pa.int64()))
        connection.register("cells", rows)
        parts = []
        for field in schema:
            column = chosen[field.name]
            if column is None:
                parts.append(f"NULL AS {field.name}")
                continue
            cell = _cell(kind, field.name, column)
            if field.name in _REQUIRED[kind] and field.name not in ("national", "code"):
                _refuse(connection, f"{cell} IS NULL", f"column {column}: is empty", path)
            typed = f"try_cast({cell} AS {_sql(field.type)})"
            wrong = f"{cell} IS NOT NULL AND {typed} IS NULL"
            _refuse(connection, wrong, f"column {column}: is not a {_words(field.type)}", path)
            if field.name in _RULES:
                least, most, words = _RULES[field.name]
                _refuse(connection, f"{typed} NOT BETWEEN {least} AND {most}", f"column {column}: is not {words}", path)
            parts.append(f"{typed} AS {field.name}")
        if kind != "eligibility":
            odd = f"length({_cell(kind, 'geography', chosen['geography'] or '')}) NOT IN (5, 9, 11, 12)"
            _refuse(connection, odd, "column geography: has not 5, 9, 11 or 12 digits", path)
        key = "geography" if kind != "eligibility" else "member, since"
        listed = connection.sql(f"SELECT {', '.join(parts)} FROM cells ORDER BY __line").to_arrow_table()  # noqa: S608
        connection.register("listed", listed)
        twice = connection.execute(f"SELECT count(*) - count(DISTINCT ({key})) FROM listed").fetchall()[0][0]  # noqa: S608
        if twice:
            raise InputError(f"{kind}: {twice} rows have a {key} that another row has", location=where)
    return listed.cast(schema).combine_chunks()


def _cell(kind: Kind, name: str, column: str) -> str:
    text = 'trim("' + column.replace('"', '""') + '")'
    if name == "geography":
        return f"nullif(regexp_replace({text}, '[^0-9]', '', 'g'), '')"
    if name in ("national", "state") and kind == "adi":
        return f"CASE WHEN upper({text}) IN ({_NOT_RANKED}) THEN NULL ELSE {text} END"
    return f"nullif({text}, '')"


def _refuse(connection: duckdb.DuckDBPyConnection, condition: str, rule: str, path: Path) -> None:
    line = connection.execute(f"SELECT min(__line) FROM cells WHERE {condition}").fetchall()[0][0]  # noqa: S608
    if line is not None:
        raise InputError(rule, location=Location(file=str(path), line=line))


def _sql(kind: pa.DataType) -> str:
    names = {pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN", pa.date32(): "DATE"}
    return names.get(kind, "VARCHAR")


def _words(kind: pa.DataType) -> str:
    names = {pa.int64(): "whole number", pa.float64(): "number", pa.bool_(): "truth value", pa.date32(): "day"}
    return names.get(kind, "text")
