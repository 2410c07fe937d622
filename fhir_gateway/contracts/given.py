"""Tables that come with a contract, as CSV files beside it: read once and checked whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.csv as pc

from fhir_gateway.errors import ContractError, Location

_TYPES = {
    pa.string(): "VARCHAR",
    pa.date32(): "DATE",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.bool_(): "BOOLEAN",
}


@dataclass(frozen=True, slots=True)
class Given:
    """A table of a contract, and the SHA-256 of its file."""

    table: pa.Table
    digest: str

    @classmethod
    def read(cls, path: Path, schema: pa.Schema, name: str) -> Self:
        """The table of a file (see :func:`read_table`)."""
        table = read_table(path, schema, name)
        return cls(table, hashlib.sha256(path.read_bytes()).hexdigest())


def read_table(path: Path, schema: pa.Schema, name: str) -> pa.Table:
    """The columns of ``schema`` from a CSV file with a header; other columns are left out.

    Empty cells are null. ContractError names file, line, column and rule, never the value: cells may be about persons.
    """
    where = Location(file=str(path))
    try:
        text = pc.read_csv(
            path,
            read_options=pc.ReadOptions(use_threads=False),
            convert_options=pc.ConvertOptions(
                column_types={field.name: pa.string() for field in schema}, strings_can_be_null=True, null_values=[""]
            ),
        )
    except FileNotFoundError as error:
        raise ContractError(f"tables.{name}: there is no such file", location=where) from error
    except pa.ArrowInvalid as error:
        raise ContractError(
            f"tables.{name}: not a CSV file with a header and equally long rows", location=where
        ) from error
    twice = sorted({column for column in text.column_names if text.column_names.count(column) > 1})
    missing = [field.name for field in schema if not field.nullable and field.name not in text.column_names]
    if problems := [f"column {column}: is there twice" for column in twice] + [
        f"column {n}: is missing" for n in missing
    ]:
        raise ContractError(f"tables.{name}: " + "; ".join(problems), location=where)
    return _typed(text, schema, name, path)


def _typed(text: pa.Table, schema: pa.Schema, name: str, path: Path) -> pa.Table:
    with duckdb.connect() as connection:
        connection.register("cells", text.append_column("__line", pa.array(range(2, text.num_rows + 2), pa.int64())))
        for field in schema:
            if field.name not in text.column_names:
                continue
            column = '"' + field.name.replace('"', '""') + '"'
            wrong = f"{column} IS NOT NULL AND ({_unreadable(column, field.type)})"
            if not field.nullable:
                _none(connection, f"{column} IS NULL", f"tables.{name}: column {field.name} is empty", path)
            _none(connection, wrong, f"tables.{name}: column {field.name} is not a {_words(field.type)}", path)
        wanted = ", ".join(
            f'try_cast("{field.name}" AS {_sql(field.type)}) AS "{field.name}"'
            if field.name in text.column_names
            else f'NULL::{_sql(field.type)} AS "{field.name}"'
            for field in schema
        )
        table = connection.sql(f"SELECT {wanted} FROM cells ORDER BY __line").to_arrow_table()  # noqa: S608
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    return table.cast(nullable).combine_chunks()


def _none(connection: duckdb.DuckDBPyConnection, condition: str, rule: str, path: Path) -> None:
    """ContractError at the first line of which the condition is true."""
    found = connection.execute(f"SELECT min(__line) FROM cells WHERE {condition}").fetchall()  # noqa: S608
    if found[0][0] is not None:
        raise ContractError(rule, location=Location(file=str(path), line=found[0][0]))


def _sql(kind: pa.DataType) -> str:
    return f"DECIMAL({kind.precision}, {kind.scale})" if pa.types.is_decimal(kind) else _TYPES[kind]


def _unreadable(column: str, kind: pa.DataType) -> str:
    """Condition: the text is no value of the type, or would lose digits."""
    condition = f"try_cast({column} AS {_sql(kind)}) IS NULL"
    if pa.types.is_decimal(kind):
        condition += f" OR NOT regexp_full_match(trim({column}), '[+-]?[0-9]*[.]?[0-9]{{0,{kind.scale}}}')"
    return condition


def _words(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"decimal number of at most {kind.scale} places"
    words = {pa.date32(): "date (YYYY-MM-DD)", pa.bool_(): "truth value (true or false)"}
    return words.get(kind, "whole number")
