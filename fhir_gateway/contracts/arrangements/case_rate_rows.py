"""Cases as rows: periods with their tiers, contacts and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.arrangements.facts import Facts
from fhir_gateway.contracts.audit import AUDIT_SCHEMA, connect, places
from fhir_gateway.contracts.service_categories import matching
from fhir_gateway.errors import ContractError

if TYPE_CHECKING:
    from fhir_gateway.contracts.arrangements.case_rate import CaseRate

_MONTHS = {"month": 1, "quarter": 3, "year": 12}


def case_rows(terms: CaseRate, facts: Facts) -> pa.Table:
    """Audit rows of all cases."""
    with connect(months=facts.months, lines=facts.lines, assessments=facts.table(terms.assessments)) as connection:
        rates = [(one.tier, places(one.rate), one.effective_from) for one in terms.rates]
        connection.execute("CREATE TEMP TABLE rates (tier VARCHAR, rate DECIMAL(28, 8), effective_from DATE)")
        connection.executemany("INSERT INTO rates VALUES (?, ?, coalesce(?, DATE '0001-01-01'))", rates)
        connection.register("own", pa.table({"tin": pa.array(terms.tins, pa.string())}))
        _periods(connection, terms, facts)
        _spells(connection, terms)
        _tiered(connection, terms)
        tables = [_cases(connection, terms)]
        connection.register("paid_cases", tables[0])
        if terms.outlier is not None:
            tables.append(_outliers(connection, terms))
        if terms.documentation is not None:
            connection.register("paid_rows", pa.concat_tables(tables))
            connection.register("undocumented", facts.table(terms.documentation))
            tables.append(_claw_back(connection, terms))
    return pa.concat_tables(tables)


def _periods(connection: duckdb.DuckDBPyConnection, terms: CaseRate, facts: Facts) -> None:
    """``periods``: member, opened, closed (both days belong to it), months that count; ``served``: lines of periods."""
    step = _MONTHS[terms.period]
    first = facts.period[0].replace(day=1)
    connection.execute(
        f"""
        CREATE TEMP TABLE periods AS
        SELECT member, opened, last_day(opened + to_months({step - 1})) AS closed, sum(months) AS months FROM (
          SELECT member, months,
            ($first::DATE + to_months((date_diff('month', $first, month) // {step} * {step})::INTEGER))::DATE AS opened
          FROM months WHERE months > 0)
        GROUP BY ALL
        """,  # noqa: S608 numbers
        {"first": first},
    )
    if not terms.counts_contacts and terms.outlier is None:
        return
    amount = f"coalesce(l.{terms.outlier.amount}, 0)" if terms.outlier is not None else "0"
    values: dict[str, Any] = {}
    connection.execute(
        f"""
        CREATE TEMP TABLE served AS
        SELECT member, opened, service_from AS day, {amount} AS cost, {matching(terms.contacts, values, "q")} AS contact
        FROM lines l JOIN periods p ON l._member = p.member AND service_from BETWEEN opened AND closed
        WHERE NOT denied {"AND tin IN (SELECT tin FROM own)" if terms.tins else ""}
        """,  # noqa: S608 codes are parameters
        values,
    )


def _spells(connection: duckdb.DuckDBPyConnection, terms: CaseRate) -> None:
    """``spells``: member, tier, first and last day that it holds."""
    cut = "".join(f" WHEN score >= {one.at:f} THEN $tier{n}" for n, one in reversed([*enumerate(terms.cut_points)]))
    values: dict[str, Any] = {f"tier{n}": one.tier for n, one in enumerate(terms.cut_points)}
    chosen = ""
    if terms.instrument is not None:
        chosen, values["instrument"] = "WHERE instrument = $instrument", terms.instrument
    end = "DATE '9999-12-31'"
    if terms.valid_months is not None:
        end = f"(effective_from + to_months({terms.valid_months}) - INTERVAL 1 DAY)::DATE"
    connection.execute(
        f"""
        CREATE TEMP TABLE spells AS
        SELECT member, effective_from AS since,
          least({end}, coalesce(lead(effective_from) OVER (PARTITION BY member ORDER BY effective_from) - 1, {end}))
            AS until,
          coalesce(tier, {f"CASE{cut} END" if cut else "NULL"}) AS tier
        FROM assessments {chosen}
        """,  # noqa: S608 cut points are numbers
        values,
    )
    twice, unknown = connection.execute(
        """
        SELECT (SELECT count(*) FROM (SELECT 1 FROM spells GROUP BY member, since HAVING count(*) > 1)),
          (SELECT count(*) FROM spells WHERE tier NOT IN (SELECT tier FROM rates))
        """
    ).fetchall()[0]
    if twice:
        raise ContractError(f"{terms.where}: tables.{terms.assessments}: a member has two assessments of one day")
    if unknown:
        raise ContractError(f"{terms.where}.rates: tables.{terms.assessments} has a tier without a rate")


def _tiered(connection: duckdb.DuckDBPyConnection, terms: CaseRate) -> None:
    """``tiered``: member, opened, tier, rate, days: the tiers of a case, and the days of the period that each holds."""
    rate = "(SELECT arg_max(rate, effective_from) FROM rates r WHERE r.tier = s.tier AND r.effective_from <= p.opened)"
    whole = "date_diff('day', opened, closed) + 1"
    overlap = "date_diff('day', greatest(opened, since), least(closed, until)) + 1"
    on, days, keep = {
        "next_period": ("opened BETWEEN since AND until", whole, ""),
        "prorate": ("since <= closed AND until >= opened", overlap, ""),
        "higher_of": (
            "since <= closed AND until >= opened",
            whole,
            "QUALIFY row_number() OVER (PARTITION BY p.member, p.opened ORDER BY rate DESC NULLS FIRST, since) = 1",
        ),
    }[terms.tier_change]
    connection.execute(
        f"""
        CREATE TEMP TABLE tiered AS
        SELECT p.member, p.opened, s.tier, s.since, {rate} AS rate, {days} AS days
        FROM periods p JOIN spells s ON p.member = s.member AND {on} WHERE s.tier IS NOT NULL {keep}
        """  # noqa: S608 the words are above
    )
    without = connection.execute("SELECT count(*) FROM tiered WHERE rate IS NULL").fetchall()[0][0]
    if without:
        raise ContractError(f"{terms.where}.rates: a tier has no rate yet in a period where it is needed")


def _cases(connection: duckdb.DuckDBPyConnection, terms: CaseRate) -> pa.Table:
    step = _MONTHS[terms.period]
    contacts = "NULL::BIGINT"
    if terms.counts_contacts:
        contacts = (
            "coalesce((SELECT count(DISTINCT day) FROM served s WHERE s.member = p.member AND s.opened = p.opened"
            " AND contact), 0)"
        )
    full, scaled = f"{step}00000000::HUGEINT", "(months * 100000000)::HUGEINT"
    part = {
        "full": full,
        "months": scaled,
        "full_with_contacts": f"CASE WHEN contacts >= {terms.full_contacts} THEN {full} ELSE {scaled} END",
    }[terms.partial]
    enough = f"contacts >= {terms.min_contacts}" if terms.min_contacts else "TRUE"
    rows = connection.sql(
        f"""
        WITH counted AS (
          SELECT *, date_diff('day', opened, closed) + 1 AS length, {contacts} AS contacts FROM periods p
        ), joined AS (
          SELECT c.*, t.tier, t.rate, t.days, {part} AS part, {enough} AS enough
          FROM counted c LEFT JOIN tiered t ON c.member = t.member AND c.opened = t.opened
        ), judged AS (
          SELECT *, CASE WHEN NOT enough THEN 'too-few-contacts' WHEN tier IS NULL THEN 'no-assessment' END AS reason,
            CASE WHEN tier IS NULL THEN 1 ELSE fraction_of(part * days, {full} * length) END AS factor
          FROM joined
        )
        SELECT member, opened AS month, 'case' AS rule, tier AS cell, 1 AS quantity, coalesce(rate, 0) AS rate, factor,
          CASE WHEN reason IS NULL THEN amount_of(1, rate, factor) ELSE 0 END AS amount,
          CASE WHEN reason IS NULL THEN 'paid' ELSE 'unpaid' END AS status, reason
        FROM judged
        """  # noqa: S608 numbers and the words above
    )
    return rows.to_arrow_table().cast(AUDIT_SCHEMA)


def _outliers(connection: duckdb.DuckDBPyConnection, terms: CaseRate) -> pa.Table:
    if terms.outlier is None:
        return AUDIT_SCHEMA.empty_table()
    rows = connection.sql(
        """
        WITH costs AS (
          SELECT member, opened AS month, sum(cost) AS cost FROM served GROUP BY ALL
        ), cases AS (
          SELECT member, month, string_agg(cell, ' > ' ORDER BY cell) AS cell, sum(amount) AS paid
          FROM paid_cases WHERE status = 'paid' GROUP BY ALL
        ), excess AS (
          SELECT member, month, cell, cost - amount_of(1, paid, $multiple) AS excess
          FROM cases JOIN costs USING (member, month)
        )
        SELECT member, month, 'outlier' AS rule, cell, 1 AS quantity, excess AS rate, $share::DECIMAL(28, 8) AS factor,
          amount_of(1, excess, $share) AS amount, 'paid' AS status, NULL::VARCHAR AS reason
        FROM excess WHERE excess > 0
        """,
        params={"multiple": places(terms.outlier.multiple), "share": places(terms.outlier.share)},
    )
    return rows.to_arrow_table().cast(AUDIT_SCHEMA)


def _claw_back(connection: duckdb.DuckDBPyConnection, terms: CaseRate) -> pa.Table:
    rows = connection.sql(
        """
        WITH missing AS (
          SELECT DISTINCT p.member, p.opened AS month FROM periods p JOIN undocumented u
            ON p.member = u.member AND u.day BETWEEN p.opened AND p.closed
        )
        SELECT member, month, 'claw-back' AS rule, cell, -1 AS quantity, amount AS rate,
          $part::DECIMAL(28, 8) AS factor,
          amount_of(-1, amount, $part) AS amount, 'paid' AS status, 'missing-documentation' AS reason
        FROM paid_rows JOIN missing USING (member, month) WHERE status = 'paid'
        """,
        params={"part": places(terms.claw_back)},
    )
    return rows.to_arrow_table().cast(AUDIT_SCHEMA)
