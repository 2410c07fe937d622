"""Tables of programmes that publish several: the files that are named, or all in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.contract.public_tables import tables
from tests.contract.public_tables.report import NotSuchATable
from tests.contract.public_tables.tables import Table

_SUFFIXES = {".csv", ".txt", ".tsv", ".json"}


def read_all(paths: Sequence[Path]) -> Iterator[Table]:
    """Each named file, which must be a table, and what is a table in each named folder."""
    for path in paths:
        if not path.is_dir():
            yield tables.read(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in _SUFFIXES)
        if not inside:
            raise NotSuchATable(f"{path}: there is no table in this folder")
        for file in inside:
            try:
                table = tables.read(file)
            except NotSuchATable:
                continue  # a read-me among the tables
            yield table


def fiscal_year(table: Table) -> int | None:
    """The fiscal year that rows, file name or the lines above the header state."""
    for row in table.rows:
        text = tables.cell(row, "Fiscal Year", "FY", "Program Year", "Year")
        if text and (stated := re.search(r"20\d\d", text)):
            return int(stated.group())
    top = tables.text_of(table.path)[:2000]
    for text, pattern in (
        (table.path.name, r"(?:FY|fiscal[ _-]?year)[ _-]?(20\d\d)"),
        (top, r"(?:FY|fiscal[ _-]?year)[ _-]?(20\d\d)"),
        (table.path.name, r"(?<!\d)(20\d\d)(?!\d)"),
    ):
        if stated := re.search(pattern, text, re.IGNORECASE):
            return int(stated.group(1))
    return None


def hospital(row: Mapping[str, str], table: Table) -> str:
    """The CMS certification number of a row: the column that says so, else the first; leading zeros restored."""
    names = ("Facility ID", "Provider ID", "Provider Number", "CCN", "Hospital CCN", "Hospital CNN")
    text = tables.cell(row, *names) or row.get(table.columns[0], "")
    return text.strip().zfill(6)
