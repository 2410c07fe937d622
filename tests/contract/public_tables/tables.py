"""Published tables as rows of text, whatever their encoding, case of column names, and number formats."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

from tests.contract.public_tables.report import NotSuchATable

_NOTHING = re.compile(
    r"^(|[-.*\u2013\u2014]+|n/?a|na|none|null|nan|not available|not applicable|nr|\+)$", re.IGNORECASE
)
_BYTE_ORDER = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


@cache
def key(name: str) -> str:
    """A column's name as it is compared: letters and digits only, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def text_of(path: Path) -> str:
    """A file's text; NotSuchATable when there is none."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotSuchATable(f"{path}: cannot be read ({error.strerror})") from error
    for mark, encoding in _BYTE_ORDER:
        if raw.startswith(mark):
            return raw.decode(encoding, "replace")
    if b"\0" in raw[:4096]:
        raise NotSuchATable(f"{path}: not a text file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


@dataclass(frozen=True)
class Table:
    """Rows by comparable column name (:func:`key`)."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]

    def has(self, *names: str) -> bool:
        """Whether all columns are there."""
        return all(key(name) in self.columns for name in names)


def read(path: Path) -> Table:
    """A delimited or JSON table. The header is the first of thirty lines with most of the columns."""
    text = text_of(path)
    if text.lstrip().startswith(("{", "[")):
        return _of_json(path, text)
    start = text[:20_000]
    delimiter = max(",\t;|", key=start.count)
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise NotSuchATable(f"{path}: not a table: it has no rows below a header")
    named = [sum(1 for cell in line if cell.strip()) for line in lines[:30]]
    first = next(place for place, count in enumerate(named) if count >= 0.8 * max(named))
    columns = [key(name) for name in lines[first]]
    rows = tuple(
        {name: cell.strip() for name, cell in zip(columns, line, strict=False) if name} for line in lines[first + 1 :]
    )
    return Table(path, tuple(name for name in columns if name), rows)


def _of_json(path: Path, text: str) -> Table:
    try:
        found: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotSuchATable(f"{path}: not JSON (line {error.lineno})") from error
    if isinstance(found, dict):
        found = next((inner for inner in found.values() if isinstance(inner, list)), None)
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise NotSuchATable(f"{path}: not a table: no list of records in it")
    rows = tuple({key(name): "" if cell is None else str(cell).strip() for name, cell in row.items()} for row in found)
    return Table(path, tuple(dict.fromkeys(name for row in rows for name in row)), rows)


def cell(row: Mapping[str, str], *names: str) -> str | None:
    """The first of the columns that says something in this row."""
    for name in names:
        text = row.get(key(name), "")
        if not _NOTHING.match(text):
            return text
    return None


def number(row: Mapping[str, str], *names: str) -> Decimal | None:
    """A published number: %, $, thousands' commas and accountants' parentheses understood; None when there is none."""
    text = cell(row, *names)
    if text is None:
        return None
    return parse(text)


def parse(text: str) -> Decimal | None:
    """A number as published; None when it is no number."""
    plain = text.strip().replace(",", "").replace("$", "").replace("\u2212", "-").replace("\u00a0", "").replace(" ", "")
    sign = 1
    if plain.startswith("(") and plain.endswith(")"):
        plain, sign = plain[1:-1], -1
    scale = Decimal(1)
    if plain.endswith("%"):
        plain, scale = plain[:-1], Decimal("0.01")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return sign * value * scale if value.is_finite() else None


def is_on(row: Mapping[str, str], *names: str) -> bool | None:
    """A flag: 1, yes, true, y, x; None when the row does not say."""
    text = cell(row, *names)
    if text is None:
        return None
    return text.strip().lower() in ("1", "1.0", "yes", "y", "true", "t", "x", "met")


def one_of(table: Table, wanted: Sequence[str]) -> str | None:
    """The first of the columns that the table has."""
    return next((name for name in wanted if key(name) in table.columns), None)
