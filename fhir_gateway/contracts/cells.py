"""Rate cells: which rate a member month has, by age, gender and any attribute of member or coverage.

The table of rates has a row per cell and term of validity. A member month has the rate of the row all of whose
conditions hold; an empty condition always holds. Rows that hold at once contradict each other.
"""

from __future__ import annotations

from typing import Annotated, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.audit import AMOUNT, newest, text
from fhir_gateway.contracts.terms import Terms
from fhir_gateway.errors import ContractError

Attribute = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_CONDITIONS = ("gender", "age_from", "age_through", "months_from", "months_through", "effective_from")
_RESERVED = {*_CONDITIONS, "effective_through", "cell", "rate", "member", "month", "months", "age", "age_months"}


class CellTerms(Terms):
    """Where rates and attributes stand, and how age is taken.

    Columns of the rates: ``cell``, ``rate`` (per member month), and conditions: ``gender`` (as in FHIR), ``age_from``
    and ``age_through`` (complete years), ``months_from`` and ``months_through`` (calendar months since the month of
    birth, which is month 0: a newborn cell is 0 to 0), ``effective_from`` and ``effective_through`` (of the month's
    first day), and each of ``attributes``. The table of attributes has ``member``, ``effective_from``,
    ``effective_through`` and the attributes; a month takes the newest row that begins by its last day, unless that
    ended before its first.
    """

    table: str = "rates"
    attributes: tuple[Attribute, ...] = ()
    attributes_table: str = "member_attributes"
    age_at: Literal["month", "year"] = Field(
        default="month", description="Age on the first day of the month, or of its year."
    )
    unmatched: Literal["refuse", "unpaid"] = Field(
        default="refuse", description="A member month without a cell is refused, or is not paid."
    )

    def tables(self) -> dict[str, pa.Schema]:
        """The tables with their columns."""
        attributes = [pa.field(name, pa.string()) for name in self.attributes]
        span = [pa.field("effective_from", pa.date32()), pa.field("effective_through", pa.date32())]
        ages = [pa.field(name, pa.int32()) for name in _CONDITIONS[1:5]]
        rates = [
            pa.field("cell", pa.string(), nullable=False),
            pa.field("rate", AMOUNT, nullable=False),
            pa.field("gender", pa.string()),
            *ages,
            *span,
            *attributes,
        ]
        found = {self.table: pa.schema(rates)}
        if attributes:
            member = pa.field("member", pa.string(), nullable=False)
            found[self.attributes_table] = pa.schema([member, *span, *attributes])
        return found

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        found = [f"{where}.attributes: '{name}' has another meaning" for name in self.attributes if name in _RESERVED]
        found += [
            f"{where}.attributes: '{n}' is there twice" for n in {*self.attributes} if self.attributes.count(n) > 1
        ]
        if self.attributes and self.table == self.attributes_table:
            found.append(f"{where}.attributes_table: is the table of rates")
        return found


def find_cells(connection: duckdb.DuckDBPyConnection, terms: CellTerms, where: str) -> None:
    """Create ``celled``: member, month, months, the attributes, cell and rate (null without a cell).

    The connection has ``months``, ``people``, ``rates`` and, where there are attributes, ``member_attributes``.
    ContractError names the cells that hold at once, or the month that has none.
    """
    attributes = "".join(f", {text(name)}" for name in terms.attributes)
    _attributes(connection, terms, where)
    uses_months = connection.execute(
        "SELECT count(*) FROM rates WHERE months_from IS NOT NULL OR months_through IS NOT NULL"
    ).fetchall()[0][0]
    day = "month" if terms.age_at == "month" else "date_trunc('year', month)::DATE"
    connection.execute(
        f"""
        CREATE TEMP VIEW profiled AS SELECT m.member, month, months, p.gender,
          greatest(0, date_sub('year', p.birth_date, {day}))::INTEGER AS age,
          {"greatest(0, date_diff('month', p.birth_date, month))::INTEGER" if uses_months else "NULL::INTEGER"}
            AS age_months{attributes}
        FROM attributed m LEFT JOIN people p USING (member);
        CREATE TEMP TABLE profiles AS SELECT DISTINCT month, gender, age, age_months{attributes} FROM profiled;
        CREATE TEMP TABLE matches AS
        SELECT p.*, r.cell, r.rate FROM profiles p LEFT JOIN rates r ON
          coalesce(r.gender = p.gender, r.gender IS NULL)
          AND coalesce(p.age >= r.age_from, r.age_from IS NULL)
          AND coalesce(p.age <= r.age_through, r.age_through IS NULL)
          AND coalesce(p.age_months >= r.months_from, r.months_from IS NULL)
          AND coalesce(p.age_months <= r.months_through, r.months_through IS NULL)
          AND coalesce(p.month >= r.effective_from, r.effective_from IS NULL)
          AND coalesce(p.month <= r.effective_through, r.effective_through IS NULL)
          {"".join(f"AND coalesce(r.{text(n)} = p.{text(n)}, r.{text(n)} IS NULL) " for n in terms.attributes)}
        """  # noqa: S608 names are checked by CellTerms and quoted
    )
    _one_each(connection, terms, where, attributes)
    same = " AND ".join(
        f"f.{text(name)} IS NOT DISTINCT FROM m.{text(name)}"
        for name in ("gender", "age", "age_months", *terms.attributes)
    )
    connection.execute(
        f"""
        CREATE TEMP TABLE celled AS
        SELECT f.member, f.month, f.months, m.cell, m.rate{attributes.replace(', "', ', f."')}
        FROM profiled f JOIN matches m ON f.month = m.month AND {same};
        DROP VIEW profiled;
        DROP {"TABLE" if terms.attributes else "VIEW"} attributed;  -- a row per member month
        """  # noqa: S608
    )


def _attributes(connection: duckdb.DuckDBPyConnection, terms: CellTerms, where: str) -> None:
    """Create the view ``attributed``: months with the attributes that hold."""
    if not terms.attributes:
        connection.execute("CREATE TEMP VIEW attributed AS SELECT * FROM months")
        return
    twice = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM member_attributes GROUP BY member, effective_from HAVING count(*) > 1)"
    ).fetchall()[0][0]
    if twice:
        raise ContractError(f"{where}: tables.{terms.attributes_table}: two rows of one member begin on the same day")
    holds = "coalesce(t.effective_through >= m.month, TRUE)"
    chosen = ", ".join(f"CASE WHEN {holds} THEN t.{text(name)} END AS {text(name)}" for name in terms.attributes)
    connection.execute(
        f"""
        CREATE TEMP TABLE attributed AS SELECT m.member, m.month, m.months, {chosen}
        FROM {newest(connection, "months", "member_attributes", "last_day(m.month)", "effective_from")}
        """  # noqa: S608
    )


def _one_each(connection: duckdb.DuckDBPyConnection, terms: CellTerms, where: str, attributes: str) -> None:
    twice = connection.execute(
        f"SELECT list_sort(list_distinct(list(cell))), count(*) FROM matches"  # noqa: S608
        f" GROUP BY month, gender, age, age_months{attributes} HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
    ).fetchall()
    if twice:
        raise ContractError(f"{where}: tables.{terms.table}: hold at once: {', '.join(twice[0][0])}")
    without = connection.execute("SELECT min(month), count(*) FROM matches WHERE cell IS NULL").fetchall()[0]
    if without[1] and terms.unmatched == "refuse":
        raise ContractError(f"{where}: tables.{terms.table}: no cell holds for member months of {without[0]:%Y-%m}")
