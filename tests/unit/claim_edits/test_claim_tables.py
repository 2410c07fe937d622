"""Import of reference tables: what fits, what is refused and where, and that versions never change."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import duckdb
import pytest

from fhir_gateway.claim_edits.specs import SPECS
from fhir_gateway.claim_edits.tables import TableStore
from fhir_gateway.errors import ConfigurationError, ConflictError, GatewayError, InputError, NotFoundError
from tests.support.claims import TABLES, write_tables

FIRST = date(2025, 1, 1)


def written(folder: Path, text: str, name: str = "given.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_every_table_of_the_specification_is_imported(tmp_path: Path) -> None:
    store = write_tables(tmp_path)
    assert {one.name: one.rows for one in store.versions()} == {
        name: len(TABLES[name].strip().splitlines()) - 1 for name in SPECS
    }
    with duckdb.connect() as connection:
        labels = store.attach(connection)
        pairs = connection.execute("SELECT column1, indicator, valid_from FROM ncci_ptp ORDER BY ALL").fetchall()
    assert pairs[0] == ("11042", 0, date(2020, 1, 1))
    assert len(labels) == len(SPECS)


def test_codes_and_dates_are_read_as_published(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "kept")
    text = (
        "Column1,column2,Indicator,effective_from,effective_to\n0001a, 99.2 ,1,20240101,*\n0250,11042,0,2025-02-03,\n"
    )
    packed = tmp_path / "ptp.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    made = store.load("ncci-ptp", packed, "2025Q1", FIRST, date(2025, 3, 31), "CMS")
    plain = TableStore(tmp_path / "other").load("ncci-ptp", written(tmp_path, text), "2025Q1", FIRST)
    assert (made.rows, made.source, made.sha256) == (2, "CMS", plain.sha256)
    with duckdb.connect() as connection:
        store.attach(connection)
        found = connection.execute("SELECT * FROM ncci_ptp ORDER BY column1").fetchall()
    assert found == [
        ("0001A", "992", 1, None, FIRST, date(2025, 3, 31)),
        ("0250", "11042", 0, None, date(2025, 2, 3), date(2025, 3, 31)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "where", "said"),
    [
        ("icd10cm", "code\nE119\n", "given.csv [columns]", "columns are missing: billable"),
        ("icd10cm", "code,billable,note\nE119,true,x\n", "given.csv [columns]", "a column is not known"),
        ("icd10cm", "code,billable\nE119,true\nE118,perhaps\n", "given.csv:3 billable", "a value is no boolean"),
        ("icd10cm", "code,billable\n,true\n", "given.csv:2 code", "a value is missing"),
        ("ncci-mue", "code,units,mai\n11042,many,1\n", "given.csv:2 units", "a value is no amount"),
        ("icd10cm", "code,billable,effective_to\nE119,true,soon\n", "given.csv:2 effective_to", "a value is no date"),
    ],
)
def test_what_does_not_fit_is_named_by_line_and_column(
    tmp_path: Path, name: str, text: str, where: str, said: str
) -> None:
    store = TableStore(tmp_path / "kept")
    with pytest.raises(InputError) as refused:
        store.load(name, written(tmp_path, text), "1", FIRST)
    assert (str(refused.value.location), refused.value.message.startswith(said)) == (where, True)
    assert store.versions() == []
    assert list((tmp_path / "kept").rglob("*.parquet")) == []


def test_versions_never_change(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "kept")
    file = written(tmp_path, "modifier\n25\n")
    made = store.load("modifier-codes", file, "1", FIRST)
    assert store.load("modifier-codes", file, "1", FIRST) == made
    file.write_text("modifier\n26\n")
    for version, first in (("1", FIRST), ("1", date(2026, 1, 1)), ("2", FIRST)):
        with pytest.raises(ConflictError):
            store.load("modifier-codes", file, version, first)
    store.load("modifier-codes", file, "2", date(2026, 1, 1))
    store.remove("modifier-codes", "1")
    assert [one.version for one in store.versions("modifier-codes")] == ["2"]


def test_mistakes_of_the_one_who_imports(tmp_path: Path) -> None:
    store, file = TableStore(tmp_path / "kept"), written(tmp_path, "modifier\n25\n")
    wrong: list[tuple[type[GatewayError], str, Path, str, date | None]] = [
        (NotFoundError, "no-table", file, "1", None),
        (ConfigurationError, "modifier-codes", file, "../1", None),
        (ConfigurationError, "modifier-codes", file, "1", date(2024, 1, 1)),
        (ConfigurationError, "modifier-codes", tmp_path / "gone.csv", "1", None),
    ]
    for error, name, path, version, last in wrong:
        with pytest.raises(error):
            store.load(name, path, version, FIRST, last)
    with pytest.raises(NotFoundError):
        store.remove("modifier-codes", "1")
