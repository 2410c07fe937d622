"""Service categories: which line of a claim is of which category, and who pays for it. The first match wins.

Categories are stated in order, in the contract or in a table; a line that none matches is ``otherwise``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.terms import Terms
from fhir_gateway.errors import ContractError

CoveredBy = Literal["capitation", "ffs", "carve_out", "other_entity"]
#: Conditions of a category and the columns of claim lines they are about.
CONDITIONS = ("procedure", "revenue_code", "drg", "place_of_service", "bill_type", "claim_type", "specialty")
#: A code (``99213``), those from one to another (``99201-99215``), those that begin so (``J*``), or any (``*``).
_CODES = re.compile(r"[A-Za-z0-9]+(\*|-[A-Za-z0-9]+)?|\*")
#: Columns of claim lines that categories need.
CATEGORY_COLUMNS = CONDITIONS

#: The table form: a row per category in order, codes of a condition separated by spaces.
CATEGORY_SCHEMA = pa.schema(
    [pa.field("category", pa.string(), nullable=False), pa.field("covered_by", pa.string(), nullable=False)]
    + [pa.field(name, pa.string()) for name in CONDITIONS]
)


class Category(Terms):
    """A category: a line is of it when each condition stated holds.

    Codes are exact (``99213``), a range of equally long codes (``99201-99215``) or a beginning (``J*``).
    """

    category: str
    covered_by: CoveredBy
    procedure: tuple[str, ...] = ()
    revenue_code: tuple[str, ...] = ()
    drg: tuple[str, ...] = ()
    place_of_service: tuple[str, ...] = ()
    bill_type: tuple[str, ...] = ()
    claim_type: tuple[str, ...] = ()
    specialty: tuple[str, ...] = ()


class ServiceTerms(Terms):
    """Which services are capitated.

    ``global``: all that no category says otherwise; ``partial``: only what a category says.
    """

    scope: Literal["global", "partial"]
    categories: tuple[Category, ...] = ()
    table: str | None = Field(default=None, description="Table of categories, tried after those stated here.")

    def tables(self) -> dict[str, pa.Schema]:
        """The table, where there is one."""
        return {self.table: CATEGORY_SCHEMA} if self.table else {}

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        found = []
        capitated = any(one.covered_by == "capitation" for one in self.categories)
        if self.scope == "partial" and not self.table and not capitated:
            found.append(f"{where}.categories: the scope is partial, and no category is capitated")
        seen: set[tuple[Any, ...]] = set()
        for number, one in enumerate(self.categories, start=1):
            conditions = tuple(getattr(one, name) for name in CONDITIONS)
            if not any(conditions) and number < len(self.categories):
                found.append(f"{where}.categories[{number}]: matches everything, those after it are never reached")
            if conditions in seen:
                found.append(f"{where}.categories[{number}]: the same as one before, it is never reached")
            seen.add(conditions)
            found += code_problems(one, f"{where}.categories[{number}]")
        return found

    def all_categories(self, table: pa.Table | None) -> tuple[Category, ...]:
        """Those stated and those of the table, in order; ContractError for a row of the table that is none."""
        found = list(self.categories)
        for number, row in enumerate(table.to_pylist() if table is not None else [], start=1):
            if row["covered_by"] not in CoveredBy.__args__:  # type: ignore[attr-defined]
                raise ContractError(f"tables.{self.table}: row {number}: covered_by is none of the four")
            codes = {name: tuple((row[name] or "").split()) for name in CONDITIONS}
            if not all(_is_well_formed(code) for each in codes.values() for code in each):
                raise ContractError(f"tables.{self.table}: row {number}: codes that are no range")
            found.append(Category(category=row["category"], covered_by=row["covered_by"], **codes))
        return tuple(found)

    @property
    def otherwise(self) -> CoveredBy:
        """Who pays what no category matches."""
        return "capitation" if self.scope == "global" else "ffs"


def categorize(
    connection: duckdb.DuckDBPyConnection, categories: Sequence[Category], otherwise: str, source: str = "lines"
) -> None:
    """Create the view ``categorized``: the lines of ``source`` with ``category`` and ``covered_by``.

    Each different combination of codes is judged once.
    """
    values: dict[str, Any] = {}
    whens = [
        f"WHEN {matching(category, values, f'c{number}_')} THEN {number}" for number, category in enumerate(categories)
    ]
    chosen = f"CASE {' '.join(whens)} END" if whens else "NULL::INTEGER"
    codes = ", ".join(CONDITIONS)
    connection.execute(
        f"CREATE TEMP TABLE judged AS SELECT *, {chosen} AS number FROM (SELECT DISTINCT {codes} FROM {source})",  # noqa: S608
        values,
    )
    connection.register(
        "categories",
        pa.table(
            {
                "number": pa.array(range(len(categories)), pa.int32()),
                "category": pa.array([one.category for one in categories], pa.string()),
                "covered_by": pa.array([one.covered_by for one in categories], pa.string()),
            }
        ),
    )
    same = " AND ".join(f"l.{name} IS NOT DISTINCT FROM j.{name}" for name in CONDITIONS)
    connection.execute(
        f"""
        CREATE TEMP TABLE categorized AS
        SELECT l.*, coalesce(c.category, 'other') AS category, coalesce(c.covered_by, '{otherwise}') AS covered_by
        FROM {source} l JOIN judged j ON {same} LEFT JOIN categories c USING (number)
        """  # noqa: S608 ``otherwise`` is one of four words
    )


def matching(conditions: Terms, values: dict[str, Any], prefix: str) -> str:
    """SQL condition on a line's codes, for terms with any of :data:`CONDITIONS`; its parameters go to ``values``."""
    found = []
    for column in CONDITIONS:
        codes = getattr(conditions, column, ())
        if codes:
            found.append(one_of(column, codes, values, prefix))
    return " AND ".join(found) or "TRUE"


def one_of(column: str, codes: Iterable[str], values: dict[str, Any], prefix: str) -> str:
    """SQL condition: a column has one of some codes, written as in :class:`Category`; parameters go to ``values``."""
    return f"({' OR '.join(_code(column, code, values, prefix) for code in codes) or 'FALSE'})"


def _code(column: str, code: str, values: dict[str, Any], prefix: str) -> str:
    name = f"{prefix}{column}{len(values)}"
    if code.endswith("*"):
        values[name] = code[:-1]
        return f"starts_with({column}, ${name})"
    if "-" in code:
        low, _, high = code.partition("-")
        values |= {name: low, f"{name}_to": high}
        return f"({column} BETWEEN ${name} AND ${name}_to AND length({column}) = {len(low)})"
    values[name] = code
    return f"{column} = ${name}"


def _is_well_formed(code: str) -> bool:
    low, dash, high = code.partition("-")
    return _CODES.fullmatch(code) is not None and (not dash or (len(low) == len(high) and low <= high))


def overlap(one: str, other: str) -> bool:
    """Whether a code can be both of these, written as in :class:`Category`."""
    if one.endswith("*") and other.endswith("*"):
        return one[:-1].startswith(other[:-1]) or other[:-1].startswith(one[:-1])
    if one.endswith("*") or other.endswith("*"):
        beginning, codes = (one[:-1], other) if one.endswith("*") else (other[:-1], one)
        low, _, high = codes.partition("-")
        return len(low) >= len(beginning) and low[: len(beginning)] <= beginning <= (high or low)[: len(beginning)]
    (low, _, high), (from_, _, to) = one.partition("-"), other.partition("-")
    return len(low) == len(from_) and low <= (to or from_) and from_ <= (high or low)


def code_problems(conditions: Terms, where: str) -> list[str]:
    """Codes of :data:`CONDITIONS` that are no codes."""
    return [found for name in CONDITIONS for found in malformed(getattr(conditions, name, ()), f"{where}.{name}")]


def malformed(codes: Iterable[str], where: str) -> list[str]:
    """Codes that could never match a line."""
    found = []
    for code in codes:
        if _CODES.fullmatch(code) is None:
            found.append(f"{where}: '{code}' is not a code (99213), a range of codes (99212-99215) or a beginning (J*)")
        elif not _is_well_formed(code):
            found.append(f"{where}: '{code}' is a range of codes of different length, or backwards")
    return found
