"""Imported reference tables: each version is a Parquet file, with its provenance in JSON beside it.

A version holds from its first day until the day before the next version's, or its own last day if that is earlier. What
was imported is never changed: the same version again is either the same file or refused.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import zip_longest
from pathlib import Path

import duckdb
import orjson

from fhir_gateway.claim_edits.specs import SPECS, SQL_TYPES, Column, TableSpec
from fhir_gateway.errors import ConfigurationError, ConflictError, InputError, Location, NotFoundError

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_OPEN = date(9999, 12, 31)


@dataclass(frozen=True, slots=True)
class ImportedTable:
    """Provenance of a version: what it was made of, when, and what it holds for."""

    name: str
    version: str
    first: date
    last: date | None
    rows: int
    sha256: str
    file: str
    source: str
    imported_at: str

    @property
    def label(self) -> str:
        """Table, version and digest, as results name it."""
        return f"{self.name}|{self.version}#{self.sha256[:12]}"


class TableStore:
    """The tables below a folder, which the first import makes; None is without any. Threads may share it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(os.devnull)  # below it nothing is, and nothing can be made

    def versions(self, name: str | None = None) -> list[ImportedTable]:
        """What was imported, by table and first day."""
        found = [_read(path) for path in self._folder.glob("*/*.json")]
        return sorted(
            (one for one in found if name in (None, one.name)), key=lambda one: (one.name, one.first, one.version)
        )

    def load(
        self, name: str, file: Path, version: str, first: date, last: date | None = None, source: str = ""
    ) -> ImportedTable:
        """Import a CSV (it may be gzipped) as a version of a table.

        InputError names line and column of a value that does not fit; ConflictError when the version, or one that
        begins on the same day, is there already with other content.
        """
        spec = spec_of(name)
        if not _VERSION.fullmatch(version):
            raise ConfigurationError("a version is letters, digits, dots, dashes", location=Location(rule="version"))
        if last is not None and last < first:
            raise ConfigurationError("the last day is before the first", location=Location(rule="effective"))
        digest = _digest(file)
        for one in self.versions(name):
            if one.version == version or one.first == first:
                if (one.version, one.sha256, one.first, one.last) == (version, digest, first, last):
                    return one
                raise ConflictError(f"{name} has version {one.version} from {one.first} already, with other content")
        path = self._folder / name / f"{version}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        rows = _convert(spec, file, path)
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        made = ImportedTable(name, version, first, last, rows, digest, file.name, source, moment)
        _write(path.with_suffix(".json"), orjson.dumps(asdict(made), option=orjson.OPT_INDENT_2))
        return made

    def remove(self, name: str, version: str) -> None:
        """Forget a version; NotFoundError when there is none."""
        if not any(one.version == version for one in self.versions(name)):
            raise NotFoundError("there is no such version of this table")
        path = self._folder / name / f"{version}.json"
        path.unlink()
        path.with_suffix(".parquet").unlink(missing_ok=True)

    def attach(self, connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
        """Make every table a view of the connection, and ``periods`` (ground, first, last) of what is there.

        A view has the table's columns and ``valid_from`` and ``valid_to``; of a table without versions it is empty.
        Returns the labels of the versions.
        """
        known = self.versions()
        connection.execute("CREATE OR REPLACE TABLE periods (ground VARCHAR, first DATE, last DATE)")
        for spec in SPECS.values():
            parts = list(_spans([one for one in known if one.name == spec.name]))
            for _, first, last in parts:
                connection.execute("INSERT INTO periods VALUES (?, ?, ?)", [spec.name, first, last])
            selects = [self._select(spec, *part) for part in parts] or [_empty(spec)]
            connection.execute(f"CREATE OR REPLACE VIEW {spec.view} AS {' UNION ALL '.join(selects)}")
        return tuple(one.label for one in known)

    def _select(self, spec: TableSpec, one: ImportedTable, first: date, last: date) -> str:
        columns = ", ".join(column.name for column in spec.columns)
        file = str(self._folder / one.name / f"{one.version}.parquet").replace("'", "''")
        return (
            f"SELECT {columns}, greatest(coalesce(effective_from, DATE '{first}'), DATE '{first}') AS valid_from,"  # noqa: S608  # names of specs.py, dates
            f" least(coalesce(effective_to, DATE '{last}'), DATE '{last}') AS valid_to FROM read_parquet('{file}')"
        )


def spec_of(name: str) -> TableSpec:
    """The table of a name; NotFoundError naming those there are."""
    if name not in SPECS:
        raise NotFoundError(f"there is no such table; known: {', '.join(sorted(SPECS))}")
    return SPECS[name]


def _spans(versions: list[ImportedTable]) -> Iterator[tuple[ImportedTable, date, date]]:
    """Each version with the days that it holds for."""
    for one, following in zip_longest(versions, versions[1:]):
        until = _OPEN if following is None else following.first - timedelta(days=1)
        yield one, one.first, min(one.last or _OPEN, until)


def _empty(spec: TableSpec) -> str:
    columns = ", ".join(f"NULL::{SQL_TYPES[column.kind]} AS {column.name}" for column in spec.columns)
    return f"SELECT {columns}, NULL::DATE AS valid_from, NULL::DATE AS valid_to WHERE FALSE"


def _digest(file: Path) -> str:
    """SHA-256 of what the file says, packed or not; ConfigurationError when it cannot be read."""
    try:
        with file.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as text:
            return hashlib.file_digest(text, "sha256").hexdigest()
    except (OSError, EOFError) as error:
        raise ConfigurationError(
            f"the file cannot be read ({type(error).__name__})", location=Location(file=file.name)
        ) from None


def _convert(spec: TableSpec, file: Path, target: Path) -> int:
    """Check the CSV and write it as Parquet; the number of rows."""
    with duckdb.connect(config={"threads": 1}) as connection:
        try:
            # inferring types from the values would make 0250 a number
            connection.execute(
                "CREATE TABLE given AS SELECT * FROM read_csv(?, all_varchar = true, header = true, quote = '\"', "
                "null_padding = false, strict_mode = true)",
                [str(file)],
            )
        except duckdb.Error:  # its words would show the line
            raise InputError("this is not a CSV with a header", location=Location(file=file.name)) from None
        found = {name.strip().lower(): name for (name, *_) in connection.execute("DESCRIBE given").fetchall()}
        known = {column.name for column in spec.all_columns}
        missing = sorted(one.name for one in spec.columns if one.required and one.name not in found)
        if missing or found.keys() - known:
            said = f"columns are missing: {', '.join(missing)}" if missing else "a column is not known"
            raise InputError(
                f"{said}; the table has {', '.join(column.name for column in spec.all_columns)}",
                location=Location(file=file.name, rule="columns"),
            )
        for column in spec.all_columns:
            if column.name in found:
                _check(connection, column, found[column.name], file.name)
        columns = ", ".join(f"{_cast(one, found)} AS {one.name}" for one in spec.all_columns)
        order = ", ".join(column.name for column in spec.columns)
        descriptor, partial = tempfile.mkstemp(prefix=".importing-", dir=target.parent)
        os.close(descriptor)
        try:
            connection.execute(
                f"COPY (SELECT {columns} FROM given ORDER BY {order}) TO '{_quoted(partial)}' (FORMAT parquet)"  # noqa: S608  # names of specs.py
            )
            os.replace(partial, target)
        finally:
            Path(partial).unlink(missing_ok=True)
        counted = connection.execute("SELECT count(*) FROM given").fetchone()
        return int(counted[0]) if counted else 0


def _quoted(path: str) -> str:
    return path.replace("'", "''")


def _text(name: str) -> str:
    quoted = name.replace('"', '""')
    return f"nullif(trim(\"{quoted}\"), '')"


def _cast(column: Column, found: Mapping[str, str]) -> str:
    if column.name not in found:
        return f"NULL::{SQL_TYPES[column.kind]}"
    text = _text(found[column.name])
    if column.kind == "code":
        return f"upper(replace(replace({text}, '.', ''), ' ', ''))"
    if column.kind == "date":  # CMS writes 20250101, and * for no date
        return f"coalesce(try_cast({text} AS DATE), try_strptime({text}, '%Y%m%d')::DATE)"
    return f"try_cast({text} AS {SQL_TYPES[column.kind]})"


def _check(connection: duckdb.DuckDBPyConnection, column: Column, name: str, file: str) -> None:
    """The first value that is missing or does not fit its column."""
    text, cast = _text(name), _cast(column, {column.name: name})
    unfit = f"({text} IS NOT NULL AND {text} <> '*' AND {cast} IS NULL)"
    missing = f"({text} IS NULL)" if column.required else "FALSE"
    row = connection.execute(
        f"SELECT n, {missing} FROM (SELECT *, row_number() OVER () AS n FROM given) WHERE {unfit} OR {missing} LIMIT 1"  # noqa: S608  # names of specs.py
    ).fetchone()
    if row is not None:
        said = "a value is missing" if row[1] else f"a value is no {column.kind}"
        raise InputError(said, location=Location(file=file, line=int(row[0]) + 1, path=column.name))


def _read(path: Path) -> ImportedTable:
    found = orjson.loads(path.read_bytes())
    last = found["last"]
    found |= {"first": date.fromisoformat(found["first"]), "last": date.fromisoformat(last) if last else None}
    return ImportedTable(**found)


def _write(path: Path, text: bytes) -> None:
    """Whole or not at all: a version is there when its provenance is."""
    descriptor, partial = tempfile.mkstemp(prefix=".importing-", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    os.replace(partial, path)
