"""Tables that metrics look at: value sets and probabilities of ED diagnoses. Some are shipped, any may be imported.

Forms of import (CSV with a header): ``value-sets``: ``value_set, code`` and, for all rows alike or per value set,
``version`` and ``source``; ``ed-probabilities``: ``diagnosis`` and a column per class of the NYU algorithm or of
Johnston's update. A value set that is imported takes the place of the shipped one of that name.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from fhir_gateway.errors import InputError
from fhir_gateway.lake.patterns import is_pattern

Form = Literal["value-sets", "ed-probabilities"]
#: Classes of the NYU ED algorithm, in its order; the first three are what primary care can avoid.
ED_CLASSES = (
    *("non_emergent", "primary_care_treatable", "avoidable", "not_avoidable"),
    *("injury", "mental_health", "alcohol", "drug"),
)
AVOIDABLE = ED_CLASSES[:3]
#: Trust mark of what somebody imported: it rests on them.
IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class ValueSet:
    """Codes or patterns of codes, without dots, and where they come from."""

    id: str
    version: str
    source: str
    trust: str
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tables:
    """Value sets by name, and the probabilities of ED diagnoses where they were imported."""

    value_sets: Mapping[str, ValueSet]
    ed_probabilities: pa.Table | None = None
    ed_version: str | None = None

    @classmethod
    def shipped(cls) -> Tables:
        """What comes with this program."""
        return cls(_shipped())

    def with_imported(self, form: Form, content: bytes, name: str) -> Tables:
        """These and an imported table; InputError names file, row and rule of what is wrong in it."""
        digest = hashlib.sha256(content).hexdigest()[:12]
        table = _csv(content, name)
        if form == "ed-probabilities":
            return replace(self, ed_probabilities=_probabilities(table, name), ed_version=f"sha256:{digest}")
        return replace(self, value_sets={**self.value_sets, **_value_sets(table, name, digest)})

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those that are not here."""
        return sorted(set(names) - set(self.value_sets))

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the tables ``value_set`` (id, low, high, starts) and ``ed_probability`` (diagnosis, probability)."""
        rows = [(one.id, *_bounds(code)) for one in self.value_sets.values() for code in one.codes]
        columns = [list(column) for column in zip(*rows, strict=True)]
        connection.register(
            "stated_codes",
            pa.table(dict(zip(("id", "low", "high", "starts"), columns, strict=True))),
        )
        connection.execute("CREATE OR REPLACE TEMP TABLE value_set AS SELECT DISTINCT * FROM stated_codes")
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE ed_probability (diagnosis VARCHAR, probability DECIMAL(28, 8))"
        )
        if self.ed_probabilities is not None:
            connection.register("stated_probabilities", self.ed_probabilities)
            total = " + ".join(AVOIDABLE)
            connection.execute(
                f"INSERT INTO ed_probability SELECT diagnosis, {total} FROM stated_probabilities"  # noqa: S608 our words
            )


def read_form(form: str) -> Form:
    """A form by name; InputError when there is none."""
    if form not in ("value-sets", "ed-probabilities"):
        raise InputError(f"'{form}' is no form of table: value-sets or ed-probabilities")
    return form  # type: ignore[return-value]


def load_imported(folder: Path, tables: Tables | None = None) -> Tables:
    """The shipped tables and those imported into a folder (``FORM.csv`` or ``FORM.NAME.csv``), by name."""
    found = tables or Tables.shipped()
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else ():
        found = found.with_imported(read_form(path.name.split(".")[0]), path.read_bytes(), path.name)
    return found


def _bounds(pattern: str) -> tuple[str, str, bool]:
    if pattern.endswith("*"):
        return pattern[:-1], pattern[:-1], True
    low, _, high = pattern.partition("-")
    return low, high or low, False


@cache
def _shipped() -> Mapping[str, ValueSet]:
    stated = tomllib.loads(files(__package__).joinpath("value_sets.toml").read_text(encoding="utf-8"))
    version = stated.pop("version")
    return {
        name: ValueSet(name, version, one["source"], one["trust"], tuple(one["codes"])) for name, one in stated.items()
    }


def _csv(content: bytes, name: str) -> pa.Table:
    """All columns as text: codes have leading zeros."""
    try:
        header = csv.read_csv(pa.BufferReader(content[: content.find(b"\n") + 1] or content)).column_names
        options = csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True)
        table = csv.read_csv(pa.BufferReader(content), convert_options=options)
    except pa.ArrowInvalid as error:
        raise InputError(f"{name}: no CSV with a header") from error
    return table.rename_columns([column.strip().lower() for column in table.column_names])


def _value_sets(table: pa.Table, name: str, digest: str) -> dict[str, ValueSet]:
    _need(table, ("value_set", "code"), name)
    rows: dict[str, list[str]] = {}
    about: dict[str, tuple[str, str]] = {}
    names = [column for column in ("value_set", "code", "version", "source") if column in table.column_names]
    for number, row in enumerate(table.select(names).to_pylist(), 2):
        code = (row["code"] or "").strip().upper().replace(".", "")
        if not row["value_set"] or not is_pattern(code):
            raise InputError(
                f"{name}: row {number}: value_set is empty or code is no code, range of codes or beginning"
            )
        rows.setdefault(row["value_set"].strip(), []).append(code)
        about.setdefault(row["value_set"].strip(), (row.get("version") or "", row.get("source") or ""))
    return {
        one: ValueSet(one, about[one][0] or f"sha256:{digest}", about[one][1] or name, IMPORTED, tuple(codes))
        for one, codes in rows.items()
    }


def _probabilities(table: pa.Table, name: str) -> pa.Table:
    _need(table, ("diagnosis", *AVOIDABLE), name)
    try:
        amounts = [pc.fill_null(table[column].cast(pa.float64()), 0.0) for column in AVOIDABLE]
    except pa.ArrowInvalid as error:
        raise InputError(f"{name}: probabilities are numbers") from error
    for column, values in zip(AVOIDABLE, amounts, strict=True):
        if pc.any(pc.or_(pc.less(values, 0), pc.greater(values, 1))).as_py():
            raise InputError(f"{name}: {column}: probabilities are between 0 and 1")
    codes = pc.utf8_upper(pc.replace_substring(table["diagnosis"].cast(pa.string()), ".", ""))
    if pc.count_distinct(codes).as_py() != len(codes):
        raise InputError(f"{name}: a diagnosis occurs twice")
    decimals = [pc.round(values, 8).cast(pa.decimal128(28, 8)) for values in amounts]
    return pa.table([codes, *decimals], names=["diagnosis", *AVOIDABLE])


def _need(table: pa.Table, columns: Iterable[str], name: str) -> None:
    if missing := [column for column in columns if column not in table.column_names]:
        raise InputError(f"{name}: there is no column {', '.join(missing)}")
