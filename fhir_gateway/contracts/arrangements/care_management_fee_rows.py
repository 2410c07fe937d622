"""Care management fees as rows: who is paid for in which month, and what is corrected later."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.arrangements.facts import Facts
from fhir_gateway.contracts.audit import AUDIT_SCHEMA, connect, newest, places
from fhir_gateway.contracts.service_categories import one_of
from fhir_gateway.errors import ContractError

if TYPE_CHECKING:
    from fhir_gateway.contracts.arrangements.care_management_fee import CareManagementFee, Overlap

TIER_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("effective_from", pa.date32()),
    ]
)


def fee_rows(terms: CareManagementFee, facts: Facts) -> pa.Table:
    """Audit rows of a care management fee."""
    with connect(months=facts.months, lines=facts.lines) as connection:
        fees = [(fee.level, fee.tier, places(fee.pmpm)) for fee in terms.agreed_fees()]
        connection.execute("CREATE TEMP TABLE fees (level VARCHAR, tier VARCHAR, pmpm DECIMAL(28, 8))")
        connection.executemany("INSERT INTO fees VALUES (?, ?, ?)", fees)
        _tiers(connection, terms, facts)
        if terms.payment == "monthly":
            connection.execute(
                "CREATE TEMP VIEW basis AS"
                " SELECT member, month, month AS opening, 'fee' AS rule, months AS quantity, TRUE AS open FROM eligible"
            )
        else:
            _quarters(connection, terms, facts)
        _levels(connection, terms)
        tables = [_rows(connection, terms)]
        if terms.overlap is not None:
            connection.register("fee_rows", tables[0])
            tables.append(_overlap(connection, terms.overlap))
    return pa.concat_tables(tables)


def _tiers(connection: duckdb.DuckDBPyConnection, terms: CareManagementFee, facts: Facts) -> None:
    """``eligible``: months that count; ``tiers``: member, tier, effective_from."""
    connection.execute("CREATE TEMP VIEW eligible AS SELECT member, month, months FROM months WHERE months > 0")
    connection.register("tiers", facts.table(terms.tiers) if terms.tiers is not None else TIER_SCHEMA.empty_table())
    twice, unknown = connection.execute(
        """
        SELECT (SELECT count(*) FROM (SELECT 1 FROM tiers GROUP BY member, effective_from HAVING count(*) > 1)),
          (SELECT count(*) FROM tiers WHERE tier NOT IN (SELECT tier FROM fees WHERE tier IS NOT NULL))
        """
    ).fetchall()[0]
    if twice:
        raise ContractError(f"{terms.where}.tiers: tables.{terms.tiers}: a member has two tiers from one day on")
    if unknown:
        raise ContractError(f"{terms.where}.tiers: tables.{terms.tiers}: has a tier without a fee")


def _quarters(connection: duckdb.DuckDBPyConnection, terms: CareManagementFee, facts: Facts) -> None:
    """``basis`` of quarters paid ahead: three months for whom each was paid for, then debits and credits."""
    if terms.as_of is None:
        raise ContractError(f"{terms.where}.as_of: is missing")
    if terms.roster is not None:
        connection.register("roster", facts.table(terms.roster))
        listed = (
            "SELECT DISTINCT member, date_trunc('quarter', quarter)::DATE AS opening FROM roster"
            " WHERE quarter BETWEEN $start AND $end"
        )
    else:
        listed = (
            "SELECT member, month AS opening FROM eligible"
            " WHERE month = date_trunc('quarter', month) AND month BETWEEN $start AND $end"
        )
    quarter = "(year({0}) * 4 + quarter({0}))"
    this = f"{terms.as_of.year * 4 + (terms.as_of.month + 2) // 3}"
    connection.execute(
        f"CREATE TEMP TABLE listed AS {listed}",
        {"start": facts.period[0].replace(day=1), "end": facts.period[1]},
    )
    connection.execute(
        f"""
        CREATE TEMP TABLE basis AS
        WITH billed AS (
          SELECT member, opening, (opening + to_months(n))::DATE AS month
          FROM listed, (VALUES (0), (1), (2)) AS following (n)
        ), missed AS (
          SELECT member, month, date_trunc('quarter', month)::DATE AS opening, months FROM eligible e
          WHERE NOT EXISTS (
            SELECT 1 FROM listed l WHERE l.member = e.member AND l.opening = date_trunc('quarter', e.month)::DATE)
        ), rows AS (
          SELECT member, month, opening, 'fee' AS rule, 1::DECIMAL(28, 8) AS quantity FROM billed
          UNION ALL
          SELECT b.member, b.month, b.opening, 'debit', coalesce(e.months, 0) - 1 FROM billed b LEFT JOIN eligible e
            ON b.member = e.member AND b.month = e.month WHERE coalesce(e.months, 0) < 1
          UNION ALL
          SELECT m.member, m.month, m.opening,
            CASE WHEN first.member IS NULL THEN 'next-quarter' ELSE 'credit' END, m.months
          FROM missed m LEFT JOIN eligible first ON m.member = first.member AND m.opening = first.month
        )
        SELECT *, rule NOT IN ('debit', 'credit')
          OR {this} - {quarter.format("opening")} BETWEEN 1 AND {terms.retro_quarters} AS open FROM rows
        """  # noqa: S608 numbers
    )


def _levels(connection: duckdb.DuckDBPyConnection, terms: CareManagementFee) -> None:
    """``levels``: the level that is valid on the first day of a payment, and the panel of that day."""
    days: list[date] = [row[0] for row in connection.execute("SELECT DISTINCT opening FROM basis").fetchall()]
    found = [
        next(
            (one.level for one in terms.recognitions if one.start <= day and (one.end is None or day <= one.end)), None
        )
        for day in days
    ]
    connection.register(
        "valid", pa.table({"opening": pa.array(days, pa.date32()), "level": pa.array(found, pa.string())})
    )
    connection.execute(
        "CREATE TEMP TABLE levels AS SELECT opening, any_value(level) AS level,"
        " count(DISTINCT member) FILTER (rule = 'fee') AS panel FROM basis JOIN valid USING (opening) GROUP BY opening"
    )


def _rows(connection: duckdb.DuckDBPyConnection, terms: CareManagementFee) -> pa.Table:
    values = {"default": terms.default_tier, "min_panel": terms.min_panel}
    unrecognized = "l.level IS NULL" if terms.recognitions else "FALSE"
    rows = connection.sql(
        f"""
        WITH tiered AS (
          SELECT m.*, coalesce(t.tier, $default) AS tier
          FROM {newest(connection, "basis", "tiers", "m.opening", "effective_from")}
        ), priced AS (
          SELECT b.*, concat_ws('/', l.level, b.tier) AS cell, f.pmpm,
            CASE WHEN {unrecognized} THEN 'not-recognized'
              WHEN coalesce(l.panel, 0) < $min_panel THEN 'below-minimum-panel'
              WHEN f.pmpm IS NULL THEN 'no-tier'
              WHEN rule = 'next-quarter' THEN 'next-quarter'
              WHEN NOT open THEN 'retro-window' END AS reason
          FROM tiered b LEFT JOIN levels l USING (opening)
            LEFT JOIN fees f ON f.level IS NOT DISTINCT FROM l.level AND f.tier IS NOT DISTINCT FROM b.tier
        )
        SELECT member, month, CASE rule WHEN 'next-quarter' THEN 'fee' ELSE rule END AS rule,
          CASE cell WHEN '' THEN 'all' ELSE cell END AS cell, quantity, coalesce(pmpm, 0) AS rate, 1 AS factor,
          CASE WHEN reason IS NULL THEN amount_of(quantity, pmpm, 1) ELSE 0 END AS amount,
          CASE WHEN reason IS NULL THEN 'paid' WHEN reason = 'retro-window' THEN 'outside_window' ELSE 'unpaid' END
            AS status,
          reason
        FROM priced
        """,  # noqa: S608 one of two words
        params=values,
    )
    return rows.to_arrow_table().cast(AUDIT_SCHEMA)


def _overlap(connection: duckdb.DuckDBPyConnection, terms: Overlap) -> pa.Table:
    """Rows that take back the fee of months with overlapping services, or what was paid for those."""
    connection.register("own", pa.table({"tin": pa.array(terms.tins, pa.string())}))
    back, group = {
        "fee": ("cell, -sum(quantity) AS quantity, rate", "member, month, cell, rate"),
        "paid": ("min(cell) AS cell, -1 AS quantity, any_value(paid) AS rate", "member, month"),
    }[terms.deduct]
    codes: dict[str, Any] = {}
    rows = connection.sql(
        f"""
        WITH services AS (
          SELECT _member AS member, date_trunc('month', service_from)::DATE AS month, sum(coalesce(paid, 0)) AS paid
          FROM lines WHERE NOT denied AND {one_of("procedure", terms.codes, codes, "code")}
            {"AND tin IN (SELECT tin FROM own)" if terms.tins else ""} GROUP BY ALL
        ), both_paid AS (
          SELECT member, month, {back} FROM fee_rows JOIN services USING (member, month)
          WHERE status = 'paid' GROUP BY {group} HAVING sum(quantity) > 0
        )
        SELECT member, month, 'overlap' AS rule, cell, quantity, rate, 1 AS factor,
          amount_of(quantity, rate, 1) AS amount, 'paid' AS status, 'overlapping-billing' AS reason
        FROM both_paid
        """,  # noqa: S608 the words above, codes are parameters
        params=codes,
    )
    return rows.to_arrow_table().cast(AUDIT_SCHEMA)
